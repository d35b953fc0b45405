"""Arrays and files that other programs made; `scripts/regen_goldens` makes them again."""

from pathlib import Path

GOLDEN = Path(__file__).parent
