"""Begin a stage from exported checkpoints, such as those that come with the package, instead of random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from scripts.training.command import StageError, refuse_state
from scripts.training.tokenizer import MAX_LENGTH, TRAINED_LENGTH

DECODER, PRIOR = "decoder-inpaint", "prior"
_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def start_from(model: nn.Module, checkpoints: Path | None, state: Path, folder: str, prefix: str = "") -> None:
    """Load the weights of a model of an export into a model, or into its part with a prefix.

    Args:
        model: the model to train.
        checkpoints: the folder of the export; None leaves the model as it is.
        state: the stage's folder, which must have no state yet: the stage would go on from that instead.
        folder: the model's folder in it, such as "decoder-inpaint/unet".
        prefix: the part's name with a dot at its end.

    Raises:
        StageError: the stage has a state, there is no such model, or its weights do not fit.
    """
    if checkpoints is None:
        return
    refuse_state(state)
    paths = [path for name in _NAMES if (path := checkpoints / folder / name).exists()]
    if not paths:
        raise StageError(
            f"--start {checkpoints}: {checkpoints / folder} has no {' or '.join(_NAMES)}; expected the folder of an"
            " export, such as export/kandinsky_export/drawn_cats"
        )
    weights = {prefix + name: value.float() for name, value in load_file(paths[0]).items()}
    own = model.state_dict()
    if "positional_embedding" in weights and weights["positional_embedding"].shape != own["positional_embedding"].shape:
        # The inverse of `prior.widen`: the last four positions stand behind the texts of training.
        wide = weights["positional_embedding"]
        weights["positional_embedding"] = torch.cat([wide[:, :TRAINED_LENGTH], wide[:, MAX_LENGTH:]], dim=1)
    if misfits := [name for name in own if name in weights and weights[name].shape != own[name].shape]:
        name = misfits[0]
        raise StageError(
            f"--start {checkpoints}: {len(misfits)} tensors of {paths[0]} have another shape: {name} is"
            f" {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        )
    model.load_state_dict({name: own[name] if name not in weights else weights[name] for name in own})
    print(f"begins from {paths[0]}: {sum(name in own for name in weights)} of {len(own)} tensors", flush=True)
