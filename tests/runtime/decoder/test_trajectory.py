"""A run that can be stepped: several in turn, each with its own scheduler, noise, guidance and callback."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.errors import Cancelled, InputError, Kandinsky22Error, TensorError, UsageError
from kandinsky_runtime.observers import RunObserver
from tests.runtime.fake_bundle import CHANNELS, WIDTH, FakeEngine

RNG = np.random.default_rng(8)
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)


def options(height: int = 64, width: int = 80, **changes: Any) -> InpaintOptions:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 4 :] = 255
    sound = {
        "image": np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8),
        "mask_image": mask,
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "output_type": "np",
    }
    return InpaintOptions(**sound | changes)


MIXED = [
    options(scheduler="ddpm", num_inference_steps=4, seed=1),
    options(scheduler="dpm++", num_inference_steps=9, seed=2, guidance_interval=(0.5, 4)),
    options(scheduler="unipc", num_inference_steps=6, seed=3, guidance_scale=1.0),
    options(96, 64, scheduler="euler-a", num_inference_steps=5, seed=4, num_images_per_prompt=3),
    options(scheduler="dpm++sde", num_inference_steps=7, seed=1, composite="none"),
    options(scheduler="ddpm", num_inference_steps=4, seed=1),
]


def in_turn(runs: list[Run]) -> list[Any]:
    """Drive several runs, one step of each after the other; a finished one leaves."""
    trajectories = [run.begin() for run in runs]
    while not all(trajectory.done for trajectory in trajectories):
        for run, trajectory in zip(runs, trajectories, strict=True):
            if not trajectory.done:
                trajectory.accept(run.predict(trajectory.feed()))
    return [run.finish(trajectory.latents) for run, trajectory in zip(runs, trajectories, strict=True)]


def test_trajectories_stepped_in_turn_are_what_each_is_alone(pipeline: InpaintPipeline) -> None:
    alone = [pipeline.run(item).images for item in MIXED]
    together = in_turn([pipeline.prepare(item) for item in MIXED])
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(alone[0], alone[4]), "the runs differ"


def test_callbacks_are_each_runs_own(pipeline: InpaintPipeline) -> None:
    seen: list[tuple[str, int]] = []

    def observer(name: str) -> RunObserver:
        return RunObserver(lambda owner, step, *_: seen.append((name, step)) if owner is pipeline else None)

    in_turn(
        [pipeline.prepare(options(num_inference_steps=steps), observer(name)) for name, steps in (("a", 3), ("b", 2))]
    )
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]


def test_cancelling_one_leaves_the_others(pipeline: InpaintPipeline) -> None:
    cancel = threading.Event()
    stopped = pipeline.prepare(options(num_inference_steps=3, seed=7), RunObserver(cancel=cancel))
    other = pipeline.prepare(options(num_inference_steps=3, seed=8))
    first, second = stopped.begin(), other.begin()
    first.accept(stopped.predict(first.feed()))
    second.accept(other.predict(second.feed()))
    cancel.set()
    with pytest.raises(Cancelled, match="cancelled before step 2 of 3"):
        first.feed()
    for step in second:
        second.accept(other.predict(step))
    np.testing.assert_array_equal(
        other.finish(second.latents), pipeline.run(options(num_inference_steps=3, seed=8)).images
    )


def test_a_callback_changes_its_own_run_only(pipeline: InpaintPipeline) -> None:
    def halve(_: object, step: int, timestep: float, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] / 2}

    item = options(num_inference_steps=3, seed=5)
    changed, plain = in_turn([pipeline.prepare(item, RunObserver(halve)), pipeline.prepare(item)])
    np.testing.assert_array_equal(plain, pipeline.run(item).images)
    np.testing.assert_array_equal(changed, pipeline.run(item, RunObserver(halve)).images)
    assert not np.array_equal(changed, plain)


def test_image_to_image_begins_late(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    item = GenerateOptions(
        image=np.zeros((64, 64, 3), np.uint8),
        strength=0.5,
        image_embeds=EMBEDS,
        negative_image_embeds=NEGATIVE,
        num_inference_steps=8,
        seed=3,
    )
    trajectory = generator.prepare(item).begin()
    assert (trajectory.i, trajectory.steps, trajectory.done) == (4, 8, False)
    assert trajectory.feed().i == 4


def test_a_step_says_what_the_unet_needs(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2, seed=3))
    trajectory = run.begin()
    step = trajectory.feed()
    assert (step.i, step.timestep, step.guided) == (0, 501, True)
    assert step.latents.shape == (1, CHANNELS, 8, 10)
    again = trajectory.feed()
    np.testing.assert_array_equal(step.latents, again.latents, "asking twice changes nothing")


def test_no_step_after_the_last(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2))
    trajectory = run.begin()
    for step in trajectory:
        trajectory.accept(run.predict(step))
    assert list(trajectory) == []
    with pytest.raises(UsageError, match="all 2 steps were accepted"):
        trajectory.feed()


def test_an_output_of_another_shape_is_refused_and_the_step_stays(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2, guidance_scale=1.0))
    trajectory = run.begin()
    output = run.predict(trajectory.feed())
    with pytest.raises(TensorError):
        trajectory.accept(output[:, :, :4])
    assert trajectory.i == 0
    trajectory.accept(output)
    assert trajectory.i == 1


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_an_output_that_is_no_output_of_the_step(pipeline: InpaintPipeline, scale: float) -> None:
    run = pipeline.prepare(options(num_inference_steps=2, guidance_scale=scale, seed=3))
    trajectory = run.begin()
    output = run.predict(trajectory.feed())
    for bad in (output.tolist(), None, output[:1, :2], output[:0], output[0], np.concatenate([output] * 3)):
        with pytest.raises(TensorError, match=r"step 1 of 2: the UNet's output is .*; expected an array of shape \("):
            trajectory.accept(bad)
    trajectory.accept(output)
    trajectory.accept(run.predict(trajectory.feed()))
    expected = pipeline.run(options(num_inference_steps=2, guidance_scale=scale, seed=3)).images
    np.testing.assert_array_equal(run.finish(trajectory.latents), expected)


def test_a_step_that_is_not_accepted(pipeline: InpaintPipeline) -> None:
    """Without the error, the loop would have no end."""
    steps = iter(pipeline.prepare(options(num_inference_steps=2)).begin())
    assert next(steps).i == 0
    with pytest.raises(UsageError, match="step 1 of 2 was not accepted; call accept with the UNet's output before the"):
        next(steps)


def test_a_step_that_is_accepted_twice(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2))
    trajectory = run.begin()
    output = np.zeros((2, 2 * CHANNELS, 8, 10), np.float32)
    with pytest.raises(UsageError, match="got an output after 0 of 2 steps, but no step was given since the last one"):
        trajectory.accept(output)
    for done in (1, 2):
        output = run.predict(trajectory.feed())
        trajectory.accept(output)
        with pytest.raises(UsageError, match=f"got an output after {done} of 2 steps, but no step was given since the"):
            trajectory.accept(output)
    assert trajectory.done


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda latents: latents[:, :2], r"latents: the shape is \(1, 2, 8, 10\); this run takes \(1, 4, 8, 10\)"),
        (lambda latents: latents[0], r"latents: the shape is \(4, 8, 10\); this run takes"),
        (lambda latents: None, "latents: got NoneType of dtype object; expected real numbers"),
        (lambda latents: latents * np.nan, "latents: has NaN, infinity"),
    ],
)
def test_latents_that_cannot_be_finished(pipeline: InpaintPipeline, change: Any, text: str) -> None:
    run = pipeline.prepare(options(num_inference_steps=1))
    latents = run.begin().latents
    with pytest.raises(InputError, match=text):
        run.finish(change(latents))
    np.testing.assert_array_equal(run.finish(latents.tolist()), run.finish(latents))  # type: ignore[arg-type]


def test_a_callback_that_raises(pipeline: InpaintPipeline) -> None:
    """Its error comes out as it is, but for one that no generator passes on."""

    def fail(error: BaseException) -> Any:
        def callback(*_: Any) -> None:
            raise error

        return callback

    for error in (LookupError("mine"), KeyboardInterrupt(), Cancelled("enough"), RuntimeError("x"), GeneratorExit()):
        with pytest.raises(type(error)) as caught:
            pipeline.run(options(num_inference_steps=2), RunObserver(fail(error)))
        assert caught.value is error
    with pytest.raises(UsageError, match="callback_on_step_end raised StopIteration, which does not stop a run; raise"):
        pipeline.run(options(num_inference_steps=2), RunObserver(fail(StopIteration())))


def test_latents_of_a_callback_that_do_not_fit(pipeline: InpaintPipeline) -> None:
    def cut(_: object, step: int, timestep: float, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"][:, :2]}

    with pytest.raises(InputError, match=r"latents from callback_on_step_end: the shape is \(1, 2, 8, 10\)"):
        pipeline.run(options(num_inference_steps=2), RunObserver(cut))


def test_predicting_before_the_run_began(pipeline: InpaintPipeline) -> None:
    run = pipeline.prepare(options(num_inference_steps=2))
    step = pipeline.prepare(options(num_inference_steps=2)).begin().feed()
    with pytest.raises(Kandinsky22Error, match="the run was not begun"):
        run.predict(step)
