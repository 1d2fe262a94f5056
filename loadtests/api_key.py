"""The key for services that ask for one; it is in what is sent to them and in nothing else."""

from __future__ import annotations

import os
import re

KEY_VARIABLE = "PREFLIGHT_API_KEY"  # as of serving.client


class KeyVariableError(ValueError):
    """What the variable holds is no key."""


def authorization() -> dict[str, str]:
    """The header that shows the key; none where there is none. Raises KeyVariableError, which does not tell the key."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        return {}
    if not re.fullmatch(r"[!-~]+", key):  # a line end would begin a header more
        raise KeyVariableError(f"{KEY_VARIABLE} holds spaces, line ends or letters beyond ASCII, which no key has")
    return {"authorization": f"Bearer {key}"}
