"""Files made from a model are made again if the model was trained on since."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.training.sources import digest_of, is_from, make_from


def weights() -> dict[str, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    return {"encoder.weight": values, "encoder.bias": values[0, 0], "decoder.weight": -values}


def test_equal_weights_have_equal_digests() -> None:
    other = dict(reversed(weights().items()))
    other["encoder.weight"] = np.asfortranarray(other["encoder.weight"])
    assert digest_of(weights()) == digest_of(other)


@pytest.mark.parametrize("name", ["encoder.weight", "encoder.bias", "decoder.weight"])
def test_a_digest_covers_the_named_parts_alone(name: str) -> None:
    changed = weights()
    changed[name] = np.nextafter(changed[name], 9, dtype=np.float32)
    assert digest_of(changed) != digest_of(weights())
    assert (digest_of(changed, ("encoder.",)) != digest_of(weights(), ("encoder.",))) == name.startswith("encoder")


def test_a_file_is_from_its_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latents" / "latents-00000.npy"
    assert not is_from(path, "first")
    make_from(path, "first", lambda partial: np.save(partial, np.zeros(3)))
    assert is_from(path, "first")
    assert not is_from(path, "second")
    assert capsys.readouterr().out == ""
    make_from(path, "second", lambda partial: np.save(partial, np.ones(3)))
    assert is_from(path, "second")
    assert np.array_equal(np.load(path), np.ones(3))
    assert capsys.readouterr().out.startswith("latents-00000.npy is made again: ")
    assert len(list(path.parent.iterdir())) == 2


def test_a_file_without_a_note_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "scale.pt").write_bytes(b"old")
    assert not is_from(tmp_path / "scale.pt", "first")


def test_a_file_whose_making_fails_is_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scale.pt"
    make_from(path, "first", lambda partial: partial.write_bytes(b"old"))
    with pytest.raises(OSError, match="full"):
        make_from(path, "second", lambda _: (_ for _ in ()).throw(OSError("full")))
    assert not is_from(path, "first")
    assert not is_from(path, "second")
