"""The UNet's inputs, in buffers that are filled once: from step to step only latents and timestep change.

Legend: B samples · C latent channels · X further channels · h, w latent height and width · E embedding width
        N = B, or 2B with guidance, the halves in the order [negative, positive]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.decoder.request import SampleRequest

Array = npt.NDArray[np.float32]


class UNetFeeds:
    """Inputs by name: `sample` (N, C + X, h, w), `timestep` (N), `image_embeds` (N, E), all float32.

    Attributes:
        whole: of every sample, with guidance in both halves.
        halves: the same in parts of B samples each, which share its memory: [negative, positive], or one without
            guidance.
    """

    def __init__(self, request: SampleRequest, further: Array | None = None) -> None:
        """Fill in what stays.

        Args:
            request: embeddings and guidance.
            further: channels behind the latents', (B, X, h, w); None for none.
        """
        batch, channels, height, width = request.latent_shape
        halves = 2 if request.guided else 1
        extra = 0 if further is None else further.shape[1]
        sample = np.empty((halves, batch, channels + extra, height, width), np.float32)
        if further is not None:
            sample[:, :, channels:] = further
        embeds = [request.negative_image_embeds, request.image_embeds] if request.guided else [request.image_embeds]
        self._latents = sample[:, :, :channels]  # (halves, B, C, h, w)
        self._timestep = np.empty(halves * batch, np.float32)
        self.whole = {
            "sample": sample.reshape(halves * batch, channels + extra, height, width),
            "timestep": self._timestep,
            "image_embeds": np.concatenate(embeds),
        }
        self.halves = [
            {name: array[half * batch : (half + 1) * batch] for name, array in self.whole.items()}
            for half in range(halves)
        ]

    def fill(self, latents: Array, timestep: float) -> None:
        """Take the inputs of a step.

        Args:
            latents: (B, C, h, w), scaled as the scheduler wants them.
            timestep: of every sample.
        """
        self._latents[...] = latents
        self._timestep.fill(timestep)
