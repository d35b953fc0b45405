"""Requests over HTTP, their failures sorted into those that another attempt may cure and the rest, and the attempts."""

from __future__ import annotations

import logging
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import TypeVar

from kandinsky_export.hub.error_text import first_line

ATTEMPTS = 5  # in a row that brought no new byte
BACKOFF_SECONDS = 1.0  # before the second attempt; doubled before each one after it
TIMEOUT_SECONDS = 30.0  # without an answer or a byte

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class TransientError(Exception):
    """A failure that another attempt may cure; the text completes "cannot be fetched: …"."""


class UnreachableError(TransientError):
    """The host is unknown or does not listen: hopeless at first contact, worth another attempt later."""


class RefusedError(Exception):
    """An answer that another attempt will not change."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it; `etag` is a strong validator, or None if the server gives no such thing."""

    url: str
    size: int
    etag: str | None


def probe(url: str) -> Remote:
    """Size and ETag of a remote file; raises TransientError or RefusedError."""
    with open_url("HEAD", url) as response:
        return describe(response, url)


def describe(response: HTTPResponse, url: str) -> Remote:
    """Read the headers of an answer that stands for a whole file; raises RefusedError if they do not describe one."""
    if response.status != HTTPStatus.OK:
        raise RefusedError(f"the server answered {response.status}; expected 200 for a whole file")
    length = response.headers.get("Content-Length", "")
    if response.headers.get_content_type() == "text/html":
        raise RefusedError("a web page came in its place; does this network ask for a login?")
    if not length.isdecimal():
        raise RefusedError("the server does not report its length")
    etag = response.headers.get("ETag")
    return Remote(url, int(length), etag if etag and not etag.startswith("W/") else None)


def open_url(method: str, url: str, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """Send a request and return the answer, redirects followed; raises TransientError or RefusedError."""
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)  # noqa: S310 - see _opener
    request.add_header("User-Agent", "kandinsky22-deploy")
    try:
        response: HTTPResponse = _opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise TransientError(reason) from error
        raise RefusedError(reason, error.code) from error
    except (OSError, HTTPException) as error:
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


def read_block(response: HTTPResponse, size: int) -> bytes:
    """At most `size` bytes, as soon as some are there; empty at the end; raises TransientError."""
    try:
        return response.read1(size)
    except (OSError, HTTPException) as error:
        raise _network_error(error) from error


def _network_error(error: Exception) -> TransientError | RefusedError:
    """Sort an error of urllib, http.client, ssl or socket."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return UnreachableError(f"its host name cannot be resolved ({reason.strerror})")
    if isinstance(reason, ConnectionRefusedError):
        return UnreachableError("its host refuses the connection")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return RefusedError(f"the certificate of its host cannot be verified ({reason.verify_message})")
    if isinstance(reason, (str, InvalidURL)):
        return RefusedError(str(reason))
    if isinstance(reason, TimeoutError):
        return TransientError(f"nothing came for {TIMEOUT_SECONDS:g} s")
    return TransientError(f"the connection broke ({first_line(reason)})")


def with_retries(
    attempt: Callable[[], _T],
    *,
    received: Callable[[], int] = lambda: 0,
    hopeless: type[TransientError] | tuple[()] = (),
) -> _T:
    """`attempt()`, repeated with growing pauses while it raises TransientError.

    Raises the last TransientError after ATTEMPTS attempts in a row during which `received()` reached no new maximum,
    and one of the kind `hopeless` at once.
    """
    failures, most = 0, received()
    while True:
        try:
            return attempt()
        except hopeless:
            raise
        except TransientError as error:
            now = received()
            failures, most = (1, now) if now > most else (failures + 1, most)
            if failures >= ATTEMPTS:
                raise
            pause = BACKOFF_SECONDS * 2 ** (failures - 1)
            _LOG.warning("%s; attempt %d of %d follows in %g s", error, failures + 1, ATTEMPTS, pause)
            time.sleep(pause)
