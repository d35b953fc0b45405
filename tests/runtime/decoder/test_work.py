"""A call's work in units: the same results, in an order that the caller chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.decoder.run import StepUnit
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.units import Unit, do_all
from tests.runtime.decoder.test_trajectory import MIXED, options
from tests.runtime.fake_bundle import FakeEngine


def two_parts(**changes: Any) -> InpaintOptions:
    """A mask of two parts, each worked on by itself."""
    mask = np.zeros((256, 700), np.uint8)
    mask[100:140, 40:80] = mask[100:140, 600:640] = 255
    picture = np.random.default_rng(0).integers(0, 256, (256, 700, 3), np.uint8)
    return options(image=picture, mask_image=mask, inpaint_area="mask", num_inference_steps=3, seed=5, **changes)


def test_units_in_any_order_give_what_the_call_gives(pipeline: InpaintPipeline) -> None:
    every = [*MIXED, two_parts()]
    alone = [pipeline.run(item) for item in every]
    left = {index: pipeline.plan(item).units() for index, item in enumerate(every)}
    rng, outputs = np.random.default_rng(0), {}
    while left:
        index = int(rng.choice(list(left)))
        try:
            next(left[index])
        except StopIteration as end:
            outputs[index] = end.value
            del left[index]
    for index, output in enumerate(alone):
        np.testing.assert_array_equal(outputs[index].images, output.images)
        assert outputs[index].seeds == output.seeds
        assert outputs[index].notes == output.notes
        assert outputs[index].masks == output.masks


def test_a_unit_says_what_comes_next(prompted: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    ask = {"prompt": "a hat", "image_embeds": None, "negative_image_embeds": None, "prior_num_inference_steps": 3}
    work = prompted.plan(options(num_inference_steps=2, num_images_per_prompt=2, seed=1, **ask))
    assert work.steps == 2
    units, seen = work.units(), []
    for unit in units:
        seen.append((unit.phase, unit.i, unit.count, len(fake_engine.runs)))
    assert [entry[:3] for entry in seen] == [
        ("encode_text", 0, 1),
        *(("prior", step, 3) for step in range(3)),
        ("load", 0, 1),
        ("encode", 0, 1),
        ("denoise", 0, 2),
        ("denoise", 1, 2),
        ("decode", 0, 2),
        ("decode", 1, 2),
    ]  # fmt: skip
    runs_before = [entry[3] for entry in seen]
    assert runs_before[0] == 0, "nothing runs before the first turn"
    assert sorted(runs_before) == runs_before
    assert len(fake_engine.runs) == runs_before[-1] + 1


def test_the_caller_may_compute_a_step(pipeline: InpaintPipeline) -> None:
    item = options(num_inference_steps=4, seed=3)
    units, computed = pipeline.plan(item).units(), 0
    answer = None
    try:
        while True:
            unit = units.send(answer)
            answer = None
            if isinstance(unit, StepUnit):
                answer, computed = unit.run.predict(unit.step), computed + 1
    except StopIteration as end:
        np.testing.assert_array_equal(end.value.images, pipeline.run(item).images)
    assert computed == 4


def test_closing_frees_the_steps_memory(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[str] = []
    monkeypatch.setattr(fake_engine, "free_scratch_memory", lambda engine: freed.append(engine.component))
    units = pipeline.plan(options(num_inference_steps=9, seed=3)).units()
    while not isinstance(next(units), StepUnit):
        pass
    next(units)
    freed.clear()
    units.close()
    assert freed == ["unet"]


@pytest.mark.parametrize("item", [options(num_inference_steps=2, seed=3), two_parts()])
def test_a_plan_is_done_once(pipeline: InpaintPipeline, item: InpaintOptions) -> None:
    """The second time, the same seeds would give another picture."""
    work = pipeline.plan(item)
    output = do_all(work.units())
    with pytest.raises(UsageError, match="this run was begun before, and its noise is used up; prepare or plan anothe"):
        do_all(work.units())
    np.testing.assert_array_equal(do_all(pipeline.plan(item).units()).images, output.images)


def test_a_run_is_begun_once(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2, seed=3))
    run.begin()
    for again in (run.begin, lambda: do_all(run.units())):
        with pytest.raises(UsageError, match="this run was begun before"):
            again()


def test_do_all_returns_the_result() -> None:
    done = []

    def units() -> Any:
        for i in range(3):
            yield Unit("encode", i, 3, 1)
            done.append(i)
        return "result"

    assert do_all(units()) == "result"
    assert done == [0, 1, 2]
