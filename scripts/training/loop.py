"""The training loop of every stage: averaged weights, a log, and a state that any run resumes from.

A step's random numbers depend on the stage and the step alone, so an interrupted run continues as if it had not been.
"""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scripts.training.command import UnfinishedError, require
from scripts.training.optimizer import MuonAndAdamW
from scripts.training.settings import SEED

SAVE_EVERY = 150.0  # seconds
LOG_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Schedule:
    """The learning rate: a linear rise, a constant `peak`, and a linear fall to 0 over the last share `fall`.

    Attributes:
        steps: all steps. A finished stage goes on if this is raised.
        warmup: steps of the rise.
    """

    steps: int
    peak: float
    warmup: int = 200
    fall: float = 0.4

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step in [0, steps)."""
        rise = min(1.0, (step + 1) / self.warmup)
        left = (self.steps - step) / self.steps
        return self.peak * rise * min(1.0, left / self.fall)


@dataclass(frozen=True)
class Step:
    """One step: its number, its share of all steps in [0, 1), and its random generators."""

    number: int
    progress: float
    rng: np.random.Generator
    noise: torch.Generator


class Training:
    """Trains `model` and keeps the average of its weights in `average`.

    Args:
        folder: the folder of the state `state.pt` and the log `log.jsonl`.
        stage: a number of the stage's own, part of every step's seed.
        threads: processor threads.
        minutes: the time after which `run` saves and stops; None for no limit.
        decay: the share of the average that a step keeps.
        sources: digests of the other stages' models that this one is trained on, by name. A change is printed.
    """

    def __init__(
        self,
        folder: Path,
        stage: int,
        model: nn.Module,
        schedule: Schedule,
        *,
        threads: int = 2,
        minutes: float | None = None,
        decay: float = 0.999,
        weight_decay: float = 0.01,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.folder, self.stage, self.model, self.schedule, self.decay = folder, stage, model, schedule, decay
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimizer = MuonAndAdamW(model, weight_decay)
        self.step, self.seconds = 0, 0.0
        self._sources = dict(sources or {})
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._stopped = False
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            state = torch.load(self._path, weights_only=True)
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            print(f"{folder.name}: goes on at step {self.step} of {schedule.steps}", flush=True)
            before = state.get("sources", {})
            for name in (name for name, digest in self._sources.items() if before.get(name, digest) != digest):
                advice = "; raise --steps to train it on these" if self.finished else ""
                print(f"{folder.name}: its steps so far were on another {name}{advice}", flush=True)

    @property
    def _path(self) -> Path:
        return self.folder / "state.pt"

    @property
    def finished(self) -> bool:
        """Whether every step of the schedule is done."""
        return self.step >= self.schedule.steps

    def run(
        self,
        losses_of: Callable[[Step], dict[str, torch.Tensor]],
        evaluate: Callable[[], dict[str, float]] | None = None,
        evaluate_every: float = 600.0,
    ) -> None:
        """Train until the schedule's end.

        Args:
            losses_of: a step's losses by name; their sum is minimised.
            evaluate: measures of `average`, which go into the log every `evaluate_every` seconds and at the end.

        Raises:
            UnfinishedError: a signal or the time limit stopped it; the state is saved.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        begun = saved = logged = evaluated = now = time.monotonic()
        before = self.seconds
        recent: dict[str, list[float]] = {}
        first, rate = self.step, 0.0

        def log_losses() -> None:
            means = {name: float(np.mean(values)) for name, values in recent.items()}
            self._log({**means, "rate": rate, "steps_per_second": len(recent["gradient"]) / (now - logged)})
            recent.clear()

        while not self.finished and not self._stopped:
            seed = [SEED, self.stage, self.step]
            rng = np.random.default_rng(seed)
            noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
            rate = self.schedule(self.step)
            losses = losses_of(Step(self.step, self.step / self.schedule.steps, rng, noise))
            self.model.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step(rate)
            self._update_average()
            self.step += 1
            for name, value in {**losses, "gradient": norm}.items():
                recent.setdefault(name, []).append(float(value.detach()))
            now = time.monotonic()
            self.seconds = before + now - begun
            if now - logged > LOG_EVERY or self.finished:
                log_losses()
                logged = now
            if evaluate is not None and (now - evaluated > evaluate_every or self.finished):
                self._log(evaluate())
                evaluated = time.monotonic()
            if now - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
            if self._deadline is not None and now > self._deadline:
                break
        if recent:
            log_losses()
        if self.step > first:
            self.save()
        if not self.finished:
            raise UnfinishedError(f"{self.folder.name}: stopped at step {self.step} of {self.schedule.steps}")

    def save(self) -> None:
        """Write the state; a reader sees the old one or the new one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sources": self._sources,
        }
        partial = self._path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._path)

    def _stop(self, *_: object) -> None:
        self._stopped = True

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        averages, values = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(averages, values, 1 - keep)
        for mean, value in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(value)

    def _log(self, values: dict[str, float]) -> None:
        entry = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            **{k: float(f"{v:.5g}") for k, v in values.items()},
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        print(
            f"{self.folder.name} {entry['step']}/{self.schedule.steps} "
            + " ".join(f"{k} {v:.4g}" for k, v in values.items()),
            flush=True,
        )


def load_average(folder: Path, model: nn.Module) -> nn.Module:
    """Load a stage's averaged weights into `model` and return it, ready to be used.

    Raises:
        StageError: the stage has saved nothing yet.
    """
    model.load_state_dict(torch.load(require(folder / "state.pt", folder.name), weights_only=True)["average"])
    return model.requires_grad_(False).eval()
