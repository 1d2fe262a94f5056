"""The page of saved results again, with other gates or with curves of capacity beside them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtests.capacity_file import read_capacities
from loadtests.commands.ending import add_ending_options, concluded, gates_of, MEASURED
from loadtests.page import as_text, write_report
from loadtests.results import Results
