"""Begin a stage from exported checkpoints, such as those that come with the package, instead of random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from scripts.training.tokenizer import MAX_LENGTH, TRAINED_LENGTH

DECODER, PRIOR = "decoder-inpaint", "prior"
_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def start_from(model: nn.Module, checkpoints: Path | None, folder: str, prefix: str = "") -> None:
    """Load the weights of a model of an export into a model, or into its part with a prefix.

    Args:
        model: the model to train.
        checkpoints: the folder of the export; None leaves the model as it is.
        folder: the model's folder in it, such as "decoder-inpaint/unet".
        prefix: the part's name with a dot at its end.

    Raises:
        FileNotFoundError: there is no such model.
        RuntimeError: its weights do not fit.
    """
    if checkpoints is None:
        return
    paths = [path for name in _NAMES if (path := checkpoints / folder / name).exists()]
    if not paths:
        raise FileNotFoundError(f"{checkpoints / folder} has no {' or '.join(_NAMES)}")
    weights = {prefix + name: value.float() for name, value in load_file(paths[0]).items()}
    own = model.state_dict()
    if "positional_embedding" in weights and weights["positional_embedding"].shape != own["positional_embedding"].shape:
        # The inverse of `prior.widen`: the last four positions stand behind the texts of training.
        wide = weights["positional_embedding"]
        weights["positional_embedding"] = torch.cat([wide[:, :TRAINED_LENGTH], wide[:, MAX_LENGTH:]], dim=1)
    model.load_state_dict({name: own[name] if name not in weights else weights[name] for name in own})
    print(f"begins from {paths[0]}: {sum(name in own for name in weights)} of {len(own)} tensors", flush=True)
