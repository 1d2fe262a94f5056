"""Figures in files, one a step: found again where they were taken under the same conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.atomic_file import write_atomically

Json = dict[str, Any]
CONDITIONS = "conditions"


class Results:
    """`<name>.json` in a folder, each with its conditions; those of other conditions are as good as absent."""

    def __init__(self, folder: Path, conditions: Json) -> None:
        self.folder = folder
        self.conditions: Json = json.loads(json.dumps(conditions))

    def files(self) -> Iterator[tuple[str, Json]]:
        for path in sorted(self.folder.glob("*.json")):
            yield path.stem, json.loads(path.read_text())

    def all(self) -> dict[str, Json]:
        """What was kept so far, by name."""
        return {name: found for name, found in self.files() if found.pop(CONDITIONS, None) == self.conditions}

    def has(self, name: str) -> bool:
        """What failed is tried again."""
        return "failed" not in self.all().get(name, {"failed": ""})

    def keep(self, name: str, found: Json) -> None:
        write_json(self.folder / f"{name}.json", found | {CONDITIONS: self.conditions})

    def begun_anew(self) -> str | None:
        """A line that says why earlier figures do not count."""
        for name, found in self.files():
            before = found.get(CONDITIONS, {})
            changed = [each for each in {**before, **self.conditions} if before.get(each) != self.conditions.get(each)]
            if changed:
                values = "; ".join(f"{each}: {before.get(each)}, now {self.conditions.get(each)}" for each in changed)
                return f"begun anew: {self.folder / name}.json and others are of other conditions ({values})"
        return None


def write_json(path: Path, content: Json) -> None:
    write_atomically(path, f"{json.dumps(content, indent=2)}\n".encode())
