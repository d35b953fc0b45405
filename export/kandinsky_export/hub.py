"""Fetch a checkpoint by its hub name, `owner/name`, into a local folder.

    huggingface   through huggingface_hub, which brings its cache, resumption and progress, and which reads HF_ENDPOINT,
                  HF_HOME and HF_HUB_OFFLINE. Only safetensors weights of the variant asked for are fetched, never
                  their .bin twins.
    paddle        the community store of PaddleNLP over plain HTTP. K22_PADDLE_STORE names a mirror: an http(s) URL
                  below which the files lie as OWNER/NAME/unet/config.json and so on.

What came from the Paddle store lies in `$XDG_CACHE_HOME/kandinsky22-deploy/hub/OWNER--NAME` (`~/.cache` where that
variable is not set). A file grows as FILE.part, is renamed when it is whole, and is never asked for again: a complete
folder needs no network. `.k22-hub.json` beside the files says which URL, size and ETag each came from; remove the
folder to fetch anew. An interrupted file goes on where it stopped, as long as the remote one is still the same.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar, get_args

from tqdm import tqdm

from kandinsky_export.errors import CheckpointError, DownloadError
from kandinsky_runtime.errors import Kandinsky22Error, UsageError

Hub = Literal["huggingface", "paddle"]

PADDLE_STORE = "https://paddlenlp.bj.bcebos.com/models/community/"
PADDLE_STORE_VARIABLE = "K22_PADDLE_STORE"

ATTEMPTS = 5  # in a row that brought no new byte
BACKOFF_SECONDS = 1.0  # before the second attempt; doubled before each one after it
TIMEOUT_SECONDS = 30.0  # without an answer or a byte
BLOCK_BYTES = 1 << 20
LEDGER_NAME = ".k22-hub.json"
LEDGER_SCHEMA = 1
LOCK_NAME = ".k22-hub.lock"

# Both hubs forbid "--" in a name, and so "--" can stand for "/" in a folder's name.
_NAME_PART = r"(?!.*(?:\.\.|--))\w(?:[\w.-]{0,94}\w)?"
_HUB_NAME = re.compile(rf"{_NAME_PART}/{_NAME_PART}", re.ASCII)
_PLAIN_WORD = re.compile(r"\w[\w-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)

_STORE_URL = re.compile(r"https?://[^\s/?#@][^\s?#@]*")

_ALWAYS = ("model_index.json", "scheduler/scheduler_config.json")
# Folders without weights, and what the Paddle store, which cannot be listed, holds in them.
_WEIGHTLESS = {"tokenizer": ("vocab.json", "merges.txt"), "image_processor": ("preprocessor_config.json",)}
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' file names

_LIBRARY_ERRORS = (OSError, ValueError, KeyError)  # those of requests are OSErrors

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


def looks_like_hub_name(text: str) -> bool:
    """Whether `text` reads as `owner/name`. A folder of that name, where there is one, should win: ask for it first."""
    return _HUB_NAME.fullmatch(text) is not None


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
    `components`  folders that are needed, beside model_index.json and the scheduler's configuration
    `cache_dir`   root of the cache, in place of `default_cache_dir()` or of huggingface_hub's own
    `progress`    bars on stderr

    The folder may hold other variants that were fetched before: tell its reader which one is meant.

    Raises UsageError for an argument that cannot be meant, CheckpointError if the hub lacks files that are needed,
    and DownloadError if a file cannot be fetched or stored. After an error or Ctrl-C the next call goes on where this
    one stopped.
    """
    _check_arguments(name, hub, revision, variant, components)
    if hub == "paddle":
        root = default_cache_dir() if cache_dir is None else cache_dir
        return _fetch_from_paddle(name, variant, components, root, progress)
    return _fetch_from_huggingface(name, revision, variant, components, cache_dir, progress)


