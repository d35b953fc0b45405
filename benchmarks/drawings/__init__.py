"""The drawn world: cartoon cats and things in and around them, from a seed, with captions and boxes.

`random_scene` draws lots for everything in a scene; `draw` turns a scene into a picture and the boxes of its things.
The same cat without its hat is `dataclasses.replace(scene, hat=None)`. Needs numpy and Pillow only.
"""

from benchmarks.drawings.captions import caption_of, facts_of_caption, facts_of_scene, words
from benchmarks.drawings.drawing import Drawing, box_above_eyes, draw
from benchmarks.drawings.scene import HATS, THINGS, Scene, Style, Thing, random_scene

__all__ = [
    "HATS",
    "THINGS",
    "Drawing",
    "Scene",
    "Style",
    "Thing",
    "box_above_eyes",
    "caption_of",
    "draw",
    "facts_of_caption",
    "facts_of_scene",
    "random_scene",
    "words",
]
