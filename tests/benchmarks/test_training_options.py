"""The stages of `scripts/train` take only the options that they use. Read as text: running them needs PyTorch."""

from __future__ import annotations

import pytest

from scripts.training.settings import ROOT

STAGES = ("pictures", "movq", "clip", "latents", "unet", "prior", "export", "sheet", "judge")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("option", ["threads", "minutes", "start"])
def test_a_stage_takes_a_shared_option_only_if_it_uses_it(stage: str, option: str) -> None:
    code = (ROOT / "scripts" / "training" / f"{stage}.py").read_text(encoding="utf-8")
    assert (f"add_{option}(options)" in code) == (f"args.{option}" in code)


def test_all_stages_are_looked_at() -> None:
    folder = ROOT / "scripts" / "training"
    having = {path.stem for path in folder.glob("*.py") if "parser(__doc__)" in path.read_text(encoding="utf-8")}
    assert having == set(STAGES)
