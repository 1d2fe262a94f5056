"""What the documents hold: their commands, in order, and their links."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

README, DOCS = ROOT / "README.md", ROOT / "docs"
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", ROOT / "models" / "zoo" / "README.md", *sorted(DOCS.rglob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`]+)`")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, kind: str) -> list[str]:
    """Of the fenced blocks those that say so of themselves."""
    return [text for found, text in FENCE.findall(document.read_text()) if found == kind]


def commands(document: Path) -> list[str]:
    """What a reader is told to run, in its order: the lines of `sh` blocks."""
    joined = "".join(blocks(document, "sh")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def mentioned(document: Path) -> list[str]:
    """Commands to be run and commands that are only shown, within sentences too."""
    shown = [line for kind in ("sh", "text") for text in blocks(document, kind) for line in text.splitlines()]
    return shown + [" ".join(span.split()) for span in CODE_SPAN.findall(prose(document))]
