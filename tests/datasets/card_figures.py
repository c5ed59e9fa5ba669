"""The figures on the datasets' cards: sizes, and baselines that need no reading.

    python tests/datasets/card_figures.py           # prints them
    python tests/datasets/card_figures.py --write   # writes them into the cards

The baselines know the training rows. Some of the tone are also told one, two or
all of the three things that make a tone, and guess the label most frequent with them.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
for folder in (ROOT, Path(__file__).parent, DATASETS):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

MARKS = ("<!-- figures -->\n", "<!-- /figures -->")
CARDS = ("general", "irony", "instructions", "comics", "recipes", "entities")
CARDS += ("messy",)
Rows = list[dict[str, str]]


@cache
def rows(name: str) -> Rows:
    """Returns the rows of one file, such as `irony/train`."""
    text = (DATASETS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table, numbers to the right and with thousands marked."""
    shown = [
        [f"{c:,}" if isinstance(c, int) else str(c) for c in line] for line in lines
    ]
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in [list(head), rule, *shown])


def share(right: Sequence[bool]) -> str:
    """Returns a share in per cent with its 95% Wilson interval."""
    from helpers.statistics import wilson

    low, high = wilson(sum(right), len(right))
    return f"{sum(right) / len(right):.0%} ({100 * low:.0f} to {100 * high:.0f})"


def majority(
    known: Iterable[object], answers: Iterable[str]
) -> Callable[[object], str]:
    """Returns the rule that answers with what is most frequent beside what is known."""
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for key, answer in zip(known, answers, strict=True):
        counts[key][answer] += 1
        counts[None][answer] += 1
    best = {key: min(c, key=lambda a: (-c[a], a)) for key, c in counts.items()}
    return lambda key: best.get(key, best[None])


# --- tone -----------------------------------------------------------------------------

LABELS = ("irony", "sarcasm", "literal")
SHORTCUTS = {  # which of mood, polarity and aim a rule is told
    "most frequent label": (),
    "mood of the situation": (0,),
    "polarity of the remark": (1,),
    "aim of the remark": (2,),
    "mood and aim": (0, 2),
    "polarity and aim": (1, 2),
    "mood and polarity": (0, 1),
    "all three": (0, 1, 2),
}


@cache
def shortcut(name: str, split: str) -> list[bool]:
    """Returns which rows of a split a rule gets right that is told so much."""
    import oracle

    def known(part: str) -> list[tuple[str, ...]]:
        told = [oracle.read_tone(row["text"]) for row in rows(f"irony/{part}")]
        return [tuple(three[i] for i in SHORTCUTS[name]) for three in told]

    rule = majority(known("train"), (row["label"] for row in rows("irony/train")))
    labels = (row["label"] for row in rows(f"irony/{split}"))
    return [rule(key) == y for key, y in zip(known(split), labels, strict=True)]


@cache
def bag_of_words(split: str) -> list[bool]:
    """Returns which rows a logistic regression on words and word pairs gets right."""
    found = bag_model().predict([row["text"] for row in rows(f"irony/{split}")])
    labels = (row["label"] for row in rows(f"irony/{split}"))
    return [str(label) == y for label, y in zip(found, labels, strict=True)]


@cache
def bag_model() -> Pipeline:
    """Returns a fitted TF-IDF and logistic regression of scikit-learn's defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000)
    )
    train = rows("irony/train")
    return model.fit([r["text"] for r in train], [r["label"] for r in train])


TESTED = ("dev", "test", "unseen")


def irony() -> str:
    """Returns the tone card's figures."""
    splits = ("train", *TESTED, "written")
    sizes = []
    for split in splits:
        count = Counter(row["label"] for row in rows(f"irony/{split}"))
        sizes.append([split, sum(count.values()), *(count[label] for label in LABELS)])
    told = [
        [f"told: {name}" if SHORTCUTS[name] else name]
        + [share(shortcut(name, split)) for split in TESTED]
        + ["" if SHORTCUTS[name] else share([r["label"] == "irony" for r in written()])]
        for name in SHORTCUTS
    ]
    bag = [share(bag_of_words(split)) for split in (*TESTED, "written")]
    return (
        table(["split", "rows", *LABELS], sizes)
        + "\nAccuracy of the baselines, with 95% intervals:\n\n"
        + table(
            ["baseline", *TESTED, "written"],
            [*told, ["TF-IDF, logistic regression", *bag]],
        )
    )


def written() -> Rows:
    """Returns the rows that were written freely."""
    return rows("irony/written")


# --- instructions ---------------------------------------------------------------------

TESTS = ("new_rows", "new_wordings", "new_combinations", "held_out")


def by_task(split: str) -> list[bool]:
    """Returns which rows the most frequent training answer of their task gets right."""
    train = rows("instructions/train")
    rule = majority((r["task"] for r in train), (r["output"] for r in train))
    return [rule(r["task"]) == r["output"] for r in rows(f"instructions/{split}")]


