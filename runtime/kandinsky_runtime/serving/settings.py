"""The server's settings, each declared once, and how they are gathered from flags, environment variables and a file.

A flag `--max-jobs 8`, the variable `K22_SERVE_MAX_JOBS=8` and the file's line `max_jobs = 8` set the same; a flag wins
over a variable, and a variable over the file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kandinsky_runtime.checks import flag, memory_size, whole_number
from kandinsky_runtime.decoder.declarations import check_values, declarations, from_text, option
from kandinsky_runtime.decoder.load_options import LOAD_OPTIONS, LoadOptions
from kandinsky_runtime.decoder.option_values import one_of, real, whole
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.limits import MIN_SIZE

PREFIX = "K22_SERVE_"
LOG_FORMATS = ("text", "json")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def picture_size(text: str) -> tuple[int, int]:
    """Width and height of a size such as 768x512.

    Raises:
        ValueError: the text is no such size, or a side is too small.
    """
    across, x, down = text.partition("x")
    if (
        x
        and across.isascii()
        and across.isdigit()
        and down.isascii()
        and down.isdigit()
        and max(len(across), len(down)) < 6
    ):
        width, height = int(across), int(down)
        if min(width, height) >= MIN_SIZE:
            return width, height
    raise ValueError(
        f"{text!r} is not a size; expected WIDTHxHEIGHT in pixels, each at least {MIN_SIZE}, such as 768x512"
    )


def _filled(name: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is {value!r}; expected a text that is not empty, or leave it out")
    return value


def _share(name: str, value: Any) -> Any:
    return value if value == "auto" else whole_number(name, value, 1, 64)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server.

    Raises:
        UsageError: a value is invalid, or values exclude each other.
    """

    host: str = option(
        "127.0.0.1",
        "address to listen at; another than the machine's own needs --keys or --no-auth",
        spelling="--host",
        metavar="H",
        check=_filled,
    )
    port: int = option(
        8000, "port to listen at; 0 for a free one", spelling="--port", metavar="N", parse=int, check=whole(0, 65535)
    )
    keys: str | None = option(
        None,
        "file of API keys, one in each line, read again on SIGHUP",
        spelling="--keys",
        metavar="F",
        check=_filled,
    )
    no_auth: bool = option(False, "listen at any address without keys", spelling="--no-auth", check=flag)
    size: tuple[tuple[int, int], ...] = option(
        (),
        "size to warm up before the server is ready, such as 768x512; may be given several times (default: 512x512)",
        spelling="--size",
        metavar="WxH",
        parse=picture_size,
    )
    max_jobs: int = option(
        32,
        "requests that may be in the server at once; the next ones get 503",
        spelling="--max-jobs",
        metavar="N",
        parse=int,
        check=whole(1, 10_000),
    )
    max_queue_seconds: float = option(
        1800.0,
        "estimated seconds of waiting from which a request gets 503",
        spelling="--max-queue-seconds",
        metavar="S",
        parse=float,
        check=real(0),
    )
    max_body: Any = option(
        "64M",
        "largest body of a request in bytes, such as 64M",
        spelling="--max-body",
        metavar="SIZE",
        check=memory_size,
    )
    max_pixels: int = option(
        16_000_000,
        "most pixels of a picture, of a mask and of a result",
        spelling="--max-pixels",
        metavar="N",
        parse=int,
        check=whole(MIN_SIZE**2),
    )
    max_steps: int = option(
        250,
        "most denoising steps of a request, and most steps of the prior that it may ask for",
        spelling="--max-steps",
        metavar="N",
        parse=int,
        check=whole(1, 1000),
    )
    body_seconds: float = option(
        60.0,
        "seconds within which a request's body must arrive",
        spelling="--body-seconds",
        metavar="S",
        parse=float,
        check=real(0.1),
    )
    time_limit: float = option(
        3600.0,
        "seconds after which a request is given up, waiting included",
        spelling="--time-limit",
        metavar="S",
        parse=float,
        check=real(1),
    )
    drain_seconds: float = option(
        600.0,
        "seconds that requests have to end after SIGTERM",
        spelling="--drain-seconds",
        metavar="S",
        parse=float,
        check=real(0),
    )
    keep_seconds: float = option(
        600.0,
        "seconds that a job's result is kept",
        spelling="--keep-seconds",
        metavar="S",
        parse=float,
        check=real(0),
    )
    keep_bytes: Any = option(
        "256M",
        "bytes of all results that are kept; the oldest ones go first",
        spelling="--keep-bytes",
        metavar="SIZE",
        check=memory_size,
    )
    share_steps: int | str = option(
        "auto",
        "requests of one size that may share a step; auto is 1 on a CPU, and measured at the start on a GPU",
        spelling="--share-steps",
        metavar="N",
        parse=lambda text: text if text == "auto" else int(text),
        check=_share,
    )
    state: str | None = option(
        None,
        "folder of the list of unfinished jobs, which are reported as lost after a crash (default: none is kept)",
        spelling="--state",
        metavar="F",
        check=_filled,
    )
    log_format: str = option(
        "text", "format of the log on stderr", spelling="--log-format", choices=LOG_FORMATS, check=one_of(LOG_FORMATS)
    )
    log_prompts: bool = option(False, "log prompts as well", spelling="--log-prompts", check=flag)

    def __post_init__(self) -> None:
        check_values(self)
        if not self.local and self.keys is None and not self.no_auth:
            raise UsageError(
                f"host {self.host} can be reached by other machines; give --keys F with API keys, or --no-auth to let"
                " anybody in"
            )
        if self.keys is not None and self.no_auth:
            raise UsageError("keys and no_auth exclude each other; leave one of them out")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in _LOOPBACK

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes to warm up, (width, height) each."""
        return self.size or ((512, 512),)

    @classmethod
    def from_texts(cls, texts: Mapping[str, Any], source: str) -> Settings:
        """The settings from texts by name.

        Args:
            texts: the texts, or values of the settings' own types; several sizes are divided by commas.
            source: where they come from, at the beginning of errors.

        Raises:
            UsageError: an unknown name, or an invalid value.
        """
        return cls(**parsed_options(texts, source, cls))


def gather(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[LoadOptions, Settings]:  # fmt: skip
    """How bundles are opened, and the settings, from all sources.

    Args:
        flags: the values of flags that were given.
        environment: variables; those with the prefix `PREFIX` are read.
        file: a TOML file, or None.
        defaults: values that no source has, other than the usual ones.

    Raises:
        UsageError: an unknown name, or an invalid value; the message names where it came from.
    """
    values = dict(defaults or {})
    if file is not None:
        values |= parsed_options(_read_toml(file), f"{file}: ", LoadOptions, Settings)
    named = {name[len(PREFIX) :].lower(): text for name, text in environment.items() if name.startswith(PREFIX)}
    values |= parsed_options(named, "the environment: ", LoadOptions, Settings)
    values |= flags
    own = {name: values.pop(name) for name in LOAD_OPTIONS if name in values}
    return LoadOptions(**own), Settings(**values)


def parsed_options(given: Mapping[str, Any], source: str, *kinds: type[Any]) -> dict[str, Any]:
    """Values of options of several classes from texts, as of variables, or from a file's own types.

    Args:
        given: the texts or values by name.
        source: where they come from, at the beginning of errors.
        kinds: the classes that declare the options.

    Raises:
        UsageError: an unknown name, or a text that is no such value.
    """
    known = {name: kind for kind in kinds for name in declarations(kind)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{source}there is no setting {name}; the settings are {', '.join(known)}")
        try:
            if name == "size":
                values[name] = _sizes(value)
            else:
                values[name] = from_text(known[name], name, value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{source}{name} is {value!r}: {error}") from error
    return values


def _sizes(value: Any) -> tuple[tuple[int, int], ...]:
    """Sizes from a text that commas divide, or from a list of texts.

    Raises:
        ValueError: it is neither, or has what is no size.
    """
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(item, str) for item in texts):
        raise ValueError('expected a text such as "768x512", or a list of them')
    return tuple(picture_size(item) for item in texts)


def _read_toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the settings file {file} cannot be read: {error}") from error
