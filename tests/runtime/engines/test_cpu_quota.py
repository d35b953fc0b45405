"""Threads under a container's CPU quota: control groups of version 1 and 2, as files of a made file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.cpu_quota import available_cpus

V2 = {"proc/self/cgroup": "0::/\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"}
V1_FOLDER = "sys/fs/cgroup/cpu,cpuacct/docker/abc"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "nonsense"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 0"}, 8),
        # the group around the process's own is the narrower one
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
                "sys/fs/cgroup/pod/box/cpu.max": "400000 100000",
            },
            2,
        ),
        (V1 | {f"{V1_FOLDER}/cpu.cfs_quota_us": "100000", f"{V1_FOLDER}/cpu.cfs_period_us": "100000"}, 1),
        (V1 | {f"{V1_FOLDER}/cpu.cfs_quota_us": "300000", f"{V1_FOLDER}/cpu.cfs_period_us": "100000"}, 3),
        (V1 | {f"{V1_FOLDER}/cpu.cfs_quota_us": "-1", f"{V1_FOLDER}/cpu.cfs_period_us": "100000"}, 8),
        ({"proc/self/cgroup": "garbage\n:::\n"}, 8),
    ],
)
def test_cpus_under_a_quota(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cpus(8, tmp_path) == cpus


def test_a_number_of_threads_that_is_given_is_taken_as_it_is() -> None:
    assert EngineOptions(threads=64).thread_count == 64


def test_the_default_is_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky_runtime.engines.options.available_cpus", lambda cores: 3)
    assert EngineOptions().thread_count == 3
