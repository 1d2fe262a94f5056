"""Settings come from the environment and are valid once read."""

from __future__ import annotations

import pytest

from serving.config import ConfigError, Settings, exact_tags, read_settings


def test_settings_are_read_by_name() -> None:
    settings = read_settings({"SERVING_MAX_IMAGE_PIXELS": "1000", "SERVING_THREADS": "3", "PATH": "/bin"})
    assert (settings.max_image_pixels, settings.threads) == (1000, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVING_TREADS", "2"),
        ("SERVING_THREADS", "0"),
        ("SERVING_THREADS", "two"),
        ("SERVING_INTRA_OP_THREADS", "100000"),
    ],
)
def test_a_misspelled_or_impossible_setting_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*Known settings: SERVING_MODELS"):
        read_settings({name: value})


def test_names_become_exact_tags(exported_pair: tuple[str, str]) -> None:
    exact = exported_pair[1]
    assert exact_tags(Settings(models=f"{exact}, resnet20-postact"))[0] == exact
    assert all(":" in tag and not tag.endswith(":latest") for tag in exact_tags(Settings()))


def test_two_versions_of_one_variant_are_refused(exported_pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="two versions of one variant"):
        exact_tags(Settings(models=f"{exported_pair[0]} resnet20-postact"))


def test_a_model_that_is_not_there_names_the_command_that_makes_it() -> None:
    with pytest.raises(ConfigError, match="python -m export resnet44-preact"):
        exact_tags(Settings(models="resnet44-preact"))
