"""The pre-training text: enough of each polarity, and no label beside an example."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import build
import make_general
import make_instructions
import pytest
import world

TONE_WORDS = re.compile(r"iron(?:y|ic)|sarcas|literal", re.I)


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


@pytest.mark.parametrize("mood", ["good", "bad"])
def test_each_mood_has_300_situations_to_read(mood: str) -> None:
    found = world.SITUATIONS_OF["read", mood]
    assert len({row["text"] for row in found}) >= 300


@pytest.mark.parametrize("polarity", ["kind", "harsh"])
def test_each_polarity_has_300_remarks_to_read(polarity: str) -> None:
    found = world.REMARKS_OF["read", polarity]
    assert len({row["text"] for row in found}) >= 300


def test_tone_words_occur_in_definitions_only(documents: list[str]) -> None:
    defined = 0
    for text in filter(TONE_WORDS.search, documents):
        defined += 1
        for sentence in make_general.DEFINITIONS:
            text = text.replace(sentence, "")
        # Nothing else stands in such a document: no example that the word could name.
        assert text.strip() == ""
    assert 0 < defined < 0.02 * len(documents)


def test_definitions_quote_no_remark_and_no_situation() -> None:
    defined = " ".join(make_general.DEFINITIONS)
    assert '"' not in defined
    assert not [name for name in world.NAMES if name in defined.split()]
    assert not [row["text"] for row in world.REMARKS if row["text"] in defined]


def test_every_word_of_an_instruction_is_read_in_pretraining(
    documents: list[str],
) -> None:
    seen: Counter[str] = Counter()
    for text in documents[:30_000]:
        seen.update(re.findall(r"\w+", text.casefold()))
    joiners = [form.format(one="", two="") for form in make_instructions.TOGETHER]
    wordings = [
        re.sub(r"{\w+}", " ", wording)
        for told in world.WORDINGS.values()
        for wording in told["train"] + told["held"]
    ]
    words = set(re.findall(r"\w+", " ".join(wordings + joiners).casefold()))
    assert {word: seen[word] for word in words if seen[word] < 20} == {}


def test_held_out_documents_are_not_in_the_text(
    documents: list[str], general: dict[str, list[dict]]
) -> None:
    held = {letters(row["text"]): row["text"] for row in general["heldout"]}
    assert len(held) == len(general["heldout"]) == 1000
    assert not [text for text in documents if letters(text) in held]


def test_sample_is_the_beginning_of_the_text(
    documents: list[str], general: dict[str, list[dict]]
) -> None:
    assert [row["text"] for row in general["sample"]] == documents[:300]


def test_what_the_base_read_was_kept_out_of_the_held_out_text() -> None:
    record = Path(build.__file__).parents[1] / "benchmarks" / "results" / "base.json"
    recipe = json.loads(record.read_text(encoding="utf-8"))["recipe"]
    assert recipe["seed"] == build.SEED
    told = ("documents", "practice_documents", "refine_documents")
    assert list(build.DOCUMENTS.values()) == [recipe[name] for name in told]


@pytest.mark.parametrize("part", ["practice", "refine"])
def test_a_parts_sample_is_its_beginning(
    part: str, parts: dict[str, list[str]], general: dict[str, list[dict]]
) -> None:
    assert [row["text"] for row in general[f"{part}_sample"]] == parts[part][:100]
    assert parts[part][:100] != parts["read"][:100]


def test_refining_answers_in_steps(parts: dict[str, list[str]]) -> None:
    """A count or a comparison is reasoned out before its answer is said."""
    said = re.compile(r"comes (\w+) times|: (\w+) has (?:more|fewer)")
    reasoned = re.compile(r"\b(one|two|three|four)\b|is (?:greater|fewer) than")
    told = [text for text in parts["refine"] if said.search(text)]
    assert len(told) > 1000
    assert [text for text in told if not reasoned.search(text)] == []


def test_odd_words_take_the_places_and_change_nothing_else() -> None:
    rng, changed = Random(1), 0
    text = "Mira sits in the kitchen. The ball of Tom is red."
    for _ in range(40):
        odd = make_general.with_odd_words(rng, text)
        shapes = [make_general.PLAIN_WORD.sub("w", told) for told in (text, odd)]
        assert shapes[0] == shapes[1]
        changed += odd != text
    assert 20 < changed < 40


def test_an_echo_says_its_sentences_again_or_with_one_word_new() -> None:
    rng = Random(2)
    for _ in range(300):
        told = make_general.echoes(rng)
        words = Counter(re.findall(r"\w+", told))
        asked = {word for word, count in words.items() if count == 1}
        again = sum(count for word, count in words.items() if word not in asked)
        # the text and its echo; what stands there once is the question's own
        assert again >= len(asked), told


def test_what_was_meant_fits_what_happened() -> None:
    mood_of = {row["text"].casefold(): row["mood"] for row in world.SITUATIONS}
    tone_of = {row["text"]: row["polarity"] for row in world.REMARKS}
    rng, kinds = Random(3), Counter()
    for _ in range(200):
        told = make_general.meant(rng)
        opened = [told.replace(name, "{name}") for name in world.NAMES]
        told_of = [text for text in mood_of for one in opened if text in one.casefold()]
        mood = mood_of[max(told_of, key=len)]
        tone = next(tone_of[t] for t in tone_of if f'"{t}"' in told)
        fits = (mood == "good") == (tone == "kind")
        assert re.search("(mean|meant) it.$|thought.$|opposite.$", told)
        denied = ("did not mean it.", "opposite.")
        assert fits != (told.endswith(denied) or " This is not what " in told)
        kinds[mood, tone] += 1
    assert len(kinds) == 4
