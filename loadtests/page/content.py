"""What a page says, whatever it is written in. Every text is plain: who writes a page escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtests.page.svg import Picture


class Tone(StrEnum):
    """How the banner is set off; its words say the same."""

    GOOD = "good"
    BAD = "bad"
    UNSURE = "unsure"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Banner:
    tone: Tone
    headline: str
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of a row heads it. `align` has l or r for each column; `marked` is the row that counts."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """`folded` is for what few readers need."""

    heading: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`alarms` are what makes the measurement doubtful. `data` is fit for JSON: the conditions, for programs."""

    title: str
    subtitle: str
    banner: Banner
    alarms: Sequence[str]
    sections: Sequence[Section]
    data: object
