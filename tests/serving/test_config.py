"""Settings come from the environment and are valid once read."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from export.cuda import Cuda, UnavailableError
from serving import config, cores
from serving.__main__ import main
from serving.config import ConfigError, ServingRuntime, Settings, exact_tags, read_settings, reference
from tests.conftest import ROOT
from tests.host_gpu.runtime import HostCudart


def test_settings_are_read_by_name() -> None:
    settings = read_settings({"SERVING_MAX_IMAGE_PIXELS": "1000", "SERVING_THREADS": "3", "PATH": "/bin"})
    assert (settings.max_image_pixels, settings.threads) == (1000, 3)


@pytest.mark.parametrize(
    ("name", "value", "found", "expected"),
    [
        ("SERVING_THREADS", "0", "0", "images that a worker"),
        ("SERVING_THREADS", "two", "two", "images that a worker"),
        ("SERVING_INTRA_OP_THREADS", "100000", "100000", "threads of one inference"),
        ("SERVING_SPLIT", "resnet20-postact=x", "x", "VARIANT=WEIGHT"),
    ],
)
def test_an_impossible_setting_is_refused_with_what_was_found_and_expected(
    name: str, value: str, found: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: .*; found '{found}', expected {expected}.*serving settings$"):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("SERVING_LOG_FORMAT", "JSON"), ("SERVING_WORKERS", "0"), ("SERVING_RUNTIME", "gpu")]
)
def test_one_wrong_setting_is_one_problem(name: str, value: str) -> None:
    """Not another for each default that is reckoned from those before it."""
    with pytest.raises(ConfigError) as caught:
        read_settings({name: value})
    assert re.findall(r"SERVING_\w+(?=: )", str(caught.value)) == [name]
    assert "Undefined" not in str(caught.value)


def test_two_wrong_settings_are_both_told() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"SERVING_RUNTIME": "gpu", "SERVING_WORKERS": "0"})
    assert re.findall(r"SERVING_\w+(?=: )", str(caught.value)) == ["SERVING_RUNTIME", "SERVING_WORKERS"]


def test_the_largest_body_has_room() -> None:
    assert read_settings({}).max_held_bytes == 256 << 20
    assert read_settings({"SERVING_MAX_BATCH_BYTES": str(1 << 30)}).max_held_bytes == 2 << 30
    assert read_settings({"SERVING_MAX_IN_FLIGHT": "256"}).max_held_bytes == 1 << 30
    with pytest.raises(
        ConfigError, match=r"^SERVING_MAX_HELD_BYTES: .*less than twice SERVING_MAX_BATCH_BYTES, 67108864"
    ):
        read_settings({"SERVING_MAX_HELD_BYTES": "1000"})


@pytest.mark.parametrize(
    ("name", "said"), [("SERVING_TREADS", "; the nearest is SERVING_THREADS."), ("SERVING_XYZ", "no such setting.")]
)
def test_of_a_misspelled_setting_the_nearest_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: no such setting.*") as caught:
        read_settings({name: "2"})
    assert said in str(caught.value)


def test_an_empty_variable_is_the_default() -> None:
    assert read_settings({"SERVING_RUNTIME": "", "SERVING_THREADS": " "}) == read_settings({})


def test_runtimes_are_words() -> None:
    with pytest.raises(ConfigError, match="SERVING_RUNTIME: Input should be 'auto', 'tensorrt'"):
        read_settings({"SERVING_RUNTIME": "gpu"})


def test_names_become_exact_tags(exported_pair: tuple[str, str]) -> None:
    exact = exported_pair[1]
    assert exact_tags(Settings(models=f"{exact}, resnet20-postact"))[0] == exact
    assert all(":" in tag and not tag.endswith(":latest") for tag in exact_tags(Settings()))


def test_two_versions_of_one_variant_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "exact_tag", str)  # as if the store had both
    with pytest.raises(ConfigError, match="a:1, a:2: two versions of one variant"):
        exact_tags(Settings(models="a:1 a:2"))


def test_a_model_that_is_named_twice_is_told_as_such(exported_pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"^{exported_pair[1]}: the same model is named twice"):
        exact_tags(Settings(models=f"{exported_pair[1]} {exported_pair[0]} {exported_pair[1]}"))


def test_a_model_that_is_not_there_names_the_command_that_makes_it() -> None:
    with pytest.raises(ConfigError, match="python -m export resnet44-preact, with --checkpoint FILE where no weights"):
        exact_tags(Settings(models="resnet44-preact"))


@pytest.mark.parametrize("name", ["../../etc", "a/b", "a:b:c", "resnet20-preact:"])
def test_what_no_model_can_be_called_is_told_how_one_is(name: str) -> None:
    with pytest.raises(ConfigError, match=r"SERVING_MODELS: .* is no model; expected a variant such as") as info:
        exact_tags(Settings(models=name))
    assert repr(name) in str(info.value)


def test_the_documentation_lists_the_settings_as_they_are() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    _, _, rest = page.partition("<!-- python -m serving settings -->\n")
    assert rest.startswith(f"{reference()}\n\n"), "paste what `python -m serving settings` prints into docs/serving.md"


def test_the_command_prints_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out
    assert all(f"`SERVING_{name.upper()}`" in printed for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("usable", "gpu_gib", "workers", "threads"),
    [
        (0.5, None, 1, 1), (1, None, 1, 1), (2, None, 1, 2), (6, None, 3, 2), (7.5, None, 4, 2),
        (16, 80, 4, 4), (16, 22, 2, 8), (16, 8, 1, 16), (2, 80, 1, 2), (16, 0, 1, 16),
    ],
)  # fmt: skip
def test_cores_become_workers_and_threads(
    monkeypatch: pytest.MonkeyPatch, usable: float, gpu_gib: int | None, workers: int, threads: int
) -> None:
    monkeypatch.setattr(cores, "cores", lambda: usable)
    found = cores.default_workers(None if gpu_gib is None else gpu_gib << 30)
    assert (found, cores.default_threads(found)) == (workers, threads)


@pytest.mark.parametrize(("runtime", "found"), [("onnxruntime", None), ("auto", 24 << 30), ("tensorrt", 24 << 30)])
def test_a_gpu_counts_where_it_would_infer(monkeypatch: pytest.MonkeyPatch, runtime: str, found: int | None) -> None:
    monkeypatch.setattr(config, "cuda_or_reason", lambda: Cuda(HostCudart()))
    assert config.gpu_bytes(ServingRuntime(runtime)) == found


@pytest.mark.parametrize(("runtime", "found"), [("onnxruntime", None), ("auto", None), ("tensorrt", 0)])
def test_a_gpu_that_is_not_there_has_no_memory(
    monkeypatch: pytest.MonkeyPatch, runtime: str, found: int | None
) -> None:
    monkeypatch.setattr(config, "cuda_or_reason", lambda: UnavailableError("none"))
    assert config.gpu_bytes(ServingRuntime(runtime)) == found


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_a_process_counts_the_cores_that_it_may_use() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from serving.cores import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 1
