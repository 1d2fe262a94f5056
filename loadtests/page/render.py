"""A page as HTML and as Markdown, in one folder with its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loadtests.findings import Outcome
from loadtests.page.content import Page, Tone

HERE = Path(__file__).parent
TONES = {Outcome.HOLDS: Tone.GOOD, Outcome.FAILS: Tone.BAD, Outcome.UNDECIDED: Tone.UNSURE}


def write_page(folder: Path, name: str, page: Page) -> Path:
    """Write `NAME.html`, `NAME.md` and `NAME-FIGURE.svg`; returns the first's path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for picture in section.pictures:
            (folder / f"{name}-{picture.name}.svg").write_text(picture.alone(), encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(page, name), encoding="utf-8")
    path = folder / f"{name}.html"
    path.write_text(html(page), encoding="utf-8")
    return path


def html(page: Page) -> str:
    environment = Environment(autoescape=True, **settings())
    styles = Markup("".join((HERE / sheet).read_text() for sheet in ("theme.css", "page.css")))  # noqa: S704  our own
    return environment.get_template("page.html.jinja").render(page=page, styles=styles, tones=TONES, drawing=Markup)


def markdown(page: Page, name: str) -> str:
    """GitHub's; figures are files beside it."""
    environment = Environment(autoescape=False, finalize=escaped, **settings())  # noqa: S701  it has its own escapes
    return environment.get_template("page.md.jinja").render(page=page, name=name)


def settings() -> dict[str, Any]:
    return {
        "loader": FileSystemLoader(HERE),
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }


def escaped(value: object) -> str:
    """A text that Markdown shows as it is, on one line."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~]|^#)", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
