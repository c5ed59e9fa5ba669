"""The recipes: a domain that has nothing to do with comics, as their control.

They have words of their own, as the comics do, but nobody acts in them and nothing in
them has a name: whoever has read them knows no more about heroes and places.
"""

from collections.abc import Iterator
from random import Random

import phrases
import world

RECIPES = world.read_json("recipes.json")
SLOTS = {
    "dish": "dishes",
    "style": "styles",
    "vegetable": "vegetables",
    "protein": "proteins",
    "spice": "spices",
    "staple": "staples",
    "vessel": "vessels",
    "amount": "amounts",
    "time": "times",
}


def sentences(rng: Random, kind: str, dish: str, count: int = 1) -> str:
    """Draws different sentences of a kind; slots are drawn anew, the dish stays."""

    def filled(slot: str) -> str:
        return dish if slot == "dish" else rng.choice(RECIPES[SLOTS[slot]])

    frames = (phrases.vary(rng, one) for one in rng.sample(RECIPES[kind], count))
    return " ".join(
        phrases.SLOT.sub(lambda found: filled(found[1]), frame) for frame in frames
    )


def recipe(rng: Random) -> str:
    """Draws a recipe: title, what is needed, the steps, and a tip."""
    dish = rng.choice(RECIPES["dishes"])
    counts = {"first": (1, 2), "middle": (2, 3), "last": (1, 2)}
    lines = [
        world.upper_first(sentences(rng, "titles", dish)),
        f"{sentences(rng, 'yields', dish)} {sentences(rng, 'needs', dish)}",
    ]
    for kind, (few, many) in counts.items():
        lines.append(sentences(rng, kind, dish, rng.randint(few, many)))
    if rng.random() < 0.4:
        lines.append(sentences(rng, "tips", dish))
    return "\n".join(lines)


def documents(count: int, *, seed: int) -> Iterator[str]:
    """Yields `count` recipes; the same seed gives the same text."""
    rng = Random(f"recipes {seed}")
    for _ in range(count):
        yield recipe(rng)
