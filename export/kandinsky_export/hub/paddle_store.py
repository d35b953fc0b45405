"""The community store of PaddleNLP, over plain HTTP.

K22_PADDLE_STORE names a mirror: an http(s) URL below which the files are OWNER/NAME/unet/config.json and so on. The
store cannot be listed, so every file is requested by its name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from kandinsky_export.checkpoints.other_models import refuse_others
from kandinsky_export.errors import CheckpointError, DownloadError
from kandinsky_export.hub.cache_folder import CacheFolder, locked
from kandinsky_export.hub.checkpoint_files import ALWAYS, WEIGHTLESS
from kandinsky_export.hub.download import download
from kandinsky_export.hub.error_text import disk_errors_explained
from kandinsky_export.hub.http import RefusedError, Remote, TransientError, UnreachableError, probe, with_retries
from kandinsky_runtime.errors import UsageError

PADDLE_STORE = "https://paddlenlp.bj.bcebos.com/models/community/"
PADDLE_STORE_VARIABLE = "K22_PADDLE_STORE"

_STORE_URL = re.compile(r"https?://[^\s/?#@][^\s?#@]*")


def fetch_from_paddle(
    name: str, variant: str | None, components: Sequence[str], cache_dir: Path, progress: bool
) -> Path:
    """The folder in the cache, after fetching what it lacks; raises as `fetch_checkpoint` does."""
    store = store_url()
    folder = cache_dir / name.replace("/", "--")
    urls = {file: f"{store}/{name}/{file}" for file in _paddle_files(variant, components)}
    if CacheFolder(folder).lacks(urls):
        with disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                _fill(CacheFolder(folder), urls, f"{name} in the Paddle store", progress, prior="prior" in components)
    return folder


def store_url() -> str:
    """The store's URL without a slash at its end; UsageError if K22_PADDLE_STORE is not an http(s) URL."""
    store = os.environ.get(PADDLE_STORE_VARIABLE) or PADDLE_STORE
    if not (store.isascii() and _STORE_URL.fullmatch(store)):
        raise UsageError(f"{PADDLE_STORE_VARIABLE} is {store!r}: give an http:// or https:// URL of a folder")
    return store.rstrip("/")


def _paddle_files(variant: str | None, components: Sequence[str]) -> list[str]:
    """The paths that make a checkpoint of the store, the small files before the weights."""
    weighty = [component for component in components if component not in WEIGHTLESS]
    weights = f"model_state.{variant}.pdparams" if variant else "model_state.pdparams"
    return [
        *ALWAYS,
        *(f"{component}/config.json" for component in weighty),
        *(f"{component}/{file}" for component in components for file in WEIGHTLESS.get(component, ())),
        *(f"{component}/{weights}" for component in weighty),
    ]


def _fill(folder: CacheFolder, urls: Mapping[str, str], subject: str, progress: bool, *, prior: bool) -> None:
    """Fetch what `folder` lacks, after asking that all of it exists and fits on the disk; weights last."""
    remotes = _probe_all(folder.lacks(urls), subject)
    for file, remote in remotes.items():
        folder.keep_partial_of(file, remote)
    _require_space(folder, remotes)
    for file, remote in remotes.items():
        if file.endswith(".pdparams"):
            refuse_others(folder.path, subject, prior=prior)
        download(folder, file, remote, progress)


def _probe_all(urls: Mapping[str, str], subject: str) -> dict[str, Remote]:
    """What the server says about each file; CheckpointError lists the missing ones, DownloadError all other trouble."""
    remotes, faults = {}, []
    for file, url in urls.items():
        try:
            remotes[file] = with_retries(partial(probe, url), hopeless=UnreachableError)
        except RefusedError as error:
            if error.status not in (403, 404, 410):
                raise DownloadError(f"{file} cannot be fetched from {url}: {error}") from error
            faults.append(f"{file} is not there: {error} for {url}")
        except TransientError as error:
            raise DownloadError(
                f"{file} cannot be fetched from {url}: {error}; check the network, "
                f"or name a mirror of the store in {PADDLE_STORE_VARIABLE}"
            ) from error
    if faults:
        raise CheckpointError(subject, faults)
    return remotes


def _require_space(folder: CacheFolder, remotes: Mapping[str, Remote]) -> None:
    """DownloadError unless the disk has room for what is still to come."""
    needed = sum(remote.size - folder.received(file) for file, remote in remotes.items())
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise DownloadError(
            f"{folder.path} has {free:,} bytes free and {needed:,} are still to be fetched: "
            "free some space, or choose another cache folder"
        )
