"""The graphs of a prior that a bundle may leave out; a module of its own, so that knowing them loads no vendor."""

from __future__ import annotations

from collections.abc import Collection

from kandinsky_runtime.bundle.manifest import PRIOR_COMPONENTS
from kandinsky_runtime.errors import UsageError


def check_without(names: Collection[str], *, has_prior: bool) -> None:
    """Refuse what cannot be left out of a bundle.

    Raises:
        UsageError: a name is not in `PRIOR_COMPONENTS`, or there is no prior to leave it out of.
    """
    if unknown := [name for name in names if name not in PRIOR_COMPONENTS]:
        raise UsageError(f"{', '.join(unknown)} cannot be left out; choose from {', '.join(PRIOR_COMPONENTS)}")
    if names and not has_prior:
        raise UsageError(f"{', '.join(names)} can only be left out of a bundle with a prior: give one with --prior")
