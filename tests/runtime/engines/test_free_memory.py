"""Free memory under a container's limit: control groups of version 1 and 2, as files of a made file system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kandinsky_runtime.engines.free_memory import anonymous_memory, free_memory

HOST = {"proc/meminfo": "MemTotal:  9000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\nHugePages_Total: 0\n"}
V2 = HOST | {"proc/self/cgroup": "0::/pod/box\n"}
V1 = HOST | {"proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n"}
BOX, POD, DOCKER = "sys/fs/cgroup/pod/box/", "sys/fs/cgroup/pod/", "sys/fs/cgroup/memory/docker/abc/"
KB = 1024


@pytest.mark.parametrize(
    ("files", "kilobytes"),
    [
        ({}, None),
        ({"proc/meminfo": "nonsense"}, None),
        (HOST, 8000),
        (V2, 8000),
        (V2 | {BOX + "memory.max": "max\n", BOX + "memory.current": "1024"}, 8000),
        (V2 | {BOX + "memory.max": f"{5000 * KB}\n", BOX + "memory.current": f"{1000 * KB}"}, 4000),
        # files in the cache are freed first
        (
            V2
            | {
                BOX + "memory.max": f"{5000 * KB}\n",
                BOX + "memory.current": f"{1000 * KB}",
                BOX + "memory.stat": f"anon 7\ninactive_file {600 * KB}\nactive_file 9\n",
            },
            4600,
        ),
        # the group around the process's own is the narrower one
        (
            V2
            | {
                BOX + "memory.max": f"{5000 * KB}",
                BOX + "memory.current": "0",
                POD + "memory.max": f"{3000 * KB}",
                POD + "memory.current": f"{1000 * KB}",
            },
            2000,
        ),
        (V2 | {BOX + "memory.max": f"{100 * KB}", BOX + "memory.current": f"{200 * KB}"}, 0),
        (V2 | {BOX + "memory.max": "nonsense", BOX + "memory.current": "x"}, 8000),
        (
            V1
            | {
                DOCKER + "memory.limit_in_bytes": f"{2000 * KB}\n",
                DOCKER + "memory.usage_in_bytes": f"{900 * KB}",
                DOCKER + "memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * KB}\n",
            },
            1200,
        ),
        (V1 | {DOCKER + "memory.limit_in_bytes": "9223372036854771712", DOCKER + "memory.usage_in_bytes": "5"}, 8000),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], kilobytes: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == (None if kilobytes is None else kilobytes * KB)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux reports it")
def test_memory_of_this_process() -> None:
    before = anonymous_memory()
    block = b"x" * (32 << 20)
    after = anonymous_memory()
    assert before is not None
    assert after is not None
    assert after - before >= len(block) // 2


def test_a_system_that_does_not_report_it(tmp_path: Path) -> None:
    assert anonymous_memory(tmp_path) is None
