"""A messy file, as people have them: instruction rows with mistakes planted in them.

The sound rows are those of six tasks of the instruction data, as messages. Beside the
file stands a list of what was planted, with the doctor's rule that finds it. One kind
no rule finds: an answer cut off in the middle, which is for the reader to see.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

TASKS = ("where", "colour", "what_has", "reverse", "first", "twice")
ROWS = 400
SEED = "messy"
PASTED = 1_200  # words at least, pasted where a text should stand once
LONG = 20  # rows among which near-duplicates are drawn, the longest ones
REPEATED = ("duplicate", "near-duplicate")

Row = dict[str, str]
Messy = dict | str
# kind, the rule that finds it ("" for none), how many
KINDS: dict[str, tuple[str, int]] = {
    "blank answer": ("blank-content", 4),
    "missing column": ("not-converted", 2),
    "broken line": ("not-converted", 2),
    "unknown role": ("foreign-roles", 6),
    "duplicate": ("duplicates", 6),
    "near-duplicate": ("near-duplicates", 5),
    "leakage": ("leakage", 5),
    "template in the prompt": ("template-in-text", 5),
    "placeholder": ("placeholders", 3),
    "refusal": ("refusals", 4),
    "wrong encoding": ("encoding-damage", 4),
    "e-mail address": ("e-mail", 3),
    "secret key": ("secrets", 2),
    "card number": ("cards", 2),
    "too long": ("dropped-rows", 2),
    "cut answer": ("", 4),
}


def chat(asked: str, answer: str) -> dict:
    """Returns one exchange as messages."""
    roles = zip(("user", "assistant"), (asked, answer), strict=True)
    return {"messages": [{"role": who, "content": said} for who, said in roles]}


def asked(row: Row, before: str = "", after: str = "") -> str:
    """Returns an instruction and its text, with something put before or after."""
    return f"{before}{row['instruction']}\n\n{row['input']}{after}"


def sound(row: Row) -> dict:
    """Returns a row as it should be."""
    return chat(asked(row), row["output"])


def templated(row: Row) -> dict:
    """Returns a row with the marks of another template in its prompt."""
    text = f"### Instruction:\n{asked(row)}\n\n### Response:"
    return chat(text, row["output"])


def damaged(row: Row) -> dict:
    """Returns a row of UTF-8 that was read as Windows-1252."""
    polite = "Here’s a text – please read it. "
    broken = polite.encode("utf-8").decode("cp1252")
    return chat(asked(row, before=broken), row["output"])


def foreign(row: Row) -> dict:
    """Returns a row with the roles of another format."""
    names = {"user": "human", "assistant": "gpt"}
    turns = sound(row)["messages"]
    return {"messages": [turn | {"role": names[turn["role"]]} for turn in turns]}


def mended(before: str = "", after: str = "") -> Callable[[Row], dict]:
    """Returns what puts something before or after a question."""
    return lambda row: chat(asked(row, before=before, after=after), row["output"])


def answered(answer: str) -> Callable[[Row], dict]:
    """Returns what gives any question this answer."""
    return lambda row: chat(asked(row), answer)


def pasted(row: Row) -> dict:
    """Returns a row into which its text was pasted over and over."""
    times = -(-PASTED // len(row["input"].split()))
    return chat(asked(row, after=f" {row['input']}" * times), row["output"])


def cut(row: Row) -> dict:
    """Returns a row whose answer ends in the middle of a word."""
    return chat(asked(row), row["output"][: 2 * len(row["output"]) // 3].rstrip())


SPOILED: dict[str, Callable[[Row], Messy]] = {
    "blank answer": answered(" "),
    "missing column": lambda row: {"dialogue": sound(row)["messages"]},
    "broken line": lambda row: json.dumps(sound(row))[:-20],
    "unknown role": foreign,
    "template in the prompt": templated,
    "placeholder": mended(before="Dear {{first_name}}, "),
    "refusal": answered("I'm sorry, but as an AI language model I cannot say that."),
    "wrong encoding": damaged,
    "e-mail address": mended(after=" Write to lena.hart@post.harbour if in doubt."),
    "secret key": mended(after=" The key is AKIAQ7PLANTEDKEY4242."),
    "card number": mended(after=" It was paid with 4111 1111 1111 1111."),
    "duplicate": sound,
    "near-duplicate": mended(before="Please: "),
    "leakage": sound,
    "too long": pasted,
    "cut answer": cut,
}


def planted(fresh: Iterator[Row], early: list[Row], test: list[Row], rng: Random):
    """Yields each planted row with its kind.

    Args:
        fresh: rows that are used nowhere else.
        early: rows that stand in the first half of the file, to be repeated.
        test: rows of the test file.
        rng: draws among them.
    """
    long = sorted(early, key=lambda row: len(asked(row).split()))[-LONG:]
    short = [row for row in early if row not in long]
    sources = {
        "duplicate": rng.sample(short, KINDS["duplicate"][1]),
        "near-duplicate": rng.sample(long, KINDS["near-duplicate"][1]),
        "leakage": rng.sample(test, KINDS["leakage"][1]),
    }
    for kind, (_, count) in KINDS.items():
        for row in sources.get(kind) or islice(fresh, count):
            yield SPOILED[kind](row), kind


def files(splits: dict[str, list[Row]]) -> dict[str, list]:
    """Returns the rows of each file.

    Args:
        splits: those of the instruction data.
    """
    train, test = (
        [row for row in splits[name] if row["task"] in TASKS and row["input"]]
        for name in ("train", "new_rows")
    )
    rng, count = Random(SEED), ROWS - sum(count for _, count in KINDS.values())
    early = train[: count // 2]
    rows = [(sound(row), "") for row in train[:count]]
    for row, kind in planted(iter(train[count:]), early, test, rng):
        # A repetition stands behind what it repeats; the first rows are sound.
        first = len(rows) * 3 // 4 if kind in REPEATED else 10
        rows.insert(rng.randint(first, len(rows)), (row, kind))
    return {
        "rows": [row for row, _ in rows],
        "test": [sound(row) for row in test],
        "planted": [
            {"row": number, "mistake": kind, "rule": KINDS[kind][0]}
            for number, (_, kind) in enumerate(rows, 1)
            if kind
        ],
    }
