"""Comics and their control: new words, the same size, and nothing given away."""

from __future__ import annotations

import itertools
import re
import statistics

import build
import card_figures
import make_comics
import make_recipes
import oracle
import phrases
import pytest

Texts = dict[str, list[str]]
NAMES = set(oracle.entity_names()[1])


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def committed(name: str) -> list[str]:
    return [row["text"] for row in card_figures.rows(name)]


def expanded(frame: str) -> list[str]:
    """All sentences that a frame stands for, its slots left open."""
    parts = re.split(r"\[([^\[\]]*)\]", frame)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def with_slots(texts: list[str]) -> str:
    """Texts as one, each name replaced by its slot."""
    names, kind = oracle.entity_names()
    told = names.sub(lambda found: "{" + kind[found[0]] + "}", "\n\n".join(texts))
    return re.sub(oracle.NAME, "{PERSON}", told)


@pytest.mark.parametrize("name", build.DOMAINS)
def test_the_same_seed_gives_the_same_text(name: str, domains: Texts) -> None:
    make, count = build.DOMAINS[name]
    assert list(make(50, seed=build.SEED)) == domains[name][:50]
    assert list(make(50, seed=build.SEED + 1)) != domains[name][:50]
    assert len(domains[name]) == count
    assert 1_000_000 <= sum(len(text.encode()) for text in domains[name]) <= 1_500_000


@pytest.mark.parametrize("name", build.DOMAINS)
def test_held_out_is_not_in_the_text_and_sample_is(name: str, domains: Texts) -> None:
    held, sample = committed(f"{name}/heldout"), committed(f"{name}/sample")
    assert sample == domains[name][: len(sample)]
    trained = {letters(text) for text in domains[name]}
    assert len({letters(text) for text in held} - trained) == len(held) == 300


def test_both_domains_have_about_as_many_tokens(domains: Texts) -> None:
    from tokenizers import Tokenizer

    path = card_figures.ROOT / "helpers" / "tiny_llama" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    counts = []
    for texts in domains.values():
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        counts.append(sum(len(one.ids) for one in encoded))
    assert max(counts) <= 1.1 * min(counts), counts


@pytest.mark.parametrize("name", build.DOMAINS)
def test_words_are_new(name: str, domains: Texts) -> None:
    words = [word for text in domains[name] for word in card_figures.words_of(text)]
    new = [word for word in words if word not in card_figures.known_words()]
    assert len(set(new)) >= 150
    assert 0.3 <= len(new) / len(words) <= 0.8


def test_documents_are_clean(domains: Texts) -> None:
    for texts in domains.values():
        assert 30 <= statistics.mean(len(text.split()) for text in texts) <= 90
        for text in texts:
            assert not re.search(r"[{}\[\]|]|  ", text), text
            assert text == text.strip()


# --- names ----------------------------------------------------------------------------


def test_every_name_begins_with_a_word_of_its_own(domains: Texts) -> None:
    first = [name.split()[0].casefold() for name in NAMES]
    assert len(set(first)) == len(first)
    assert set(first).isdisjoint(card_figures.known_words())
    read = {w for text in domains["recipes"] for w in card_figures.words_of(text)}
    assert set(first).isdisjoint(read)


def test_each_part_has_names_of_each_type() -> None:
    for kind, dealt in make_comics.NAMES.items():
        assert sorted(sum(dealt.values(), [])) == sorted(make_comics.COMICS[kind])
        assert min(map(len, dealt.values())) >= 4
        assert all(len(dealt[part]) >= 8 for part in ("labelled", "read", "new"))


def test_comics_use_all_names_but_the_new(domains: Texts) -> None:
    pattern, _ = oracle.entity_names()
    texts = domains["comics"] + committed("comics/heldout")
    used = {found for text in texts for found in pattern.findall(text)}
    new = {name for dealt in make_comics.NAMES.values() for name in dealt["new"]}
    assert used == NAMES - new
    for text in domains["recipes"]:
        assert not pattern.search(text), text


def test_the_form_of_a_name_does_not_tell_hero_from_villain() -> None:
    """Both roles have names of one word and of two, with second words in common."""
    two = {
        kind: [name.split()[1] for name in make_comics.COMICS[kind] if " " in name]
        for kind in ("HERO", "VILLAIN")
    }
    for found in two.values():
        assert 12 <= len(found) <= 40
    assert len(set(two["HERO"]) & set(two["VILLAIN"])) >= 5


# --- frames ---------------------------------------------------------------------------


def test_every_kind_has_frames_in_every_split() -> None:
    assert all(make_comics.FRAMES_OF.values())
    frames = [row["frame"] for row in make_comics.FRAMES]
    assert len(set(frames)) == len(frames)


def test_held_frames_are_not_in_the_comics_and_the_others_are(domains: Texts) -> None:
    told = with_slots(domains["comics"])
    held_out = with_slots(committed("comics/heldout"))
    for row in make_comics.FRAMES:
        found = [text for text in expanded(row["frame"]) if text in told]
        assert bool(found) == (row["split"] == "train"), row["frame"]
        if row["split"] != "train":
            assert not [text for text in expanded(row["frame"]) if text in held_out]


def test_rows_are_made_of_the_frames_of_their_split() -> None:
    for split in ("train", "dev", "test"):
        told = with_slots(committed(f"entities/{split}"))
        for row in make_comics.FRAMES:
            found = [text for text in expanded(row["frame"]) if text in told]
            assert bool(found) == (row["split"] == split), (split, row["frame"])


def test_no_recipe_says_the_same_twice() -> None:
    for text in make_recipes.documents(200, seed=3):
        lines = text.split("\n")
        assert len(set(lines)) == len(lines)


def test_pieces_keep_names_apart() -> None:
    found = phrases.pieces(
        "The {GADGET} of {HERO}.", {"GADGET": "ray", "HERO": "Umbra"}
    )
    assert found == [
        ("The ", ""), ("ray", "GADGET"), (" of ", ""), ("Umbra", "HERO"), (".", "")
    ]  # fmt: skip
    assert phrases.plain(found) == "The ray of Umbra."
