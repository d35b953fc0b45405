"""CLIP's tokenizer: from prompts to token ids, with the library `tokenizers`.

The ids equal those of transformers' CLIPTokenizer: normalisation, splitting and byte-pair encoding are the same.

Legend: B prompts · n tokens in the longest of them
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import BundleError, EngineUnavailable, InputError

if TYPE_CHECKING:
    import tokenizers

Ids: TypeAlias = npt.NDArray[np.int64]

DEFAULTS: Mapping[str, Any] = {
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
"""CLIP's settings, the defaults of a config."""

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
"""The flags of a token in a config, which say how it is found in a text."""

END_OF_WORD = "</w>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_TOKENS = tuple(name for name in DEFAULTS if name.endswith("_token"))
MAX_SHOWN_CHARACTERS = 1000
"""The most characters of a text in a message."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of B prompts, each from the start token to the end token, padded to the longest prompt.

    Attributes:
        ids: the token ids, (B, n).
        mask: float32 (B, n), 1 for the tokens of the prompt, 0 for padding.
        dropped: the part of each prompt that was cut off, or None.
        pad_id: the padding token.
    """

    ids: Ids
    mask: npt.NDArray[np.float32]
    dropped: tuple[str | None, ...]
    pad_id: int

    def padded(self, length: int) -> Tokens:
        """The same tokens, padded to `length`.

        Raises:
            InputError: the longest prompt has more tokens.
        """
        missing = length - self.ids.shape[1]
        if missing < 0:
            raise InputError(f"the prompts have {self.ids.shape[1]} tokens; expected at most {length}")
        right = ((0, 0), (0, missing))
        return replace(self, ids=np.pad(self.ids, right, constant_values=self.pad_id), mask=np.pad(self.mask, right))


