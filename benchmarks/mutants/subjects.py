"""The kinds of files: sound examples of each, and how a mutant is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from safetensors.numpy import save

from kandinsky_export.checkpoints.lora import Lora, merge_lora
from kandinsky_export.checkpoints.tokenizer_files import read_tokenizer
from kandinsky_export.checkpoints.weights import read_weights
from kandinsky_export.errors import CheckpointError
from kandinsky_runtime.pictures.image import read_picture
from kandinsky_runtime.pictures.mask import understand_mask
from kandinsky_runtime.prior.tokenizer import Tokenizer

_SHAPES: Mapping[str, tuple[int, ...]] = {"a.weight": (6, 4), "b.to_q.weight": (4, 4)}
_WORDS = ("a", "b", "ab", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>")
_MERGES = "#version: 0.2\na b\na b</w>\n"


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        examples: sound files, by the name that each is written under.
        read: a function that reads a folder with one of them mutated; it raises errors of ours only.
        is_picture: whether the mutant is read from memory, as picture and as mask, and nothing is written.
    """

    examples: Mapping[str, bytes]
    read: Callable[[Path, str], object]
    is_picture: bool = False


def pictures() -> dict[str, Subject]:
    """Pictures of twelve formats."""
    rng = np.random.default_rng(22)
    colours = rng.integers(0, 256, (24, 20, 4), np.uint8)
    colours[6:18] //= 64
    rgba = Image.fromarray(colours)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(rng.integers(0, 65536, (24, 20), np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [rgb.convert("P"), rgb.rotate(90).convert("P")]
    saved: dict[str, list[bytes]] = {
        "png": [_saved(rgba, "PNG", icc_profile=profile, exif=exif), _saved(frames[0], "PNG", transparency=3)],
        "png16": [_saved(deep, "PNG"), _saved(deep, "PNG", transparency=5)],
        "jpeg": [
            _saved(rgb, "JPEG", icc_profile=profile, exif=exif),
            _saved(rgb.convert("CMYK"), "JPEG", progressive=True),
        ],
        "webp": [_saved(rgba, "WEBP", lossless=True, exif=exif), _saved(rgb, "WEBP")],
        "gif": [_saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), _saved(grey, "GIF", transparency=1)],
        "bmp": [_saved(rgb, "BMP"), _saved(frames[0], "BMP")],
        "tiff": [_saved(rgb, "TIFF", compression="tiff_lzw", exif=exif), _saved(deep, "TIFF"), _saved(rgba, "TIFF")],
        "ppm": [_saved(rgb, "PPM"), b"P2\n4 4\n255\n" + b"7 200 0 9\n" * 4],
        "tga": [_saved(rgba, "TGA", compression="tga_rle"), _saved(grey, "TGA")],
        "ico": [_saved(rgba, "ICO", sizes=[(16, 16)]), _saved(rgba, "ICO", sizes=[(16, 16)], bitmap_format="bmp")],
        "jpeg2000": [_saved(rgb, "JPEG2000"), _saved(grey, "JPEG2000", irreversible=True)],
        "pcx": [_saved(rgb, "PCX"), _saved(frames[0], "PCX")],
    }
    return {
        name: Subject({f"{number}.{name}": data for number, data in enumerate(files)}, _nothing, is_picture=True)
        for name, files in saved.items()
    }


def weights() -> dict[str, Subject]:
    """Safetensors, LoRA and tokenizer files."""
    rng = np.random.default_rng(23)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    plain = {name: drawn(*shape) for name, shape in _SHAPES.items()}
    halves = {name: array.view(np.uint16)[..., 1::2].copy() for name, array in plain.items()}
    lora = {
        "unet.a.lora_A.weight": drawn(2, 4),
        "unet.a.lora_B.weight": drawn(6, 2),
        "b.processor.to_q_lora.down.weight": drawn(2, 4),
        "b.processor.to_q_lora.up.weight": drawn(4, 2),
        "unet.a.alpha": np.array(2.0, np.float32),
    }
    peft = {name: array for name, array in lora.items() if name.startswith("unet.a.lora")}
    settings = json.dumps({"unet.lora_alpha": 4, "unet.r": 2, "unet.use_dora": False})
    index = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(_SHAPES, "shard.safetensors")}
    return {
        "safetensors": Subject(
            {
                "plain.safetensors": save(plain),
                "half.safetensors": save({name: array.astype(np.float16) for name, array in plain.items()}),
                "paddle.safetensors": save(halves, metadata={"format": "pd"}),
                "shards.safetensors.index.json": json.dumps(index).encode(),
                "shard.safetensors": save(plain),
            },
            _read_weights,
        ),
        "lora": Subject(
            {
                "old.safetensors": save(lora),
                "peft.safetensors": save(peft, metadata={"lora_adapter_metadata": settings}),
            },
            _read_lora,
        ),
        "tokenizer": Subject(_tokenizer_files(), _read_tokenizer),
    }


def read_as_picture_and_mask(data: bytes) -> Iterator[Callable[[], object]]:
    """The two ways to read a picture."""
    yield lambda: read_picture(data)
    yield lambda: understand_mask(data)


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _nothing(folder: Path, name: str) -> None:
    raise AssertionError("pictures are read from memory")


def _read_weights(folder: Path, name: str) -> None:
    path = folder / ("shards.safetensors.index.json" if name.startswith("shard") else name)
    for tensor in read_weights(path).values():
        if tensor.is_float:
            tensor.read()


def _read_lora(folder: Path, name: str) -> None:
    model = {key: lambda shape=shape: np.zeros(shape[::-1], np.float32) for key, shape in _SHAPES.items()}
    for read in merge_lora(Lora(folder / name), "unet", model, _SHAPES).values():
        read()


def _tokenizer_files() -> dict[str, bytes]:
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    special = [
        {"id": number, "content": _WORDS[number], "special": True, "normalized": False, "lstrip": False}
        for number in (6, 7)
    ]
    whole: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": special,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], "a b</w>"], "unk_token": _WORDS[7]},
    }
    whole["model"] |= {"end_of_word_suffix": "</w>", "continuing_subword_prefix": ""}
    config = {"model_max_length": 77, "bos_token": _WORDS[6], "eos_token": special[1], "pad_token": _WORDS[7]}
    return {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": _MERGES.encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps(whole).encode(),
    }


def _read_tokenizer(folder: Path, name: str) -> None:
    """Read the files as the exporter does, then as the runtime does."""
    faults: list[str] = []
    hidden = folder / "hidden.json"
    if name == "tokenizer.json":  # which is read only if there is no vocabulary
        (folder / "vocab.json").rename(hidden)
    try:
        found = read_tokenizer(folder, faults)
    finally:
        if hidden.exists():
            hidden.rename(folder / "vocab.json")
    if found is None:
        raise CheckpointError(str(folder), faults)
    taken = folder / "taken"
    taken.mkdir(exist_ok=True)
    found.write(taken)
    Tokenizer.from_files(taken / "vocab.json", taken / "merges.txt", found.config).encode(["ab a", "b"])