def copied(split: str) -> list[bool]:
    """Returns which rows are answered by the input as it stands."""
    return [r["input"] == r["output"] for r in rows(f"instructions/{split}")]


@cache
def neighbours() -> tuple:
    """Returns a fitted TF-IDF and the training rows as vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(ngram_range=(1, 2))
    return vectors, vectors.fit_transform(prompts("train"))


def prompts(split: str) -> list[str]:
    """Returns instruction and input of each row."""
    return [f"{r['instruction']}\n{r['input']}" for r in rows(f"instructions/{split}")]


def nearest(split: str) -> list[bool]:
    """Returns which rows the answer of the most similar training row gets right."""
    vectors, known = neighbours()
    near = (vectors.transform(prompts(split)) @ known.T).argmax(axis=1)
    train = rows("instructions/train")
    answers = (train[int(index)]["output"] for index in near.ravel().tolist()[0])
    wanted = (row["output"] for row in rows(f"instructions/{split}"))
    return [a == b for a, b in zip(answers, wanted, strict=True)]


def instructions() -> str:
    """Returns the instruction card's figures."""
    sizes = []
    for split in ("train", *TESTS):
        found = rows(f"instructions/{split}")
        open_ended = sum("cannot be told" in row["output"] for row in found)
        tasks = {task for row in found for task in row["task"].split("+")}
        clusters = {row["cluster"] for row in found} - {"pairs"}
        pairs = sum(row["cluster"] == "pairs" for row in found)
        of = len(clusters) or "–"
        sizes.append([split, len(found), len(tasks), of, pairs, open_ended])
    baselines = {
        "most frequent answer of the task": by_task,
        "the input copied": copied,
        "answer of the nearest training row (TF-IDF)": nearest,
    }
    head = ["split", "rows", "tasks", "clusters", "two in one", "cannot be told"]
    measured = [
        [name, *(share(rule(split)) for split in TESTS)]
        for name, rule in baselines.items()
    ]
    return (
        table(head, sizes)
        + "\nExact match of the baselines, with 95% intervals:\n\n"
        + table(["baseline", *TESTS], measured)
    )


# --- the pre-training text ------------------------------------------------------------


def general() -> str:
    """Returns the figures of the pre-training text and of its lexicons."""
    import build
    import world

    held = [row["text"] for row in rows("general/heldout")]
    words = round(sum(len(text.split()) for text in held) / len(held))
    lines = []
    for name, key in (("situations", "mood"), ("remarks", "polarity")):
        found = getattr(world, name.upper())
        for value in dict.fromkeys(row[key] for row in found):
            of = [row for row in found if row[key] == value]
            frames = len({row["frame"] for row in of})
            counts = Counter(row["split"] for row in of)
            parts = [counts[split] for split in world.SPLITS]
            lines.append([f"{name}, {value}", frames, *parts])
    return (
        table(
            ["file", "documents"],
            [
                ["`sample.jsonl`", len(rows("general/sample"))],
                ["`practice_sample.jsonl`", len(rows("general/practice_sample"))],
                ["`refine_sample.jsonl`", len(rows("general/refine_sample"))],
                ["`heldout.jsonl`", len(held)],
                *(
                    [f"*{part}*, not committed", count]
                    for part, count in build.DOCUMENTS.items()
                ),
            ],
        )
        + f"\nA document of `heldout.jsonl` has {words} words on average.\n\n"
        + table(["lexicon", "frames", *world.SPLITS], lines)
    )


# --- comics and their control ---------------------------------------------------------

KNOWN = 20_000  # documents of the general text whose words count as known


@cache
def known_words() -> frozenset[str]:
    """Returns the words of the beginning of the general text."""
    import build
    import make_general

    told = make_general.documents(KNOWN, seed=build.SEED)
    return frozenset(word for text in told for word in words_of(text))


def words_of(text: str) -> list[str]:
    """Returns a text's words in lower case."""
    return re.findall(r"\w+", text.casefold())


def domain(name: str) -> str:
    """Returns a domain's figures: sizes, and how new its words are."""
    import build

    make, count = build.DOMAINS[name]
    train = list(make(count, seed=build.SEED))
    files = [
        ("`sample.jsonl`", [row["text"] for row in rows(f"{name}/sample")]),
        ("`heldout.jsonl`", [row["text"] for row in rows(f"{name}/heldout")]),
        ("to train on, not committed", train),
    ]
    sizes = [
        [what, len(texts), sum(map(len, map(words_of, texts))), sum(map(len, texts))]
        for what, texts in files
    ]
    counts = Counter(word for text in train for word in words_of(text))
    new = [word for word in counts if word not in known_words()]
    part = sum(counts[word] for word in new) / sum(counts.values())
    return (
        table(["file", "documents", "words", "characters"], sizes)
        + f"\nIts {len(counts):,} different words hold {len(new):,} new ones, "
        f"which are {part:.0%} of the running text.\n"
    )


