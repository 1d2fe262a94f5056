"""List what an image holds, by its own Python: every Python and Debian package, as a CycloneDX 1.6 document.

Only the standard library, so that it runs inside: `docker run --rm -i --entrypoint python IMAGE - < deploy/sbom.py`.
Licences are those that Python packages state; Debian keeps its own in /usr/share/doc, which slim images leave out.
"""

import json
import re
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import cast

DPKG = Path("/var/lib/dpkg/status")
LICENCE_CLASSIFIER = "License :: OSI Approved :: "


def licence(package: Distribution) -> str:
    fields = cast("Message", package.metadata)  # which its protocol hides
    stated = str(fields.get("License-Expression") or fields.get("License") or "")
    classifiers = [str(each) for each in fields.get_all("Classifier") or []]
    named = [text.removeprefix(LICENCE_CLASSIFIER) for text in classifiers if text.startswith(LICENCE_CLASSIFIER)]
    if 0 < len(stated) < 60 and "\n" not in stated:  # some put the whole text there
        return stated
    return ", ".join(named) or "not stated"


def python_packages() -> list[dict[str, object]]:
    return [
        {
            "type": "library",
            "name": package.name,
            "version": package.version,
            "purl": f"pkg:pypi/{re.sub(r'[-_.]+', '-', package.name).lower()}@{package.version}",
            "licenses": [{"license": {"name": licence(package)}}],
        }
        for package in distributions()
    ]


def debian_packages() -> list[dict[str, object]]:
    entries = DPKG.read_text().split("\n\n") if DPKG.is_file() else []
    fields = [dict(re.findall(r"^([\w-]+): (.*)$", entry, re.MULTILINE)) for entry in entries if entry.strip()]
    return [
        {
            "type": "library",
            "name": entry["Package"],
            "version": entry["Version"],
            "purl": f"pkg:deb/debian/{entry['Package']}@{entry['Version']}?arch={entry['Architecture']}",
        }
        for entry in fields
        if entry["Status"].endswith(" installed")
    ]


if __name__ == "__main__":
    components = sorted([*python_packages(), *debian_packages()], key=lambda component: str(component["purl"]))
    print(
        json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}, indent=2)
    )
