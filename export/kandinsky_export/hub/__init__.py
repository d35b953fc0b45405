"""Fetch a checkpoint by its hub name, `owner/name`, into a local folder.

    huggingface   through huggingface_hub: its cache, its environment variables; safetensors weights alone
    paddle        PaddleNLP's community store over plain HTTP, or the mirror that K22_PADDLE_STORE names

An interrupted fetch continues from the byte where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kandinsky_export.hub.cache_folder import default_cache_dir
from kandinsky_export.hub.huggingface import fetch_from_huggingface
from kandinsky_export.hub.names import Hub, check_arguments, looks_like_hub_name
from kandinsky_export.hub.paddle_store import PADDLE_STORE, PADDLE_STORE_VARIABLE, fetch_from_paddle

__all__ = [
    "PADDLE_STORE",
    "PADDLE_STORE_VARIABLE",
    "Hub",
    "default_cache_dir",
    "fetch_checkpoint",
    "looks_like_hub_name",
]


def fetch_checkpoint(
    name: str,
    *,
    hub: Hub,
    revision: str | None = None,
    variant: str | None = None,
    components: Sequence[str] = ("unet", "movq"),
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Path:
    """Make the checkpoint `name` of `hub` present on this machine and return its folder.

    `revision`    branch, tag or commit; Hugging Face only
    `variant`     infix of the weights' file names, such as "fp16"; None for the plain ones
    `components`  folders that are needed, in addition to model_index.json and the scheduler's configuration
    `cache_dir`   root of the cache, in place of `default_cache_dir()` or of huggingface_hub's own
    `progress`    bars on stderr

    The folder may hold other variants that were fetched before: name the variant when you read it.

    Raises UsageError for an invalid argument, CheckpointError if the hub lacks files that are needed,
    and DownloadError if a file cannot be fetched or stored. After an error or Ctrl-C the next call goes on where this
    one stopped.
    """
    check_arguments(name, hub, revision, variant, components)
    if hub == "paddle":
        root = default_cache_dir() if cache_dir is None else cache_dir
        return fetch_from_paddle(name, variant, components, root, progress)
    return fetch_from_huggingface(name, revision, variant, components, cache_dir, progress)
