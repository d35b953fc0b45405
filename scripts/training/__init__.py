"""Training of the small drawn checkpoint: one module for each stage, run by scripts/train."""
