"""Priors with random weights (seeded), in both forms, with a small vocabulary unless one is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from kandinsky_export.checkpoints.checkpoint import Form
from kandinsky_export.checkpoints.prior_checkpoint import PRIOR_MODELS, WEIGHT_STEMS
from kandinsky_export.checkpoints.tokenizer_files import FILES, TokenizerFiles, read_tokenizer
from kandinsky_export.errors import CheckpointError
from kandinsky_export.folders import new_folder
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.configs import published, sized
from kandinsky_export.random_weights.sample_checkpoint import (
    INDEX,
    model_index,
    seeded_weights,
    write_json,
    write_weights,
)
from kandinsky_export.random_weights.vocabulary import small_vocabulary
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.progress import ProgressBar

_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def write_sample_prior(
    out: Path,
    *,
    size: str = "tiny",
    seed: int = 0,
    form: Form = "ppdiffusers",
    vocabulary: Path | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write a prior whose values depend on (seed, tensor name) only.

    Args:
        out: the new folder.
        size: "tiny" or "full". A tiny text encoder has as many tokens as the vocabulary, a full one as published.
        seed: of the values.
        form: "ppdiffusers" (.pdparams) or "diffusers" (.safetensors).
        vocabulary: a tokenizer's folder; None for a small vocabulary made here.
        changes: settings that differ from the sized configs, by "text_encoder", "image_encoder", "prior" and
            "scheduler".
        overwrite: replace `out`.
        progress: show a bar.

    Raises:
        CheckpointError: ppdiffusers cannot build such a model, or the vocabulary cannot be used.
        UsageError: there is no such size or form, or `out` is invalid.
        ExportError: `out` cannot be written.
    """
    if form not in get_args(Form):
        raise UsageError(f"there is no form {form!r}; choose from {', '.join(get_args(Form))}")
    given = None if vocabulary is None else _given_tokenizer(vocabulary)
    tokens = len(small_vocabulary().tokens) if given is None else given.size
    changed = changes or {}
    configs = {name: sized(name, size) for name in PRIOR_MODELS}
    configs["text_encoder"] |= {"vocab_size": tokens} if size == "tiny" else {}
    configs = {name: config | dict(changed.get(name, {})) for name, config in configs.items()}
    if tokens > configs["text_encoder"]["vocab_size"]:
        raise UsageError(
            f"{vocabulary} has {tokens} tokens; the text encoder takes up to {configs['text_encoder']['vocab_size']}"
        )
    built = build_models(configs, f"{size} prior")
    models = {name: expected_tensors(model) for name, model in built.items()}
    total = sum(4 * math.prod(item.shape) for tensors in models.values() for item in tensors.values())
    with (
        new_folder(out, marker=INDEX, overwrite=overwrite) as folder,
        ProgressBar(total=total, unit="B", unit_scale=True, desc="writing weights", disable=not progress) as bar,
    ):
        for name, expected in models.items():
            (folder / name).mkdir()
            write_json(folder / name / "config.json", configs[name])
            weights = seeded_weights(seed, name, expected, form, bar)
            write_weights(folder / name, weights, form, WEIGHT_STEMS[name])
        for name in ("scheduler", "image_processor", "tokenizer"):
            (folder / name).mkdir()
        scheduler = sized("prior_scheduler", size) | dict(changed.get("scheduler", {}))
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        write_json(folder / "image_processor" / "preprocessor_config.json", sized("image_processor", size))
        _write_tokenizer(folder / "tokenizer", given)
        write_json(folder / INDEX, model_index(published("prior_model_index"), form))


def _given_tokenizer(folder: Path) -> TokenizerFiles:
    faults: list[str] = []
    tokenizer = read_tokenizer(folder, faults)
    if tokenizer is None or faults:
        raise CheckpointError(str(folder), faults)
    return tokenizer


def _write_tokenizer(folder: Path, given: TokenizerFiles | None) -> None:
    if given is None:
        made = small_vocabulary()
        write_json(folder / FILES["vocabulary"], made.ids())
        (folder / FILES["merges"]).write_text(made.merges_text(), encoding="utf-8")
    else:
        given.write(folder)
    config = published("tokenizer")
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {key: config[key] for key in _SPECIAL_TOKENS})
