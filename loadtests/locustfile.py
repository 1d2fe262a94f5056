"""One variant under load, with Locust's own pages: `locust -f loadtests/locustfile.py --host http://localhost:3000`."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment

from loadtests.scenario import ClassifyUser, payloads


class Classify(ClassifyUser):
    """Locust runs this class; its variant and images come from the command line."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--variant", default="resnet20-postact", help="the served variant to ask")
    parser.add_argument("--images", default="", help="folder of images to post (default: made-up 224 x 224 JPEGs)")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def read_options(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    Classify.variant = options.variant
    try:
        Classify.images = payloads(Path(options.images) if options.images else None)
    except OSError as error:
        logging.getLogger("locust.main").error("--images: %s", error)
        environment.process_exit_code = 2
        assert environment.runner is not None
        environment.runner.quit()
