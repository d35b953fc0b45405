"""Random weights (seeded): they depend on (seed, tensor name) only, so that any framework can make the same ones."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


# Tables and vectors that are added to activations or take their place.
_EMBEDDINGS = (
    ".token_embedding.weight",
    ".position_embedding.weight",
    ".class_embedding",
    ".positional_embedding",
    ".prd_embedding",
)


def seeded_tensor(seed: int, name: str, torch_shape: tuple[int, ...]) -> Array:
    """The float32 values of the tensor called `name`, in PyTorch's layout.

    Weights are normal with a variance of 1 / fan-in, scales of norms are about 1 and biases about 0, so that
    activations keep their size through the network. The spatial norms of MoVQ's decoder, which multiply a feature map
    by a map made from the latents, get scales about 1 too, and depend on the latents weakly: such trajectories end
    in latents far larger than real ones. The UNet's variance channels, the second half of its outputs, stay within
    [-1, 1] as trained ones do: they are the exponent of a standard deviation. The prior's deviation of embeddings,
    `clip_std`, is about 1, and tables of embeddings have a deviation of 1 / 2, so that tokens and positions matter.

    Args:
        seed: any whole number.
        name: the tensor's name in the state dict, after the component's ("unet.conv_in.weight").
        torch_shape: its shape, Linear weights as [out, in].
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(torch_shape, dtype=np.float32)
    is_scale = (name.endswith(".weight") and len(torch_shape) == 1) or name.endswith((".conv_y.bias", ".clip_std"))
    if name.endswith(_EMBEDDINGS):
        values *= np.float32(0.5)
    elif is_scale:
        values *= np.float32(0.1)
        values += np.float32(1)
    elif len(torch_shape) == 1:
        values *= np.float32(0.05)
    else:
        values *= np.float32(1 / math.sqrt(math.prod(torch_shape[1:])))
        if name.endswith((".conv_y.weight", ".conv_b.weight")):
            values *= np.float32(0.02)
        if name == "unet.conv_out.weight":
            values[len(values) // 2 :] *= np.float32(0.2)
    return values


def seeded_embeds(seed: int, width: int) -> dict[str, Array]:
    """A random pair of image embeddings, (1, width) each, by the names that `read_embeds` looks for."""
    return {
        name: seeded_tensor(seed, name, (1, width)) * np.float32(math.sqrt(width))
        for name in ("image_embeds", "negative_image_embeds")
    }
