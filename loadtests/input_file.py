"""Files that people name on the command line."""

from __future__ import annotations

from pathlib import Path


class InputFileError(ValueError):
    """It is not there, or cannot be read."""


def read_text(path: Path, expected: str) -> str:
    """UTF-8. Raises InputFileError, which says what was expected there."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputFileError(unread(path, error, f"expected {expected}")) from error
    except UnicodeDecodeError as error:
        raise InputFileError(f"{path}: no text ({error}), expected {expected}") from error


def unread(path: Path, error: OSError, expected: str) -> str:
    return f"{path}: {(error.strerror or str(error)).lower()}, {expected}"
