"""LoRA files as diffusers' training scripts save them, and what diffusers makes of them.

    python -m scripts.goldens.lora checkpoints FOLDER           with the exporter's environment
    python -m scripts.goldens.lora run FOLDER tests/golden      with torch, diffusers and peft

The second command writes the folder lora: the files, `images.npz` with the pictures of a decoder with each file loaded,
and `prior.npz` with the weights of a prior into which diffusers merged its file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from scripts.goldens import trajectories

CASE = "two_blocks"
STEPS = 3
RANK = 4
SCALES = {"peft": 1.0, "processors": 0.5}  # file → the scale that it is loaded with
PRIOR_SCALE = 1.5
PRIOR_CHANGES = {
    "text_encoder": {"num_hidden_layers": 1},
    "image_encoder": {"num_hidden_layers": 1},
    "prior": {"num_layers": 1},
}
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def write_checkpoints(folder: Path) -> None:
    """Write the decoder and the prior in diffusers' form."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    folder.mkdir(parents=True, exist_ok=True)
    changes = trajectories.CASES[CASE].changes
    write_sample_checkpoint(folder / "decoder", seed=trajectories.SEED, form="diffusers", changes=changes)
    write_sample_prior(folder / "prior", seed=trajectories.SEED, form="diffusers", changes=PRIOR_CHANGES)


def _pipeline(folder: Path) -> Any:
    import diffusers

    return diffusers.KandinskyV22InpaintPipeline(
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        movq=diffusers.VQModel.from_pretrained(folder / "movq"),
        scheduler=diffusers.DDPMScheduler.from_pretrained(folder / "scheduler"),
    )


def _image(pipeline: Any, folder: Path) -> Any:
    import torch

    pipeline.set_progress_bar_config(disable=True)
    embeds = np.load(folder / "image_embeds.npz")
    return pipeline(
        **{key: torch.from_numpy(embeds[key]) for key in embeds.files},
        image=trajectories.picture(),
        mask_image=trajectories.mask(),
        height=trajectories.HEIGHT,
        width=trajectories.WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=trajectories.GUIDANCE_SCALE,
        generator=torch.Generator("cpu").manual_seed(trajectories.SEED),
        output_type="np",
    ).images.astype(np.float32)


def _save_peft(unet: Any, folder: Path) -> None:
    """As today's training scripts save: peft's adapter, with its settings in the file's metadata.

    Not with `convert_state_dict_to_diffusers`: it renames the attentions' layers only, and diffusers then loads some of
    the two kinds of names.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    layers = [*_ATTENTION, "add_k_proj", "add_v_proj", "linear_1", "conv_in"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers))
    torch.manual_seed(trajectories.SEED)
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        weight_name="peft.safetensors",
        **_collate_lora_metadata({"unet": unet}),
    )


def _save_processors(model: Any, path: Path, prefix: str) -> None:
    """As the Kandinsky 2.2 scripts saved while LoRA was an attention processor."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(trajectories.SEED)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(_ATTENTION):
            attention, part = name.removesuffix(".0").rsplit(".", 1)
            key = f"{prefix}{attention}.processor.{part}_lora"
            tensors[f"{key}.down.weight"] = torch.randn(RANK, module.in_features) / RANK
            tensors[f"{key}.up.weight"] = 0.1 * torch.randn(module.out_features, RANK)
    save_file(tensors, path, metadata={"format": "pt"})


def run(checkpoints: Path, golden: Path) -> None:
    """Save the files, load them with diffusers, and write what comes out."""
    import diffusers
    import torch

    golden.mkdir(parents=True, exist_ok=True)
    _save_peft(_pipeline(checkpoints / "decoder").unet, golden)
    _save_processors(_pipeline(checkpoints / "decoder").unet, golden / "processors.safetensors", "unet.")
    images = {"without": _image(_pipeline(checkpoints / "decoder"), checkpoints / "decoder")}
    for name, scale in SCALES.items():
        pipeline = _pipeline(checkpoints / "decoder")
        # Given the file's own path, diffusers takes it for a pickle first, and loses the settings in its metadata.
        file = {"pretrained_model_name_or_path_or_dict": golden, "weight_name": f"{name}.safetensors"}
        pipeline.unet.load_lora_adapter(**file, prefix="unet", adapter_name="lora")
        pipeline.unet.set_adapters("lora", weights=scale)
        images[name] = _image(pipeline, checkpoints / "decoder")
    versions = np.array([diffusers.__version__, torch.__version__])
    np.savez_compressed(golden / "images.npz", versions=versions, **images)

    prior = diffusers.PriorTransformer.from_pretrained(checkpoints / "prior" / "prior")
    _save_processors(prior, golden / "prior.safetensors", "")
    prior.load_lora_adapter(str(golden / "prior.safetensors"), prefix=None)
    prior.fuse_lora(lora_scale=PRIOR_SCALE)
    prior.unload_lora()
    merged = {
        name: parameter.detach().numpy() for name, parameter in prior.named_parameters() if name.endswith(".weight")
    }
    changed = {name: array for name, array in merged.items() if ".attn1." in name}
    np.savez_compressed(golden / "prior.npz", versions=versions, **changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("checkpoints", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path, nargs="?")
    args = parser.parse_args()
    if args.what == "checkpoints":
        write_checkpoints(args.folder)
    else:
        run(args.folder, args.golden / "lora")


if __name__ == "__main__":
    main()
