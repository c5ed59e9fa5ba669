"""The comics: strips told in words, with panels, captions, speech and sound words.

Heroes, villains, places and gadgets have names that the general text never uses. Who
is a hero and who a villain is told by nothing but what they do. Some names and some
frames are kept out, for `entities`.
"""

from collections.abc import Iterator, Mapping
from random import Random

import phrases
import world
from phrases import Piece

COMICS = world.read_json("comics.json")
TYPES = ("HERO", "VILLAIN", "PLACE", "GADGET")
KINDS = ("captions", "hero", "villain", "clash", "scene", "hero_says", "villain_says")
# share of each type's names: with labels in training, in the dev split, read in the
# comics and never labelled, or new: in the tests of `entities` and nowhere else
PARTS = {"labelled": 0.4, "dev": 0.1, "read": 0.25, "new": 0.25}
READ = ("labelled", "dev", "read")


def split_names(names: list[str], seed: str) -> dict[str, list[str]]:
    """Deals names out to the parts, each name to one of them."""
    order = sorted(names)
    Random(seed).shuffle(order)
    dealt, begin, upto = {}, 0, 0.0
    for part, portion in PARTS.items():
        upto += portion
        end = round(upto * len(order))
        dealt[part] = order[begin:end]
        begin = end
    return dealt


NAMES = {kind: split_names(COMICS[kind], f"names {kind}") for kind in TYPES}
FRAMES = [
    {"kind": kind, "gadget": "{GADGET}" in frame, "frame": frame}
    for kind in KINDS
    for frame in COMICS[kind]
]
# gadgets are the rarest type: each split gets its share of the frames that have one
world.split_frames(FRAMES, ("kind", "gadget"), 5)
FRAMES_OF = {
    (split, kind): [
        row["frame"] for row in world.select(FRAMES, split=split, kind=kind)
    ]
    for split in ("train", "dev", "test")
    for kind in KINDS
}


def cast(rng: Random, parts: tuple[str, ...] = ()) -> dict[str, str]:
    """Draws who and what a strip is about.

    Args:
        rng: the source of chance.
        parts: from which parts of the names, each equally likely; by default all
            names that the comics use are equally likely.
    """
    drawn = {"PERSON": rng.choice(world.NAMES)}
    for kind in TYPES:
        names = NAMES[kind]
        drawn[kind] = (
            rng.choice(names[rng.choice(parts)])
            if parts
            else rng.choice([name for part in READ for name in names[part]])
        )
    return drawn


def sentence(
    rng: Random, kind: str, slots: Mapping[str, str], split: str = "train"
) -> list[Piece]:
    """Draws a sentence of a kind about the cast, as plain text and names."""
    frame = phrases.vary(rng, rng.choice(FRAMES_OF[split, kind]))
    return phrases.pieces(frame, slots)


def sound(rng: Random) -> str:
    """Draws one or two sound words, as they stand in a panel."""
    words = rng.sample(COMICS["sounds"], rng.choice((1, 1, 2)))
    return " ".join(f"{word}!" for word in words)


def panel(rng: Random, slots: Mapping[str, str]) -> str:
    """Draws a panel: caption, what happens, a sound, and what is said."""
    told = []
    if rng.random() < 0.4:
        told.append(phrases.plain(sentence(rng, "captions", slots)))
    for kind in rng.sample(ACTION, rng.choice((1, 1, 2))):
        told.append(phrases.plain(sentence(rng, kind, slots)))
    if rng.random() < 0.5:
        told.insert(rng.randint(0, len(told)), sound(rng))
    if rng.random() < 0.6:
        kind = rng.choice(("hero_says", "villain_says"))
        told.append(phrases.plain(sentence(rng, kind, slots)))
    return " ".join(told)


ACTION = ("hero", "hero", "villain", "villain", "clash", "scene")


def strip(rng: Random) -> str:
    """Draws a strip of two to four panels, now and then with a title."""
    slots = cast(rng)
    lines = [
        f"{COMICS['panels'][number]}. {panel(rng, slots)}"
        for number in range(rng.randint(2, 4))
    ]
    if rng.random() < 0.4:
        title = phrases.vary(rng, rng.choice(COMICS["titles"]))
        lines.insert(0, phrases.plain(phrases.pieces(title, slots)))
    return "\n".join(lines)


def documents(count: int, *, seed: int) -> Iterator[str]:
    """Yields `count` strips; the same seed gives the same text."""
    rng = Random(f"comics {seed}")
    for _ in range(count):
        yield strip(rng)