def default_cache_dir() -> Path:
    """Where checkpoints from the Paddle store are kept."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "kandinsky22-deploy" / "hub"


def _check_arguments(name: str, hub: str, revision: str | None, variant: str | None, components: Sequence[str]) -> None:
    """Raise UsageError unless every argument can be part of a URL and of a path inside the cache."""
    if hub not in get_args(Hub):
        raise UsageError(f"no hub is called {hub!r}: choose from {', '.join(get_args(Hub))}")
    if not looks_like_hub_name(name):
        raise UsageError(
            f"{name!r} is not a hub name: give owner/name, both of letters, digits, '_', and inside them '.' and '-'"
        )
    if hub == "paddle" and revision is not None:
        raise UsageError(f"the Paddle store keeps no revisions: leave out revision {revision!r}")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} is not a revision: give a branch, a tag or a commit")
    if variant is not None and not _PLAIN_WORD.fullmatch(variant):
        raise UsageError(f"{variant!r} is not a variant: give a word such as fp16")
    for component in components:
        if not _PLAIN_WORD.fullmatch(component):
            raise UsageError(f"{component!r} is not a component: give folder names such as unet")


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


def _fetch_from_huggingface(
    name: str,
    revision: str | None,
    variant: str | None,
    components: Sequence[str],
    cache_dir: Path | None,
    progress: bool,
) -> Path:
    """The snapshot folder of huggingface_hub's cache, after fetching what it lacks; for what is raised see above."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise DownloadError("huggingface_hub is not installed: pip install 'kandinsky22-deploy[export]'") from error

    subject = f"{name} on Hugging Face" + (f", revision {revision}" if revision else "")
    try:
        info = HfApi().repo_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
    except _LIBRARY_ERRORS as error:
        if not _hub_is_away(error):
            raise _explain(error, subject) from error
        return _cached_snapshot(name, revision, variant, components, cache_dir, error)
    files = _select_files([sibling.rfilename for sibling in info.siblings or ()], components, variant, subject)
    try:
        with _progress_bars(progress):
            folder = snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=files)
    except _LIBRARY_ERRORS as error:
        raise _explain(error, subject) from error
    return _checked_snapshot(Path(folder), components, variant)


def _cached_snapshot(
    name: str,
    revision: str | None,
    variant: str | None,
    components: Sequence[str],
    cache_dir: Path | None,
    cause: Exception,
) -> Path:
    """The snapshot that was fetched before; CheckpointError if it lacks files, DownloadError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, cache_dir=cache_dir, local_files_only=True)
    except LocalEntryNotFoundError:
        raise _explain(cause, f"{name}, of which the cache holds no copy,") from cause
    _LOG.warning("Hugging Face cannot be asked (%s): using %s as it was fetched before", _root_cause(cause), folder)
    return _checked_snapshot(Path(folder), components, variant)


def _checked_snapshot(folder: Path, components: Sequence[str], variant: str | None) -> Path:
    """`folder`, or CheckpointError: offline, huggingface_hub returns a snapshot without asking whether it is whole."""
    listing = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    _select_files(listing, components, variant, f"the copy in the cache, {folder}")
    return folder


def _select_files(listing: Iterable[str], components: Sequence[str], variant: str | None, subject: str) -> list[str]:
    """The files of `listing` that make the checkpoint; CheckpointError lists everything that is missing from it."""
    folders: dict[str, set[str]] = {}
    for file in map(PurePosixPath, listing):
        folders.setdefault(str(file.parent), set()).add(file.name)
    files, faults = [], []
    for file in map(PurePosixPath, [*_ALWAYS, *(f"{c}/config.json" for c in components if c not in _WEIGHTLESS)]):
        if file.name in folders.get(str(file.parent), ()):
            files.append(str(file))
        else:
            faults.append(f"{file} is missing")
    for component in components:
        names = folders.get(component, set())
        chosen = _text_files(names) if component in _WEIGHTLESS else _weight_files(names, variant)
        files += [f"{component}/{file}" for file in chosen]
        if not chosen:
            faults.append(_nothing_chosen(component, names, variant))
    if faults:
        raise CheckpointError(subject, faults)
    return files


def _text_files(names: Collection[str]) -> list[str]:
    """The files of a folder without weights, such as a tokenizer's."""
    return sorted(name for name in names if name.endswith((".json", ".txt")))


