"""The commands of `python -m loadtests`, a module each: `add` declares its options, and `run` does it."""
