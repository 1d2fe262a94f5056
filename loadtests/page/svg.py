"""Matplotlib's figures as SVG that follows the reader's theme: no colour is in it, only names that theme.css fills."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

THEME = (Path(__file__).parent / "theme.css").read_text()
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
WIDTH_IN = 6.2  # at which 12 point text is legible in half a screen and across a phone


class Colour(StrEnum):
    """Stand-ins that matplotlib takes; the number is the place in NAMES."""

    INK = "#000001"
    MUTED = "#000002"
    LINE = "#000003"
    SURFACE = "#000004"
    A = "#000005"
    B = "#000006"
    C = "#000007"
    D = "#000008"


NAMES = ("ink", "muted", "line", "surface", "series-a", "series-b", "series-c", "series-d")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loadtests",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that sizes are the same everywhere
    "font.size": 12,
    "text.parse_math": False,  # a name may hold dollars
    "text.color": Colour.INK,
    "axes.edgecolor": Colour.LINE,
    "axes.labelcolor": Colour.MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": Colour.LINE,
    "grid.linewidth": 0.6,
    "grid.alpha": 0.7,
    "xtick.color": Colour.LINE,
    "ytick.color": Colour.LINE,
    "xtick.labelcolor": Colour.MUTED,
    "ytick.labelcolor": Colour.MUTED,
    "legend.frameon": False,
    "hatch.color": Colour.SURFACE,
    "hatch.linewidth": 1.4,
    "lines.linewidth": 2,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """`svg` can stand in a page that has the theme; `description` says what it shows to who does not see it."""

    name: str
    title: str
    description: str
    svg: str

    def alone(self) -> str:
        """To stand in a file; brings the theme along."""
        head, close, rest = self.svg.partition(">")
        return f"{head}{close}\n<style>{THEME}</style>{rest}\n"


@contextmanager
def styled() -> Iterator[None]:
    """Figures have to be made and drawn inside."""
    with mpl.rc_context(STYLE):
        yield


def picture(figure: Figure, name: str, title: str, description: str) -> Picture:
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # the reader's fonts draw the text
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#00000([1-8])", lambda found: f"var(--{NAMES[int(found[1]) - 1]})", svg)
    svg = svg.replace("'DejaVu Sans'", FONTS)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)  # several stand in one page
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-title {name}-about" ', 1)
    words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-about">{escape(description)}</desc>'
    head, close, rest = svg.partition(">")
    return Picture(name, title, description, f"{head}{close}{words}{rest}")
