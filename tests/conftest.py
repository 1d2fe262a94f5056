"""What several tests share: the data folder, a private model store, exported artifacts and a running service."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.local_service import LocalService, local_service

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
PAIR = ("resnet20-postact", "resnet20-preact")

BENTOML_HOME = tempfile.TemporaryDirectory(prefix="preflight-tests-")
os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": BENTOML_HOME.name}  # BentoML reads them at import


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shared_data: needs CIFAR-10 and odd images in ../shared/data")


def pytest_unconfigure() -> None:
    BENTOML_HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(pytest.mark.skip(reason="needs the data sets in ../shared/data"))


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Real photographs that come inside scikit-image."""
    from importlib.resources import files

    return Path(str(files("skimage"))) / "data"


@pytest.fixture(scope="session")
def exported_pair() -> tuple[str, str]:
    """The exact tags of the shipped pair."""
    from export.__main__ import choices, parser, settings_of
    from export.pipeline import export

    options = parser().parse_args([*PAIR])
    first, second = (export(choice, settings_of(options)) for choice in choices(options))
    return first, second


@pytest.fixture(scope="session")
def service(exported_pair: tuple[str, str]) -> Iterator[LocalService]:
    """A real `bentoml serve` with the shipped pair."""
    with local_service(environment={"SERVING_MODELS": ",".join(exported_pair)}, folder=ROOT) as running:
        yield running
