"""Make up image embeddings that fit a bundle, for a demo without a prior: demo_embeds.py BUNDLE OUT.npz"""

from __future__ import annotations

import sys

import numpy as np

from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry

if __name__ == "__main__":
    bundle, out = sys.argv[1:]
    np.savez(out, **seeded_embeds(0, Geometry.of(Bundle.open(bundle).manifest).embed_width))
