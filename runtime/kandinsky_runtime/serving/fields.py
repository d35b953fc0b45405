"""The fields of a request: OpenAI's, and the options of a run as flat fields next to them.

Every field is honoured, or refused with an error that names it. A field that no table here has is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.decoder.declarations import Declaration, declarations
from kandinsky_runtime.decoder.options import DecoderOptions, GenerateOptions, InpaintOptions
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.jobs import Format
from kandinsky_runtime.serving.settings import picture_size

EDITS, GENERATIONS = "edits", "generations"

MOST_RESULTS = 10
MOST_PREVIEWS = 3
LONGEST_PROMPT = 32_000  # characters
QUALITIES = {"low": 25, "medium": 50, "high": 100}  # denoising steps
FORMATS = ("png", "jpeg", "webp")
_PICTURES = ("image", "images", "mask")
_LONGEST_TIMEOUT = 1_000_000_000  # seconds
_NOT_FIELDS = ("max_pixels", "num_images_per_prompt")  # the server's, and OpenAI's `n`

# OpenAI's fields that cannot be honoured, with the reason. Their defaults are accepted.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": (("auto", "opaque"), "results are opaque, but for what was transparent in the picture"),
    "response_format": (("b64_json",), "results are sent as b64_json; a server without public files has no URLs"),
    "moderation": (("auto",), "this server moderates nothing"),
    "input_fidelity": ((), "pixels outside the mask are always kept; leave it out"),
    "style": ((), "Kandinsky 2.2 has no styles; write it into the prompt"),
    "complexity": ((), "there is no such thing here; leave it out"),
    "markup": ((), "there is no such thing here; leave it out"),
    "frame_count": ((), "results are single pictures; leave it out"),
}


class FieldError(UsageError):
    """A field of a request cannot be used; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Asked:
    """A request, as its fields have it.

    Attributes:
        model: the model's name, or None for the default.
        options: options of the run, without picture and mask.
        image, mask: the files of picture and mask.
        format: how results are sent.
        stream: whether events are sent while the request is worked on.
        previews: the number of pictures on the way.
        timeout: seconds after which the request is given up, or None.
        quality: OpenAI's `quality`, for the answer.
        user: the client's name for its user, for the log.
    """

    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    image: bytes | None = None
    mask: bytes | None = None
    format: Format = field(default_factory=Format)
    stream: bool = False
    previews: int = 0
    timeout: float | None = None
    quality: str = "auto"
    user: str | None = None


def option_fields(options: type[DecoderOptions]) -> dict[str, Declaration]:
    """The options of a task that are fields of its requests."""
    named = {name: declared for name, (_, declared) in declarations(options).items() if declared.spelling}
    more = {name: declarations(options)[name][1] for name in ("negative_prompt", "scheduler")}
    return {name: declared for name, declared in (named | more).items() if name not in _NOT_FIELDS}


def read_fields(
    endpoint: str, given: Mapping[str, Any], files: Mapping[str, bytes], *, most_steps: int, job: bool = False
) -> Asked:
    """Understand the fields of a request.

    Args:
        endpoint: EDITS or GENERATIONS.
        given: values by name: JSON's, or the texts of a form.
        files: the files of a form by name.
        most_steps: the server's limit.
        job: whether the request makes a job, whose previews need no stream.

    Raises:
        FieldError: a field is unknown, missing, or has a value that cannot be used.
    """
    for name in given:
        if name not in FIELDS or (name in _PICTURES and endpoint != EDITS):
            raise FieldError(name, f"there is no field {_shown(name)}; see /openapi.json for those that there are")
    given = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    known = option_fields(InpaintOptions) | option_fields(GenerateOptions)
    for name, value in given.items():
        if name in _READERS:
            _READERS[name](value, options, asked)
        elif name in known:
            options[name] = _option(name, value, known[name])
        elif name in REFUSED:
            allowed, reason = REFUSED[name]
            if value not in allowed:
                raise FieldError(name, f"{name} is {_shown(value)}, which is not supported: {reason}")
    if "prompt" not in options:
        raise FieldError("prompt", "prompt is missing; describe the picture")
    _check_sizes(given)
    _check_steps(given, options, asked, most_steps)
    asked["format"] = _format(asked.pop("output_format", "png"), asked.pop("output_compression", None))
    if job and asked.get("stream"):
        raise FieldError("stream", "a job has no stream; read its events at /v1/jobs/ID/events")
    if asked.get("previews") and not (asked.get("stream") or job):
        raise FieldError("partial_images", "partial_images needs stream: true, or a job")
    if endpoint == EDITS:
        asked |= _pictures(given, files)
    elif files:
        raise FieldError(next(iter(files)), "this endpoint takes no files; send pictures to /v1/images/edits")
    return Asked(options=options, **asked)


