"""The sizes that a bundle's graphs fix, read from their signatures, and what the sizes of each graph's inputs mean.

Legend: C latent channels · K output channels of the UNet · f pixels per latent cell along one axis · E embedding width
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kandinsky_runtime.bundle.manifest import IMAGE_TO_IMAGE, INPAINT, TEXT_TO_IMAGE, Manifest
from kandinsky_runtime.bundle.spec import TensorSpec
from kandinsky_runtime.errors import BundleError

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
"""The symbols of a graph's batch, height and width in its signature."""
HALVES = 2
"""The halves of classifier-free guidance, [negative, positive]."""

_ONE_CELL = {BATCH: 1, HEIGHT: 1, WIDTH: 1}


@dataclass(frozen=True)
class ComponentRole:
    """What the sizes of a component's inputs mean.

    Attributes:
        in_pixels: whether heights and widths are in pixels, not in latent cells.
        guided: whether one batch holds both halves of classifier-free guidance for every result. If not, the runtime
            gives the component one picture at a time, whatever the number of results.
    """

    in_pixels: bool = False
    guided: bool = True


_ROLES = {
    "movq_encoder": ComponentRole(in_pixels=True, guided=False),
    "movq_decoder": ComponentRole(guided=False),
}


def role_of(component: str) -> ComponentRole:
    """What the sizes of a component's inputs mean. Everything that needs to know asks here."""
    return _ROLES.get(component, ComponentRole())


@dataclass(frozen=True)
class Geometry:
    """The sizes that a bundle's graphs fix.

    Attributes:
        channels: C, the channels of the latents.
        out_channels: K, the channels of the UNet's output: C, or 2C with a variance.
        factor: f, the pixels per latent cell along one axis.
        multiple: the number of pixels that padded heights and widths are multiples of.
        embed_width: E, the width of the image embeddings.
        sees_kept_area: whether the UNet was made for inpainting and also takes the kept latents and their mask.
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
            manifest: the bundle's manifest.
            subject: the bundle's name in errors.

        Raises:
            BundleError: the graphs are not those of Kandinsky 2.2; every tensor that differs is listed.
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
            cells = [graphs["unet"].ranges[side].multiple for side in (HEIGHT, WIDTH)]
            pixels = [graphs["movq_encoder"].ranges[side].multiple for side in (HEIGHT, WIDTH)]
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
        """The tasks of a decoder with these sizes, from `manifest.TASKS`."""
        return (INPAINT,) if self.sees_kept_area else (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)

    def pixels_per_unit(self, component: str) -> int:
        """The pixels per unit of a component's height and width: 1 if they are in pixels, f if in latent cells."""
        return 1 if role_of(component).in_pixels else self.factor

    def padded(self, size: int) -> int:
        """A height or width in pixels, rounded up to what the graphs take."""
        return -(-size // self.multiple) * self.multiple

    def sizes(self, component: str, height: int, width: int) -> dict[str, int]:
        """Batch, height and width of a component's inputs in a run with guidance that makes one picture.

        Args:
            component: the graph's name.
            height, width: the picture's size in pixels, before padding.
        """
        unit = self.pixels_per_unit(component)
        batch = HALVES if role_of(component).guided else 1
        return {BATCH: batch, HEIGHT: self.padded(height) // unit, WIDTH: self.padded(width) // unit}


def _signatures(
    in_channels: int, channels: int, out_channels: int, factor: int, embed_width: int
) -> dict[str, tuple[TensorSpec, ...]]:
    """The expected inputs and outputs of each component."""

    def tensor(name: str, *dims: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", (BATCH, *dims))

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
