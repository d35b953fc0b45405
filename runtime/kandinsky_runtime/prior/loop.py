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
from kandinsky_runtime.observers import Watch
from kandinsky_runtime.prior.plan import Job, Plan
from kandinsky_runtime.sampling import guidance

Array = npt.NDArray[np.float32]

# Texts are padded to one of these numbers of tokens, or to all that the encoder takes: engines that compile a graph for
# each shape see few of them. What is padded is masked, so the numbers are the same.
_LENGTHS = (8, 16, 24, 32, 48, 64)


def padded_length(longest: int, most: int) -> int:
    """The number of tokens to pad texts to, of which the longest has `longest` and none may have more than `most`."""
    return min(most, next((length for length in _LENGTHS if length >= longest), most))


def denoise(
    graphs: Graphs, plan: Plan, jobs: Sequence[Job], texts: dict[str, Array], watch: Watch, pipeline: object
) -> Array:
    """The denoised latents of each job, (R, E).

    Args:
        graphs: with the prior.
        plan: scheduler, steps, guidance, and each text's row.
        jobs: what is to be made, with its noise.
        texts: inputs of the prior by name, a row for each text.
        watch: who looks on.
        pipeline: what the callback is told that runs.

    Raises:
        Cancelled: between two steps.
        EngineError, NonFiniteError: the prior failed, or returned no finite numbers.
        InputError: the callback's latents cannot be used.
    """
    engine, guided = graphs.engine("prior"), guidance.is_guided(plan.guidance_scale)
    noises = iter(np.stack([job.noise for job in jobs], axis=1))  # each (R, E)
    first = next(noises)
    sampler = plan.method.sampler(plan.steps, first.shape)
    rows = [plan.rows[job.text] for job in jobs]
    if guided:
        rows = [plan.rows[job.negative] for job in jobs] + rows
    # With `low_memory` there is one batch: an engine may keep the weights once for each shape.
    batches = _batches({name: array[rows] for name, array in texts.items()}, guided and not graphs.low_memory)
    latents: Array = first * np.float32(sampler.init_noise_sigma)
    mixed = np.empty_like(latents)
    for i, timestep in watch.steps(sampler.timesteps.tolist()):
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
        after = watch.after_step(pipeline, i, timestep, latents)
        if after is not latents:
            latents = as_latents("latents from callback_on_step_end", after, latents.shape)
    graphs.phase_over("prior")
    return latents


def _batches(feeds: dict[str, Array], apart: bool) -> list[dict[str, Array]]:
    """The prior's inputs of N texts as one batch; if they may be apart as two, the halves, where that leaves padding
    out: texts of the negative half are mostly empty."""
    most = feeds["text_mask"].shape[1]

    def cut(rows: slice) -> dict[str, Array]:
        longest = int(feeds["text_mask"][rows].sum(axis=1).max())
        length = padded_length(longest, most)
        whole = {name: array[rows] for name, array in feeds.items()}
        return whole | {name: whole[name][:, :length] for name in ("text_hidden_states", "text_mask")}

    half = len(feeds["text_mask"]) // 2
    halves = [cut(slice(half)), cut(slice(half, None))] if apart else []
    if len({item["text_mask"].shape[1] for item in halves}) == 2:
        return halves
    return [feeds]
