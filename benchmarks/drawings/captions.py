"""Captions, in words that people type, and what they state about a scene.

A fact is a short string. A thing has up to three: "hat", "red hat", "red top hat". A scene has the facts that hold in
it; a caption has the facts that it states. A caption is true of a scene if the scene's facts include the caption's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np

from benchmarks.drawings.palette import COATS, MOON_COLOURS, THING_COLOURS
from benchmarks.drawings.scene import HATS, OUTDOORS, PLACES, SIDES, THINGS, Scene, Style

_WORN = ("hat", "glasses", "bow tie")
# What captions call a kind of hat; "hat" alone is any of them.
_HAT_WORDS = {
    "top hat": ("top hat",),
    "party hat": ("party hat",),
    "beanie": ("beanie", "woolly hat"),
    "crown": ("crown",),
}
_PLACE_WORDS = {
    "meadow": ("in a meadow", "in the grass", "on a green hill"),
    "night": ("at night", "under the stars"),
    "beach": ("on the beach", "by the sea"),
    "room": ("in a room", "at home", "indoors"),
    "plain": (),
}
# Other poses, such as the judge's own, have no word: another one would change the tokenizer of trained models.
_POSE_WORDS = {"sitting": ("sitting",), "lying": ("lying", "lying down"), "standing": ("standing",)}
_PATTERN_WORDS = {
    "tabby": ("tabby", "striped"),
    "spotted": ("spotted",),
    "tuxedo": ("tuxedo",),
    "siamese": ("siamese",),
}
_COAT_WORDS = {"grey": ("grey", "gray"), "ginger": ("ginger", "orange")}
_OPENINGS = ("", "", "", "a drawing of ", "a picture of ", "a cartoon of ")


def facts_of_scene(scene: Scene) -> set[str]:
    """Return every fact that holds in the scene."""
    coat = scene.coat
    facts = {"cat", f"{coat.colour} cat", f"{coat.pattern} cat", f"{coat.colour} {coat.pattern} cat"}
    facts |= {f"pose {scene.pose}", f"place {scene.place}"}
    for name in THINGS:
        thing = scene.thing(name)
        if thing is None:
            facts.add(f"no {name}")
            continue
        facts |= {name, f"{thing.colour} {name}"}
        if name == "hat":
            facts |= {thing.kind, f"{thing.colour} {thing.kind}"}
        if thing.side is not None:
            facts |= {f"{name} {thing.side}", f"{thing.colour} {name} {thing.side}"}
    return facts


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption that is true of the scene; it names some of what is there."""
    present = [name for name in THINGS if scene.thing(name) is not None]
    absent = [name for name in ("hat", "glasses", "bow tie", "balloon") if scene.thing(name) is None]
    chance = rng.uniform()
    if chance < 0.30 and present:
        # One thing alone: "a red hat", "red hat", "a yellow moon in the sky".
        name = "hat" if "hat" in present and rng.uniform() < 0.4 else present[rng.integers(len(present))]
        phrase = _thing_phrase(scene, name, rng)
        if rng.uniform() < 0.2:
            phrase = re.sub(r"^an? |^the ", "", phrase)
        return (_OPENINGS[rng.integers(len(_OPENINGS))] if phrase.startswith("a") else "") + phrase
    if chance < 0.38 and absent:
        name = "hat" if "hat" in absent and rng.uniform() < 0.6 else absent[rng.integers(len(absent))]
        return f"no {name}"
    caption = _OPENINGS[rng.integers(len(_OPENINGS))] + _cat_phrase(scene, rng)
    if absent and rng.uniform() < 0.12:
        name = "hat" if "hat" in absent else absent[rng.integers(len(absent))]
        caption += f" without {'' if name == 'glasses' else 'a '}{name}" if rng.uniform() < 0.7 else f" with no {name}"
        present = []
    worn = [name for name in present if name in _WORN]
    around = [name for name in present if name not in _WORN]
    rng.shuffle(worn)
    rng.shuffle(around)
    named = worn[: rng.integers(1, 4)] if worn else []
    if named and rng.uniform() < 0.85:
        phrases = [_thing_phrase(scene, name, rng) for name in named]
        caption += f" {('with', 'with', 'wearing')[rng.integers(3)]} " + " and ".join(phrases)
    else:
        named = []
    if scene.place != "plain" and rng.uniform() < 0.3:
        options = _PLACE_WORDS[scene.place]
        caption += f" {options[rng.integers(len(options))]}"
    named_around = around[: rng.integers(0, 3)]
    if named_around:
        joint = " and " if named else (" and ", " with ")[rng.integers(2)]
        caption += joint + " and ".join(_thing_phrase(scene, name, rng) for name in named_around)
    return caption


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _cat_phrase(scene: Scene, rng: np.random.Generator) -> str:
    coat, parts = scene.coat, []
    if rng.uniform() < 0.15:
        parts += _POSE_WORDS.get(scene.pose, ())[:1]
    if rng.uniform() < 0.55:
        names_pattern = coat.pattern != "plain" and rng.uniform() < 0.75
        if not names_pattern or rng.uniform() < 0.5:
            options = _COAT_WORDS.get(coat.colour, (coat.colour,))
            if coat.pattern not in ("tuxedo", "siamese"):
                parts.append(options[rng.integers(len(options))])
        if names_pattern:
            options = _PATTERN_WORDS[coat.pattern]
            parts.append(options[rng.integers(len(options))])
    return _article(" ".join([*parts, "cat"]))


