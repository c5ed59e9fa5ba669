"""Instruction data: tasks in clusters, each row with an instruction of its own.

Training rows use the training wordings of 28 tasks in 8 clusters, alone or two in one.
The test sets change one thing each: new rows, new wordings, pairs of instructions never
seen together, and the tasks of two clusters that no training row comes from.
"""

import re
from itertools import permutations
from random import Random

import world
from world import FAMILIES, HELD_CLUSTERS, TASKS, WORDINGS, Example, fill

TRAIN_ROWS = 14_000
TEST_ROWS = {
    "new_rows": 560,
    "new_wordings": 560,
    "new_combinations": 400,
    "held_out": 360,
}
UNKNOWN_SHARE = 0.19  # of the questions that can be open; 5% of all rows
PAIR_SHARE = 0.2
TOGETHER = (
    "{one} {two}",
    "Do two things. {one} {two}",
    "{one} And then: {two}",
    "First: {one} Next: {two}",
    "Say two things. {one} {two}",
)


def cluster(task: str) -> str:
    """Returns the cluster a task belongs to."""
    return WORDINGS[task]["cluster"]


TRAINED = [task for task in TASKS if cluster(task) not in HELD_CLUSTERS]
HELD = [task for task in TASKS if cluster(task) in HELD_CLUSTERS]


def held_pairs() -> set[tuple[str, str]]:
    """Returns the pairs of tasks, in both orders, that only the test asks together.

    Each task of a held pair occurs in training in other pairs, first and second.
    """
    rng, held = Random("held pairs"), set()
    for tasks in FAMILIES.values():
        if len(tasks) > 3:
            ring = list(tasks)
            rng.shuffle(ring)
            for one, two in zip(ring, ring[1:] + ring[:1], strict=True):
                held |= {(one, two), (two, one)}
    return held


HELD_PAIRS = held_pairs()
ALL_PAIRS = [pair for tasks in FAMILIES.values() for pair in permutations(tasks, 2)]
TRAIN_PAIRS = [pair for pair in ALL_PAIRS if pair not in HELD_PAIRS]


NOT_TOLD = ": it cannot be told from the text."
TAKEN_UP = dict.fromkeys(world.CAN_BE_UNKNOWN, "{name}") | {
    "who_has": "The {thing}",
    "colour": "The {object}",
    "who_where": "In the {place}",
    "who_said": '"{Said}."',
}
"""How an answer begins that cannot be given; it takes up what was asked for, as others
do. Said at once, it would need to be decided before the text was searched for it."""


def say(task: str, example: Example) -> str:
    """Returns the answer as a sentence."""
    if example.answer == world.UNKNOWN:
        return fill(TAKEN_UP[task], example.slots) + NOT_TOLD
    return world.say(task, example)


def single(rng: Random, task: str, wordings: str, *, lexicon: str) -> dict:
    """Draws one row of one task."""
    text, (example,) = world.draw_together(
        rng, [task], unknown=UNKNOWN_SHARE, split=lexicon
    )
    wording = rng.choice(WORDINGS[task][wordings])
    return {
        "instruction": fill(wording, example.slots),
        "input": text,
        "output": say(task, example),
        "task": task,
        "cluster": cluster(task),
    }


def pair(rng: Random, tasks: tuple[str, str], wordings: str = "train") -> dict:
    """Draws one row that asks two things of one text, answered in order."""
    text, examples = world.draw_together(rng, list(tasks))
    asked = [
        fill(rng.choice(WORDINGS[task][wordings]), example.slots)
        for task, example in zip(tasks, examples, strict=True)
    ]
    return {
        "instruction": rng.choice(TOGETHER).format(one=asked[0], two=asked[1]),
        "input": text,
        "output": " ".join(map(say, tasks, examples)),
        "task": "+".join(tasks),
        "cluster": "pairs",
    }


def draw(rng: Random, split: str, number: int) -> dict:
    """Draws row `number` of a split; tasks take turns, so that they are balanced."""
    if split == "train" and rng.random() < PAIR_SHARE:
        return pair(rng, rng.choice(TRAIN_PAIRS))
    if split == "new_combinations":
        return pair(rng, sorted(HELD_PAIRS)[number % len(HELD_PAIRS)])
    tasks = HELD if split == "held_out" else TRAINED
    wordings = "held" if split in ("new_wordings", "held_out") else "train"
    task = tasks[number % len(tasks)]
    lexicon = "train" if split == "train" else "test"
    return single(rng, task, wordings, lexicon=lexicon)


def told(row: dict) -> str:
    """Returns what a row is about: its text, or its question, without the names."""
    return NAMED.sub("-", row["input"] or row["instruction"])


NAMED = re.compile(r"\b(?:" + "|".join(world.NAMES) + r")\b")


def splits() -> dict[str, list[dict]]:
    """Returns every split; no row of one has the text or the question of another.

    The tests are drawn first and the training rows keep clear of their texts, told of
    whomever, so that a test asks about a text that training never showed. `kind_of`
    has no text: there a word is asked for in other wordings.
    """
    found, taken = {}, set()
    for split, count in {**TEST_ROWS, "train": TRAIN_ROWS}.items():
        rng, rows, own = Random(f"instructions {split}"), [], set()
        while len(rows) < count:
            row = draw(rng, split, len(rows))
            asked = (row["instruction"], row["input"])
            if told(row) in taken or asked in own:
                continue
            own.add(asked)
            rows.append(row)
        taken |= {told(row) for row in rows}
        rng.shuffle(rows)
        found[split] = rows
    return {"train": found.pop("train"), **found}
