"""The checkpoint that the fake hubs publish, as each of them lays it out."""

from __future__ import annotations

from pathlib import Path

NAME = "kandinsky-community/tiny-inpaint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = "unet/model_state.pdparams"
MOVQ = "movq/model_state.pdparams"
WEIGHTS = bytes(range(256)) * 4000  # about 1 MB

PADDLE_FILES = {
    "model_index.json": b'{"_class_name": "KandinskyV22InpaintPipeline"}',
    "scheduler/scheduler_config.json": b'{"_class_name": "DDPMScheduler"}',
    "unet/config.json": b'{"in_channels": 9}',
    "movq/config.json": b'{"latent_channels": 4}',
    UNET: WEIGHTS,
    MOVQ: WEIGHTS[:1000],
}

PLAIN = "diffusion_pytorch_model"
COMMON = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "movq/config.json",
}
PUBLISHED = COMMON | {
    "README.md",
    "cat.png",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "movq/diffusion_pytorch_model.bin",
    "movq/diffusion_pytorch_model.safetensors",
    "movq/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names(folder: Path) -> set[str]:
    assert all(content.decode() == name for name, content in contents(folder).items())
    return set(contents(folder))


def weights(*ends: str) -> set[str]:
    return COMMON | {f"{component}/{PLAIN}{end}" for component in ("unet", "movq") for end in ends}
