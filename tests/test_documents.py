"""Documents are right: links lead somewhere, commands are such, messages are those of the source."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from serving.config import PREFIX, Settings
from tests.conftest import ROOT
from tests.documents import CODE_SPAN, DOCS, DOCUMENTS, FENCE, README, mentioned, name_of, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
TROUBLESHOOTING = DOCS / "troubleshooting.md"
SOURCES = [
    *(path for name in ("models", "export", "serving", "loadtests", "deploy") for path in (ROOT / name).rglob("*.py")),
    ROOT / "Makefile",
]
OURS = ("models", "export", "serving", "loadtests", "deploy")
ELSEWHERE = re.compile(r"OOMKilled|Read-only file system|Address already in use")  # what others say
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def anchors(document: Path) -> list[str]:
    """As GitHub names its headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def links(document: Path) -> list[str]:
    return LINK.findall(CODE_SPAN.sub("", prose(document)))


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    """In the project, that is: those that lead out of it are not asked for, but go the encrypted way."""
    for link in links(document):
        if re.match(r"\w+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@documents
def test_no_heading_stands_twice(document: Path) -> None:
    """A link could mean either, and what stands twice was mostly pasted twice."""
    found = Counter(anchors(document))
    assert [heading for heading, times in found.items() if times > 1] == []


def test_the_readme_leads_to_every_document() -> None:
    reached, left = set(), [README]
    while left:
        document = left.pop()
        if document in reached:
            continue
        reached.add(document)
        paths = [(document.parent / link.partition("#")[0]).resolve() for link in links(document) if "//" not in link]
        left += [path for path in paths if path.suffix == ".md" and path.exists()]
    assert set(DOCUMENTS) <= reached


def arguments(command: str) -> Iterator[tuple[str, list[str]]]:
    """The modules of ours that it runs, and their options; a pipe, `...` or the rest of a sentence ends them."""
    for part in re.split(r"[|;&]+ |\$\(", command):
        try:
            words = shlex.split(re.split(r" \.\.\.| > |, ", part)[0])
        except ValueError:  # a part of a sentence
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if len(words) > 3 and Path(words[0]).name == "python" and words[1] == "-m" and words[2].split(".")[0] in OURS:
            named_alone = len(words) == 4 and not words[3].startswith("-")
            yield words[2], [*words[3:], "--help"] if named_alone else words[3:]


def is_accepted(parser: argparse.ArgumentParser, options: list[str]) -> bool:
    try:
        parser.parse_args(options)
    except SystemExit as ended:  # as `--help` does as well
        return not ended.code
    return True


@documents
def test_every_command_is_one(document: Path) -> None:
    """Its options are known to its own parser, its make target is one, what it sets is a setting."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for command in mentioned(document):
        for module, options in arguments(command):
            path = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
            assert is_accepted(importlib.import_module(path).parser(), options), command
        if match := re.match(r"make ([a-z][\w-]*(?: [a-z][\w-]*)*)", command):
            assert set(match[1].split()) <= targets, command
    assert set(re.findall(r"\bSERVING_[A-Z_]+[A-Z]\b", document.read_text())) <= known


def test_every_command_of_make_is_in_its_help() -> None:
    """`make` alone lists what a user is meant to know."""
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(line.split()) - {"help"} <= set(re.findall(r"^([\w-]+):.*## ", makefile, re.MULTILINE))


def texts(path: Path) -> Iterator[str]:
    """The literal parts of a source's strings, neighbours joined, with `{}` for what is filled in."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def rows(heading: str) -> list[list[str]]:
    _, _, section = TROUBLESHOOTING.read_text().partition(f"## {heading}\n")
    lines = section.partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][1:]


def test_every_message_that_is_explained_is_in_the_source() -> None:
    said = [text for path in SOURCES for text in texts(path)]
    headings = re.findall(r"^## (.*)$", TROUBLESHOOTING.read_text(), re.MULTILINE)
    found = 0
    for heading in headings:
        if heading == "Answers of the service":
            continue
        for message in (part for row in rows(heading) for part in CODE_SPAN.findall(row[0])):
            assert ELSEWHERE.search(message) or any(message.strip() in text for text in said), message
            found += 1
    assert found > 30


def raised() -> Iterator[tuple[str, str]]:
    """(error, status) of every RequestError in the source."""
    for path in (ROOT / "serving").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            match node:
                case ast.Call(func=ast.Name(id="RequestError"), args=[status, ast.Constant(value=str(error)), *_]):
                    yield error, ast.unparse(status).rpartition(".")[2]
                case ast.Call(func=ast.Name(id="bad"), args=[ast.Constant(value=str(error)), *_]):
                    yield error, "BAD_REQUEST"


def test_every_error_of_an_answer_is_explained() -> None:
    explained = {(error, row[1]) for row in rows("Answers of the service") for error in CODE_SPAN.findall(row[0])}
    by_parameter = {("bad_top_k", "400"), ("bad_class", "400")}  # named after it
    assert explained == {(error, str(int(HTTPStatus[status]))) for error, status in raised()} | by_parameter
