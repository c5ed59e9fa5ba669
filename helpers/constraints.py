r"""Does an answer follow instructions that a program can check? IFEval's 25 kinds.

Each kind is a function of the answer and of the instruction's own values. `follows`
asks the strict question; the loose one forgives what surrounds an answer: it also
tries it without its first line, without its last, and without asterisks.

>>> follows("No comma here.", "punctuation:no_comma")
True
>>> follows("Sure, here:\nNo comma.", "punctuation:no_comma")
False
>>> follows("Sure, here:\nNo comma.", "punctuation:no_comma", loose=True)
True

Two kinds need a judgement that no rule settles: the language of a text comes from the
library py3langid, and where a sentence ends from a rule below. There, and where a key
word holds a sign of regular expressions, verdicts can differ from other programs'.

Source: J. Zhou et al. (2023), "Instruction-Following Evaluation for Large Language
Models", arXiv:2311.07911, section 2.1 and table 3 (kinds), section 2.2 (loose).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.formats import DataError

Values = Mapping[str, Any]

# The languages that the benchmark asks for; telling 97 apart would err more often.
_CODES = """
    ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th ur
    uk vi
"""
LANGUAGES = tuple(_CODES.split())
_CONFIRMATIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_CONTRACTION = re.compile(r"(n't|'(?:s|m|d|ll|re|ve))\b", re.IGNORECASE)
_TOKEN = re.compile(r"[^\s,;:!?()\[\]{}\"“”]+")
_NO_END = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|inc|ltd|no|[a-z])\.$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+|\n\s*\n")


def follows(
    answer: str, kind: str, values: Values | None = None, *, loose: bool = False
) -> bool:
    """Tell whether an answer follows one instruction; an empty one follows none.

    Args:
        answer: What the model wrote.
        kind: One of `KINDS`, such as "length_constraints:number_words".
        values: The instruction's values, such as {"num_words": 50, "relation":
            "at least"}; keys whose value is None are as good as absent.
        loose: Forgive an introduction, a closing line and marks of emphasis.

    Raises:
        DataError: The kind is unknown, or a value is missing.
    """
    if kind not in KINDS:
        raise DataError(f"{kind!r} is no known kind: pass one of {', '.join(KINDS)}.")
    given = {key: v for key, v in (values or {}).items() if v is not None}
    texts = _variants(answer) if loose else [answer]
    try:
        return any(text.strip() and KINDS[kind](text, given) for text in texts)
    except KeyError as error:
        raise DataError(
            f"{kind} needs a value for {error}, and has {sorted(given)}: take all of "
            f"the row's kwargs."
        ) from None


def follows_all(
    answer: str,
    kinds: Sequence[str],
    values: Sequence[Values],
    *,
    loose: bool = False,
) -> list[bool]:
    """Return a verdict for each instruction of a prompt.

    Args:
        answer: What the model wrote.
        kinds: The row's "instruction_id_list".
        values: The row's "kwargs", one for each of them.
        loose: See `follows`.

    Raises:
        DataError: There are not as many values as kinds, or as `follows`.

    >>> kinds = ["punctuation:no_comma", "change_case:english_lowercase"]
    >>> follows_all("all is well and good today", kinds, [{}, {}])
    [True, True]
    """
    if len(kinds) != len(values):
        raise DataError(
            f"there are {len(values)} values for {len(kinds)} kinds: pass one for each."
        )
    pairs = zip(kinds, values, strict=True)
    return [follows(answer, kind, given, loose=loose) for kind, given in pairs]


def language(text: str) -> str:
    """Return the code of a text's language, one of `LANGUAGES`.

    >>> language("Das ist ein kurzer Satz über das Wetter.")
    'de'
    """
    return _identifier().classify(text.lower())[0]


@functools.cache
def _identifier() -> Any:
    from importlib.resources import files

    from py3langid import langid

    model = files("py3langid") / "data" / "model.npz.xz"
    found = langid.LanguageIdentifier.from_modelpath(str(model))
    found.set_languages(list(LANGUAGES))
    return found


def _variants(answer: str) -> list[str]:
    lines = answer.split("\n")
    cuts = (lines, lines[1:], lines[:-1], lines[1:-1])
    texts = ["\n".join(cut).strip() for cut in cuts]
    return [answer, *texts, *(text.replace("*", "") for text in texts)]


def _compares(count: int, given: Values, relation: str, number: str) -> bool:
    word, limit = given[relation], given[number]
    if word not in ("less than", "at least"):
        raise DataError(f"{relation}={word!r} is not known: 'less than' or 'at least'.")
    return count < limit if word == "less than" else count >= limit


# --------------------------------------------------------------------- words and length


def _matches(word: str, text: str, *, whole: bool = False) -> int:
    """Return how often a word stands in a text, whatever its case."""
    pattern = re.escape(word)
    pattern = rf"(?<!\w){pattern}(?!\w)" if whole else pattern
    return len(re.findall(pattern, text, re.IGNORECASE))


def _existence(text: str, given: Values) -> bool:
    return all(_matches(word, text) for word in given["keywords"])


def _frequency(text: str, given: Values) -> bool:
    count = _matches(given["keyword"], text)
    return _compares(count, given, "relation", "frequency")


def _forbidden(text: str, given: Values) -> bool:
    words = given["forbidden_words"]
    return not any(_matches(word, text, whole=True) for word in words)


def _letters(text: str, given: Values) -> bool:
    count = text.lower().count(given["letter"].lower())
    return _compares(count, given, "let_relation", "let_frequency")


def _words(text: str, given: Values) -> bool:
    return _compares(len(re.findall(r"\w+", text)), given, "relation", "num_words")


def sentences(text: str) -> int:
    """Return how many sentences a text has; blank lines end one too.

    >>> sentences("Dr. Ray left. Why? No one knows")
    3
    """
    count, start = 0, 0
    for end in _SENTENCE_END.finditer(text):
        piece = text[start : end.end()]
        if piece.rstrip().endswith(".") and _NO_END.search(piece.rstrip()):
            continue
        count += bool(re.search(r"\w", piece))
        start = end.end()
    return count + bool(re.search(r"\w", text[start:]))


def _sentences(text: str, given: Values) -> bool:
    return _compares(sentences(text), given, "relation", "num_sentences")


def _parts(text: str, mark: str) -> list[str] | None:
    """Return what the marks part, blank ends aside; None if a part within is blank."""
    parts = re.split(mark, text)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return None
    return [part.strip() for part in parts if part.strip()]


def _paragraphs(text: str, given: Values) -> bool:
    parts = _parts(text, r"\s?\*\*\*\s?")
    return parts is not None and len(parts) == given["num_paragraphs"]


def _first_word(text: str, given: Values) -> bool:
    paragraphs = text.split("\n\n")
    number, nth = given["num_paragraphs"], given["nth_paragraph"]
    wanted = given["first_word"].lower()
    if sum(bool(one.strip()) for one in paragraphs) != number or nth > number:
        return False
    words = paragraphs[nth - 1].split()
    if not words:
        return False
    return re.split(r"[.,?!'\"]", words[0].lstrip("'\"").lower())[0] == wanted


# ------------------------------------------------------------------------------- format


def _no_comma(text: str, given: Values) -> bool:
    return "," not in text


def _placeholders(text: str, given: Values) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]


def _postscript(text: str, given: Values) -> bool:
    marker = given["postscript_marker"].lower()
    known = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}
    return bool(re.search(known.get(marker, re.escape(marker)), text.lower()))


def _bullets(text: str, given: Values) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == given["num_bullets"]


def _confirmed(text: str, given: Values) -> bool:
    return any(one in text for one in _CONFIRMATIONS)


def _highlights(text: str, given: Values) -> bool:
    single = re.findall(r"\*[^\n\*]*\*", text)
    double = re.findall(r"\*\*[^\n\*]*\*\*", text)
    count = sum(bool(one.strip("*").strip()) for one in single + double)
    return count >= given["num_highlights"]


def _sections(text: str, given: Values) -> bool:
    mark = rf"\s?{re.escape(given['section_spliter'])}\s?\d+\s?"
    return len(re.split(mark, text)) - 1 >= given["num_sections"]


def _json(text: str, given: Values) -> bool:
    inner = re.sub(r"^```(?:json)?", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inner.strip().removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, given: Values) -> bool:
    titles = re.findall(r"<<[^\n]+>>", text)
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


# -------------------------------------------------------- whole answers, case, language


def _two_responses(text: str, given: Values) -> bool:
    parts = _parts(text, re.escape("*" * 6))
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeats(text: str, given: Values) -> bool:
    prompt = given["prompt_to_repeat"].strip().lower()
    return text.strip().lower().startswith(prompt)


def _ends(text: str, given: Values) -> bool:
    return text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _quoted(text: str, given: Values) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def _capitals(text: str, given: Values) -> bool:
    return text.isupper() and language(text) == "en"


def _lowercase(text: str, given: Values) -> bool:
    return text.islower() and language(text) == "en"


def _capital_words(text: str, given: Values) -> bool:
    words = _TOKEN.findall(_CONTRACTION.sub(r" \1", text))
    count = sum(word.isupper() for word in words)
    return _compares(count, given, "capital_relation", "capital_frequency")


def _language(text: str, given: Values) -> bool:
    return language(text) == given["language"]


KINDS: Mapping[str, Callable[[str, Values], bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _confirmed,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
