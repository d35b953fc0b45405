"""Who is let in: API keys, and the names by which a browser may call the server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kandinsky_runtime.errors import UsageError

NOBODY = ""
_LEAST_KEY = 16  # characters
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Keys:
    """The API keys of a file, one in each line; empty lines and those that begin with # are skipped."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; without one, everybody is let in.

        Raises:
            UsageError: it cannot be read, or has no keys, or a key that is too short or not in ASCII.
        """
        self._path = path
        self._digests: tuple[bytes, ...] = ()
        self.reload()

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return self._path is not None

    def reload(self) -> None:
        """Read the file again; after an error, the keys are those of before."""
        if self._path is None:
            return
        try:
            lines = [line.strip() for line in self._path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the file of keys {self._path} cannot be read: {error}") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise UsageError(f"the file of keys {self._path} has no keys; write one in each line")
        if not all(key.isascii() and key.isprintable() for key in keys):
            raise UsageError(
                f"the file of keys {self._path} has a key with other characters than ASCII, which clients send in"
                " different encodings; use letters and digits"
            )
        if any(len(key) < _LEAST_KEY for key in keys):
            raise UsageError(
                f"the file of keys {self._path} has a key of less than {_LEAST_KEY} characters; use longer ones"
            )
        self._digests = tuple(_digest(key) for key in keys)  # replaced as a whole: nobody who reads waits for a lock

    def owner(self, headers: Mapping[str, str]) -> str | None:
        """The owner of a request, a name of its key; None if the request has no right key.

        The key is that of `Authorization: Bearer KEY` or of `X-API-Key: KEY`. All keys are compared, each in a
        time that does not depend on the text.
        """
        if not self.needed:
            return NOBODY
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given)
        right = [known for known in self._digests if hmac.compare_digest(known, digest)]
        return right[0].hex()[:16] if right else None


def is_foreign(headers: Mapping[str, str], *, check_host: bool) -> str | None:
    """Why a browser's request comes from a page of somebody else, or None.

    Args:
        headers: the request's, by their names in small letters.
        check_host: whether the request must name this machine: a page of somebody else could give its own name this
            machine's address (DNS rebinding).
    """
    host = _host_name(headers.get("host", ""))
    if check_host and host not in _LOCAL_NAMES:
        return f"the request is for the host {host!r}; this server answers for {', '.join(_LOCAL_NAMES)}"
    origin = headers.get("origin")
    if origin is not None and _authority(origin) != headers.get("host", "").lower():
        return f"the request comes from a page of {origin}; this server answers its own page only"
    return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