def comics() -> str:
    """Returns the comics' figures, and how the names are dealt out."""
    import make_comics

    parts = list(make_comics.PARTS)
    dealt = [
        [kind, *(len(make_comics.NAMES[kind][part]) for part in parts)]
        for kind in make_comics.TYPES
    ]
    return domain("comics") + "\n" + table(["names", *parts], dealt)


def recipes() -> str:
    """Returns the recipes' figures."""
    return domain("recipes")


# --- entities -------------------------------------------------------------------------

Span = tuple[int, int, str]


def spans(tags: Sequence[str]) -> set[Span]:
    """Returns the entities of valid `IOB2` tags: begin, end and type."""
    begins = [place for place, tag in enumerate(tags) if tag.startswith("B-")]
    found = set()
    for begin in begins:
        end = begin + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        found.add((begin, end, tags[begin][2:]))
    return found


def sort_of_name(name: str) -> str:
    """Returns whether a name is labelled in training, only read, or new."""
    import make_comics

    for dealt in make_comics.NAMES.values():
        for part, names in dealt.items():
            if name in names:
                return "read" if part == "dev" else part
    raise ValueError(f"{name!r} is no name")


def looked_up(tokens: Sequence[str], known: dict[tuple[str, ...], str]) -> set[Span]:
    """Returns what a list of names finds, the longest first."""
    found, place = set(), 0
    while place < len(tokens):
        for length in (3, 2, 1):
            kind = known.get(tuple(tokens[place : place + length]))
            if kind:
                found.add((place, place + length, kind))
                place += length
                break
        else:
            place += 1
    return found


def entity_scores(split: str) -> list[str]:
    """Returns precision, recall and F1 of the names looked up."""
    known = {
        tuple(row["tokens"][begin:end]): kind
        for row in rows("entities/train")
        for begin, end, kind in spans(row["tags"])
    }
    hits = found = wanted = 0
    for row in rows(f"entities/{split}"):
        truth, said = spans(row["tags"]), looked_up(row["tokens"], known)
        hits += len(truth & said)
        found, wanted = found + len(said), wanted + len(truth)
    values = (hits / found, hits / wanted, 2 * hits / (found + wanted))
    return [f"{value:.0%}" for value in values]


def entities() -> str:
    """Returns the entity card's figures."""
    import make_comics

    sizes, sorts = [], []
    for split in ("train", "dev", "test"):
        kinds: Counter[str] = Counter()
        of: Counter[str] = Counter()
        for row in rows(f"entities/{split}"):
            for begin, end, kind in spans(row["tags"]):
                kinds[kind] += 1
                of[sort_of_name(" ".join(row["tokens"][begin:end]))] += 1
        tokens = sum(len(row["tokens"]) for row in rows(f"entities/{split}"))
        counts = [kinds[kind] for kind in make_comics.TYPES]
        sizes.append([split, len(rows(f"entities/{split}")), tokens, *counts])
        sorts.append([split, *(of[sort] for sort in ("labelled", "read", "new"))])
    measured = [
        ["names of training looked up, " + s, *entity_scores(s)] for s in TAGGED
    ]
    return (
        table(["split", "rows", "tokens", *make_comics.TYPES], sizes)
        + "\nEntities by what training tells of their names:\n\n"
        + table(["split", "labelled", "read", "new"], sorts)
        + "\n"
        + table(["baseline, split", "precision", "recall", "F1"], measured)
    )


TAGGED = ("dev", "test")

# --- the messy file -------------------------------------------------------------------


def messy() -> str:
    """Returns what was planted in the messy file, by kind, and the files' sizes."""
    planted = rows("messy/planted")
    counts = Counter((row["mistake"], row["rule"]) for row in planted)
    sizes = []
    for name in ("rows", "test", "planted"):
        text = (DATASETS / f"messy/{name}.jsonl").read_text(encoding="utf-8")
        sizes.append([f"`{name}.jsonl`", len(text.splitlines())])
    kinds = [[m, count, r and f"`{r}`"] for (m, r), count in sorted(counts.items())]
    listed = "".join(f"| {kind} | {count} | {rule} |\n" for kind, count, rule in kinds)
    return (
        table(["file", "lines"], sizes)
        + "\n| mistake | rows | found by |\n| --- | ---: | --- |\n"
        + listed
    )


FIGURES = {
    "general": general,
    "irony": irony,
    "instructions": instructions,
    "comics": comics,
    "recipes": recipes,
    "entities": entities,
    "messy": messy,
}


def main() -> None:
    """Prints the figures, or writes them into the cards."""
    for name in CARDS:
        found = FIGURES[name]()
        if sys.argv[1:] == ["--write"]:
            card = DATASETS / name / "README.md"
            before, rest = card.read_text(encoding="utf-8").split(MARKS[0])
            after = rest.split(MARKS[1])[1]
            text = before + MARKS[0] + found + MARKS[1] + after
            card.write_text(text, encoding="utf-8", newline="\n")
        else:
            print(f"## {name}\n\n{found}")


if __name__ == "__main__":
    main()
