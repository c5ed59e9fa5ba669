"""Entities in comics: heroes, villains, places and gadgets, tagged as IOB2.

A row is a panel or a part of one. The frames of dev and test occur in no training row
and not in the comics; the names of the test are in equal parts labelled in training,
read in the comics but never labelled, and new.
"""

import re
from random import Random

import make_comics
from phrases import Piece, plain

TYPES = make_comics.TYPES
SIZES = {"train": 2000, "dev": 300, "test": 600}
NAMES_OF = {
    "train": ("labelled",),
    "dev": ("labelled", "dev"),
    "test": ("labelled", "read", "new"),
}
KINDS = ("hero", "villain", "clash", "scene", "hero_says", "villain_says", "captions")
WEIGHTS = (4, 4, 4, 4, 3, 3, 2)
TOKEN = re.compile(r"\w+|[^\w\s]")
INK = re.compile(r"\W+")


def tagged(found: list[Piece]) -> tuple[list[str], list[str]]:
    """Cuts pieces into words and marks, each with its IOB2 tag."""
    tokens, tags = [], []
    for text, slot in found:
        for place, token in enumerate(TOKEN.findall(text)):
            tokens.append(token)
            inside = "I" if place else "B"
            tags.append(f"{inside}-{slot}" if slot in TYPES else "O")
    return tokens, tags


def draw(rng: Random, split: str) -> dict:
    """Draws one row: text, tokens, tags."""
    slots = make_comics.cast(rng, NAMES_OF[split])
    kinds = rng.choices(KINDS, WEIGHTS, k=rng.choice((1, 2, 2, 3)))
    found: list[Piece] = []
    for kind in dict.fromkeys(kinds):
        if found:
            found.append((" ", ""))
        if rng.random() < 0.2:
            found.append((make_comics.sound(rng) + " ", ""))
        found += make_comics.sentence(rng, kind, slots, split)
    tokens, tags = tagged(found)
    return {"text": plain(found), "tokens": tokens, "tags": tags}


def rows(split: str) -> list[dict]:
    """Returns a split's rows, each with an entity, none of them twice."""
    rng, kept = Random(f"entities {split}"), {}
    while len(kept) < SIZES[split]:
        row = draw(rng, split)
        if set(row["tags"]) != {"O"}:
            kept.setdefault(INK.sub("", row["text"].casefold()), row)
    return list(kept.values())
