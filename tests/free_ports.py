"""Ports that nobody listens at."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Find so many different free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for made in sockets:
            made.bind(("127.0.0.1", 0))
        return [int(made.getsockname()[1]) for made in sockets]
    finally:
        for made in sockets:
            made.close()
