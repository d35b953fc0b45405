"""The peers' protocol: what a worker answers, who is left out and why, and how a job is extrapolated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"

WORKER = """
import sys, time
sys.path.insert(0, {peers!r})
from worker import intervals, sequence, serve

def make(job):
    print("a library talks on stdout")
    if job["kind"] == "missing":
        raise RuntimeError("no such processor\\nin detail: none")
    if job["kind"] == "dead":
        sys.stderr.write("the kernel said no")
        sys.exit(3)
    def fail():
        raise ValueError("this work fails")
    noop = lambda: time.sleep(0.001) or print("more talk")
    works = {{"unet": noop, "job": lambda: sequence(noop, noop, noop, 4), "decode": fail}}
    return {{"stub": job["kind"]}}, works

serve(make)
"""


@pytest.fixture(scope="module", autouse=True)
def _peers_on_the_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PEERS))
        yield


@pytest.fixture
def contestant(tmp_path: Path) -> Callable[[str], Any]:
    from contestants import Contestant, Entry

    file = tmp_path / "stub.py"
    file.write_text(WORKER.format(peers=str(PEERS)))
    return lambda kind: Contestant(Entry(str(file), "", kind), sys.executable, {})


def test_a_worker(contestant: Callable[[str], Any]) -> None:
    with contestant("sound") as worker:
        assert worker.versions == {"stub": "sound"}
        assert worker.run("unet")["seconds"] >= 0.001
        answer = worker.run("job")
        assert len(answer["steps"]) == 3, "whole steps: all but the first"
        assert answer["seconds"] >= sum(answer["steps"]) >= 0.003


@pytest.mark.parametrize(
    ("kind", "text"), [("missing", "RuntimeError: no such processor$"), ("dead", "the kernel said no")]
)
def test_a_worker_that_cannot_be_loaded(contestant: Callable[[str], Any], kind: str, text: str) -> None:
    from contestants import LeftOut

    with pytest.raises(LeftOut, match=text):
        contestant(kind)


def test_a_work_that_fails(contestant: Callable[[str], Any]) -> None:
    from contestants import LeftOut

    with contestant("sound") as worker, pytest.raises(LeftOut, match="ValueError: this work fails"):
        worker.run("decode")


def test_every_peer_has_its_file() -> None:
    from contestants import PEERS as ENTRIES

    assert {entry.file for entry in ENTRIES.values()} <= {path.name for path in PEERS.iterdir()}


def test_a_job_is_extrapolated() -> None:
    from report import extrapolated

    assert extrapolated({"seconds": 2.5}, 150) == 2.5
    # six steps were made in 20 s, five of them whole, of 2 s each: 144 more
    assert extrapolated({"seconds": 20.0, "steps": [1.0, 3.0, 2.0, 2.0, 2.0]}, 150) == 20 + 144 * 2


def measured() -> dict[str, Any]:
    rounds = [
        {"ours": ours, "peer": peer, "product-bf16": 0.5, "product-fp32": 2.0}
        for ours, peer in ((1, 2), (2, 3), (1, 4))
    ]
    return {
        "environment": {"processor": "a processor", "cores": 2, "load_average": [0.1, 0.2, 0.3]},
        "finished": "2026-01-01T00:00:00+00:00",
        "ours": "openvino:bf16",
        "size": "full",
        "height": 512,
        "width": 512,
        "product": 4096,
        "plan": {"works": ["unet", "job"], "rounds": 3, "job_steps": 150},
        "versions": {"ours": {"openvino": "1"}, "matrix product": {"torch": "2"}},
        "peers": {"torch eager bf16": {"versions": {"torch": "2"}, "rounds": {"unet": rounds, "job": rounds}}},
        "left_out": {"onnxruntime fp32": "not installed"},
    }


def test_the_table_has_medians_of_ratios() -> None:
    from report import as_text

    text = as_text(measured())
    assert "| torch eager bf16 | 1.000 | 3.000 | 2.00 (1.50-4.00) |" in text
    assert "bf16 0.27 (0.27-0.27), fp32 0.07 (0.07-0.07)" in text
    assert "Our UNet: 1.71 (0.86-1.71) TFLOP/s, 6.23 (3.11-6.23) times the bf16 product of its round." in text
    assert "Left out: onnxruntime fp32 (not installed)." in text


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from report import save_plot

    save_plot(measured(), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
