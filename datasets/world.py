"""The small world: its words, its scenes, and one rule for each task.

A task draws a scene from a random generator and returns what stands in the text, what
the wording's slots hold, and the answer. `make_general.py` turns tasks into prose and
`make_instructions.py` into instructions, each with wordings of its own, so that both
speak about the same world and never share a question.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

LEXICON = Path(__file__).parent / "lexicon"
UNKNOWN = "It cannot be told from the text."


def read_json(name: str) -> dict:
    """Returns one of the lexicon's JSON files."""
    return json.loads((LEXICON / name).read_text(encoding="utf-8"))


def read_jsonl(name: str) -> list[dict]:
    """Returns the rows of one of the lexicon's JSON Lines files."""
    text = (LEXICON / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


WORLD = read_json("world.json")
WORDINGS = read_json("wordings.json")
NAMES, PLACES, OBJECTS = WORLD["names"], WORLD["places"], WORLD["objects"]
COLOURS, NUMBERS, KINDS = WORLD["colours"], WORLD["numbers"], WORLD["kinds"]
KIND_OF = {word: kind for group, kind in KINDS.items() for word in WORLD[group]}
THINGS = OBJECTS + list(KIND_OF)


@dataclass
class Example:
    """One drawn task: the text, the slots of its wordings, and the answer."""

    text: str
    answer: str
    slots: dict[str, str] = field(default_factory=dict)


def upper_first(text: str) -> str:
    """Returns `text` with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def plural(word: str) -> str:
    """Returns the plural of one of the world's countable nouns."""
    return word + ("es" if word.endswith(("x", "sh", "ss", "ch")) else "s")


def article(word: str) -> str:
    """Returns a word with "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# --- what people do, feel and say -----------------------------------------------------


def expand(entry: dict) -> Iterator[str]:
    """Yields every sentence that a lexicon frame stands for, {name} left open."""
    keys = list(entry["fill"])
    for values in product(*entry["fill"].values()):
        text = entry["frame"]
        for key, value in zip(keys, values, strict=True):
            text = text.replace("{" + key + "}", value)
        yield text


def split_frames(
    entries: list[dict], keys: tuple[str, ...], seed: int, *, share: float = 0.16
) -> None:
    """Marks each frame as train, dev or test, alike within each group of `keys`.

    A frame with all its expansions is one group, so that no sentence of the test has
    a sister in the training rows. `share` of a group is for test, half as much for dev.
    """
    groups: dict[tuple, list[dict]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    for name in sorted(groups):
        group = groups[name]
        order = list(range(len(group)))
        Random(f"{seed} {name}").shuffle(order)
        held = round(len(group) * share)
        for rank, index in enumerate(order):
            part = "test" if rank < held else "dev" if rank < held * 1.5 else "train"
            group[index]["split"] = part


def lexicon_sentences(name: str, keys: tuple[str, ...], *, seed: int) -> list[dict]:
    """Returns all sentences of a lexicon: text, its keys, frame number and split.

    Of the first lot, what is not for training is *unseen*: it stands in no text that
    the base reads and in no training row. Of the second lot a part is for dev and test:
    the base reads of it in plain prose, no training row of a task has it.
    """
    entries = read_jsonl(name)
    first = [entry for entry in entries if "lot" not in entry]
    second = [entry for entry in entries if "lot" in entry]
    split_frames(first, keys, seed)
    for entry in first:
        if entry["split"] != "train":
            entry["split"] = "unseen"
    split_frames(second, keys, seed, share=0.3)
    return [
        {"text": text, "split": entry["split"], "frame": number}
        | {key: entry[key] for key in keys}
        for number, entry in enumerate(entries)
        for text in expand(entry)
    ]


SITUATIONS = lexicon_sentences("situations.jsonl", ("mood",), seed=5)
REMARKS = lexicon_sentences("remarks.jsonl", ("polarity", "aim"), seed=5)


def choose_by_frame(rng: Random, rows: list[dict]) -> dict:
    """Draws a sentence with each frame equally likely, however many it expands to."""
    # kept with its rows: a list that is gone could leave its id to another
    kept, groups = _FRAMES.get(id(rows), (None, []))
    if kept is not rows:
        by_frame: dict[int, list[dict]] = {}
        for row in rows:
            by_frame.setdefault(row["frame"], []).append(row)
        groups = list(by_frame.values())
        _FRAMES[id(rows)] = (rows, groups)
    return rng.choice(rng.choice(groups))


_FRAMES: dict[int, tuple[list[dict], list[list[dict]]]] = {}


def select(rows: list[dict], **wanted: str) -> list[dict]:
    """Returns the rows whose fields have the wanted values."""
    return [r for r in rows if all(r[key] == value for key, value in wanted.items())]


SPLITS = ("train", "dev", "test", "unseen")


def pools(rows: list[dict], key: str) -> dict[tuple[str, str], list[dict]]:
    """Returns a lexicon's rows by split and by the value of `key`.

    The split "read" has all that the base reads: every row that is not unseen.
    """
    by_split = {split: select(rows, split=split) for split in SPLITS}
    by_split["read"] = [row for row in rows if row["split"] != "unseen"]
    return {
        (split, value): select(found, **{key: value})
        for split, found in by_split.items()
        for value in dict.fromkeys(row[key] for row in rows)
    }


SITUATIONS_OF = pools(SITUATIONS, "mood")
REMARKS_OF = pools(REMARKS, "polarity")


def event(rng: Random, name: str, mood: str, split: str = "read") -> str:
    """Returns a split's situation of this mood about `name`, as part of a sentence."""
    row = choose_by_frame(rng, SITUATIONS_OF[split, mood])
    return row["text"].replace("{name}", name)


def situation(rng: Random, name: str, mood: str, split: str = "read") -> str:
    """Returns a split's situation of this mood, as a sentence about `name`."""
    return upper_first(event(rng, name, mood, split)) + "."


def remark_words(rng: Random, tone: str, split: str = "read") -> dict:
    """Returns a split's remark of this polarity: text and aim."""
    return choose_by_frame(rng, REMARKS_OF[split, tone])


CARRIERS = (
    '{Event}. {speaker} said to {name}: "{remark}"',
    '{Event}. "{remark}" said {speaker}.',
    '{speaker} saw that {event}. "{remark}" {speaker} said to {name}.',
    '"{remark}" said {speaker}, when {event}.',
    '{speaker} heard the news: {event}. {speaker} said: "{remark}"',
)


def carry(rng: Random, event: str, remark: str, *, name: str, speaker: str) -> str:
    """Returns a text: something happens to `name`, and `speaker` remarks on it."""
    told = {"event": event, "remark": remark, "name": name, "speaker": speaker}
    return fill(rng.choice(CARRIERS), told)


# --- scenes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """Where a person is, or what a person holds, and how that is told.

    Told plainly, a sentence begins with the person: "Mira has a red ball."; turned, it
    begins with what is said of the person: "The ball of Mira is red." A question asks
    for what comes later in its sentence (see the card of general/).
    """

    person: str
    kind: str  # "place" or "thing"
    turned: bool


@dataclass
class Scene:
    """Some people, where they are and what they hold; sentences stand in text order."""

    facts: list[Fact]
    sentences: list[str]
    places: dict[str, str]
    held: dict[str, tuple[str, str]]  # person → (colour, object)
    people: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def told_of(self, kind: str, *, turned: bool) -> list[str]:
        """Returns the people of whom a fact of this kind is told this way."""
        return [f.person for f in self.facts if (f.kind, f.turned) == (kind, turned)]

    def told_plainly(self) -> list[str]:
        """Returns the people of whom everything is told plainly."""
        turned = {fact.person for fact in self.facts if fact.turned}
        return [person for person in self.people if person not in turned]


def draw_scene(rng: Random, *, facts: int | None = None) -> Scene:
    """Draws 3 to 6 facts on 2 to 4 people."""
    facts = facts or rng.randint(3, 6)
    people = rng.sample(NAMES, rng.randint(max(2, (facts + 1) // 2), min(4, facts)))
    slots = [(p, kind) for p in people for kind in ("place", "thing")]
    rng.shuffle(slots)
    # every person has at least one fact
    chosen, seen = [], set()
    for person, kind in slots:
        if person not in seen:
            chosen.append((person, kind))
            seen.add(person)
    rest = [slot for slot in slots if slot not in chosen]
    chosen += rest[: max(0, facts - len(chosen))]
    rng.shuffle(chosen)
    spots = rng.sample(PLACES, len(people))
    things = rng.sample(OBJECTS, len(people))
    told = [Fact(person, kind, rng.random() < 0.5) for person, kind in chosen]
    places, held = {}, {}
    for fact in told:
        index = people.index(fact.person)
        if fact.kind == "place":
            places[fact.person] = spots[index]
        else:
            held[fact.person] = (rng.choice(COLOURS), things[index])
    scene = Scene(told, [], places, held, people)
    scene.sentences = [tell(rng, scene, fact) for fact in told]
    return scene


def tell(rng: Random, scene: Scene, fact: Fact) -> str:
    """Returns one fact of a scene as a sentence."""
    person = fact.person
    if fact.kind == "place":
        verb, place = rng.choice(WORLD["stands"]), scene.places[person]
        if fact.turned:
            return f"In the {place} {verb} {person}."
        return f"{person} {verb} in the {place}."
    shade, thing = scene.held[person]
    if fact.turned:
        return f"The {thing} of {person} is {shade}."
    return f"{person} {rng.choice(WORLD['holds'])} a {shade} {thing}."


def absent(rng: Random, pool: list[str], present: list[str]) -> str:
    """Draws a word of the pool that is not present."""
    while True:
        word = rng.choice(pool)
        if word not in present:
            return word


def draw_list(rng: Random, low: int = 3, high: int = 6) -> list[str]:
    """Draws different words: things, or once in a while names or colours."""
    pool = rng.choices([THINGS, NAMES, COLOURS], weights=[8, 1, 1])[0]
    return rng.sample(pool, rng.randint(low, high))


def joined(words: list[str]) -> str:
    """Returns words as the world writes a list."""
    return ", ".join(words)


# --- tasks: a family draws one text, a task asks one thing of it ----------------------


@dataclass
class Talk:
    """Who said what to whom; in a turned line the words come first."""

    text: str
    turns: list[tuple[str, str, str]]  # (speaker, other, words)
    turned: list[bool]

    def lines(self, *, turned: bool) -> list[tuple[str, str, str]]:
        """Returns the turns that are told this way."""
        told = zip(self.turns, self.turned, strict=True)
        return [turn for turn, way in told if way == turned]


@dataclass
class Comparison:
    """Two people and how many of one thing each has."""

    text: str
    objects: str
    counts: dict[str, int]


@dataclass
class Told:
    """One situation or one remark of somebody, with its polarity."""

    text: str
    name: str
    polarity: str


@dataclass
class Mixed:
    """A list of words in which one alone is of a kind."""

    words: list[str]
    word: str
    kind: str


def draw_talk(rng: Random) -> Talk:
    count = rng.randint(2, 3)
    people = rng.sample(NAMES, 2 * count)
    says = rng.sample(WORLD["sayings"], count)
    turns = [(people[2 * i], people[2 * i + 1], says[i]) for i in range(count)]
    turned = [rng.random() < 0.5 for _ in turns]
    told = [
        f'"{words}." said {a} to {b}.' if way else f'{a} said to {b}: "{words}."'
        for (a, b, words), way in zip(turns, turned, strict=True)
    ]
    return Talk(" ".join(told), turns, turned)


def draw_comparison(rng: Random) -> Comparison:
    """Draws two counts of two to nine; half of them equal in one case of three."""
    people = rng.sample(NAMES, 2)
    objects = plural(rng.choice(OBJECTS))
    counts = (
        [rng.randint(2, 9)] * 2 if rng.random() < 0.33 else rng.sample(range(2, 10), 2)
    )
    told = dict(zip(people, counts, strict=True))
    parts = []
    for name, count in told.items():
        belong = rng.choice(WORLD["belongs"])
        parts.append(f"{upper_first(NUMBERS[count])} {objects} {belong} {name}.")
    return Comparison(" ".join(parts), objects, told)


def draw_situation(rng: Random, split: str) -> Told:
    name, mood = rng.choice(NAMES), rng.choice(["good", "bad"])
    return Told(situation(rng, name, mood, split), name, mood)


def draw_remark(rng: Random, split: str) -> Told:
    name, tone = rng.choice(NAMES), rng.choice(["kind", "harsh"])
    words = remark_words(rng, tone, split)["text"]
    return Told(f'{name} said: "{words}"', name, tone)


def draw_mixed(rng: Random) -> Mixed:
    group = rng.choice(list(KINDS))
    word = rng.choice(WORLD[group])
    pool = OBJECTS + [w for w, kind in KIND_OF.items() if kind != KINDS[group]]
    words = [word, *rng.sample(pool, rng.randint(2, 4))]
    rng.shuffle(words)
    return Mixed(words, word, KINDS[group])


def draw_repeats(rng: Random) -> list[str]:
    """Draws a list in which words come up to four times."""
    item, *others = rng.sample(THINGS, 4)
    words = [item] * rng.randint(1, 4)
    words += [rng.choice(others) for _ in range(rng.randint(1, 3))]
    rng.shuffle(words)
    return words


def draw_events(rng: Random) -> list[tuple[str, str]]:
    """Draws three or four people who do something one after the other."""
    people = rng.sample(NAMES, rng.randint(3, 4))
    acts = rng.sample(WORLD["acts"], len(people))
    return list(zip(people, acts, strict=True))


def draw_short_scene(rng: Random) -> Scene:
    return draw_scene(rng, facts=rng.randint(2, 3))


def draw_sentence(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(WORLD["sayings"]) + "."
    return rng.choice(draw_scene(rng).sentences)


def draw_nothing(rng: Random) -> str:
    return ""


def text_of(scene: object) -> str:
    """Returns the text in which a drawn scene is told."""
    if isinstance(scene, str):
        return scene
    if isinstance(scene, Mixed):
        return joined(scene.words)
    if isinstance(scene, list) and isinstance(scene[0], tuple):
        return " ".join(f"{person} {act}." for person, act in scene)
    return joined(scene) if isinstance(scene, list) else scene.text


# Each task returns (answer, slots), or None where the scene does not allow it.
# `rng` chooses what is asked for; `unknown` asks for what the text does not tell.
Asked = tuple[str, dict[str, str]] | None


def where(rng: Random, scene: Scene, unknown: bool) -> Asked:
    if unknown:
        return UNKNOWN, {"name": absent(rng, NAMES, scene.people)}
    name = rng.choice(scene.told_of("place", turned=False))
    return f"in the {scene.places[name]}", {"name": name}


def who_has(rng: Random, scene: Scene, unknown: bool) -> Asked:
    name = rng.choice(scene.told_of("thing", turned=True))
    shade, thing = scene.held[name]
    if unknown:
        thing = absent(rng, OBJECTS, [t for _, t in scene.held.values()])
        return UNKNOWN, {"thing": f"{shade} {thing}"}
    return name, {"thing": f"{shade} {thing}"}


def what_has(rng: Random, scene: Scene, unknown: bool) -> Asked:
    if unknown:
        return UNKNOWN, {"name": absent(rng, NAMES, scene.people)}
    name = rng.choice(scene.told_of("thing", turned=False))
    return "a {} {}".format(*scene.held[name]), {"name": name}


def colour(rng: Random, scene: Scene, unknown: bool) -> Asked:
    if unknown:
        present = [thing for _, thing in scene.held.values()]
        return UNKNOWN, {"object": absent(rng, OBJECTS, present)}
    shade, thing = scene.held[rng.choice(scene.told_of("thing", turned=True))]
    return shade, {"object": thing}


def all_about(rng: Random, scene: Scene, unknown: bool) -> Asked:
    if unknown:
        return UNKNOWN, {"name": absent(rng, NAMES, scene.people)}
    name = rng.choice(scene.told_plainly())
    told = zip(scene.facts, scene.sentences, strict=True)
    return " ".join(text for fact, text in told if fact.person == name), {"name": name}


def who_where(rng: Random, scene: Scene, unknown: bool) -> Asked:
    if unknown:
        place = absent(rng, PLACES, list(scene.places.values()))
        return UNKNOWN, {"place": place}
    name = rng.choice(scene.told_of("place", turned=True))
    return name, {"place": scene.places[name]}


def count_sentences(rng: Random, scene: Scene, unknown: bool) -> Asked:
    return NUMBERS[len(scene.sentences)], {}


def first(rng: Random, words: list[str], unknown: bool) -> Asked:
    return words[0], {}


def last(rng: Random, words: list[str], unknown: bool) -> Asked:
    return words[-1], {}


def after(rng: Random, words: list[str], unknown: bool) -> Asked:
    index = rng.randrange(len(words) - 1)
    return words[index + 1], {"item": words[index]}


def reverse(rng: Random, words: list[str], unknown: bool) -> Asked:
    return joined(words[::-1]), {}


def count_items(rng: Random, words: list[str], unknown: bool) -> Asked:
    counted = [f"{NUMBERS[number]} {word}" for number, word in enumerate(words, 1)]
    return NUMBERS[len(words)], {"counted": joined(counted)}


def count_word(rng: Random, words: list[str], unknown: bool) -> Asked:
    item = rng.choice(sorted(set(words)))
    tallied, count = [], 0
    for word in words:
        count += word == item
        tallied.append(f"{word} {NUMBERS[count]}" if word == item else word)
    return NUMBERS[count], {"item": item, "tallied": joined(tallied)}


def compared(told: Comparison) -> dict[str, str]:
    """Returns what is compared, and the numbers as the text has them and by size."""
    counted = [f"{NUMBERS[count]} with {name}" for name, count in told.counts.items()]
    lesser, greater = sorted(told.counts.values())
    by_size = {"lesser": NUMBERS[lesser], "greater": NUMBERS[greater]}
    return {"objects": told.objects, "counted": joined(counted)} | by_size


def more(rng: Random, told: Comparison, unknown: bool) -> Asked:
    return max(told.counts, key=told.counts.get), compared(told)


def fewer(rng: Random, told: Comparison, unknown: bool) -> Asked:
    return min(told.counts, key=told.counts.get), compared(told)


def same(rng: Random, told: Comparison, unknown: bool) -> Asked:
    equal = len(set(told.counts.values())) == 1
    reason = "the numbers are the same" if equal else "the numbers are not the same"
    counted = " and ".join(NUMBERS[count] for count in told.counts.values())
    slots = {"objects": told.objects, "same": reason, "counted": counted}
    return "yes" if equal else "no", slots


def mood(rng: Random, told: Told, unknown: bool) -> Asked:
    return f"{told.polarity} news", {"name": told.name, "mood": told.polarity}


def feels(rng: Random, told: Told, unknown: bool) -> Asked:
    word = "glad" if told.polarity == "good" else "sad"
    return f"{told.text} {told.name} is {word}.", {"name": told.name}


def remark(rng: Random, told: Told, unknown: bool) -> Asked:
    return told.polarity, {"name": told.name}


def replace_name(rng: Random, scene: Scene, unknown: bool) -> Asked:
    old, new = rng.choice(scene.people), absent(rng, NAMES, scene.people)
    return re.sub(rf"\b{old}\b", new, scene.text), {"old": old, "new": new}


def replace_colour(rng: Random, scene: Scene, unknown: bool) -> Asked:
    shades = [shade for shade, _ in scene.held.values()]
    old, new = rng.choice(shades), absent(rng, COLOURS, shades)
    return re.sub(rf"\b{old}\b", new, scene.text), {"old": old, "new": new}


def twice(rng: Random, sentence: str, unknown: bool) -> Asked:
    return f"{sentence} {sentence}", {}


def who_said(rng: Random, talk: Talk, unknown: bool) -> Asked:
    speaker, _, words = rng.choice(talk.lines(turned=True))
    if unknown:
        words = absent(rng, WORLD["sayings"], [w for _, _, w in talk.turns])
        return UNKNOWN, {"said": lower_first(words)}
    return speaker, {"said": lower_first(words)}


def silent(rng: Random, talk: Talk) -> dict[str, str]:
    """Draws a name that does not speak in this talk."""
    return {"name": absent(rng, NAMES, [n for turn in talk.turns for n in turn[:2]])}


def to_whom(rng: Random, talk: Talk, unknown: bool) -> Asked:
    speaker, other, _ = rng.choice(talk.turns)
    return (UNKNOWN, silent(rng, talk)) if unknown else (other, {"name": speaker})


def what_said(rng: Random, talk: Talk, unknown: bool) -> Asked:
    speaker, _, words = rng.choice(talk.lines(turned=False))
    return (UNKNOWN, silent(rng, talk)) if unknown else (words + ".", {"name": speaker})


NAMED_KIND = {
    "animal": "an animal",
    "food": "a food",
    "tool": "a tool",
    "clothing": "a piece of clothing",
}


def kind_of(rng: Random, nothing: str, unknown: bool) -> Asked:
    item = rng.choice(WORLD[rng.choice(list(KINDS))])
    return KIND_OF[item], {"item": item}


def pick(rng: Random, mixed: Mixed, unknown: bool) -> Asked:
    return mixed.word, {"kind": mixed.kind, "article_a": article(mixed.word)}


def without(rng: Random, mixed: Mixed, unknown: bool) -> Asked:
    kept = joined([word for word in mixed.words if word != mixed.word])
    return kept, {"kind": mixed.kind, "word": mixed.word}


def names(rng: Random, scene: Scene, unknown: bool) -> Asked:
    return joined(list(dict.fromkeys(fact.person for fact in scene.facts))), {}


def colours(rng: Random, scene: Scene, unknown: bool) -> Asked:
    found = [scene.held[f.person][0] for f in scene.facts if f.kind == "thing"]
    return joined(list(dict.fromkeys(found))), {}


def places(rng: Random, scene: Scene, unknown: bool) -> Asked:
    found = [scene.places[f.person] for f in scene.facts if f.kind == "place"]
    return joined(found), {}


def began(rng: Random, events: list[tuple[str, str]], unknown: bool) -> Asked:
    return events[0][0], {}


def ended(rng: Random, events: list[tuple[str, str]], unknown: bool) -> Asked:
    return events[-1][0], {}


def next_person(rng: Random, events: list[tuple[str, str]], unknown: bool) -> Asked:
    index = rng.randrange(len(events) - 1)
    return events[index + 1][0], {"name": events[index][0]}


def tells(kind: str, *, turned: bool) -> Callable[[Scene], bool]:
    """Returns the rule that a fact of this kind is told this way."""
    return lambda scene: bool(scene.told_of(kind, turned=turned))


def speaks(*, turned: bool) -> Callable[[Talk], bool]:
    """Returns the rule that a line is told this way."""
    return lambda talk: bool(talk.lines(turned=turned))


def has_thing(scene: Scene) -> bool:
    return bool(scene.held)


def has_plain_person(scene: Scene) -> bool:
    return bool(scene.told_plainly())


def has_both(scene: Scene) -> bool:
    return len(scene.places) > 1 and len(scene.held) > 1


def unequal(told: Comparison) -> bool:
    return len(set(told.counts.values())) == 2


@dataclass(frozen=True)
class Task:
    """How a task's text is drawn, what is asked of it, and which text allows it."""

    draw: Callable[..., object]
    ask: Callable[[Random, object, bool], Asked]
    allows: Callable[[object], bool] = lambda scene: True


TASKS: dict[str, Task] = {
    "where": Task(draw_scene, where, tells("place", turned=False)),
    "who_has": Task(draw_scene, who_has, tells("thing", turned=True)),
    "what_has": Task(draw_scene, what_has, tells("thing", turned=False)),
    "colour": Task(draw_scene, colour, tells("thing", turned=True)),
    "all_about": Task(draw_scene, all_about, has_plain_person),
    "who_where": Task(draw_scene, who_where, tells("place", turned=True)),
    "first": Task(draw_list, first),
    "last": Task(draw_list, last),
    "after": Task(draw_list, after),
    "reverse": Task(draw_list, reverse),
    "count_items": Task(draw_list, count_items),
    "count_word": Task(draw_repeats, count_word),
    "count_sentences": Task(draw_scene, count_sentences),
    "more": Task(draw_comparison, more, unequal),
    "fewer": Task(draw_comparison, fewer, unequal),
    "same": Task(draw_comparison, same),
    "mood": Task(draw_situation, mood),
    "remark": Task(draw_remark, remark),
    "feels": Task(draw_situation, feels),
    "replace_name": Task(draw_short_scene, replace_name),
    "replace_colour": Task(draw_short_scene, replace_colour, has_thing),
    "twice": Task(draw_sentence, twice),
    "who_said": Task(draw_talk, who_said, speaks(turned=True)),
    "to_whom": Task(draw_talk, to_whom),
    "what_said": Task(draw_talk, what_said, speaks(turned=False)),
    "kind_of": Task(draw_nothing, kind_of),
    "pick": Task(draw_mixed, pick),
    "without": Task(draw_mixed, without),
    "names": Task(draw_scene, names),
    "colours": Task(draw_scene, colours, has_both),
    "places": Task(draw_scene, places, has_both),
    "began": Task(draw_events, began),
    "ended": Task(draw_events, ended),
    "next_person": Task(draw_events, next_person),
}
LEXICAL = (draw_situation, draw_remark)
CAN_BE_UNKNOWN = (
    *("where", "who_has", "what_has", "colour", "all_about", "who_where"),
    *("who_said", "to_whom", "what_said"),
)


def draw_together(
    rng: Random, tasks: list[str], *, unknown: float = 0.0, split: str = "read"
) -> tuple[str, list[Example]]:
    """Draws one text that allows all these tasks, and asks each of it.

    Args:
        rng: the source of chance.
        tasks: names of tasks that share how their text is drawn.
        unknown: share of the questions that ask for what the text does not tell.
        split: whose situations and remarks to draw from.
    """
    draw = TASKS[tasks[0]].draw
    while True:
        scene = draw(rng, split) if draw in LEXICAL else draw(rng)
        if all(TASKS[task].allows(scene) for task in tasks):
            break
    text, examples = text_of(scene), []
    for task in tasks:
        open_end = task in CAN_BE_UNKNOWN and rng.random() < unknown
        answer, slots = TASKS[task].ask(rng, scene, open_end)
        examples.append(Example(text, answer, slots))
    return text, examples


HELD_CLUSTERS = ("extraction", "order")
# which tasks may be asked together of one text, for two instructions in one
FAMILIES = {
    "scene": ("where", "who_has", "what_has", "colour", "who_where", "count_sentences"),
    "list": ("first", "last", "after", "reverse", "count_items"),
    "talk": ("who_said", "to_whom", "what_said"),
    "kinds": ("pick", "without"),
}


def lower_first(text: str) -> str:
    """Returns `text` with its first letter small."""
    return text[:1].lower() + text[1:]


def say(task: str, example: Example) -> str:
    """Returns the answer as a sentence that takes up what was asked for.

    It names the person, thing or number first, and counts or compares in steps, so that
    a reader who writes it from left to right knows at each word where to look next.
    """
    if example.answer == UNKNOWN:
        return UNKNOWN
    return fill(WORDINGS[task]["answer"], example.slots | {"a": example.answer})


def fill(wording: str, slots: dict[str, str]) -> str:
    """Returns a wording with its slots filled; a capital slot takes a capital."""
    filled = {key: value for key, value in slots.items()}
    filled |= {upper_first(key): upper_first(value) for key, value in slots.items()}
    return wording.format(**filled)
