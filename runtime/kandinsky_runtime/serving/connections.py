"""Connections: how long one may wait before its request, and how many there may be."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 64  # connections that the event loop accepts in one turn
_TURNS = 4  # of the event loop, from accepting a connection to closing it
_FILES = 128  # open files that are left to everything else
_LONGEST_WAIT = 10.0  # seconds


class Connection(H11Protocol):  # type: ignore[misc] # not a dependency of the type check
    """A connection that is closed if the head of its next request does not arrive in time.

    The time is that of `--body-seconds`, 10 seconds at most. If there are as many connections as the process may open
    files, the one that has waited longest for a request is closed. A class for each server, see `connections`.
    """

    wait: float
    most: int
    waiting: dict[Connection, None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait; make room if there are too many connections."""
        super().connection_made(transport)
        self._await_head()
        while len(self.connections) > self.most and self.waiting:
            next(iter(self.waiting))._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._await_head()

    def on_response_complete(self) -> None:
        """Wait for the next request, after uvicorn's own shorter time if nothing of it arrives."""
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        """Wait, if the head of a request has to come next."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_waiting()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.wait, self._give_up)
            self.waiting[self] = None

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.waiting.pop(self, None)

    def _give_up(self) -> None:
        self._stop_waiting()
        self.connections.discard(self)  # it counts no longer, though it is closed a little later
        self.transport.abort()


def connections(body_seconds: float) -> type[Connection]:
    """The protocol of a server's connections.

    Args:
        body_seconds: the time within which a request's body must arrive.
    """
    return type(
        "ServerConnection",
        (Connection,),
        {
            "wait": min(body_seconds, _LONGEST_WAIT),
            "most": max(16, _most_files() - _TURNS * BACKLOG - _FILES),
            "waiting": {},
        },
    )


def _most_files() -> int:
    """The number of files that the process may open."""
    try:
        import resource
    except ImportError:  # Windows, whose sockets have no such limit
        return 1 << 14
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
