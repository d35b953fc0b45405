"""The part of the latents that inpainting keeps: fed to the UNet, and put back after every step.

Legend: B samples · C latent channels · h, w latent height and width
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]


class KeptArea:
    """The kept part of the latents, and the buffers to put it back with."""

    def __init__(self, original: Array, keep: Array, noise: Array, sampler: Sampler) -> None:
        """Keep what stays the same over the run.

        Args:
            original: the pictures' latents, (B, C, h, w).
            keep: (B, 1, h, w), 1 to keep, 0 to repaint.
            noise: the run's first noise, (B, C, h, w); the kept part gets the same noise at every step.
            sampler: the run's.
        """
        self._original, self._keep, self._noise, self._sampler = original, keep, noise, sampler
        self._repaint = 1 - keep
        self._known = np.empty_like(original)

    @property
    def channels(self) -> Array:
        """The UNet's further channels, (B, C + 1, h, w): the masked latents, and the mask that keeps them."""
        return np.concatenate([self._original * self._keep, self._keep], axis=1)

    def put_back(self, i: int, latents: Array) -> None:
        """Overwrite the kept part of `latents`, the latents after step i, with the original.

        It has the noise level of the next step; after the last step it is clean.
        """
        if i + 1 < len(self._sampler.timesteps):
            self._sampler.add_noise(i + 1, self._original, self._noise, self._known)
        else:
            self._known[...] = self._original
        self._known *= self._keep
        latents *= self._repaint
        latents += self._known
