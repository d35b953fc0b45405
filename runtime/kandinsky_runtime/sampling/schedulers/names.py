"""Schedulers by the names that people know from other programs, and what is near to a name that is not known.

The names are those of AUTOMATIC1111's list, ComfyUI and diffusers' documentation ("Schedulers, overview"). Capitals,
spaces, hyphens and underscores do not matter. A name is here only if it is the same method: "DPM++ SDE" is a
single-step method of another order, "DPM++ 2M SDE" is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

_KNOWN: Mapping[str, str] = {
    "DDPM": "ddpm",
    "DDIM": "ddim",
    "DPM++ 2M": "dpm++",
    "dpmpp_2m": "dpm++",
    "DPM++ 2M Karras": "dpm++karras",
    "dpmpp_2m_karras": "dpm++karras",
    "DPM++ 2M SDE": "dpm++sde",
    "dpmpp_2m_sde": "dpm++sde",
    "DPM++ 2M SDE Karras": "dpm++sde-karras",
    "dpmpp_2m_sde_karras": "dpm++sde-karras",
    "UniPC": "unipc",
    "Euler": "euler",
    "Euler a": "euler-a",
    "Euler ancestral": "euler-a",
    "unCLIP": "unclip",
}
_MOST_NEAR = 3
_ALIKE = 0.5  # the least ratio of `difflib`


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


_BY_FOLDED_NAME = {_folded(name): short for name, short in _KNOWN.items()}


def short_name(name: str, short_names: Sequence[str]) -> str | None:
    """The short name of the scheduler that people call `name`; None if it is none of ours."""
    lower = name.strip().lower()  # folded, "DPM++ SDE" would be our "dpm++sde", which is another method
    return lower if lower in short_names else _BY_FOLDED_NAME.get(_folded(name))


def near(name: str, short_names: Sequence[str]) -> list[str]:
    """The short names of the schedulers whose names are most like `name`, the nearest one first."""
    names = {**{_folded(short): short for short in short_names}, **_BY_FOLDED_NAME}
    found = get_close_matches(_folded(name.removesuffix("Scheduler")), names, n=2 * _MOST_NEAR, cutoff=_ALIKE)
    return list(dict.fromkeys(names[match] for match in found))[:_MOST_NEAR]
