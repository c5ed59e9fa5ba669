"""The tone task: is a remark irony, sarcasm, or literal?

A text tells a situation and what somebody said about it. The tone follows from three
things that must be read: whether the situation is good or bad, whether the remark's
words are kind or harsh, and whether they are about a person. Words that fit are
literal; words that do not are irony, or sarcasm where they are about a person.
"""

from random import Random

import world
from world import NAMES, choose_by_frame

LABELS = ("irony", "sarcasm", "literal")
SIZES = {"train": 6000, "dev": 600, "test": 1200, "unseen": 600}
AIM = {"irony": "thing", "sarcasm": "person"}


def draw(rng: Random, split: str, number: int) -> dict[str, str]:
    """Draws row `number` from a split's situations and remarks.

    Labels, and within a label moods and aims, take turns, so that they are balanced.
    """
    label = LABELS[number % 3]
    name, speaker = rng.sample(NAMES, 2)
    mood = ("good", "bad")[number // 3 % 2]
    fits = label == "literal"
    polarity = "kind" if (mood == "good") == fits else "harsh"
    aim = AIM.get(label) or ("thing", "person")[number // 6 % 2]
    event = world.event(rng, name, mood, split)
    remark = choose_by_frame(rng, POOLS[split, polarity, aim])["text"]
    text = world.carry(rng, event, remark, name=name, speaker=speaker)
    return {"text": text, "label": label}


POOLS = {
    (split, polarity, aim): world.select(
        world.REMARKS, split=split, polarity=polarity, aim=aim
    )
    for split in SIZES
    for polarity in ("kind", "harsh")
    for aim in ("person", "thing")
}


def rows(split: str, count: int | None = None) -> list[dict[str, str]]:
    """Returns a split's rows, the labels in equal number, without any text twice."""
    rng, found, seen = Random(f"irony {split}"), [], set()
    wanted = SIZES[split] if count is None else count
    while len(found) < wanted:
        row = draw(rng, split, len(found))
        if row["text"] not in seen:
            seen.add(row["text"])
            found.append(row)
    rng.shuffle(found)
    return found
