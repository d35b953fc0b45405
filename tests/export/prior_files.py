"""Priors as tests need them: the tiny one, and how its files are changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# One layer in each model: for tests that export many times.
MICRO_PRIOR: Mapping[str, Mapping[str, Any]] = {
    "text_encoder": {"num_hidden_layers": 1},
    "image_encoder": {"num_hidden_layers": 1},
    "prior": {"num_layers": 1},
}


def change_json(file: Path, **changes: Any) -> None:
    """Change settings of a config; None removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