def _weight_files(names: Collection[str], variant: str | None) -> list[str]:
    """The safetensors file of `variant` in a folder, or its shards and their index; empty if there is no whole set."""
    infix = f".{variant}" if variant else ""
    for stem in _WEIGHT_STEMS:
        single = f"{stem}{infix}.safetensors"
        if single in names:
            return [single]
        index = f"{stem}.safetensors.index{infix}.json"
        # The libraries have put the variant on either side of the number.
        for before, after in ((infix, ""), ("", infix)):
            shards = _whole_shards(names, rf"{stem}{re.escape(before)}-\d+-of-(\d+){re.escape(after)}\.safetensors")
            if index in names and shards:
                return [index, *shards]
    return []


def _whole_shards(names: Collection[str], pattern: str) -> list[str]:
    """The names that match `pattern`, whose group is the number of shards, if all of them are there."""
    shards: dict[int, list[str]] = {}
    for name in sorted(names):
        if match := re.fullmatch(pattern, name):
            shards.setdefault(int(match[1]), []).append(name)
    return next((found for count, found in shards.items() if len(found) == count), [])


def _nothing_chosen(component: str, names: Collection[str], variant: str | None) -> str:
    """What is wrong with a folder from which no file could be chosen."""
    present = ", ".join(sorted(set(names) - {"config.json"})) or "nothing else"
    if component in _WEIGHTLESS:
        return f"{component}/ has no .json or .txt file; it holds {present}"
    kind = f"{variant} weights" if variant else "weights"
    return f"{component}/ has no complete {kind} in safetensors form; it holds {present}"


def _hub_is_away(error: Exception) -> bool:
    """Whether the hub could not be asked, so that what was fetched before may be used."""
    from huggingface_hub.utils import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return _is_network_error(error)


def _is_network_error(error: Exception) -> bool:
    """The errors of requests are OSErrors without a number, which those of the disk have."""
    return isinstance(error, OSError) and not isinstance(error.errno, int)


def _explain(error: Exception, subject: str) -> Kandinsky22Error:
    """One sentence of ours for an error of huggingface_hub or of what it calls."""
    from huggingface_hub import HfApi, utils

    if isinstance(error, utils.HFValidationError):
        return UsageError(f"{subject}: Hugging Face forbids such a name ({_first_line(error)})")
    if isinstance(error, utils.GatedRepoError):
        return DownloadError(
            f"{subject} is gated: accept its terms on its page, then log in with huggingface-cli login"
        )
    if isinstance(error, utils.RepositoryNotFoundError):
        return DownloadError(f"{subject} does not exist, or is private: check the name, or huggingface-cli login")
    if isinstance(error, utils.RevisionNotFoundError):
        return DownloadError(
            f"{subject} does not exist, though the repository does: give a branch, tag or commit of it"
        )
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return _disk_error(error, "the cache of huggingface_hub")
    if isinstance(error, utils.OfflineModeIsEnabled):
        return DownloadError(f"{subject} cannot be fetched offline: unset HF_HUB_OFFLINE, or give a local folder")
    if isinstance(error, KeyError):
        return DownloadError(f"{HfApi().endpoint} does not answer as Hugging Face does: it leaves out {error}")
    return DownloadError(
        f"{subject} could not be fetched from {HfApi().endpoint}: {_root_cause(error)}; check the network, or name a "
        "mirror in HF_ENDPOINT; what came so far is kept, and the next try goes on from there"
    )


def _root_cause(error: BaseException) -> str:
    """The text of the error at the bottom of a chain of causes: the networking libraries wrap each other's."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Switch huggingface_hub's bars off unless `shown`; the user's HF_HUB_DISABLE_PROGRESS_BARS=0 goes first."""
    from huggingface_hub import constants, utils

    if shown or utils.are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


# ---- the Paddle community store -------------------------------------------------------------------------------------


def _fetch_from_paddle(
    name: str, variant: str | None, components: Sequence[str], cache_dir: Path, progress: bool
) -> Path:
    """The folder in the cache, after fetching what it lacks; for what is raised see `fetch_checkpoint`."""
    store = _paddle_store()
    folder = cache_dir / name.replace("/", "--")
    urls = {file: f"{store}/{name}/{file}" for file in _paddle_files(variant, components)}
    if _CacheFolder(folder).lacks(urls):
        with _disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                _fill(_CacheFolder(folder), urls, f"{name} in the Paddle store", progress)
    return folder


