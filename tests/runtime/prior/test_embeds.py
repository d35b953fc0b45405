"""Embeddings from files and arrays: the result is float32 (N, E), or an error that names the fault."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.prior.embeds import as_embeds, check_embeds_path, read_embeds, write_embeds

RNG = np.random.default_rng(0)
POSITIVE, NEGATIVE = RNG.standard_normal((2, 6), np.float32), RNG.standard_normal((1, 6), np.float32)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def npy(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_embeds(*args, **options)
    return str(caught.value)


def test_positive_and_negative_embeddings_from_one_file(tmp_path: Path) -> None:
    positive, negative = read_embeds(npz(tmp_path / "e.npz", image_embeds=POSITIVE, negative_image_embeds=NEGATIVE))
    np.testing.assert_array_equal(positive, POSITIVE)
    np.testing.assert_array_equal(negative, NEGATIVE)


def test_positive_embeddings_from_an_npy(tmp_path: Path) -> None:
    positive, negative = read_embeds(npy(tmp_path / "e.npy", POSITIVE[0]))
    np.testing.assert_array_equal(positive, POSITIVE[:1])
    assert negative is None


def test_negative_embeddings_from_their_own_file(tmp_path: Path) -> None:
    both = npz(tmp_path / "e.npz", image_embeds=POSITIVE, negative_image_embeds=NEGATIVE)
    other = npz(tmp_path / "n.npz", image_embeds=POSITIVE + 9, negative_image_embeds=NEGATIVE + 1)
    for path in (other, npy(tmp_path / "n.npy", NEGATIVE + 1)):
        positive, negative = read_embeds(both, path)
        np.testing.assert_array_equal(positive, POSITIVE, "the positive embeddings of the second file are ignored")
        np.testing.assert_array_equal(negative, NEGATIVE + 1)


def test_other_arrays_are_ignored(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", image_embeds=POSITIVE, prompts=np.array(["a cat"], dtype=object))
    np.testing.assert_array_equal(read_embeds(str(path))[0], POSITIVE)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", embeds=POSITIVE, other=NEGATIVE)
    assert refusal(path) == f"{path} has embeds, other; expected `image_embeds`"
    sound = npz(tmp_path / "p.npz", image_embeds=POSITIVE)
    assert refusal(sound, path) == f"{path} has embeds, other; expected `negative_image_embeds`"
    assert refusal(npz(tmp_path / "empty.npz")).endswith("has no arrays; expected `image_embeds`")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.npz"
    assert refusal(path) == f"{path} does not exist; give an .npz or .npy file of embeddings"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read as .npz or .npy embeddings" in refusal(tmp_path)


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz"])
def test_pickles_are_never_run(tmp_path: Path, kind: str) -> None:
    path, array = tmp_path / f"e.{kind}", np.array([Bomb()], dtype=object)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "npy":
        npy(path, array, allow_pickle=True)
    else:
        npz(path, image_embeds=array)
    text = refusal(path)
    assert str(path) in text
    assert "numpy.savez(file, image_embeds=…, negative_image_embeds=…)" in text


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\x03\x04", b"\x93NUMPY", b"text", b"\x93NUMPY\x01\x00v\x00{'descr'"]
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "e.npz"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} cannot be read as .npz or .npy embeddings (")


SOUND = {}
for name, save in (("npz", np.savez), ("npz, packed", np.savez_compressed), ("npy", np.save)):
    buffer = io.BytesIO()
    if save is np.save:
        save(buffer, POSITIVE)
    else:
        save(buffer, image_embeds=POSITIVE, negative_image_embeds=NEGATIVE)
    SOUND[name] = buffer.getvalue()


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_any_damage_is_an_input_error(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    content = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        positive, _ = read_embeds(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert positive.dtype == np.float32
        assert positive.ndim == 2


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", image_embeds=POSITIVE)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of the member's own header ...
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # ... and of the directory
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].flag_bits & 1
    assert "encrypted" in refusal(path)


def test_embeddings_are_copied_to_float32() -> None:
    for dtype in ("float64", "float32", "float16", "int64", "uint8", ">f4"):
        given_array = np.arange(6).astype(dtype)
        array = as_embeds(given_array, "e", 6)
        assert array.dtype == np.float32
        assert array.dtype.isnative
        assert array.shape == (1, 6)
        array += 1
        np.testing.assert_array_equal(given_array, np.arange(6))
    assert as_embeds([[1, 2.5]], "e").tolist() == [[1, 2.5]]


class Stubborn:
    """An array of another library that cannot be converted to numpy."""

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("is on another device")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 5)), "e: the width is 5; this bundle takes 6: use the prior that belongs to it"),
        (np.zeros((1, 2, 6)), "e: the shape is (1, 2, 6); expected (N, 6)"),
        (np.zeros((0, 6)), "e: the shape is (0, 6); expected (N, 6)"),
        (np.float32(1), "e: the shape is (); expected (N, 6)"),
        (np.full(6, np.nan), "e: has NaN, infinity or numbers too large for float32; expected finite numbers"),
        (np.full(6, -np.inf), "e: has NaN, infinity or numbers too large for float32; expected finite numbers"),
        (np.full(6, 1e300), "e: has NaN, infinity or numbers too large for float32; expected finite numbers"),
        (np.zeros(6, complex), "e: got ndarray of dtype complex128; expected real numbers"),
        (np.zeros(6, bool), "e: got ndarray of dtype bool; expected real numbers"),
        ("hat.npz", "e: got str of dtype <U7; expected real numbers"),
        (None, "e: got NoneType of dtype object; expected real numbers"),
        ({}, "e: got dict of dtype object; expected real numbers"),
    ],
)
def test_invalid_embeddings_are_refused(value: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        as_embeds(value, "e", 6)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", [[[1, 2], [3]], Stubborn()])
def test_values_without_an_array_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=f"e: cannot convert {type(value).__name__} to an array"):
        as_embeds(value, "e")


def test_written_embeddings_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "hats.npz"
    file.write_bytes(b"old")
    write_embeds(file, POSITIVE, NEGATIVE)
    assert [path.name for path in tmp_path.iterdir()] == ["hats.npz"]
    for written, read in zip((POSITIVE, NEGATIVE), read_embeds(file), strict=True):
        np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("hats.npy", "hats.npy has the suffix '.npy'; expected .npz"),
        ("hats", "hats has the suffix ''; expected .npz"),
        ("nowhere/hats.npz", "nowhere/hats.npz: the folder .*/nowhere does not exist; create it first"),
        ("folder.npz", "folder.npz is a directory; add a file name to it"),
    ],
)
def test_invalid_paths_are_refused_before_writing(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    for write in (check_embeds_path, lambda target: write_embeds(target, POSITIVE, NEGATIVE)):
        with pytest.raises(InputError, match=text):
            write(tmp_path / path)
    assert [item.name for item in tmp_path.iterdir()] == ["folder.npz"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stream: IO[bytes], **_: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    file = npz(tmp_path / "hats.npz", image_embeds=POSITIVE)
    before = file.read_bytes()
    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(Kandinsky22Error, match=r"hats\.npz cannot be written: No space left on device"):
        write_embeds(file, POSITIVE, NEGATIVE)
    assert [item.name for item in tmp_path.iterdir()] == ["hats.npz"]
    assert file.read_bytes() == before
