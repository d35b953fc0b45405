"""Texts to the prior's text inputs: tokenizer and text encoder.

Legend: N texts · T text tokens · D width of the text encoder · E embedding width
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.manifest import PriorEntry
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import BundleError
from kandinsky_runtime.prior.loop import padded_length
from kandinsky_runtime.prior.tokenizer import Tokenizer, Tokens

Array = npt.NDArray[np.float32]

# With this `eos_token_id` a text is pooled at its largest token, because configs from before transformers 4.31 have a
# wrong `eos_token_id`.
_LARGEST_TOKEN = 2


class Texts:
    """A bundle's tokenizer and text encoder; several threads may share it."""

    def __init__(self, graphs: Graphs, entry: PriorEntry) -> None:
        """Read nothing yet.

        Args:
            graphs: the bundle's graphs.
            entry: the manifest's entry of the prior.
        """
        self._graphs, self._entry = graphs, entry
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """The tokens of texts, padded to a common length.

        Raises:
            BundleError: the tokenizer's files are damaged, or do not belong to the text encoder.
            EngineUnavailable: the tokenizer's library is not installed.
        """
        bundle, entry = self._graphs.bundle, self._entry
        with self._lock:
            if self._tokenizer is None:
                bundle.check_files(entry.tokenizer.values())
                files = {role: bundle.root / path for role, path in entry.tokenizer.items()}
                self._tokenizer = Tokenizer.from_files(files["vocabulary"], files["merges"], entry.tokenizer_config)
            tokens = self._tokenizer.encode(texts)
            most = self._tokenizer.max_length
        if entry.eos_token_id not in (_LARGEST_TOKEN, *tokens.ids[0].tolist()):
            raise BundleError(
                bundle.subject,
                [f"the prior's `eos_token_id` is {entry.eos_token_id}; its tokenizer ends texts with another token"],
            )
        return tokens.padded(padded_length(tokens.ids.shape[1], most))

    def encode(self, tokens: Tokens) -> dict[str, Array]:
        """The text inputs of the prior: `text_embeds` (N, E), `text_hidden_states` (N, T, D), `text_mask` (N, T).

        Raises:
            EngineError, NonFiniteError: the text encoder failed, or returned no finite numbers.
        """
        pooled = _pooled(tokens.ids, self._entry.eos_token_id)
        outputs = self._graphs.engine("text_encoder").run({"input_ids": tokens.ids, "pool_mask": pooled})
        self._graphs.phase_over("text_encoder")
        return {**outputs, "text_mask": tokens.mask}


def _pooled(ids: npt.NDArray[np.int64], eos_token_id: int) -> Array:
    """One-hot (N, T): the token whose state represents the text, see `PriorEntry.eos_token_id`."""
    found = ids.argmax(axis=1) if eos_token_id == _LARGEST_TOKEN else (ids == eos_token_id).argmax(axis=1)
    one_hot: Array = np.eye(ids.shape[1], dtype=np.float32)[found]
    return one_hot
