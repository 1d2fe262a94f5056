"""Compare two variants, or two saved runs: which is faster, by how much, and may the second be rolled out?"""

from __future__ import annotations

import argparse
from pathlib import Path

from loadtests.commands.load_options import add_load_options, add_payload_options
from loadtests.commands.outcome import add_gate_options, conclude
from loadtests.command_line import positive
from loadtests.results import Results, Side

