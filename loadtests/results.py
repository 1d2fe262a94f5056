"""What a run leaves on disk: its conditions, and a recording for every turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from loadtests.input_file import read_text
from loadtests.json_file import write_json
from loadtests.recording import Recording

FORMAT = 1


class ResultsError(ValueError):
    """The file holds no results of ours."""


class Side(StrEnum):
    """Of a comparison: the base, and who is compared with it. A run of one variant has only the base."""

    A = "a"
    B = "b"


@dataclass(frozen=True, slots=True)
class Target:
    """A variant where it is served; `host` is a URL without a path. Where `version` is given, answers of others are not
    the variant's."""

    host: str
    variant: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """`seconds` of load on one target, warm-up left out. A round of a comparison has two of each side.

    `incomplete` says why it ended early, `invalid` why the load was not the one planned (the generator was late);
    both are empty for a sound turn.
    """

    round: int
    place: int
    side: Side
    seconds: float
    recording: Recording
    incomplete: str = ""
    invalid: str = ""

    @property
    def throughput_rps(self) -> float:
        return self.recording.answered / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "round": self.round, "place": self.place, "side": self.side, "seconds": self.seconds,
            "incomplete": self.incomplete, "invalid": self.invalid, "recording": self.recording.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Turn:
        return cls(
            content["round"], content["place"], Side(content["side"]), content["seconds"],
            Recording.from_dict(content["recording"]), content["incomplete"], content["invalid"],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Results:
    """`conditions` are fit for JSON. `conditions["targets"]` has, for each side, `host`, `variant` and, under
    `served`, what the service's `/variants` says of it."""

    conditions: dict[str, Any]
    turns: Sequence[Turn]

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        content = {
            "format": FORMAT,
            "conditions": self.conditions,
            "turns": [turn.to_dict() for turn in self.turns],
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises ResultsError, InputFileError."""
        text = read_text(path, "the results.json that a run or a comparison left")
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ResultsError(f"{path}: format {content['format']}, expected {FORMAT}")
            return cls(content["conditions"], [Turn.from_dict(turn) for turn in content["turns"]])
        except ResultsError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}: no results of a load test ({error!r})") from error
