"""The line on stdout that says where a server listens."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def announce(models: Iterable[str], host: str, port: int) -> None:
    """Write the names of the models and the server's address.

    Args:
        models: the names.
        host: a name or an IP address; an IPv6 address without brackets.
        port: the port.
    """
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"serving {', '.join(models)} at http://{shown}:{port}\n")
    sys.stdout.flush()