def _thing_phrase(scene: Scene, name: str, rng: np.random.Generator) -> str:
    thing = scene.thing(name)
    if thing is None:
        raise ValueError(f"the scene has no {name}")
    word = name
    if name == "hat":
        # A crown is called a hat only now and then.
        general = 0.10 if thing.kind == "crown" else 0.35
        if rng.uniform() > general:
            options = _HAT_WORDS[thing.kind]
            word = options[rng.integers(len(options))]
    if rng.uniform() < 0.8:
        word = f"{thing.colour} {word}"
    phrase = word if name == "glasses" else _article(word)
    if name == "moon" and not word.startswith(tuple(THING_COLOURS)) and rng.uniform() < 0.5:
        phrase = "the moon"
    if thing.side is not None:
        chance = rng.uniform()
        if chance < 0.15:
            phrase += f" on the {thing.side}"
        elif chance < 0.35 and name in ("balloon", "moon") and scene.place in OUTDOORS:
            phrase += " in the sky"
    return phrase


_ALIASES = {
    "woolly hat": "beanie", "striped": "tabby", "gray": "grey", "orange": "ginger", "lying down": "lying",
}  # fmt: skip
_NAMES = sorted({*THINGS, *HATS}, key=len, reverse=True)


def facts_of_caption(caption: str) -> set[str]:
    """Return the facts that a caption states.

    Raises:
        ValueError: a word that the grammar does not have.
    """
    text = f" {caption.lower().strip()} "
    for opening in filter(None, _OPENINGS):
        text = text.replace(f" {opening}", " ")
    for alias, word in _ALIASES.items():
        text = text.replace(f" {alias} ", f" {word} ")
    facts: set[str] = set()
    for place, phrases in _PLACE_WORDS.items():
        for phrase in phrases:
            if f" {phrase} " in text:
                text = text.replace(f" {phrase} ", " ")
                facts.add(f"place {place}")
    text = text.replace(" in the sky ", " ")
    colours, names, coats = "|".join(THING_COLOURS), "|".join(_NAMES), "|".join(sorted({c.colour for c in COATS}))
    patterns, poses = "|".join(_PATTERN_WORDS), "|".join(_POSE_WORDS)
    negation = re.compile(rf" (?:no|with no|without|without an?) ({names}) ")
    while found := negation.search(text):
        name = "hat" if found[1] in HATS else found[1]
        facts.add(f"no {name}")
        text = text[: found.start()] + " " + text[found.end() :]
    cat = re.compile(rf" (?:an? |the )?(?:({poses}) )?(?:({coats}) )?(?:({patterns}) )?cat ")
    if found := cat.search(text):
        pose, colour, pattern = found.groups()
        facts.add("cat")
        facts |= {f"pose {pose}"} if pose else set()
        facts |= {f"{' '.join(filter(None, (colour, pattern)))} cat"} if colour or pattern else set()
        text = text[: found.start()] + " " + text[found.end() :]
    thing = re.compile(rf" (?:an? |the )?(?:({colours}) )?({names}) (?:on the ({'|'.join(SIDES)}) )?")
    while found := thing.search(text):
        colour, name, side = found.groups()
        facts.add(" ".join(filter(None, (colour, name, side))))
        text = text[: found.start()] + " " + text[found.end() :]
    if left := set(text.split()) - {"with", "wearing", "and"}:
        raise ValueError(f"caption {caption!r}: unknown words {', '.join(sorted(left))}")
    return facts


def all_facts(style: Style | None = None) -> list[str]:
    """Return every fact that a scene of a style can have, sorted; None is the style that models are trained on."""
    poses = (Style() if style is None else style).poses
    facts = {"cat", *(f"pose {p}" for p in poses), *(f"place {p}" for p in PLACES), *(f"no {t}" for t in THINGS)}
    for coat in COATS:
        facts |= {f"{coat.colour} cat", f"{coat.pattern} cat", f"{coat.colour} {coat.pattern} cat"}
    for name in (*THINGS, *HATS):
        colours: Iterable[str] = MOON_COLOURS if name == "moon" else THING_COLOURS
        facts |= {name, *(f"{colour} {name}" for colour in colours)}
        if name in ("balloon", "flower", "moon"):
            for side in SIDES:
                facts |= {f"{name} {side}", *(f"{colour} {name} {side}" for colour in colours)}
    return sorted(facts)


def words() -> list[str]:
    """Return every word that captions are made of, sorted."""
    phrases = itertools.chain(
        THING_COLOURS, _NAMES, SIDES, (coat.colour for coat in COATS), _PATTERN_WORDS, _POSE_WORDS, _ALIASES, _OPENINGS,
        *_PLACE_WORDS.values(),
        ("cat", "cats", "with", "wearing", "and", "no", "without", "an", "the", "on the", "in the sky"),
    )  # fmt: skip
    return sorted({word for phrase in phrases for word in phrase.split()})
