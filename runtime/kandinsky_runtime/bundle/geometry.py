"""The sizes that a bundle's graphs fix, read from their signatures.

Legend: C latent channels · K output channels of the UNet · f pixels per latent cell along one axis · E embedding width
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kandinsky_runtime.bundle.manifest import IMAGE_TO_IMAGE, INPAINT, TEXT_TO_IMAGE, Manifest
from kandinsky_runtime.bundle.spec import TensorSpec
from kandinsky_runtime.errors import BundleError

_ONE_CELL = {"batch": 1, "height": 1, "width": 1}


@dataclass(frozen=True)
class Geometry:
    """The sizes that a bundle's graphs fix.

    Attributes:
        channels: C, of the latents.
        out_channels: K, of the UNet's output: C, or 2C with a variance.
        factor: f, pixels per latent cell along one axis.
        multiple: heights and widths in pixels are padded to a multiple of it.
        embed_width: E.
        sees_kept_area: the UNet is one for inpainting: it takes the kept latents and their mask, too.
    """

    channels: int
    out_channels: int
    factor: int
    multiple: int
    embed_width: int
    sees_kept_area: bool = True

    @classmethod
    def of(cls, manifest: Manifest, subject: str = "the bundle") -> Geometry:
        """Read them from the graphs' signatures.

        Args:
            manifest: the bundle's.
            subject: how errors name the bundle.

        Raises:
            BundleError: the graphs are not those of Kandinsky 2.2; lists every tensor that differs.
        """
        graphs = {name: component.spec for name, component in manifest.components.items()}
        tensors = {
            name: {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)} for name, graph in graphs.items()
        }
        try:
            _, channels, _, _ = tensors["movq_decoder"]["latents"].shape(_ONE_CELL)
            _, _, factor, _ = tensors["movq_decoder"]["image"].shape(_ONE_CELL)
            _, out_channels, _, _ = tensors["unet"]["noise_pred"].shape(_ONE_CELL)
            _, in_channels, _, _ = tensors["unet"]["sample"].shape(_ONE_CELL)
            _, embed_width = tensors["unet"]["image_embeds"].shape(_ONE_CELL)
            cells = [graphs["unet"].ranges[side].multiple for side in ("height", "width")]
            pixels = [graphs["movq_encoder"].ranges[side].multiple for side in ("height", "width")]
        except (KeyError, ValueError) as error:
            raise BundleError(subject, [f"its graphs are not those of Kandinsky 2.2 ({error})"]) from error
        plain = in_channels == channels
        expected = _signatures(channels if plain else 2 * channels + 1, channels, out_channels, factor, embed_width)
        faults = [fault for name, want in expected.items() for fault in _differences(name, tensors[name], want)]
        if out_channels not in (channels, 2 * channels):
            faults.append(
                f"unet returns {out_channels} channels; expected {channels}, or {2 * channels} with a variance"
            )
        if faults:
            raise BundleError(subject, faults)
        multiple = math.lcm(*(factor * size for size in cells), *pixels)
        return cls(channels, out_channels, factor, multiple, embed_width, sees_kept_area=not plain)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What a decoder of these sizes does, of `manifest.TASKS`."""
        return (INPAINT,) if self.sees_kept_area else (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)


def _signatures(
    in_channels: int, channels: int, out_channels: int, factor: int, embed_width: int
) -> dict[str, tuple[TensorSpec, ...]]:
    """What the graphs take and return, by component."""

    def tensor(name: str, *dims: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", ("batch", *dims))

    return {
        "unet": (
            tensor("sample", in_channels, "height", "width"),
            tensor("timestep"),
            tensor("image_embeds", embed_width),
            tensor("noise_pred", out_channels, "height", "width"),
        ),
        "movq_encoder": (
            tensor("image", 3, "height", "width"),
            tensor("latents", channels, f"height/{factor}", f"width/{factor}"),
        ),
        "movq_decoder": (
            tensor("latents", channels, "height", "width"),
            tensor("image", 3, f"{factor}*height", f"{factor}*width"),
        ),
    }


def _differences(component: str, got: dict[str, TensorSpec], expected: tuple[TensorSpec, ...]) -> list[str]:
    wanted = {want.name: want for want in expected}
    return [
        f"{component} has {got.get(name, 'no such tensor')}; expected {wanted.get(name, 'no such tensor')}"
        for name in wanted | got
        if got.get(name) != wanted.get(name)
    ]
