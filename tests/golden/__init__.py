"""Golden arrays and files, made by other programs; `scripts/regen_goldens` remakes them."""

from pathlib import Path

GOLDEN = Path(__file__).parent
