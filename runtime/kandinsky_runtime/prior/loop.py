"""The prior's denoising loop, in numpy around the compiled prior.

Legend: R embeddings that the prior makes at once · N = R, or 2R with guidance, the halves in the order
        [negative, positive] · T text tokens · E embedding width
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import as_latents
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.observers import Clock, RunObserver
from kandinsky_runtime.prior.plan import EmbeddingTask, PromptPlan
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.schedulers import Sampler
from kandinsky_runtime.units import Unit, Units

Array = npt.NDArray[np.float32]

# Texts are padded to one of these numbers of tokens, or to the encoder's maximum, because some engines compile a graph
# for each shape. Padding is masked, so the numbers are the same.
_LENGTHS = (8, 16, 24, 32, 48, 64)


def padded_length(longest: int, most: int) -> int:
    """The number of tokens, at most `most`, to which texts are padded whose longest has `longest` tokens."""
    return min(most, next((length for length in _LENGTHS if length >= longest), most))


def denoise(
    graphs: Graphs,
    plan: PromptPlan,
    tasks: Sequence[EmbeddingTask],
    texts: dict[str, Array],
    sampler: Sampler,
    observer: RunObserver,
    pipeline: object,
    clock: Clock,
) -> Units[Array]:
    """The denoised latents of each task, (R, E), with a unit for each step.

    Args:
        graphs: the bundle's graphs, the prior among them.
        plan: the steps, the guidance, and each text's row.
        tasks: the embeddings to make, with their noise.
        texts: the text inputs of the prior by name, with a row for each text.
        sampler: the run's sampler, for latents (R, E).
        observer: progress, callback and cancellation.
        pipeline: the callback's first argument.
        clock: measures the phase `prior`.

    Raises:
        Cancelled: the run was cancelled between two steps.
        EngineError, NonFiniteError: the prior failed, or returned NaN or infinite numbers.
        InputError: the latents from the callback are invalid.
    """
    guided = guidance.is_guided(plan.guidance_scale)
    noises = iter(np.stack([task.noise for task in tasks], axis=1))  # each (R, E)
    first = next(noises)
    rows = [plan.rows[task.text] for task in tasks]
    if guided:
        rows = [plan.rows[task.negative] for task in tasks] + rows
    # With `low_memory` there is one batch, because an engine may store the weights once for each shape.
    batches = _batches({name: array[rows] for name, array in texts.items()}, guided and not graphs.low_memory)
    latents: Array = first * np.float32(sampler.init_noise_sigma)
    mixed = np.empty_like(latents)
    for i, timestep in observer.steps(sampler.timesteps.tolist()):
        yield Unit("prior", i, plan.steps, len(tasks))
        with clock("prior"):
            engine = graphs.engine("prior")
            inputs = sampler.scale_model_input(i, latents)
            during = f"step {i + 1} of {plan.steps} (timestep {timestep:g})"
            outputs = []
            for feeds in batches:
                count = len(feeds["text_mask"])  # R or 2R
                feeds["latents"] = inputs if count == len(inputs) else np.concatenate([inputs, inputs])
                feeds["timestep"] = np.full(count, timestep, np.float32)
                outputs.append(engine.run(feeds, during=during)["predicted_image_embeds"])
            output = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
            if guided:
                output = guidance.combine(output, plan.guidance_scale, latents.shape[1], mixed)
            latents = sampler.step(i, output, latents, next(noises) if sampler.draws_noise(i) else None)
            after = observer.after_step(pipeline, i, timestep, latents)
            if after is not latents:
                latents = as_latents("latents from callback_on_step_end", after, latents.shape)
    graphs.phase_over("prior")
    return latents


def _batches(feeds: dict[str, Array], split: bool) -> list[dict[str, Array]]:
    """The prior's inputs for N texts: one batch, or the two halves if `split` and if their padded lengths differ.

    Texts of the negative half are mostly empty, so that separate halves need less padding.
    """
    most = feeds["text_mask"].shape[1]

    def cut(rows: slice) -> dict[str, Array]:
        longest = int(feeds["text_mask"][rows].sum(axis=1).max())
        length = padded_length(longest, most)
        whole = {name: array[rows] for name, array in feeds.items()}
        return whole | {name: whole[name][:, :length] for name in ("text_hidden_states", "text_mask")}

    half = len(feeds["text_mask"]) // 2
    halves = [cut(slice(half)), cut(slice(half, None))] if split else []
    if len({item["text_mask"].shape[1] for item in halves}) == 2:
        return halves
    return [feeds]
