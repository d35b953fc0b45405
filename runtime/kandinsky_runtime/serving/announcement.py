"""The line on stdout that says where a server listens."""

from __future__ import annotations

from collections.abc import Iterable

from kandinsky_runtime.cli_support import print_done


def announce(models: Iterable[str], host: str, port: int) -> None:
    """Write the names of the models and the server's address; a server runs also without a stdout.

    Args:
        models: the names.
        host: a name or an IP address; an IPv6 address without brackets.
        port: the port.
    """
    shown = f"[{host}]" if ":" in host else host
    print_done(f"serving {', '.join(models)} at http://{shown}:{port}")
