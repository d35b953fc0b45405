"""The folder of a prior, `kandinsky-2-2-prior`: three models, a tokenizer, and how pictures are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kandinsky_export.checkpoints.checkpoint import Checkpoint, read_config, read_folder, read_models
from kandinsky_export.checkpoints.other_models import refuse_others
from kandinsky_export.checkpoints.tokenizer_files import TokenizerFiles, read_tokenizer
from kandinsky_export.errors import CheckpointError

# Each model and how the name of its safetensors file begins: transformers' models have another than diffusers'.
WEIGHT_STEMS: Mapping[str, str] = {
    "text_encoder": "model",
    "image_encoder": "model",
    "prior": "diffusion_pytorch_model",
}
PRIOR_MODELS = tuple(WEIGHT_STEMS)
# A combined pipeline's folder is a decoder's, and in it the prior's folders have this before their names.
COMBINED_PREFIX = "prior_"
# Folders of the checkpoint, as they are requested from a hub.
PRIOR_FOLDERS = (*PRIOR_MODELS, "tokenizer", "image_processor")

_IMAGE_PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class PriorCheckpoint(Checkpoint):
    """A prior's folder.

    Attributes:
        components: "text_encoder", "image_encoder" and "prior".
        scheduler: the config of the prior's scheduler.
        tokenizer: the tokenizer's files and config.
        image_processor: the config of the picture encoder's preprocessing.
    """

    lora_model: ClassVar[str] = "prior"

    tokenizer: TokenizerFiles
    image_processor: dict[str, Any]

    @classmethod
    def open(cls, root: Path, variant: str | None = None) -> PriorCheckpoint:
        """Find the configs, weight files and tokenizer files of a prior.

        Args:
            root: the folder, with `text_encoder`, `image_encoder`, `prior`, `tokenizer`, `image_processor` and
                `scheduler` in it; or the folder of diffusers' combined pipeline, with `prior_prior` and so on.
            variant: of the weight files, such as "fp16"; None takes the plain ones, or the only variant there is.

        Raises:
            CheckpointError: lists every config, weight file and tokenizer file that is missing or cannot be read.
        """
        faults: list[str] = []
        with read_folder(root):
            refuse_others(root, str(root), prior=True)
            prefix = COMBINED_PREFIX if (root / f"{COMBINED_PREFIX}prior").is_dir() else ""
            scheduler = read_config(root / f"{prefix}scheduler" / "scheduler_config.json", faults)
            components = read_models(root, WEIGHT_STEMS, variant, faults, prefix)
            tokenizer = read_tokenizer(root / f"{prefix}tokenizer", faults)
            image_processor = read_config(root / f"{prefix}image_processor" / _IMAGE_PROCESSOR, faults)
        if faults or tokenizer is None:
            raise CheckpointError(str(root), faults)
        return cls(root, components, scheduler, tokenizer, image_processor, prefix=prefix)

    def files(self) -> tuple[Path, ...]:
        """Every file that the checkpoint is read from."""
        image_processor = self.root / f"{self.prefix}image_processor" / _IMAGE_PROCESSOR
        return (*super().files(), *self.tokenizer.read, image_processor)