def _paddle_store() -> str:
    """The store's URL without a slash at its end; UsageError if K22_PADDLE_STORE is not an http(s) URL."""
    store = os.environ.get(PADDLE_STORE_VARIABLE) or PADDLE_STORE
    if not (store.isascii() and _STORE_URL.fullmatch(store)):
        raise UsageError(f"{PADDLE_STORE_VARIABLE} is {store!r}: give an http:// or https:// URL of a folder")
    return store.rstrip("/")


def _paddle_files(variant: str | None, components: Sequence[str]) -> list[str]:
    """The paths that make a checkpoint of the store, the small files before the weights."""
    weighty = [component for component in components if component not in _WEIGHTLESS]
    weights = f"model_state.{variant}.pdparams" if variant else "model_state.pdparams"
    return [
        *_ALWAYS,
        *(f"{component}/config.json" for component in weighty),
        *(f"{component}/{file}" for component in components for file in _WEIGHTLESS.get(component, ())),
        *(f"{component}/{weights}" for component in weighty),
    ]


def _fill(folder: _CacheFolder, urls: Mapping[str, str], subject: str, progress: bool) -> None:
    """Fetch what `folder` lacks, after asking that all of it exists and fits on the disk."""
    remotes = _probe_all(folder.lacks(urls), subject)
    for file, remote in remotes.items():
        folder.keep_partial_of(file, remote)
    _require_space(folder, remotes)
    for file, remote in remotes.items():
        _download(folder, file, remote, progress)


def _probe_all(urls: Mapping[str, str], subject: str) -> dict[str, _Remote]:
    """What the server says about each file; CheckpointError lists the missing ones, DownloadError all other trouble."""
    remotes, faults = {}, []
    for file, url in urls.items():
        try:
            remotes[file] = _with_retries(partial(_probe, url), hopeless=_UnreachableError)
        except _RefusedError as error:
            if error.status not in (403, 404, 410):
                raise DownloadError(f"{file} cannot be fetched from {url}: {error}") from error
            faults.append(f"{file} is not there: {error} for {url}")
        except _TransientError as error:
            raise DownloadError(
                f"{file} cannot be fetched from {url}: {error}; check the network, "
                f"or name a mirror of the store in {PADDLE_STORE_VARIABLE}"
            ) from error
    if faults:
        raise CheckpointError(subject, faults)
    return remotes


def _require_space(folder: _CacheFolder, remotes: Mapping[str, _Remote]) -> None:
    """DownloadError unless the disk has room for what is still to come."""
    needed = sum(remote.size - folder.received(file) for file, remote in remotes.items())
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise DownloadError(
            f"{folder.path} has {free:,} bytes free and {needed:,} are still to be fetched: "
            "free some space, or choose another cache folder"
        )


