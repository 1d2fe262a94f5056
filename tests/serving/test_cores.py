"""What control groups allow, wherever the limit stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cores import quotas


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),  # a container's own, of version 2
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", {}, []),  # the root of a host has no file
        ("0::/system.slice/a.service\n", {"system.slice/a.service/cpu.max": "50000 100000"}, [0.5]),
        (
            "0::/system.slice/a.service\n",
            {"system.slice/a.service/cpu.max": "max 100000", "system.slice/cpu.max": "300000 100000"},
            [3.0],
        ),
        ("0::/only/on/the/host\n", {"cpu.max": "200000 100000"}, [2.0]),
        ("0::/../../beside\n", {"cpu.max": "200000 100000"}, [2.0]),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n0::/a\n",  # version 1
            {"cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.cfs_period_us": "50000"},
            [0.5],
        ),
        ("3:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "50000"}, [0.5]),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_every_limit_up_to_the_root_counts(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: list[float]
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in limits.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert list(quotas(tmp_path / "groups", tmp_path / "mounted")) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert not list(quotas(tmp_path / "none", tmp_path))
