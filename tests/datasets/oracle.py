"""Answers recomputed from a row's words alone, by other means than the builders'.

The builders draw a scene and write it down. This reads what is written: sentences by
regular expressions, what is asked for by the words that occur in the instruction. It
imports nothing from the builders and reads no wordings; of the lexicons it reads the
names of things, their kinds, and the polarity of situations and remarks.

What a text does not tell is answered by `UNKNOWN`; what it tells twice is an error.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

LEXICON = Path(__file__).resolve().parents[2] / "datasets" / "lexicon"
UNKNOWN = "It cannot be told from the text."
PERSON = "\N{BULLET}"

WORLD = json.loads((LEXICON / "world.json").read_text(encoding="utf-8"))
COUNT = {word: number for number, word in enumerate(WORLD["numbers"])}
KIND = {word: kind for group, kind in WORLD["kinds"].items() for word in WORLD[group]}


def any_of(words: Iterable[str]) -> str:
    """A pattern for any of the words, whole, the longest first."""
    ordered = sorted(words, key=len, reverse=True)
    return r"\b(?:" + "|".join(map(re.escape, ordered)) + r")\b"


NAME = any_of(WORLD["names"])
COLOUR = any_of(WORLD["colours"])
OBJECT = any_of(WORLD["objects"])
PLACE = any_of(WORLD["places"])


def one(found: Iterable[str]) -> str:
    """The only different value, or `UNKNOWN` where there is none."""
    values = list(dict.fromkeys(found))
    if len(values) > 1:
        raise ValueError(f"ambiguous: {values}")
    return values[0] if values else UNKNOWN


# --- what a text tells ----------------------------------------------------------------


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.]+\.", text)


def pick(match: re.Match, *keys: str) -> tuple[str, ...]:
    """What a pattern's groups found; `a1` and `a2` are one group told in two ways."""
    found = match.groupdict()
    return tuple(found[f"{key}1"] or found[f"{key}2"] for key in keys)


def stands(text: str) -> list[tuple[str, str]]:
    """Person and place of "Mira is in the garden." and "In the garden is Mira."."""
    told = rf"(?P<who1>{NAME}) \w+ in the (?P<place1>{PLACE})\."
    turned = rf"In the (?P<place2>{PLACE}) \w+ (?P<who2>{NAME})\."
    return [pick(m, "who", "place") for m in re.finditer(f"{told}|{turned}", text)]


def holds(text: str) -> list[tuple[str, str, str]]:
    """Person, colour, object of "Mira has a red pen." and "The pen of Mira is red."."""
    told = rf"(?P<who1>{NAME}) \w+ a (?P<how1>{COLOUR}) (?P<what1>{OBJECT})\."
    turned = rf"The (?P<what2>{OBJECT}) of (?P<who2>{NAME}) is (?P<how2>{COLOUR})\."
    found = re.finditer(f"{told}|{turned}", text)
    return [pick(m, "who", "how", "what") for m in found]


def turns(text: str) -> list[tuple[str, str, str]]:
    """Speaker, listener and words of each line of a talk."""
    told = rf'(?P<who1>{NAME}) said to (?P<to1>{NAME}): "(?P<words1>[^"]+)"'
    turned = rf'"(?P<words2>[^"]+)" said (?P<who2>{NAME}) to (?P<to2>{NAME})\.'
    found = re.finditer(f"{told}|{turned}", text)
    return [pick(m, "who", "to", "words") for m in found]


def amounts(text: str) -> dict[str, int]:
    """How many each person of a comparison has: "Two pens are with Mira."."""
    told = re.findall(rf"({any_of(COUNT)}) \w+ \w+ \w+ ({NAME})\.", text, re.I)
    return {name: COUNT[number.lower()] for number, name in told}


def listed(text: str) -> list[str]:
    return text.split(", ")


def doers(text: str) -> list[str]:
    return [re.search(NAME, sentence)[0] for sentence in sentences(text)]


# --- what an instruction asks for -----------------------------------------------------


class Asked:
    """The words of an instruction, read from left to right by one task or two."""

    def __init__(self, instruction: str) -> None:
        self.rest = instruction

    def next(self, pattern: str) -> str:
        """Takes the next match and goes on behind it; capitals do not matter."""
        match = re.search(pattern, self.rest, re.I)
        if match is None:
            raise ValueError(f"nothing asked for: {self.rest!r} has no {pattern[:40]}")
        self.rest = self.rest[match.end() :]
        return match[0]

    def all(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.rest)


# --- one rule for each task: (text, asked) → answer -----------------------------------


