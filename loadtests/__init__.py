"""A black box over HTTP: load, and the comparison of two variants. Knows nothing of the code that it tests."""
