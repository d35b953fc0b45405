"""Random weights (seeded): the same for a seed and a name in every version, of a size that keeps activations alive."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from kandinsky_export.random_weights.configs import SIZES, published, sized
from kandinsky_export.random_weights.seeded import seeded_embeds, seeded_tensor
from kandinsky_runtime.errors import UsageError
from tests.tolerances import STANDARD_ERRORS


def test_the_recipe() -> None:
    """Spelled out, so that any framework with numpy can follow it: sha256 keys a Philox generator."""
    key = int.from_bytes(hashlib.sha256(b"7:unet.conv_in.weight").digest()[:16], "little")
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal((32, 9, 3, 3), dtype=np.float32)
    want = normal * np.float32(1 / math.sqrt(9 * 3 * 3))
    np.testing.assert_array_equal(seeded_tensor(7, "unet.conv_in.weight", (32, 9, 3, 3)), want)


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        ("unet.conv_in.weight", (4, 9, 3, 3), "c6602c69"),
        ("unet.conv_in.bias", (4,), "67e097a0"),
        ("movq.decoder.conv_norm_out.norm_layer.weight", (4,), "0a683e79"),
        ("movq.decoder.conv_norm_out.conv_y.weight", (4, 4, 1, 1), "057c1bf5"),
        ("movq.decoder.conv_norm_out.conv_y.bias", (4,), "1ef2ed35"),
        ("unet.conv_out.weight", (8, 4, 3, 3), "c54683c8"),
    ],
)
def test_the_values_stay_what_they_are(name: str, shape: tuple[int, ...], digest: str) -> None:
    """Golden files were made from them."""
    assert hashlib.sha256(seeded_tensor(0, name, shape).tobytes()).hexdigest()[:8] == digest


def test_seed_and_name_change_everything() -> None:
    base = seeded_tensor(0, "unet.a.weight", (64, 64))
    for other in (seeded_tensor(1, "unet.a.weight", (64, 64)), seeded_tensor(0, "movq.a.weight", (64, 64))):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.1
    assert not np.array_equal(seeded_tensor(-1, "a", (4, 4)), seeded_tensor(1, "a", (4, 4)))
    assert np.isfinite(seeded_tensor(2**200, "a", (4, 4))).all()


@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        ("unet.x.weight", (200, 300), 0, 1 / math.sqrt(300)),  # Linear, [out, in]
        ("unet.x.weight", (64, 32, 3, 3), 0, 1 / math.sqrt(32 * 9)),
        ("unet.x.norm1.weight", (5000,), 1, 0.1),
        ("unet.x.bias", (5000,), 0, 0.05),
        ("movq.x.conv_y.bias", (5000,), 1, 0.1),
        ("movq.x.conv_b.bias", (5000,), 0, 0.05),
        ("movq.x.conv_y.weight", (5000, 4, 1, 1), 0, 0.02 / 2),
        ("movq.x.conv_b.weight", (5000, 4, 1, 1), 0, 0.02 / 2),
    ],
)
def test_sizes(name: str, shape: tuple[int, ...], mean: float, deviation: float) -> None:
    values = seeded_tensor(0, name, shape)
    assert values.dtype == np.float32
    assert values.shape == shape
    error_of_mean = deviation / math.sqrt(values.size)
    error_of_deviation = deviation / math.sqrt(2 * values.size)
    assert values.mean() == pytest.approx(mean, abs=STANDARD_ERRORS * error_of_mean)
    assert values.std() == pytest.approx(deviation, abs=STANDARD_ERRORS * error_of_deviation)


def test_variance_channels_are_small() -> None:
    epsilon, variance = np.split(seeded_tensor(0, "unet.conv_out.weight", (8, 32, 3, 3)), 2)
    standard_error = 1 / math.sqrt(variance.size)  # of the quotient of two deviations, each off by 1 / sqrt(2 n)
    assert variance.std() / epsilon.std() == pytest.approx(0.2, rel=STANDARD_ERRORS * standard_error)


def test_embeds_are_a_pair_as_wide_as_asked() -> None:
    embeds = seeded_embeds(0, 32)
    assert {name: array.shape for name, array in embeds.items()} == {
        "image_embeds": (1, 32),
        "negative_image_embeds": (1, 32),
    }
    assert not np.array_equal(embeds["image_embeds"], embeds["negative_image_embeds"])


def test_embeds_have_a_deviation_of_one() -> None:
    for values in seeded_embeds(0, 1280).values():
        standard_error = 1 / math.sqrt(2 * values.size)
        assert values.std() == pytest.approx(1, rel=STANDARD_ERRORS * standard_error)


def test_sized_configs() -> None:
    """The tiny model is the published one but for sizes."""
    assert sized("unet", "full") == published("unet")
    for name in ("unet", "movq", "scheduler", "model_index"):
        tiny, full = sized(name, "tiny"), sized(name, "full")
        assert list(tiny) == list(full)
        assert {type(tiny[key]) for key in tiny if tiny[key] != full[key]} <= {int, list}
    with pytest.raises(UsageError, match="there is no size 'huge'; choose from tiny, full"):
        sized("unet", "huge")
    assert SIZES == ("tiny", "full")
