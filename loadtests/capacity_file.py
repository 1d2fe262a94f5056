"""What a capacity search leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.findings import Capacity, Probe
from loadtests.input_file import read_text
from loadtests.json_file import write_json
from loadtests.results import ResultsError

FORMAT = 1


def write_capacities(path: Path, capacities: Sequence[Capacity], conditions: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    content = {
        "format": FORMAT,
        "conditions": conditions,
        "capacities": [asdict(capacity) for capacity in capacities],
    }
    write_json(path, content)


def read_capacities(path: Path) -> list[Capacity]:
    """Raises ResultsError, InputFileError."""
    text = read_text(path, "the capacity.json that a search left")
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ResultsError(f"{path}: format {content['format']}, expected {FORMAT}")
        return [
            Capacity(**{**found, "probes": [Probe(**probe) for probe in found["probes"]]})
            for found in content["capacities"]
        ]
    except ResultsError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: no results of a capacity search ({error!r})") from error
