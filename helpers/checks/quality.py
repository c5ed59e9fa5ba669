"""Rules on what the rows say: repetition, leakage, leftovers, damage, secrets."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from zlib import crc32

from helpers.checks.core import Place, around, excerpt, rule
from helpers.checks.privacy import SECRET, addresses, card_numbers, masked
from helpers.checks.source import Prose, Source, normalised

NEAR = 0.9
"""Share of word triples in common from which two rows count as nearly the same."""

WORDS = 12
"""Rows shorter than this many words are not compared for nearness: among short rows
of one kind, likeness is what they are for."""

_MINHASHES = 32
_CANDIDATE = 0.7  # of a pair whose triples are compared; well below NEAR


@rule(
    "duplicates",
    "warning",
    pitfall=54,
    needs="source",
    title="The same row twice",
    ignored="Repeated rows weigh more, are learnt by heart, and land on both sides of "
    "a random split, so that the test praises memory.",
    fix="Keep one of them before you split.",
)
def duplicates(source: Source) -> Iterator[Place]:
    """Find rows that say the same, but for case and white space."""
    first: dict[bytes, int] = {}
    for (number, asked, _), key in zip(source.pairs, source.keys, strict=True):
        earlier = first.setdefault(b"".join(key), number)
        if earlier != number:
            yield Place(number, "", f"as row {earlier}: {excerpt(asked)}")


@rule(
    "two-answers",
    "note",
    pitfall=54,
    needs="source",
    title="The same question with another answer",
    ignored="Sound where many answers are right; if labels contradict each other, the "
    "model learns to guess. Split by question, or it leaks.",
    fix="Look at a few; split train and test by question.",
)
def two_answers(source: Source) -> Iterator[Place]:
    """Find repeated questions of differing answers."""
    if source.shape == "text" and source.family != "labels":
        return
    answers: dict[bytes, tuple[int, bytes]] = {}
    for (number, asked, _), key in zip(source.pairs, source.keys, strict=True):
        question, said = key
        earlier, known = answers.setdefault(question, (number, said))
        if known != said:
            yield Place(number, "", f"as row {earlier}: {excerpt(asked)}")


@rule(
    "near-duplicates",
    "note",
    pitfall=54,
    needs="source",
    title="Rows that are nearly the same",
    ignored="A split by row puts near-twins on both sides: the test measures memory.",
    fix="Split by group, so that near-twins stay on one side.",
)
def near_duplicates(source: Source) -> Iterator[Place]:
    """Find rows of at least twelve words with nine tenths of their triples shared."""
    from datasketch import MinHash, MinHashLSH

    # A sketch is a guess: with NEAR as its own threshold it misses one such pair in
    # several. So it names candidates, and the triples themselves decide.
    index = MinHashLSH(threshold=_CANDIDATE, num_perm=_MINHASHES)
    empty = MinHash(num_perm=_MINHASHES, hashfunc=crc32)
    seen, kept = set(), {}
    for (number, asked, answer), key in zip(source.pairs, source.keys, strict=True):
        words = normalised(f"{asked} {answer}").split()
        if len(words) < WORDS or key in seen:
            continue
        seen.add(key)
        sketch = empty.copy()
        triples = _triples(words)
        sketch.update_batch([triple.encode() for triple in triples])
        own = kept[number] = {hash(triple) for triple in triples}
        twins = [
            other
            for other in index.query(sketch)
            if len(own & kept[other]) >= NEAR * len(own | kept[other])
        ]
        index.insert(number, sketch, check_duplication=False)
        if twins:
            told = f"like row {min(twins)}: {excerpt(asked)}"
            yield Place(number, "", told)


def _triples(words: list[str]) -> set[str]:
    return {" ".join(words[n : n + 3]) for n in range(len(words) - 2)}


@rule(
    "leakage",
    "error",
    pitfall=54,
    needs="source test",
    title="Test rows that training has seen",
    ignored="The test measures memory, and its number is too good.",
    fix="Take them out of the training rows; split by group.",
)
def leakage(source: Source, test: Source) -> Iterator[Place]:
    """Find questions of the test file among those of the training file."""
    trained = {
        key[0]: number
        for (number, _, _), key in zip(source.pairs, source.keys, strict=True)
    }
    for (number, asked, _), key in zip(test.pairs, test.keys, strict=True):
        if (earlier := trained.get(key[0])) is not None:
            told = f"test row {number} is row {earlier}: {excerpt(asked)}"
            yield Place(number, test.file, told)


_TEMPLATES = re.compile(
    r"^\s*#{2,3} (?:Instruction|Input|Response|Human|Assistant|User)s?:"
    r"|\[/?INST\]|<<SYS>>|^(?:USER|ASSISTANT|Human|Assistant): ",
    re.M,
)


@rule(
    "template-in-text",
    "warning",
    needs="source",
    title="A prompt template is already written into the text",
    ignored="The chat template is put around it: the model learns two templates at "
    "once, and answers to neither alone.",
    fix="Take the marks out and keep instruction and answer in columns of their own.",
)
def template_in_text(source: Source) -> Iterator[Place]:
    """Find the marks of the usual templates in texts that get another one."""
    if source.problem or source.becomes not in ("messages", "prompt_completion"):
        return
    for prose in source.texts:
        if found := _TEMPLATES.search(prose.text):
            yield _at(prose, found)


def _at(prose: Prose, found: re.Match[str]) -> Place:
    return Place(prose.row, prose.field, around(prose.text, *found.span()))


_PLACEHOLDERS = re.compile(
    r"\{\{\s*[A-Za-z_][\w .]{0,30}\}\}|\[(?:insert|your|name of)\b[^\]\n]{0,40}\]"
    r"|lorem ipsum dolor",
    re.IGNORECASE,
)


@rule(
    "placeholders",
    "warning",
    needs="source",
    title="A placeholder that was never filled in",
    ignored="The model learns to say it: 'I am {{name}}'.",
    fix="Fill it in or leave the row out.",
)
def placeholders(source: Source) -> Iterator[Place]:
    """Find double braces, 'insert' brackets and the like."""
    for prose in source.texts:
        if found := _PLACEHOLDERS.search(prose.text):
            yield _at(prose, found)


_REFUSALS = re.compile(
    r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|\bI(?:'m| am) sorry,? but (?:I|as)\b"
    r"|\bI (?:cannot|can't|am not able to|am unable to) "
    r"(?:assist|help(?! but)|fulfil|comply|provide|answer)",
    re.IGNORECASE,
)


@rule(
    "refusals",
    "note",
    needs="source",
    title="Answers that refuse, or speak as another model",
    ignored="A few hundred of them teach a model to refuse what it could do.",
    fix="Keep those that you want, leave out the others.",
)
def refusals(source: Source) -> Iterator[Place]:
    """Find the usual words of refusal in answers."""
    for number, _, answer in source.pairs:
        if found := _REFUSALS.search(answer[:400]):
            yield Place(number, "answer", around(answer, *found.span()))


@rule(
    "encoding-damage",
    "warning",
    needs="source",
    title="Text damaged by a wrong encoding",
    ignored="The model learns to write 'donâ€™t', from rare and costly tokens.",
    fix="Read the original with its own encoding, or mend it with ftfy.fix_text.",
)
def encoding_damage(source: Source) -> Iterator[Place]:
    """Find what ftfy would mend, and signs of characters that are lost."""
    import ftfy

    for prose in source.texts:
        if prose.text.isascii():
            continue
        if "\ufffd" in prose.text:
            spot = prose.text.index("\ufffd")
            yield Place(prose.row, prose.field, around(prose.text, spot, spot))
        elif ftfy.is_bad(prose.text):
            mended = ftfy.fix_encoding(prose.text)
            if mended != prose.text:
                spot = _first_difference(prose.text, mended)
                shown = around(prose.text, spot, spot)
                yield Place(prose.row, prose.field, shown)


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


@rule(
    "invisible-characters",
    "note",
    needs="source",
    title="Control characters or marks that nobody sees",
    ignored="Each costs a token or more, and hides words from search and rules.",
    fix="Take them out, where they are not part of the script.",
)
def invisible_characters(source: Source) -> Iterator[Place]:
    """Find C0 controls, zero-width spaces, soft hyphens and direction overrides."""
    for prose in source.texts:
        if found := _INVISIBLE.search(prose.text):
            name = f"U+{ord(found[0]):04X}"
            yield Place(prose.row, prose.field, f"{name} at {found.start()}")


_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u202a-\u202e\u2066-\u2069\ufeff]"
)


@rule(
    "repetition",
    "warning",
    needs="source",
    title="A text that repeats itself",
    ignored="The model learns to loop; one such row can outweigh a hundred others.",
    fix="Leave the row out or cut the repeats.",
)
def repetition(source: Source) -> Iterator[Place]:
    """Find texts of 200 words and more in which one triple makes up a tenth."""
    for prose in source.texts:
        if len(prose.text) < 800:
            continue
        words = prose.text.split()
        triples = Counter(zip(words, words[1:], words[2:], strict=False))
        if len(words) < 200 or not triples:
            continue
        triple, count = triples.most_common(1)[0]
        if 10 * count > len(words):
            told = f"{count} times: {' '.join(triple)}"
            yield Place(prose.row, prose.field, excerpt(told))


@rule(
    "language-mix",
    "note",
    needs="source",
    title="Rows in another script than most",
    ignored="A small model's tokenizer may take several tokens for each such "
    "character, and learns the language from too few rows.",
    fix="Sound if you want both; or else leave them out.",
)
def language_mix(source: Source) -> Iterator[Place]:
    """Find rows whose letters are mostly of a script that under a tenth write."""
    scripts = [(number, script(f"{a} {b}"), a) for number, a, b in source.pairs]
    counts = Counter(name for _, name, _ in scripts if name)
    total = sum(counts.values())
    for number, name, shown in scripts:
        if name and 10 * counts[name] < total:
            yield Place(number, "", f"{name}: {excerpt(shown)}")


def script(text: str) -> str:
    """The script of most letters, "" where there are none.

    >>> script("привет, world of letters"), script("привет")
    ('LATIN', 'CYRILLIC')
    """
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text[:200])) else ""
    counts = Counter(_script_of(letter) for letter in text[:400] if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0].split("-")[0]


# ------------------------------------------------------------- secrets, personal data


@rule(
    "secrets",
    "error",
    needs="source",
    title="Keys or tokens",
    ignored="A model repeats what it learnt to whoever asks; a shared adapter shares "
    "the key.",
    fix="Revoke the key, then take it out.",
)
def secrets(source: Source) -> Iterator[Place]:
    """Find what has the form of a secret key; only its beginning is shown."""
    for prose in source.texts:
        if found := SECRET.search(prose.text):
            yield Place(prose.row, prose.field, masked(found[0]))


@rule(
    "cards",
    "warning",
    needs="source",
    title="Numbers that are valid card numbers",
    ignored="A model repeats what it learnt to whoever asks.",
    fix="Replace them, for example by [CARD].",
)
def cards(source: Source) -> Iterator[Place]:
    """Find 13 to 19 digits of an issuer's form with a right check digit."""
    for prose in source.texts:
        if number := next(card_numbers(prose.text), None):
            yield Place(prose.row, prose.field, masked(number[0]))


@rule(
    "e-mail",
    "note",
    needs="source",
    title="E-mail addresses",
    ignored="A model may repeat them to others.",
    fix="Replace those of real people, for example by [EMAIL].",
)
def e_mail(source: Source) -> Iterator[Place]:
    """Find addresses but those of the domains kept for examples."""
    for prose in source.texts:
        if "@" not in prose.text:
            continue
        if address := next(addresses(prose.text), None):
            yield Place(prose.row, prose.field, masked(address[0]))


# ----------------------------------------------------------------------------- lengths

_EDGES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def histogram(lengths: Iterable[int]) -> list[tuple[str, int]]:
    """Count lengths in bins that double.

    >>> histogram([5, 20, 30])
    [('up to 8', 1), ('up to 16', 0), ('up to 32', 2)]
    """
    counts: Counter[int] = Counter(
        next((n for n, edge in enumerate(_EDGES) if length <= edge), len(_EDGES))
        for length in lengths
    )
    names = [*(f"up to {edge}" for edge in _EDGES), f"over {_EDGES[-1]}"]
    filled = [n for n, _ in enumerate(names) if counts[n]]
    return [(names[n], counts[n]) for n in range(filled[-1] + 1)] if filled else []
