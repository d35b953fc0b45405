"""The UNet of one run: its inputs in buffers that are filled once, the halves of guidance, and which graph runs.

Legend: B samples · C latent channels · X further channels · K output channels · h, w latent height and width
        E embedding width · N = B, or 2B with guidance, the halves in the order [negative, positive]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.graphs import Graphs

Array = npt.NDArray[np.float32]


class UNet:
    """The UNet as one run uses it.

    From step to step only latents and timestep change; embeddings and kept area are copied in once. With the graphs'
    `low_memory` the halves of guidance run one after the other: memory for one, and one shape for all steps.
    """

    def __init__(
        self,
        graphs: Graphs,
        latent_shape: tuple[int, int, int, int],
        image_embeds: Array,
        negative_image_embeds: Array | None,
        further: Array | None = None,
        *,
        steps: int,
    ) -> None:
        """Load the graph and fill in what stays.

        Args:
            graphs: the bundle's graphs; the UNet is loaded if it is not.
            latent_shape: (B, C, h, w).
            image_embeds: (B, E).
            negative_image_embeds: (B, E); None for a run without guidance.
            further: channels behind the latents', (B, X, h, w); None for none.
            steps: steps of the whole run, for errors.

        Raises:
            BundleError, EngineError: the graph could not be loaded.
        """
        self._engine = graphs.engine("unet")
        self._graphs = graphs
        self._steps = steps
        batch, channels, height, width = latent_shape
        embeds = [image_embeds] if negative_image_embeds is None else [negative_image_embeds, image_embeds]
        extra = 0 if further is None else further.shape[1]
        sample = np.empty((len(embeds), batch, channels + extra, height, width), np.float32)
        if further is not None:
            sample[:, :, channels:] = further
        self._latents = sample[:, :, :channels]  # (halves, B, C, h, w)
        self._timestep = np.empty(len(embeds) * batch, np.float32)
        self._whole = {
            "sample": sample.reshape(len(embeds) * batch, channels + extra, height, width),
            "timestep": self._timestep,
            "image_embeds": np.concatenate(embeds),
        }
        self._halves = [
            {name: array[half * batch : (half + 1) * batch] for name, array in self._whole.items()}
            for half in range(len(embeds))
        ]

    def predict(self, i: int, latents: Array, timestep: float, guided: bool) -> Array:
        """The UNet's output at step i.

        Args:
            i: the step, from 0.
            latents: (B, C, h, w), scaled for the model.
            timestep: the timestep of every sample.
            guided: whether both halves are needed; only in a run with negative embeddings.

        Returns:
            (2B, K, h, w) if `guided`, [negative, positive]; else the positive half, (B, K, h, w).

        Raises:
            EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
        """
        during = f"step {i + 1} of {self._steps} (timestep {timestep:g})"
        outputs = [
            self._engine.run(feeds, during=during)["noise_pred"] for feeds in self.feeds(latents, timestep, guided)
        ]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def feeds(self, latents: Array, timestep: float, guided: bool) -> Sequence[dict[str, Array]]:
        """The graph's inputs for a step, one batch or several; valid until the next call. Arguments as `predict`'s."""
        self._latents[...] = latents
        self._timestep.fill(timestep)
        if not guided:
            return self._halves[-1:]
        return self._halves if self._graphs.low_memory else [self._whole]

    def end(self) -> None:
        """End the phase: free the memory that the steps computed in."""
        self._graphs.phase_over("unet")


def predict_together(steps: Sequence[tuple[UNet, Array, float, bool]]) -> list[Array]:
    """The UNet's outputs for one step of several runs of the same graphs and latent size, computed as one batch.

    Args:
        steps: (UNet of the run, latents, timestep, guided) of each run, as for `UNet.predict`.

    Returns:
        The output of each, as `UNet.predict` returns it. Engines may compute other last bits in another batch.

    Raises:
        EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
    """
    first = steps[0][0]
    feeds = [feed for unet, latents, timestep, guided in steps for feed in unet.feeds(latents, timestep, guided)]
    whole = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    output = first._engine.run(whole, during=f"a step of {len(steps)} runs")["noise_pred"]
    outputs, start = [], 0
    for _, latents, _, guided in steps:
        rows = len(latents) * (2 if guided else 1)
        outputs.append(output[start : start + rows])
        start += rows
    return outputs