def where(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    place = one(place for person, place in stands(text) if person == name)
    return place if place == UNKNOWN else f"in the {place}"


def who_has(text: str, asked: Asked) -> str:
    shade, thing = asked.next(rf"{COLOUR} {OBJECT}").split()
    return one(person for person, *what in holds(text) if what == [shade, thing])


def what_has(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    return one(f"a {shade} {thing}" for p, shade, thing in holds(text) if p == name)


def colour(text: str, asked: Asked) -> str:
    wanted = asked.next(OBJECT)
    return one(shade for _, shade, thing in holds(text) if thing == wanted)


def who_where(text: str, asked: Asked) -> str:
    wanted = asked.next(PLACE)
    return one(person for person, place in stands(text) if place == wanted)


def all_about(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    about = [s.strip() for s in sentences(text) if re.search(rf"\b{name}\b", s)]
    return " ".join(about) or UNKNOWN


def count_sentences(text: str, asked: Asked) -> str:
    return WORLD["numbers"][text.count(".")]


def after(text: str, asked: Asked) -> str:
    words = listed(text)
    item = asked.next(any_of(words))
    return one(b for a, b in itertools.pairwise(words) if a.lower() == item.lower())


def count_word(text: str, asked: Asked) -> str:
    item = asked.next(any_of(listed(text))).lower()
    return WORLD["numbers"][[word.lower() for word in listed(text)].count(item)]


def compared(text: str, sign: int) -> str:
    told = amounts(text)
    assert len(told) == 2, text
    (one_name, first), (other, second) = told.items()
    assert first != second, text
    return one_name if sign * first > sign * second else other


def same(text: str, asked: Asked) -> str:
    first, second = amounts(text).values()
    return "yes" if first == second else "no"


def replaced(text: str, asked: Asked, pattern: str) -> str:
    """Of the two words in the instruction, the one in the text is the old one."""
    named = list(dict.fromkeys(asked.all(pattern)))
    present = set(re.findall(pattern, text))
    old = one(word for word in named if word in present)
    new = one(word for word in named if word not in present)
    return re.sub(rf"\b{old}\b", new, text)


def who_said(text: str, asked: Asked) -> str:
    words = asked.next(any_of(saying for saying in WORLD["sayings"]))
    return one(a for a, _, said in turns(text) if said.lower() == f"{words}.".lower())


def to_whom(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    return one(other for speaker, other, _ in turns(text) if speaker == name)


def what_said(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    return one(words for speaker, _, words in turns(text) if speaker == name)


def of_kind(text: str, asked: Asked) -> str:
    """The one word of a list that is of the kind asked for."""
    kind = asked.next(any_of(WORLD["kinds"].values())).lower()
    return one(word for word in listed(text) if KIND.get(word) == kind)


def without(text: str, asked: Asked) -> str:
    drop = of_kind(text, asked)
    return ", ".join(word for word in listed(text) if word != drop)


def next_person(text: str, asked: Asked) -> str:
    name = asked.next(NAME)
    return one(b for a, b in itertools.pairwise(doers(text)) if a == name)


def feels(text: str, asked: Asked) -> str:
    name = asked.next(NAME) if asked.all(NAME) else one(re.findall(NAME, text))
    return f"{text} {name} is {'glad' if mood_of(text) == 'good' else 'sad'}."


def remark(text: str, asked: Asked) -> str:
    return remark_of(re.search(r'"(.+)"', text)[1])[0]


Rule = Callable[[str, Asked], str]
RULES: dict[str, Rule] = {
    "where": where,
    "who_has": who_has,
    "what_has": what_has,
    "colour": colour,
    "who_where": who_where,
    "all_about": all_about,
    "count_sentences": count_sentences,
    "first": lambda text, asked: listed(text)[0],
    "last": lambda text, asked: listed(text)[-1],
    "after": after,
    "reverse": lambda text, asked: ", ".join(reversed(listed(text))),
    "count_items": lambda text, asked: WORLD["numbers"][text.count(",") + 1],
    "count_word": count_word,
    "more": lambda text, asked: compared(text, 1),
    "fewer": lambda text, asked: compared(text, -1),
    "same": same,
    "mood": lambda text, asked: f"{mood_of(text)} news",
    "feels": feels,
    "remark": remark,
    "replace_name": lambda text, asked: replaced(text, asked, NAME),
    "replace_colour": lambda text, asked: replaced(text, asked, COLOUR),
    "twice": lambda text, asked: f"{text} {text}",
    "who_said": who_said,
    "to_whom": to_whom,
    "what_said": what_said,
    "kind_of": lambda text, asked: KIND[asked.next(any_of(KIND)).lower()],
    "pick": of_kind,
    "without": without,
    "names": lambda text, asked: ", ".join(dict.fromkeys(doers(text))),
    "colours": lambda text, asked: ", ".join(
        dict.fromkeys(shade for _, shade, _ in holds(text))
    ),
    "places": lambda text, asked: ", ".join(place for _, place in stands(text)),
    "began": lambda text, asked: doers(text)[0],
    "ended": lambda text, asked: doers(text)[-1],
    "next_person": next_person,
}


def answer(row: dict[str, str]) -> str:
    """The answer of an instruction row; two tasks read the instruction in order."""
    asked = Asked(row["instruction"])
    return " ".join(sentence(t, row["input"], asked) for t in row["task"].split("+"))


def counted(text: str, asked: str) -> str:
    """A list counted word by word."""
    numbers = WORLD["numbers"][1:]
    return ", ".join(
        f"{n} {word}" for n, word in zip(numbers, listed(text), strict=False)
    )


def by_size(text: str, word: str) -> str:
    """Who has how many, in the order of the text; and how the two numbers compare."""
    numbers = WORLD["numbers"]
    told = ", ".join(f"{numbers[n]} with {who}" for who, n in amounts(text).items())
    least, most = (numbers[n] for n in sorted(amounts(text).values()))
    one, two = (most, least) if word == "greater" else (least, most)
    return f"{told}. {one[:1].upper()}{one[1:]} is {word} than {two}"


def tallied(text: str, asked: str) -> str:
    """The list, with a number behind the asked word wherever it comes; the word."""
    item, words = any_found(listed(text), asked), listed(text)
    said = [
        f"{word} {WORLD['numbers'][words[: place + 1].count(item)]}"
        if word == item
        else word
        for place, word in enumerate(words)
    ]
    return f"{', '.join(said)}: the word {item}"


def numbers(text: str, asked: str) -> str:
    return " and ".join(WORLD["numbers"][n] for n in amounts(text).values())


# What an answer takes up of its question or text: @ is what the rule finds, and # is
# found by the pattern, the table or the function that stands beside it.
FORMS: dict[str, tuple[str, object]] = {
    "where": ("# is @.", NAME),
    "who_has": ("The # is with @.", rf"{COLOUR} {OBJECT}"),
    "what_has": ("# has @.", NAME),
    "colour": ("The # is @.", OBJECT),
    "who_where": ("In the # is @.", PLACE),
    "first": ("The first is @.", None),
    "last": ("The last is @.", None),
    "after": ("After # comes @.", lambda text, asked: any_found(listed(text), asked)),
    "reverse": ("Backwards: @.", None),
    "count_items": ("#: @ words.", counted),
    "count_word": ("Word by word: # comes @ times.", tallied),
    "count_sentences": ("There are @ sentences.", None),
    "more": ("#: @ has more.", lambda text, asked: by_size(text, "greater")),
    "fewer": ("#: @ has fewer.", lambda text, asked: by_size(text, "fewer")),
    "same": ("#: @.", numbers),
    "mood": ("It is @.", None),
    "remark": ("The words are @.", None),
    "who_said": ('"#." said @.', any_of(WORLD["sayings"])),
    "to_whom": ("# said it to @.", NAME),
    "what_said": ('# said: "@"', NAME),
    "kind_of": ("The kind of # is @.", any_of(KIND)),
    "pick": ("The # is @.", any_of(WORLD["kinds"].values())),
    "without": ("Without the #: @.", lambda text, asked: of_kind(text, Asked(asked))),
    "names": ("The names are @.", None),
    "colours": ("The colours are @.", None),
    "places": ("The places are @.", None),
    "began": ("The first is @.", None),
    "ended": ("The last is @.", None),
    "next_person": ("After # comes @.", NAME),
}


# their answers begin with what the text or the question has in small letters
CAPITALS = ("who_said", "count_items", "more", "fewer", "same")


def taken_up(task: str, asked: str) -> str:
    """What the answer to an open question takes up of it."""
    named = re.search(FORMS.get(task, (None, NAME))[1], asked, re.I)[0]
    if task == "who_said":
        return f'"{named[:1].upper()}{named[1:]}."'
    before = {"who_has": "The ", "colour": "The ", "who_where": "In the "}
    return before.get(task, "") + named


def any_found(words: list[str], asked: str) -> str:
    """The first of these words that is asked for, as the text writes it."""
    found = re.search(any_of(words), asked, re.I)[0].lower()
    return next(word for word in words if word.lower() == found)


def sentence(task: str, text: str, asked: Asked) -> str:
    """The answer of one task as a sentence."""
    rest = asked.rest
    found = RULES[task](text, asked)
    if found == UNKNOWN:
        return f"{taken_up(task, rest)}: it cannot be told from the text."
    if task not in FORMS:
        return found
    form, key = FORMS[task]
    if key is None:
        return form.replace("@", found)
    taken = key(text, rest) if callable(key) else re.search(key, rest, re.I)[0]
    capital = task in CAPITALS
    lower = task == "pick"
    taken = taken[:1].upper() + taken[1:] if capital else taken
    return form.replace("#", taken.lower() if lower else taken).replace("@", found)


# --- polarity, and tone from it -------------------------------------------------------


def filled(entry: dict) -> Iterable[str]:
    """Every sentence of a lexicon entry, by replacing one slot after the other."""
    texts = [entry["frame"]]
    for slot, words in entry["fill"].items():
        texts = [t.replace(f"{{{slot}}}", word) for t in texts for word in words]
    return texts


def entries(name: str) -> list[dict]:
    lines = (LEXICON / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def small(text: str) -> str:
    return text[:1].lower() + text[1:]


@cache
def moods() -> dict[str, str]:
    """Mood by situation, the person's name blotted out."""
    found: dict[str, str] = {}
    for entry in entries("situations.jsonl"):
        for text in filled(entry):
            key = small(text.replace("{name}", PERSON))
            assert found.setdefault(key, entry["mood"]) == entry["mood"], text
    return found


@cache
def remarks() -> dict[str, tuple[str, str]]:
    """Polarity and aim by remark."""
    found: dict[str, tuple[str, str]] = {}
    for entry in entries("remarks.jsonl"):
        for text in filled(entry):
            key = (entry["polarity"], entry["aim"])
            assert found.setdefault(text, key) == key, text
    return found


def mood_of(situation: str) -> str:
    """Mood of a situation told of any one person."""
    plain = small(situation.removesuffix("."))
    names = dict.fromkeys(re.findall(NAME, situation))
    tries = [small(re.sub(rf"\b{n}\b", PERSON, situation)) for n in names] + [plain]
    found = {moods().get(text.removesuffix(".")) for text in tries} - {None}
    if len(found) != 1:
        raise ValueError(f"not one mood but {sorted(found)}: {situation}")
    return found.pop()


def remark_of(words: str) -> tuple[str, str]:
    """Polarity and aim of a remark."""
    return remarks()[words]


TOLD = [
    re.compile(pattern.replace("@", NAME))
    for pattern in (
        r'(?P<event>.+)\. @ said to @: "(?P<words>.+)"',
        r'(?P<event>.+)\. "(?P<words>.+)" said @\.',
        r'@ saw that (?P<event>.+)\. "(?P<words>.+)" @ said to @\.',
        r'"(?P<words>.+)" said @, when (?P<event>.+)\.',
        r'@ heard the news: (?P<event>.+)\. @ said: "(?P<words>.+)"',
    )
]


def read_tone(text: str) -> tuple[str, str, str]:
    """Mood of the situation, polarity and aim of the remark."""
    for pattern in TOLD:
        told = pattern.fullmatch(text)
        if told and told["words"] in remarks():
            return (mood_of(told["event"]), *remark_of(told["words"]))
    raise ValueError(f"no situation with a remark: {text}")


def tone(text: str) -> str:
    """Irony, sarcasm or literal: do the words fit, and if not, whom are they about?"""
    mood, polarity, aim = read_tone(text)
    if (mood, polarity) in {("good", "kind"), ("bad", "harsh")}:
        return "literal"
    return {"thing": "irony", "person": "sarcasm"}[aim]


# --- entities -------------------------------------------------------------------------

ENTITY_TYPES = ("HERO", "VILLAIN", "PLACE", "GADGET")


@cache
def entity_names() -> tuple[re.Pattern, dict[str, str]]:
    """A pattern for every name of the comics, and the type of each."""
    lexicon = json.loads((LEXICON / "comics.json").read_text(encoding="utf-8"))
    kind = {name: kind for kind in ENTITY_TYPES for name in lexicon[kind]}
    return re.compile(any_of(kind)), kind


def entity_tags(text: str) -> tuple[list[str], list[str]]:
    """Words and marks of a panel with their `IOB2` tags, from names looked up."""
    pattern, kind = entity_names()
    inside = {}
    for found in pattern.finditer(text):
        for place in range(*found.span()):
            inside[place] = (found.start(), kind[found[0]])
    tokens, tags = [], []
    for found in re.finditer(r"\w+|[^\w\s]", text):
        tokens.append(found[0])
        begin, what = inside.get(found.start(), (-1, ""))
        here = "B" if begin == found.start() else "I"
        tags.append(f"{here}-{what}" if what else "O")
    return tokens, tags
