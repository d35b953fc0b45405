"""Valid arguments: names that can be part of a URL and of a path inside the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from kandinsky_runtime.errors import UsageError

Hub = Literal["huggingface", "paddle"]

# Both hubs forbid "--" in a name, and so "--" can stand for "/" in a folder's name.
_NAME_PART = r"(?!.*(?:\.\.|--))\w(?:[\w.-]{0,94}\w)?"
_HUB_NAME = re.compile(rf"{_NAME_PART}/{_NAME_PART}", re.ASCII)
_PLAIN_WORD = re.compile(r"\w[\w-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


def looks_like_hub_name(text: str) -> bool:
    """Whether `text` reads as `owner/name`. A folder of that name should be preferred: look for it first."""
    return _HUB_NAME.fullmatch(text) is not None


def check_arguments(name: str, hub: str, revision: str | None, variant: str | None, components: Sequence[str]) -> None:
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
