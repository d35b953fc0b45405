"""Several requests in one step: the pictures of each, up to rounding, and a failure that is everybody's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.errors import EngineError
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.serving.models import Model, measured_sharing
from kandinsky_runtime.serving.previews import preview_steps, with_previews
from kandinsky_runtime.serving.step_loop import StepLoop
from kandinsky_runtime.units import Unit, Units, do_all
from tests.serving.server_process import mask, picture
from tests.tolerances import PIXELS


class WorkTask:
    """A pipeline's work as a task of the loop."""

    alone = False
    stopped = None

    def __init__(self, pipeline: InpaintPipeline, options: InpaintOptions) -> None:
        self.name = "tiny"
        self.work = pipeline.plan(options)
        self.ended = threading.Event()
        self.output: Any = None
        self.error: BaseException | None = None

    def begin(self) -> Units[Any]:
        return self.work.units()

    def remaining(self) -> float:
        return 1.0

    def did(self, unit: Unit, seconds: float) -> None:
        pass

    def done(self, result: Any) -> None:
        self.output = result
        self.ended.set()

    def failed(self, error: BaseException) -> None:
        self.error = error
        self.ended.set()


def options(**changes: Any) -> InpaintOptions:
    return InpaintOptions(
        **{"prompt": "a hat", "image": picture(), "mask_image": mask(), "num_inference_steps": 6, "output_type": "np"}
        | changes
    )


MIXED = [
    options(seed=1),
    options(seed=2, scheduler="unipc", prompt="a cat"),
    options(seed=3, guidance_scale=1.0),
    options(seed=4, num_images_per_prompt=2, num_inference_steps=4),
    options(seed=5, image=picture(1, (64, 64)), mask_image=mask((64, 64))),
]


def run_all(pipeline: InpaintPipeline, share: int) -> tuple[list[WorkTask], StepLoop]:
    loop = StepLoop(Estimates(), share_steps=share)
    tasks = [WorkTask(pipeline, item) for item in MIXED]
    for task in tasks:
        loop.submit(task)
    loop.start()
    for task in tasks:
        assert task.ended.wait(60)
    loop.close(5)
    return tasks, loop


def test_shared_steps_give_everybodys_own_picture(inpaint: InpaintPipeline) -> None:
    tasks, loop = run_all(inpaint, 4)
    assert max(loop.shared) > 1, loop.shared
    for task, item in zip(tasks, MIXED, strict=True):
        np.testing.assert_allclose(task.output.images, inpaint.run(item).images, rtol=0, atol=PIXELS)


def test_steps_in_turn_give_the_same_bits(inpaint: InpaintPipeline) -> None:
    tasks, loop = run_all(inpaint, 1)
    assert set(loop.shared) == {1}
    for task, item in zip(tasks, MIXED, strict=True):
        np.testing.assert_array_equal(task.output.images, inpaint.run(item).images)


def test_a_shared_step_that_fails_fails_for_all(inpaint: InpaintPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr("kandinsky_runtime.serving.step_loop.predict_together", fail)
    tasks, _ = run_all(inpaint, 8)
    failed = [task for task in tasks if task.error is not None]
    assert 2 <= len(failed) <= 4
    assert all(str(task.error) == "out of memory" for task in failed)


def test_how_many_share_is_measured(inpaint: InpaintPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("tiny", "inpaint", inpaint, 0)
    assert measured_sharing(model, 96, 64) in (1, 2, 4, 8)
    seconds = {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.5}
    monkeypatch.setattr("kandinsky_runtime.serving.models._step_seconds", lambda model, w, h, count: seconds[count])
    assert measured_sharing(model, 96, 64) == 4
    seconds[2] = 0.99
    assert measured_sharing(model, 96, 64) == 1


def test_previews_change_nothing_and_come_closer(inpaint: InpaintPipeline) -> None:
    item = options(seed=1, num_inference_steps=12, output_type="pil")
    shown: list[np.ndarray] = []
    work = inpaint.plan(item)
    output = do_all(
        with_previews(work.units(), preview_steps(3, 12), lambda number, image: shown.append(np.asarray(image)))
    )
    np.testing.assert_array_equal(np.asarray(output.images[0]), np.asarray(inpaint.run(item).images[0]))
    errors = [np.square(image.astype(float) - np.asarray(output.images[0])).mean() for image in shown]
    assert len(errors) == 3
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(
    ("count", "steps", "after"), [(0, 10, ()), (1, 10, (4,)), (3, 100, (24, 49, 74)), (3, 2, (0,)), (3, 1, ())]
)
def test_previews_are_spread(count: int, steps: int, after: tuple[int, ...]) -> None:
    assert preview_steps(count, steps) == after