def data_url(name: str, value: Any) -> bytes:
    """The bytes of a data URL, or of plain base64.

    Raises:
        FieldError: it is something else; URLs of other servers are never fetched.
    """
    if isinstance(value, Mapping):
        if set(value) - {"image_url"} or "image_url" not in value:
            raise FieldError(name, f"{name} has the keys {', '.join(map(str, value))}; expected image_url, a data URL")
        value = value["image_url"]
    if not isinstance(value, str):
        raise FieldError(name, f"{name} is {_shown(value)}; expected a data URL such as data:image/png;base64,…")
    text = value
    if value[:5].lower() == "data:":
        head, comma, text = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise FieldError(name, f"{name} is a data URL without base64; expected data:image/png;base64,…")
    elif ":" in value[:16]:
        raise FieldError(
            name, f"{name} is a URL; this server fetches nothing: send a data URL, or a form with the file"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldError(name, f"{name} is not valid base64: {error}") from error


def _pictures(given: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of picture and mask, by "image" and "mask"."""
    found = dict(files)
    images = given.get("images")
    if images is not None:
        if not isinstance(images, list) or len(images) != 1:
            raise FieldError("images", f"images is {_shown(images)}; expected a list of one picture")
        if "image" in given or "image" in files:
            raise FieldError("images", "images and image are both there; give one of them")
        found["image"] = data_url("images", images[0])
    for name in ("image", "mask"):
        if name in given:
            if name in files:
                raise FieldError(name, f"{name} is there twice; give it once")
            found[name] = data_url(name, given[name])
    if "image" not in found:
        raise FieldError("image", "image is missing; send the picture to repaint")
    if more := set(found) - {"image", "mask"}:
        raise FieldError(min(more), f"there is no file {_shown(min(more))}; expected image, and perhaps mask")
    for name, content in found.items():
        if not content:
            raise FieldError(name, f"{name} is empty; send the file's content")
    return found


def _check_sizes(given: Mapping[str, Any]) -> None:
    if "size" in given and ("height" in given or "width" in given):
        raise FieldError("size", "size sets height and width; give one or the other")


def _check_steps(given: Mapping[str, Any], options: dict[str, Any], asked: dict[str, Any], most: int) -> None:
    quality = asked.get("quality", "auto")
    if quality in QUALITIES:
        if "num_inference_steps" in given:
            raise FieldError("quality", "quality sets num_inference_steps; give one or the other")
        options["num_inference_steps"] = QUALITIES[quality]
    default = DecoderOptions.num_inference_steps
    steps = options.get("num_inference_steps", default)
    if isinstance(steps, int) and steps > most:
        source = "" if "num_inference_steps" in options else " by default"
        raise FieldError(
            "num_inference_steps", f"num_inference_steps is {steps}{source}; this server takes at most {most}"
        )
    steps = options.get("prior_num_inference_steps")
    if isinstance(steps, int) and steps > most:
        raise FieldError(
            "prior_num_inference_steps", f"prior_num_inference_steps is {steps}; this server takes at most {most}"
        )


def _format(name: str, compression: int | None) -> Format:
    if compression is None:
        return Format(name)
    if name == "png":
        raise FieldError("output_compression", "output_compression is for jpeg and webp; leave it out, or choose one")
    return Format(name, max(1, compression))


def _option(name: str, value: Any, declared: Declaration) -> Any:
    """The value of an option of a run; its own check follows when the options are made."""
    if name in _FLAGS:
        return boolean(name, value)
    if isinstance(value, str) and declared.parse is not str:
        try:
            return declared.parse(value)
        except ValueError as error:
            kinds = {int: "a whole number", float: "a number"}
            expected = f"expected {kinds[declared.parse]}" if declared.parse in kinds else str(error)
            raise FieldError(name, f"{name} is {_shown(value)}; {expected}") from None
    if isinstance(value, list):
        return tuple(_number(name, item) for item in value)
    return value


def _number(name: str, item: Any) -> Any:
    if isinstance(item, str):
        try:
            return int(item) if item.lstrip("+-").isdigit() else float(item)
        except ValueError:
            raise FieldError(name, f"{name} has {_shown(item)}; expected numbers") from None
    return item


def boolean(name: str, value: Any) -> bool:
    """A truth value, or its text in a form.

    Raises:
        FieldError: it is something else.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise FieldError(name, f"{name} is {_shown(value)}; expected true or false")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number, or its text in a form.

    Raises:
        FieldError: it is something else, or out of range.
    """
    if isinstance(value, str) and value.lstrip("+-").isascii() and value.lstrip("+-").isdigit() and len(value) < 20:
        value = int(value)
    try:
        return whole_number(name, value, least, most)
    except UsageError as error:
        raise FieldError(name, str(error)) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str):  # the value may have a prompt in it, which is not for the log
        raise FieldError(name, f"{name} is a JSON {type(value).__name__}; expected a text")
    if len(value) > longest:
        raise FieldError(name, f"{name} has {len(value):,} characters; at most {longest:,} are taken")
    return value


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise FieldError(name, f"{name} is {_shown(value)}; expected one of {', '.join(choices)}")
    return str(value)


Reader = Callable[[Any, dict[str, Any], dict[str, Any]], None]


def _read_size(value: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    if value == "auto":
        return
    try:
        options["width"], options["height"] = picture_size(_text("size", value, 20))
    except ValueError as error:
        raise FieldError("size", f"size: {error}, or auto") from None


def _read_quality(value: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    asked["quality"] = _choice("quality", value, ("auto", "standard", *QUALITIES))


def _read_timeout(value: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds <= _LONGEST_TIMEOUT:
        raise FieldError(
            "timeout", f"timeout is {_shown(value)}; expected seconds above 0 and up to {_LONGEST_TIMEOUT:,}"
        )
    asked["timeout"] = seconds


def _into(where: str, name: str, read: Callable[[Any], Any], target: str = "") -> Reader:
    def reader(value: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
        (options if where == "options" else asked)[target or name] = read(value)

    return reader


_READERS: dict[str, Reader] = {
    "prompt": _into("options", "prompt", lambda value: _text("prompt", value, LONGEST_PROMPT)),
    "negative_prompt": _into(
        "options", "negative_prompt", lambda value: _text("negative_prompt", value, LONGEST_PROMPT)
    ),
    "model": _into("asked", "model", lambda value: _text("model", value, 200)),
    "n": _into("options", "n", lambda value: whole("n", value, 1, MOST_RESULTS), "num_images_per_prompt"),
    "size": _read_size,
    "quality": _read_quality,
    "output_format": _into("asked", "output_format", lambda value: _choice("output_format", value, FORMATS)),
    "output_compression": _into(
        "asked", "output_compression", lambda value: whole("output_compression", value, 0, 100)
    ),
    "stream": _into("asked", "stream", lambda value: boolean("stream", value)),
    "partial_images": _into(
        "asked", "partial_images", lambda value: whole("partial_images", value, 0, MOST_PREVIEWS), "previews"
    ),
    "user": _into("asked", "user", lambda value: _text("user", value, 512)),
    "safety_identifier": _into(
        "asked", "safety_identifier", lambda value: _text("safety_identifier", value, 512), "user"
    ),
    "timeout": _read_timeout,
}

_FLAGS = tuple(
    name
    for options in (InpaintOptions, GenerateOptions)
    for name, (item, _) in declarations(options).items()
    if isinstance(item.default, bool)
)

FIELDS = frozenset({*_READERS, *option_fields(InpaintOptions), *option_fields(GenerateOptions), *REFUSED, *_PICTURES})
"""The names of all fields."""
