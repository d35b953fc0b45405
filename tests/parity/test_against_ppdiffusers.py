"""Components at five shapes and whole trajectories against eager ppdiffusers, for every build of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.verification.verify import verify_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from scripts.goldens.trajectories import CASES, STEPS
from tests.parity.conftest import ENGINES
from tests.tolerances import GRAPH, TRAJECTORY

EVERY_ENGINE = "three_blocks"
"""The build that OpenVINO, which compiles for each shape, runs here; it runs all of them against diffusers."""


@pytest.mark.parametrize("case", CASES)
def test_every_component_and_a_trajectory_agree(
    case: str, case_checkpoint: Callable[[str], Path], case_bundle: Callable[[str], Path]
) -> None:
    engines = [name for name in ENGINES if name != "openvino" or case == EVERY_ENGINE]
    report = verify_bundle(
        Bundle.open(case_bundle(case)), Checkpoint.open(case_checkpoint(case)), engine_names=engines, steps=STEPS
    )
    assert set(report.engines) == set(engines)
    assert all(len(set(shapes)) == 5 for shapes in report.shapes.values())
    for figures in report.engines.values():
        assert max(figures.components.values()) <= GRAPH, report.table()
        assert figures.trajectory is not None
        assert figures.trajectory.image <= TRAJECTORY, report.table()
    assert Bundle.open(case_bundle(case)).manifest.parity["passed"]
