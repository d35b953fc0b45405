"""What is installed: the name and the version of this distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_NAME = "kandinsky22-deploy"


def installed() -> tuple[str, str]:
    """The name and the version of this distribution; "unknown" if it runs from its source."""
    try:
        return _NAME, version(_NAME)
    except PackageNotFoundError:
        return _NAME, "unknown"
