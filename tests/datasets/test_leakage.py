"""Nothing of a test is read in training: no text, no sister of it, no lexicon entry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from zlib import crc32

import pytest
import world

Splits = dict[str, list[dict]]
Words = tuple[str, ...]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def texts(found: list[dict]) -> list[str]:
    """What a row asks about: its text, or the question itself where there is none."""
    return list(
        dict.fromkeys(
            row.get("text") or row.get("input") or row["instruction"] for row in found
        )
    )


@pytest.fixture(params=["irony", "instructions", "entities"])
def splits(request: pytest.FixtureRequest) -> Splits:
    return request.getfixturevalue(request.param)


def test_no_text_is_in_two_splits(splits: Splits) -> None:
    for one, two in itertools.combinations(splits, 2):
        both = set(texts(splits[one])) & set(texts(splits[two]))
        assert both == set(), (one, two)


def test_no_normalised_text_is_in_two_splits(splits: Splits) -> None:
    plain = {
        split: {" ".join(words(text)) for text in texts(found)}
        for split, found in splits.items()
    }
    for one, two in itertools.combinations(splits, 2):
        assert plain[one] & plain[two] == set(), (one, two)


def test_no_row_is_twice_in_a_split(splits: Splits) -> None:
    for split, found in splits.items():
        keys = [
            " ".join(words(row.get("text") or row["instruction"] + " " + row["input"]))
            for row in found
        ]
        assert len(set(keys)) == len(keys), split


# --- near-duplicates ------------------------------------------------------------------


def shingles(text: str) -> frozenset[Words]:
    """The word trigrams of a text, or all its words where it has fewer than three."""
    found = words(text)
    return frozenset(zip(found, found[1:], found[2:], strict=False)) or frozenset(
        [tuple(found)]
    )


def near_duplicates(
    splits: dict[str, list[str]], *, similarity: float
) -> list[tuple[str, str, str, str]]:
    """Pairs of texts of different splits whose trigrams have at least this Jaccard."""
    from datasketch import MinHash, MinHashLSH

    # A wide net, weighted against misses; the true Jaccard decides on what it catches.
    net = MinHashLSH(threshold=similarity - 0.15, num_perm=64, weights=(0.1, 0.9))
    known: list[tuple[str, str, frozenset[Words]]] = []
    for split, found in splits.items():
        for text in found:
            known.append((split, text, shingles(text)))
    hashes = MinHash.generator(
        ([" ".join(gram).encode() for gram in grams] for _, _, grams in known),
        num_perm=64,
        hashfunc=crc32,
    )
    near = []
    for index, minhash in enumerate(hashes):
        split, text, grams = known[index]
        for other in net.query(minhash):
            its, another, theirs = known[other]
            if its != split and len(grams & theirs) >= similarity * len(grams | theirs):
                near.append((its, another, split, text))
        net.insert(index, minhash)
    return near


def test_no_near_duplicate_crosses_splits(splits: Splits) -> None:
    told = {split: texts(found) for split, found in splits.items()}
    assert near_duplicates(told, similarity=0.8) == []


def test_near_duplicates_are_found() -> None:
    base = "Mira waits in the garden and Ben holds a red ball near the old barn today"
    told = {
        "train": [base, "Nils is in the hall."],
        "test": [base.replace("Mira", "A")],
    }
    assert [found[1] for found in near_duplicates(told, similarity=0.8)] == [base]
    told["test"] = [base.replace("red", "blue").replace("old", "new")]
    assert near_duplicates(told, similarity=0.8) == []


# --- the lexicons ---------------------------------------------------------------------

# A name is any name: a test's situation told of somebody else is the same situation.
ANYBODY = dict.fromkeys((name.casefold() for name in world.NAMES), "anybody")


def anonymous(text: str) -> list[str]:
    return [ANYBODY.get(word, word) for word in words(text)]


def sentences(rows: list[dict], *splits: str) -> set[Words]:
    return {
        tuple(anonymous(row["text"].replace("{name}", world.NAMES[0])))
        for row in rows
        if row["split"] in splits
    }


class Needles:
    """Word sequences looked for in many texts, by their first three words."""

    def __init__(self, needles: Iterable[Words]) -> None:
        self.by_start: dict[Words, list[str]] = {}
        for needle in needles:
            assert len(needle) >= 3, needle
            told = f" {' '.join(needle)} "
            self.by_start.setdefault(needle[:3], []).append(told)
        self.starts = self.by_start.keys()

    def inside(self, text: str) -> list[str]:
        found = anonymous(text)
        starts = self.starts & set(zip(found, found[1:], found[2:], strict=False))
        if not starts:
            return []
        told = f" {' '.join(found)} "
        return [n for start in starts for n in self.by_start[start] if n in told]


@pytest.fixture(scope="module")
def held_needles() -> Needles:
    """Every situation and remark that is not for training."""
    rows = (world.SITUATIONS, world.REMARKS)
    held = ("dev", "test", "unseen")
    return Needles(n for found in rows for n in sentences(found, *held))


@pytest.fixture(scope="module")
def unseen_needles() -> Needles:
    """Every situation and remark that no text may tell."""
    rows = (world.SITUATIONS, world.REMARKS)
    return Needles(n for found in rows for n in sentences(found, "unseen"))


@pytest.mark.parametrize("name", ["SITUATIONS", "REMARKS"])
def test_no_lexicon_frame_or_sentence_is_in_two_splits(name: str) -> None:
    found = getattr(world, name)
    parts = world.SPLITS
    frames = {s: {row["frame"] for row in found if row["split"] == s} for s in parts}
    told = {split: sentences(found, split) for split in parts}
    assert all(frames.values())
    for one, two in itertools.combinations(parts, 2):
        assert frames[one].isdisjoint(frames[two])
        assert told[one].isdisjoint(told[two])


def test_held_situations_and_remarks_are_in_no_training_row(
    irony: Splits, instructions: Splits, held_needles: Needles
) -> None:
    trained = [row["text"] for row in irony["train"]]
    trained += [" ".join(list(row.values())[:3]) for row in instructions["train"]]
    leaked = [(text, found) for text in trained if (found := held_needles.inside(text))]
    assert leaked == []


def test_unseen_situations_and_remarks_are_not_in_the_pretraining_text(
    documents: list[str], unseen_needles: Needles
) -> None:
    leaked = {n for text in documents for n in unseen_needles.inside(text)}
    assert leaked == set()


def test_test_rows_are_made_of_their_own_split(irony: Splits) -> None:
    """The search finds what is there: each test row has a test situation and remark."""
    for split in ("dev", "test", "unseen"):
        situations = Needles(sentences(world.SITUATIONS, split))
        remarks = Needles(sentences(world.REMARKS, split))
        for row in irony[split]:
            assert situations.inside(row["text"]), row
            assert remarks.inside(row["text"]), row
