"""The UNet of one run: halves in one batch or one after the other, and the same numbers either way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kandinsky_runtime.decoder.unet import UNet
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import NonFiniteError
from tests.runtime.fake_bundle import CHANNELS, WIDTH, FakeEngine

RNG = np.random.default_rng(9)
SHAPE = (2, CHANNELS, 4, 6)
POSITIVE, NEGATIVE = RNG.standard_normal((2, 2, WIDTH), np.float32)
KEPT = RNG.standard_normal((2, CHANNELS + 1, 4, 6), np.float32)
LATENTS = RNG.standard_normal(SHAPE, np.float32)


@pytest.fixture(params=[False, True], ids=["together", "low memory"])
def graphs(bundle: Path, fake_engine: type[FakeEngine], request: pytest.FixtureRequest) -> Iterator[Graphs]:
    with Graphs.open(bundle, "fake", low_memory=request.param) as opened:
        yield opened


def batches() -> list[int]:
    return [len(feeds["sample"]) for component, feeds in FakeEngine.runs if component == "unet"]


def test_both_halves(graphs: Graphs) -> None:
    unet = UNet(graphs, SHAPE, POSITIVE, NEGATIVE, KEPT, steps=5)
    output = unet.predict(0, LATENTS, 981.0, guided=True)
    assert output.shape == (4, 2 * CHANNELS, 4, 6)
    assert batches() == ([2, 2] if graphs.low_memory else [4])
    for half, embeds in ((output[:2], NEGATIVE), (output[2:], POSITIVE)):
        alone = UNet(graphs, SHAPE, embeds, None, KEPT, steps=5).predict(0, LATENTS, 981.0, guided=False)
        np.testing.assert_array_equal(half, alone)


def test_the_positive_half_alone(graphs: Graphs) -> None:
    unet = UNet(graphs, SHAPE, POSITIVE, NEGATIVE, KEPT, steps=5)
    guided = unet.predict(0, LATENTS, 981.0, guided=True).copy()
    np.testing.assert_array_equal(unet.predict(1, LATENTS, 981.0, guided=False), guided[2:])


def test_the_inputs_are_filled_once(graphs: Graphs) -> None:
    unet = UNet(graphs, SHAPE, POSITIVE, NEGATIVE, KEPT, steps=5)
    for i, timestep in enumerate((981.0, 1.0)):
        unet.predict(i, LATENTS * (i + 1), timestep, guided=True)
        feeds = [feeds for _, feeds in FakeEngine.runs][-1]
        positive = feeds["sample"][-2:]
        np.testing.assert_array_equal(positive[:, :CHANNELS], LATENTS * (i + 1))
        np.testing.assert_array_equal(positive[:, CHANNELS:], KEPT)
        np.testing.assert_array_equal(feeds["image_embeds"][-2:], POSITIVE)
        assert (feeds["timestep"] == timestep).all()
    if not graphs.low_memory:
        first, second = (feeds["sample"] for _, feeds in FakeEngine.runs)
        assert np.shares_memory(first, second), "one buffer for all steps"


def test_errors_name_the_step(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = staticmethod(lambda component, run, outputs: {name: array * np.nan for name, array in outputs.items()})
    monkeypatch.setattr(FakeEngine, "alter", nan)
    unet = UNet(graphs, SHAPE, POSITIVE, None, KEPT, steps=5)
    with pytest.raises(NonFiniteError, match=r"unet on fake, step 3 of 5 \(timestep 401\)"):
        unet.predict(2, LATENTS, 401.0, guided=False)


def test_the_end_of_the_phase_releases_the_graph_where_memory_is_short(graphs: Graphs) -> None:
    unet = UNet(graphs, SHAPE, POSITIVE, NEGATIVE, KEPT, steps=5)
    unet.predict(0, LATENTS, 981.0, guided=True)
    unet.end()
    assert FakeEngine.released == (["unet"] if graphs.low_memory else [])
