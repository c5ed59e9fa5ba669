"""Sentences with choices and slots, as the comics and the recipes are written.

A frame such as "{HERO} [swings|leaps] over {PLACE}." stands for many sentences: one
word of each bracket is drawn, and each slot is filled from a cast. What came from a
slot is kept apart from what the frame says, so that a name can be tagged.
"""

import re
from collections.abc import Mapping
from random import Random

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"{(\w+)}")
Piece = tuple[str, str]  # text, and the slot that it fills or ""


def vary(rng: Random, frame: str) -> str:
    """Draws one of the words in each bracket.

    A slot may stand in a bracket, a bracket in a bracket may not.
    """
    return CHOICE.sub(lambda found: rng.choice(found[1].split("|")), frame)


def pieces(frame: str, slots: Mapping[str, str]) -> list[Piece]:
    """Cuts a frame without brackets into plain text and filled slots."""
    parts = SLOT.split(frame)
    return [
        (slots[part], part) if index % 2 else (part, "")
        for index, part in enumerate(parts)
        if part
    ]


def plain(found: list[Piece]) -> str:
    """Joins pieces to the text that they stand for."""
    return "".join(text for text, _ in found)
