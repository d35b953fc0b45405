"""Hugging Face, through huggingface_hub.

The library brings its cache, resumption and progress, and reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE. Only
safetensors weights of the requested variant are fetched, never .bin files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kandinsky_export.checkpoints.other_models import DECODER_FILES, PRIOR_FILES, refuse_others
from kandinsky_export.errors import DownloadError
from kandinsky_export.hub.checkpoint_files import select_files
from kandinsky_export.hub.error_text import disk_error, first_line
from kandinsky_export.hub.http import TIMEOUT_SECONDS
from kandinsky_runtime.errors import Kandinsky22Error, UsageError

_LIBRARY_ERRORS = (OSError, ValueError, KeyError)  # those of requests are OSErrors

_LOG = logging.getLogger(__name__)


def fetch_from_huggingface(
    name: str,
    revision: str | None,
    variant: str | None,
    components: Sequence[str],
    cache_dir: Path | None,
    progress: bool,
) -> Path:
    """The library's snapshot folder, after fetching what it lacks; raises as `fetch_checkpoint` does."""
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
    listing = [sibling.rfilename for sibling in info.siblings or ()]
    try:
        _refuse_others(name, info.sha, components, listing, cache_dir, subject)
        files = select_files(listing, components, variant, subject)
        with _progress_bars(progress):
            folder = snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=files)
    except _LIBRARY_ERRORS as error:
        raise _explain(error, subject) from error
    return _checked_snapshot(Path(folder), components, variant)


def _refuse_others(
    name: str,
    revision: str | None,
    components: Sequence[str],
    listing: Sequence[str],
    cache_dir: Path | None,
    subject: str,
) -> None:
    """CheckpointError for a relative of the model that is wanted; fetches only the files that show it."""
    from huggingface_hub import hf_hub_download

    prior = "prior" in components
    for file in DECODER_FILES if "unet" in components else PRIOR_FILES:
        if file in listing:
            with _progress_bars(shown=False):
                path = Path(hf_hub_download(name, file, revision=revision, cache_dir=cache_dir))
            refuse_others(path.parents[file.count("/")], subject, prior=prior)


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
    _LOG.warning("Hugging Face cannot be reached (%s): using %s, which was fetched before", _root_cause(cause), folder)
    return _checked_snapshot(Path(folder), components, variant)


def _checked_snapshot(folder: Path, components: Sequence[str], variant: str | None) -> Path:
    """`folder`, or CheckpointError: offline, huggingface_hub returns a snapshot without asking whether it is whole."""
    listing = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    select_files(listing, components, variant, f"the copy in the cache, {folder}")
    return folder


def _hub_is_away(error: Exception) -> bool:
    """Whether the hub could not be reached, so that the cached copy may be used."""
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
        return UsageError(f"{subject}: Hugging Face forbids such a name ({first_line(error)})")
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
        return disk_error(error, "the cache of huggingface_hub")
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
    return first_line(error)


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
