"""Download of one file into the cache folder; it continues an interrupted one if the remote file is the same."""

from __future__ import annotations

import os
import re
from http import HTTPStatus
from http.client import HTTPResponse
from typing import Any, BinaryIO

from kandinsky_export.errors import DownloadError
from kandinsky_export.hub.cache_folder import CacheFolder
from kandinsky_export.hub.http import (
    ATTEMPTS,
    RefusedError,
    Remote,
    TransientError,
    describe,
    open_url,
    read_block,
    with_retries,
)
from kandinsky_runtime.progress import ProgressBar

BLOCK_BYTES = 1 << 20


def download(folder: CacheFolder, file: str, remote: Remote, progress: bool) -> None:
    """Fetch one file, or the rest of it; DownloadError after ATTEMPTS attempts in a row without a new byte."""
    url = remote.url
    with ProgressBar(
        desc=file, total=remote.size, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
    ) as bar:
        try:
            with_retries(lambda: _attempt(folder, file, url, bar), received=lambda: folder.received(file))
        except RefusedError as error:
            raise DownloadError(f"{file} cannot be fetched from {url}: {error}") from error
        except TransientError as error:
            raise DownloadError(
                f"{file} could not be fetched from {url} in {ATTEMPTS} attempts: {error}; the "
                f"{folder.received(file):,} bytes that came are kept, and the next try goes on from there"
            ) from error


def _attempt(folder: CacheFolder, file: str, url: str, bar: Any) -> None:
    """One request for the rest of a file; raises TransientError or RefusedError if it does not bring all of it."""
    known, have = folder.partial(file), folder.received(file)
    if known is None or have < known.size:
        response, start = _open_rest(folder, file, url)
        with response:
            remote = known if known is not None and start > 0 else describe(response, url)
            if start == 0:
                folder.begin(file, remote)
            bar.reset(remote.size)
            bar.initial = bar.n = start
            with folder.part(file).open("ab" if start else "wb", buffering=BLOCK_BYTES) as part:
                _receive(response, part, remote.size, bar)
    folder.finish(file)


def _open_rest(folder: CacheFolder, file: str, url: str) -> tuple[HTTPResponse, int]:
    """An answer with the bytes that are missing, or with the whole file if it has changed, and its first byte's place.

    Raises TransientError, with nothing left to resume, if the server answers with any other range.
    """
    known, have = folder.partial(file), folder.received(file)
    if known is None or known.etag is None or have == 0:
        return open_url("GET", url), 0
    try:
        response = open_url("GET", url, {"Range": f"bytes={have}-", "If-Range": known.etag})
    except RefusedError as error:
        if error.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        folder.discard(file)
        raise TransientError(f"the server has nothing after byte {have:,}") from error
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return response, 0
    if not _continues(response, known, have):
        response.close()
        folder.discard(file)
        raise TransientError("the server answered with a part of another file")
    return response, have


def _continues(response: HTTPResponse, known: Remote, have: int) -> bool:
    """Whether a partial answer is the rest of the very file whose first `have` bytes are here."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (
        span is not None
        and (int(span[1]), int(span[2])) == (have, known.size)
        and response.headers.get("ETag", known.etag) == known.etag
    )


def _receive(response: HTTPResponse, part: BinaryIO, size: int, bar: Any) -> None:
    """Append to `part` until it holds `size` bytes, and sync them; raises TransientError if they do not come."""
    while (position := part.tell()) < size:
        block = read_block(response, min(BLOCK_BYTES, size - position))
        if not block:
            raise TransientError(f"the connection ended after {position:,} of {size:,} bytes")
        part.write(block)
        bar.update(len(block))
    part.flush()
    os.fsync(part.fileno())
