"""What is compared, as data: the baseline, and the settings of each group.

Settings are written as `k22-export compare` takes them. `COMMON` is added to each.
"""

from __future__ import annotations

from dataclasses import dataclass

from kandinsky_runtime.sampling.schedulers import SCHEDULERS

COMMON = "guidance_scale=4,prior_guidance_scale=4"
EXACT = "engine=onnxruntime,precision=fp32"
STEPS = (10, 15, 25, 50)


@dataclass(frozen=True)
class Item:
    """One row of a table.

    Attributes:
        group: the table.
        text: the setting.
        rounding: "fp16" or "bf16": a float32 run that rounds every value as the bundle's `onnx-fp16` or `onnx-bf16`
            graph would on a GPU; None for none.
        tile: a tile's side and overlap in latent cells, for `tiles=true` on pictures smaller than the usual tile.
        shuffled: whether every prompt goes to another picture than its own, which shows what chance gives.
    """

    group: str
    text: str
    rounding: str | None = None
    tile: tuple[int, int] | None = None
    shuffled: bool = False

    @property
    def label(self) -> str:
        """The row's name."""
        more = [f"{self.rounding} rounding"] if self.rounding else []
        more += [f"tiles of {self.tile[0]} cells, {self.tile[1]} shared"] if self.tile else []
        more += ["shuffled prompts"] if self.shuffled else []
        return ", ".join([self.text, *more])


BASELINE = Item("baseline", f"{EXACT},scheduler=ddpm,steps=50")

_PRECISIONS = (
    "engine=onnxruntime,precision=fp16",
    "engine=openvino,precision=fp32",
    "engine=openvino,precision=bf16",
    "engine=openvino,precision=fp16",
    "engine=paddle,precision=fp32",
    "engine=tensorrt,precision=fp32",
    "engine=tensorrt,precision=fp16",
    "engine=tensorrt,precision=bf16",
)
_INTERVALS = ("0.3:5", "0.5:5", "0.3:2", "1:20")

_TILES = ((16, 8), (12, 6))


def grid(baseline: str = BASELINE.text) -> tuple[Item, ...]:
    """Every row, with the settings that differ from the baseline in one thing."""
    return (
        Item("prompts", baseline, shuffled=True),
        *(Item("precision", f"{text},scheduler=ddpm,steps=50") for text in _PRECISIONS),
        *(Item("rounding", baseline, rounding=rounding) for rounding in ("fp16", "bf16")),
        *(
            Item("scheduler", f"{EXACT},scheduler={scheduler},steps={steps}")
            for scheduler in SCHEDULERS
            for steps in STEPS
            if f"{EXACT},scheduler={scheduler},steps={steps}" != baseline
        ),
        *(Item("interval", f"{baseline},guidance_interval={interval}") for interval in _INTERVALS),
        *(
            Item("interval", f"{EXACT},scheduler=dpm++,steps=25,guidance_interval={interval}")
            for interval in _INTERVALS
        ),
        *(Item("tiles", f"{baseline},tiles=true", tile=tile) for tile in _TILES),
    )


GROUPS = tuple(dict.fromkeys(item.group for item in grid()))