class Tokenizer:
    """Splits prompts into the tokens of one vocabulary."""

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int, pad_id: int) -> None:
        self.max_length = max_length
        self._backend = backend
        self._pad_id = pad_id

    @classmethod
    def from_files(cls, vocabulary: Path, merges: Path, config: Mapping[str, Any]) -> Tokenizer:
        """Read a tokenizer.

        Args:
            vocabulary: the file `vocab.json`, with the id of each token.
            merges: the file `merges.txt`, with the pairs of tokens that are merged, the most frequent pair first.
            config: the settings, see `DEFAULTS`. A token is a text, or an object with its `content` and the flags
                `single_word`, `lstrip`, `rstrip` and `normalized`, as in `tokenizer_config.json`.

        Raises:
            BundleError: a file is missing or damaged, or files and config do not fit together; lists every fault.
            EngineUnavailable: `tokenizers` is not installed.
        """
        faults: list[str] = []
        ids = _read_vocabulary(vocabulary, faults)
        pairs = _read_merges(merges, faults)
        settings = _settings(config, faults)
        if not faults:
            faults += _vocabulary_faults(ids, pairs, settings, merges.name)
        if faults:
            raise BundleError(f"tokenizer in {vocabulary.parent}", faults)
        backend = _backend(ids, pairs, settings)
        return cls(backend, settings["model_max_length"], ids[_content(settings["pad_token"])])

    def encode(self, prompts: Sequence[str]) -> Tokens:
        """Split prompts into tokens.

        A prompt with more than `max_length` tokens, including start and end, loses the last tokens before the end.
        `Tokens.dropped` has the part of the prompt that was cut off.

        Raises:
            InputError: `prompts` is not a list of one or more texts, or a text is not valid Unicode.
        """
        encodings = [self._backend.encode(prompt) for prompt in _checked(prompts)]
        rows, dropped = [], []
        for prompt, encoding in zip(prompts, encodings, strict=True):
            ids, cut = encoding.ids, None
            if len(ids) > self.max_length:
                start, _ = encoding.offsets[self.max_length - 1]
                cut = prompt[start:]
                ids = [*ids[: self.max_length - 1], ids[-1]]
            rows.append(ids)
            dropped.append(cut)
        shape = len(rows), max(map(len, rows))
        padded, mask = np.full(shape, self._pad_id, np.int64), np.zeros(shape, np.float32)
        for row, ids in enumerate(rows):
            padded[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return Tokens(padded, mask, tuple(dropped), self._pad_id)


def _backend(ids: dict[str, int], pairs: list[tuple[str, str]], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
        from tokenizers.models import BPE
    except ImportError as error:
        raise EngineUnavailable(
            f"prompts need the library tokenizers, which cannot be imported ({error}):"
            " pip install 'kandinsky22-deploy[prompt]'"
        ) from error

    start, end, unknown = (_content(settings[name]) for name in ("bos_token", "eos_token", "unk_token"))
    backend = Tokenizer(
        BPE(
            vocab=ids,
            merges=pairs,
            continuing_subword_prefix="",
            end_of_word_suffix=END_OF_WORD,
            unk_token=unknown,
            fuse_unk=False,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens(_special_tokens(settings))
    backend.post_processor = processors.RobertaProcessing(
        (end, ids[end]), (start, ids[start]), trim_offsets=False, add_prefix_space=False
    )
    return backend


def _special_tokens(settings: Mapping[str, Any]) -> list[tokenizers.AddedToken]:
    """The tokens that are found in a prompt before it is split.

    As in transformers, a setting that repeats an earlier one has no effect, and the last of different settings of one
    token applies.
    """
    from tokenizers import AddedToken

    distinct: list[Any] = []
    for name in _TOKENS:
        if settings[name] not in distinct:
            distinct.append(settings[name])
    last = {_content(token): _flags(token) for token in distinct}
    return [AddedToken(content, **flags, special=True) for content, flags in last.items()]


def _flags(token: Any) -> dict[str, bool]:
    """A token's flags. Without flags, it is searched for in the prompt as typed, not in the normalised prompt."""
    return {name: token[name] for name in TOKEN_FLAGS if name in token} if isinstance(token, Mapping) else {}


def _read_vocabulary(path: Path, faults: list[str]) -> dict[str, int]:
    text = _read(path, faults)
    if text is None:
        return {}
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        faults.append(f"{path.name} is not JSON ({error}); copy it again")
        return {}
    numbers = list(ids.values()) if isinstance(ids, dict) else []
    # The library takes 32 bits, and embeddings have fewer rows.
    whole = all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31 for number in numbers)
    if not numbers or not whole or len({*numbers}) < len(numbers):
        faults.append(f"{path.name} does not map each token to a different whole number; copy it again")
        return {}
    return dict(ids)


def _read_merges(path: Path, faults: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    lines = (_read(path, faults) or "").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        parts = line.split(" ")
        if line.startswith("#version") or line == "" == lines[-1]:
            continue
        if len(parts) != 2 or not all(parts):
            faults.append(f"{path.name}, line {number}: {line!r} is not two tokens with a space between; copy it again")
            return []
        pairs.append((parts[0], parts[1]))
    return pairs


def _read(path: Path, faults: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        faults.append(f"{path.name} is missing: export the bundle again with --prior")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path.name} cannot be read ({error}); copy it again")
    return None


def _settings(config: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    settings = {**DEFAULTS, **config}
    faults += [f"tokenizer setting `{name}` is unknown" for name in settings if name not in DEFAULTS]
    length = settings["model_max_length"]
    if not isinstance(length, int) or isinstance(length, bool) or length < 2:
        faults.append(f"tokenizer setting `model_max_length` is {length!r}; expected a whole number of at least 2")
    faults += [
        f"tokenizer setting `{name}` is {settings[name]!r}; expected a text, or an object with `content` and perhaps"
        f" {', '.join(TOKEN_FLAGS)}"
        for name in _TOKENS
        if not _is_token(settings[name])
    ]
    return settings


def _is_token(value: Any) -> bool:
    if isinstance(value, Mapping):
        known = value.keys() <= {"content", "special", "__type", *TOKEN_FLAGS}
        value = value.get("content") if known and all(isinstance(flag, bool) for flag in _flags(value).values()) else ""
    return isinstance(value, str) and value != ""


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _vocabulary_faults(
    ids: Mapping[str, int], pairs: Sequence[tuple[str, str]], settings: Mapping[str, Any], merges: str
) -> list[str]:
    faults = [
        f"the vocabulary lacks {_content(settings[name])!r}, the `{name}`"
        for name in _TOKENS
        if _content(settings[name]) not in ids
    ]
    foreign = [pair for pair in pairs if not {*pair, "".join(pair)} <= ids.keys()]
    if foreign:
        left, right = foreign[0]
        faults.append(
            f"{merges} joins {len(foreign)} pairs that the vocabulary lacks, such as {left!r} and {right!r}:"
            " the two files belong to different models"
        )
    return faults


def _checked(prompts: Any) -> Sequence[str]:
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise InputError(f"prompts are {type(prompts).__name__} {shown(prompts, 40)}; expected a list of texts")
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise InputError(f"prompt {number} is {shown(prompt, 40)}, {type(prompt).__name__}; expected a text")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"prompt {number} has half a surrogate pair, {prompt[error.start]!r}, at character {error.start + 1};"
                " expected valid Unicode: decode it as UTF-8 first"
            ) from error
    return prompts


def shown(value: Any, most: int) -> str:
    """The repr of `value`; a text is cut after `most` characters."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}… ({len(value)} characters)"
    return repr(value)
