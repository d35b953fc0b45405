"""Golden trajectories of schedulers loaded from another scheduler's config, as after a swap before saving.

    python -m scripts.goldens.swapped_schedulers tests/golden

writes swapped_schedulers.npz. For every scheduler class that diffusers offers in place of DDPM, it has the config that
diffusers saves, and the last latents of each scheduler that diffusers loads from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from scripts.goldens.schedulers import DIFFUSERS_CLASSES, LATENT, Case, _trajectory

METHODS = tuple(method for method in DIFFUSERS_CLASSES if method != "unclip")  # the prior's is never swapped
STEPS = 5
_DISTILLED = ("LCMScheduler", "TCDScheduler")  # swapped in with the LoRA of a distilled model


def case(config: dict[str, Any], method: str) -> Case:
    """The trajectory of a scheduler loaded from a saved config."""
    return Case(method, STEPS, tuple(config.items()))


def _saved_configs() -> dict[str, dict[str, Any]]:
    """The config that each class saves that diffusers itself offers in place of DDPM."""
    import diffusers

    shipped = {"num_train_timesteps": 1000, "beta_schedule": "linear", "prediction_type": "epsilon", **LATENT}
    configs = {}
    for name in sorted(name for name in dir(diffusers) if name.endswith("Scheduler")):
        swapped = getattr(diffusers, name)
        offered = name in _DISTILLED or "DDPMScheduler" in getattr(swapped, "_compatibles", ())
        if not offered or "Video" in name:
            continue
        try:
            configs[name] = json.loads(swapped.from_config(shipped).to_json_string())
        except ImportError:
            continue  # it needs a package that is not there
    return configs


def main() -> None:
    """Write the file to the folder given on the command line."""
    import diffusers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the file to")
    folder: Path = parser.parse_args().folder
    diffusers.utils.logging.set_verbosity_error()
    arrays: dict[str, Any] = {"versions": np.array(f"diffusers {diffusers.__version__}")}
    for name, config in _saved_configs().items():
        arrays[f"{name} config"] = np.array(json.dumps(config))
        for method in METHODS:
            try:
                arrays[f"{name} {method}"] = _trajectory(case(config, method))["wholes"][-1]
            except (AssertionError, ValueError, NotImplementedError) as error:
                arrays[f"{name} {method} refused"] = np.array(str(error).split("\n")[0])
    np.savez_compressed(folder / "swapped_schedulers.npz", **arrays)


if __name__ == "__main__":
    main()