def _download(folder: _CacheFolder, file: str, remote: _Remote, progress: bool) -> None:
    """Fetch one file, from where it stopped; DownloadError after ATTEMPTS attempts in a row without a new byte."""
    url = remote.url
    with tqdm(desc=file, total=remote.size, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
        try:
            _with_retries(lambda: _attempt(folder, file, url, bar), received=lambda: folder.received(file))
        except _RefusedError as error:
            raise DownloadError(f"{file} cannot be fetched from {url}: {error}") from error
        except _TransientError as error:
            raise DownloadError(
                f"{file} could not be fetched from {url} in {ATTEMPTS} attempts: {error}; the "
                f"{folder.received(file):,} bytes that came are kept, and the next try goes on from there"
            ) from error


def _attempt(folder: _CacheFolder, file: str, url: str, bar: Any) -> None:
    """One request for the rest of a file; raises _TransientError or _RefusedError if it does not bring all of it."""
    known, have = folder.partial(file), folder.received(file)
    if known is None or have < known.size:
        response, start = _open_rest(folder, file, url)
        with response:
            remote = known if known is not None and start > 0 else _describe(response, url)
            if start == 0:
                folder.begin(file, remote)
            bar.reset(remote.size)
            bar.initial = bar.n = start
            with folder.part(file).open("ab" if start else "wb", buffering=BLOCK_BYTES) as part:
                _receive(response, part, remote.size, bar)
    folder.finish(file)


def _open_rest(folder: _CacheFolder, file: str, url: str) -> tuple[http.client.HTTPResponse, int]:
    """An answer with the bytes that are missing, or with the whole file if it has changed, and its first byte's place.

    Raises _TransientError, with nothing left to resume, if the server answers with any other range.
    """
    known, have = folder.partial(file), folder.received(file)
    if known is None or known.etag is None or have == 0:
        return _open("GET", url), 0
    try:
        response = _open("GET", url, {"Range": f"bytes={have}-", "If-Range": known.etag})
    except _RefusedError as error:
        if error.status != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        folder.discard(file)
        raise _TransientError(f"the server has nothing after byte {have:,}") from error
    if response.status != http.client.PARTIAL_CONTENT:
        return response, 0
    if not _continues(response, known, have):
        response.close()
        folder.discard(file)
        raise _TransientError("the server answered with a part of another file")
    return response, have


def _continues(response: http.client.HTTPResponse, known: _Remote, have: int) -> bool:
    """Whether a partial answer is the rest of the very file whose first `have` bytes are here."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (
        span is not None
        and (int(span[1]), int(span[2])) == (have, known.size)
        and response.headers.get("ETag", known.etag) == known.etag
    )


def _receive(response: http.client.HTTPResponse, part: BinaryIO, size: int, bar: Any) -> None:
    """Append to `part` until it holds `size` bytes, and sync them; raises _TransientError if they do not come."""
    while (position := part.tell()) < size:
        block = _read_block(response, min(BLOCK_BYTES, size - position))
        if not block:
            raise _TransientError(f"the connection ended after {position:,} of {size:,} bytes")
        part.write(block)
        bar.update(len(block))
    part.flush()
    os.fsync(part.fileno())


# ---- HTTP -----------------------------------------------------------------------------------------------------------


class _TransientError(Exception):
    """A failure that another attempt may cure; the text completes "cannot be fetched: …"."""


class _UnreachableError(_TransientError):
    """The host is unknown or does not listen: hopeless at first contact, worth another attempt later."""


class _RefusedError(Exception):
    """An answer that another attempt will not change."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class _Remote:
    """A file as its server describes it; `etag` is a strong validator, or None if the server gives no such thing."""

    url: str
    size: int
    etag: str | None


def _probe(url: str) -> _Remote:
    """Size and ETag of a remote file; raises _TransientError or _RefusedError."""
    with _open("HEAD", url) as response:
        return _describe(response, url)


def _describe(response: http.client.HTTPResponse, url: str) -> _Remote:
    """Read the headers of an answer that stands for a whole file; raises _RefusedError if they do not describe one."""
    if response.status != http.client.OK:
        raise _RefusedError(f"the server answered {response.status} where a whole file was asked for")
    length = response.headers.get("Content-Length", "")
    if response.headers.get_content_type() == "text/html":
        raise _RefusedError("a web page came in its place; does this network ask for a login?")
    if not length.isdecimal():
        raise _RefusedError("the server does not tell its length")
    etag = response.headers.get("ETag")
    return _Remote(url, int(length), etag if etag and not etag.startswith("W/") else None)


def _open(method: str, url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
    """Send a request and return the answer, redirects followed; raises _TransientError or _RefusedError."""
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)  # noqa: S310 - see _opener
    request.add_header("User-Agent", "kandinsky22-deploy")
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _TransientError(reason) from error
        raise _RefusedError(reason, error.code) from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(error) from error
    return response


@cache
def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone: a redirect to ftp or to a local file finds no handler."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _read_block(response: http.client.HTTPResponse, size: int) -> bytes:
    """At most `size` bytes, as soon as some are there; empty at the end; raises _TransientError."""
    try:
        return response.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(error) from error


def _network_error(error: Exception) -> _TransientError | _RefusedError:
    """Sort an error of urllib, http.client, ssl or socket."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return _UnreachableError(f"its host name cannot be resolved ({reason.strerror})")
    if isinstance(reason, ConnectionRefusedError):
        return _UnreachableError("its host refuses the connection")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _RefusedError(f"the certificate of its host cannot be verified ({reason.verify_message})")
    if isinstance(reason, (str, http.client.InvalidURL)):
        return _RefusedError(str(reason))
    if isinstance(reason, TimeoutError):
        return _TransientError(f"nothing came for {TIMEOUT_SECONDS:g} s")
    return _TransientError(f"the connection broke ({_first_line(reason)})")


def _with_retries(
    attempt: Callable[[], _T],
    *,
    received: Callable[[], int] = lambda: 0,
    hopeless: type[_TransientError] | tuple[()] = (),
) -> _T:
    """`attempt()`, repeated with growing pauses while it raises _TransientError.

    Raises the last _TransientError after ATTEMPTS attempts in a row during which `received()` reached no new maximum,
    and one of the kind `hopeless` at once.
    """
    failures, most = 0, received()
    while True:
        try:
            return attempt()
        except hopeless:
            raise
        except _TransientError as error:
            now = received()
            failures, most = (1, now) if now > most else (failures + 1, most)
            if failures >= ATTEMPTS:
                raise
            pause = BACKOFF_SECONDS * 2 ** (failures - 1)
            _LOG.warning("%s; attempt %d of %d follows in %g s", error, failures + 1, ATTEMPTS, pause)
            time.sleep(pause)


# ---- the cache folder -----------------------------------------------------------------------------------------------


class _CacheFolder:
    """The files of one checkpoint, whole or in part, and the ledger that says where each came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole, self._partial = _read_ledger(path / LEDGER_NAME)

    def lacks(self, urls: Mapping[str, str]) -> dict[str, str]:
        """Those of `urls`, by file, whose file is not here or came from elsewhere."""
        return {file: url for file, url in urls.items() if not self._holds(file, url)}

    def _holds(self, file: str, url: str) -> bool:
        known, path = self._whole.get(file), self.path / file
        return known is not None and known.url == url and path.is_file() and path.stat().st_size == known.size

    def part(self, file: str) -> Path:
        """Where a file grows."""
        return self.path / f"{file}.part"

    def partial(self, file: str) -> _Remote | None:
        """What the bytes in `part(file)` are the beginning of; None if they are of no use."""
        return self._partial.get(file)

    def received(self, file: str) -> int:
        """Number of bytes that need not be fetched again."""
        part = self.part(file)
        return part.stat().st_size if file in self._partial and part.exists() else 0

    def keep_partial_of(self, file: str, remote: _Remote) -> None:
        """Discard a partial file unless it is surely the beginning of `remote`."""
        if self._partial.get(file) != remote or remote.etag is None or self.received(file) > remote.size:
            self.discard(file)

    def discard(self, file: str) -> None:
        """Forget a partial file."""
        self.part(file).unlink(missing_ok=True)
        if self._partial.pop(file, None) is not None:
            self._save()

    def begin(self, file: str, remote: _Remote) -> None:
        """Start a file anew. Recorded before its first byte, so that an interruption leaves something to resume."""
        self.part(file).parent.mkdir(parents=True, exist_ok=True)
        self.part(file).unlink(missing_ok=True)
        self._whole.pop(file, None)
        self._partial[file] = remote
        self._save()

    def finish(self, file: str) -> None:
        """Give a whole file its name."""
        self.part(file).replace(self.path / file)
        self._whole[file] = self._partial.pop(file)
        self._save()

    def _save(self) -> None:
        document = {
            "schema": LEDGER_SCHEMA,
            "whole": {file: asdict(remote) for file, remote in self._whole.items()},
            "partial": {file: asdict(remote) for file, remote in self._partial.items()},
        }
        ledger = self.path / LEDGER_NAME
        fresh = ledger.with_name(LEDGER_NAME + ".new")
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(ledger)


def _read_ledger(path: Path) -> tuple[dict[str, _Remote], dict[str, _Remote]]:
    """The whole and the partial files by name; nothing is known of either if the ledger is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != LEDGER_SCHEMA:
            return {}, {}
        whole, partial = (
            {file: _Remote(**entry) for file, entry in document[kind].items()} for kind in ("whole", "partial")
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, {}
    return whole, partial


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from filling `folder` at the same time; waits for one that does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.warning("another process is fetching into %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors_explained(folder: Path) -> Iterator[None]:
    """Turn an OSError, which by now can only be the disk's, into a DownloadError."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, str(folder)) from error


def _disk_error(error: OSError, place: str) -> DownloadError:
    """One sentence for a disk that is full or cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"the disk is full at {place}: free some space and try again; what came so far is kept and need not be "
            "fetched again"
        )
    return DownloadError(f"{place} cannot be used: {error}; choose another cache folder")
