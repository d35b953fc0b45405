"""The judge: a classifier of things, colours and places, on drawings of its own.

It shares no picture with the checkpoint's training. Its pictures are blurred and noised at random, so that it reads
painted ones, too. `benchmarks/judge/weights.npz` is what comes out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.drawings import THINGS, Scene, Style, draw, random_scene
from benchmarks.drawings.canvas import Box
from benchmarks.judge.judge import CONVOLUTIONS, FEATURES, NARROW, SIDE, Judge
from benchmarks.judge.reading import COLOURS, KINDS, LAYOUT, OUTPUTS
from benchmarks.judge.world import JUDGE_STYLE
from scripts.training.command import run_stage
from scripts.training.loop import Schedule, Step, Training, load_average
from scripts.training.settings import ROOT, add_minutes, add_threads, count, parser

STAGE = 8
_SEED = 8_017  # other drawings than those of the checkpoint
_SHARD = 1000


class Network(nn.Module):
    """The network that `benchmarks.judge.judge` computes, with batch norms, which the export folds in."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(channels for channels, _, _ in CONVOLUTIONS)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, channels, side, stride, side // 2, bias=False)
            for before, (channels, side, stride) in zip(widths, CONVOLUTIONS, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in widths[1:])
        self.narrow = nn.Conv2d(widths[-1], NARROW, 1)
        self.features = nn.Linear(NARROW * (SIDE // 16) ** 2, FEATURES)
        self.outputs = nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers of pictures (n, 3, SIDE, SIDE) in [-1, 1]: (n, OUTPUTS)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        x = functional.relu(self.narrow(x)).permute(0, 2, 3, 1).flatten(1)
        out: torch.Tensor = self.outputs(functional.relu(self.features(x)))
        return out

    @torch.no_grad()
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights as `Judge` takes them, float16."""
        made = {}
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            made[f"conv{index}.weight"] = (convolution.weight * scale[:, None, None, None]).flatten(1).T
            made[f"conv{index}.bias"] = norm.bias - norm.running_mean * scale
        made |= {"narrow.weight": self.narrow.weight[:, :, 0, 0].T, "narrow.bias": self.narrow.bias}
        for name in ("features", "outputs"):
            layer = getattr(self, name)
            made |= {f"{name}.weight": layer.weight.T, f"{name}.bias": layer.bias}
        return {name: value.numpy().astype(np.float16) for name, value in made.items()}


def targets_of(scene: Scene, boxes: dict[str, Box]) -> np.ndarray:
    """Return for each thing: the kind's number (0 for none), the colour's, and the box; (things, 6) float32."""
    rows = np.zeros((len(THINGS), 6), np.float32)
    for row, name in zip(rows, THINGS, strict=True):
        thing = scene.thing(name)
        if thing is not None:
            row[:2] = 1 + KINDS[name].index(thing.kind), COLOURS.index(thing.colour)
            row[2:] = boxes[name]
    return rows


def drawings(folder: Path, shard: int, style: Style, size: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Draw a shard, or read it: pictures (n, size, size, 3) uint8 and targets (n, things, 6)."""
    path = folder / f"drawings-{shard:05d}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, targets = np.empty((_SHARD, size, size, 3), np.uint8), np.empty((_SHARD, len(THINGS), 6), np.float32)
        for index in range(_SHARD):
            scene = random_scene(np.random.default_rng([_SEED, shard, index]), style)
            drawing = draw(scene, size)
            pictures[index], targets[index] = drawing.pixels, targets_of(scene, drawing.boxes)
        np.savez(path.with_suffix(".partial.npz"), pictures=pictures, targets=targets)
        path.with_suffix(".partial.npz").replace(path)
        print(f"drawings {shard}", flush=True)
    with np.load(path) as arrays:
        return arrays["pictures"], arrays["targets"]


def losses(out: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the losses of kinds, of the colours and boxes of what is there."""
    kind, colour, box = [], [], []
    for index, name in enumerate(THINGS):
        kinds, colours, place = LAYOUT[name]
        target = targets[:, index]
        there = target[:, 0] > 0
        kind.append(functional.cross_entropy(out[:, kinds], target[:, 0].long()))
        if there.any():
            colour.append(functional.cross_entropy(out[there, colours], target[there, 1].long()))
            box.append(functional.smooth_l1_loss(out[there, place], target[there, 2:], beta=0.02))
    return {name: torch.stack(parts).mean() for name, parts in (("kind", kind), ("colour", colour), ("box", box))}


def damaged(pictures: torch.Tensor, step: Step) -> torch.Tensor:
    """Blur and noise some of the pictures (n, 3, SIDE, SIDE), and change their tone a little."""
    chance = torch.from_numpy(step.rng.uniform(size=(4, len(pictures), 1, 1, 1)).astype(np.float32))
    blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pictures = torch.lerp(pictures, blurred, chance[0] * (chance[1] < 0.5))
    noise = torch.randn(pictures.shape, generator=step.noise)
    return (pictures * (0.94 + 0.12 * chance[2]) + 0.12 * chance[3] * noise * (chance[1] > 0.3)).clamp(-1, 1)


def accuracy(judge: Judge, pictures: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the shares of right kinds, of right colours and sides of what is there, and of faultless pictures."""
    kinds, colours, sides, faultless = [], [], [], []
    readings = [
        reading for part in np.array_split(pictures, max(1, len(pictures) // 100)) for reading in judge.read(part)
    ]
    for reading, rows in zip(readings, targets, strict=True):
        right = True
        for name, row in zip(THINGS, rows, strict=True):
            seen = reading.things.get(name)
            number = 0 if seen is None else 1 + KINDS[name].index(seen.kind)
            kinds.append(number == int(row[0]))
            right &= kinds[-1]
            if seen is not None and row[0] > 0:
                colours.append(seen.colour == COLOURS[int(row[1])])
                sides.append(
                    (seen.side == "left") == ((row[2] + row[4]) / 2 <= 0.5) or name in ("hat", "glasses", "bow tie")
                )
                right &= colours[-1] and sides[-1]
        faultless.append(right)
    return {
        "kinds": np.mean(kinds),
        "colours": np.mean(colours),
        "sides": np.mean(sides),
        "faultless": np.mean(faultless),
    }


def main() -> None:
    options = parser(__doc__)
    add_minutes(options)
    add_threads(options)
    options.add_argument("--shards", type=count, default=16, help=f"shards of {_SHARD} drawings")
    options.add_argument("--steps", type=count, default=4_000, help="steps of 128 drawings")
    options.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "judge" / "weights.npz", help="the weights")
    args = options.parse_args()
    torch.manual_seed(STAGE)
    folder = args.work / "judge"
    model = Network()
    schedule = Schedule(args.steps, args.rate)
    training = Training(folder, STAGE, model, schedule, threads=args.threads, minutes=args.minutes, decay=0.995)
    made = [drawings(folder, shard, JUDGE_STYLE) for shard in range(args.shards)]
    pictures, targets = (np.concatenate(parts) for parts in zip(*made, strict=True))
    tests = {"own": drawings(folder, 90_000, JUDGE_STYLE), "checkpoint": drawings(folder, 91_000, Style())}

    def losses_of(step: Step) -> dict[str, torch.Tensor]:
        chosen = step.rng.integers(len(pictures), size=128)
        x = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return losses(model(damaged(x, step)), torch.from_numpy(targets[chosen]))

    def evaluate() -> dict[str, float]:
        judge = Judge(training.average.arrays())
        return {f"{name}_{key}": float(v) for name, data in tests.items() for key, v in accuracy(judge, *data).items()}

    training.run(losses_of, evaluate, evaluate_every=900)
    np.savez_compressed(args.out, **load_average(folder, Network()).arrays())
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_stage(main)
