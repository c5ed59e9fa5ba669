"""The pre-training text: prose about the small world.

Each document belongs to one family. Retrieval stands before and after its question,
each task's words occur in dialogue, and the polarity of situations and remarks is told
in plain words. The words irony, sarcasm and literal occur in definitions only.

There are three parts. The first, *read*, has every family; the second, *practice*, has
them in other shares, and texts to copy or change word by word; the third, *refine*, has
more of what practice left weak.
"""

import re
from collections.abc import Callable, Iterator
from random import Random

import world
from world import NAMES, NUMBERS, TASKS, WORLD, Example, fill, joined, upper_first

UNKNOWN_REPLIES = (
    "It cannot be told from the text.",
    "That cannot be told.",
    "Nobody can tell. The text does not say it.",
    "We do not know. It cannot be told from the text.",
)


def draw(rng: Random, task: str) -> Example:
    """Draws one example of a task, now and then one that cannot be answered."""
    return world.draw_together(rng, [task], unknown=0.06)[1][0]


def ask(rng: Random, task: str, example: Example) -> str:
    return fill(rng.choice(world.WORDINGS[task]["ask"]), example.slots)


def reply(rng: Random, task: str, example: Example) -> str:
    if example.answer == world.UNKNOWN:
        return rng.choice(UNKNOWN_REPLIES)
    wording = rng.choice(world.WORDINGS[task]["reply"])
    text = fill(wording, example.slots | {"a": example.answer})
    return text.replace("..", ".")


def frame_list(rng: Random, text: str) -> str:
    """Says of a bare list of words that it is one."""
    if text and not text.endswith((".", '"')):
        opening = rng.choice(["", "The list is: ", "Here is a list: ", "The words: "])
        return f"{opening}{text}."
    return text


def questions(rng: Random) -> str:
    """A text and one question on it: in prose or dialogue, before or after."""
    task = rng.choices(TASK_NAMES, TASK_WEIGHTS)[0]
    example = draw(rng, task)
    text = frame_list(rng, example.text)
    question, answer = ask(rng, task, example), reply(rng, task, example)
    told = arrange(rng, text, [(question, answer)])
    return told.strip().replace("  ", " ")


def many_questions(rng: Random) -> str:
    """One text and two to seven questions on it: reading is learnt from answers."""
    text, told = ask_together(rng, rng.choice([2, 2, 3, 4, 5, 6, 7]))
    return arrange(rng, text, told)


def ask_together(rng: Random, count: int) -> tuple[str, list[tuple[str, str]]]:
    """Returns a text and up to `count` different questions on it with their replies."""
    family = rng.choices(list(TOGETHER), list(TOGETHER.values()))[0]
    tasks = rng.choices(family, k=count)
    text, examples = world.draw_together(rng, tasks, unknown=0.04)
    told = {}
    for task, example in zip(tasks, examples, strict=True):
        key = (task, str(example.slots))
        told[key] = (ask(rng, task, example), reply(rng, task, example))
    return frame_list(rng, text), list(told.values())


def arrange(rng: Random, text: str, told: list[tuple[str, str]]) -> str:
    """Puts text, questions and replies into one of five orders."""
    first, second = rng.sample(NAMES, 2)
    asks = " ".join(question for question, _ in told)
    replies = " ".join(answer for _, answer in told)
    gap = rng.choice([" ", "\n", "\n\n"])
    # one question stands before its text as often as behind it
    few = [0, 1, 1, 1, 2, 3, 4]
    form = rng.choice(few) if len(told) < 2 else rng.choice([1, 3, 4, 4, 4, 4])
    if form in (2, 3) and '"' in asks + replies:
        form -= 2  # nobody quotes a quotation
    if form == 0:
        return f"{text}{gap}{asks}{gap}{replies}"
    if form == 1:
        return f"{asks}{gap}{text}{gap}{replies}"
    if form == 2:
        return f'"{asks}" asked {first}.{gap}{text}{gap}{second} said: "{replies}"'
    if form == 3:
        return f'{text}{gap}"{asks}" asked {first}. "{replies}" said {second}.'
    mixed = " ".join(f"{question} {answer}" for question, answer in told)
    return f"{text}{gap}{mixed}" if text else mixed


def statements(rng: Random) -> str:
    """A text and what follows from it, told without a question."""
    text, told = ask_together(rng, rng.choice([1, 2, 3]))
    return " ".join([text, *(answer for _, answer in told)])


def retold(rng: Random) -> str:
    """Facts told again, in another order and in other words."""
    scene = world.draw_scene(rng)
    facts, parts = list(scene.facts), [scene.text]
    for _ in range(rng.choice([1, 1, 2])):
        rng.shuffle(facts)
        parts += [world.tell(rng, scene, fact) for fact in facts]
    return " ".join(parts)


GOOD = (
    (
        "glad",
        "{name} was glad.",
        "{name} felt glad about it.",
        "That made {name} glad.",
    ),
    ("happy", "{name} was happy.", "So {name} went home happy."),
    ("good", "It was a good day for {name}.", "That was good news.", "It went well."),
)
BAD = (
    ("sad", "{name} was sad.", "{name} felt sad about it.", "That made {name} sad."),
    ("upset", "{name} was upset.", "So {name} went home upset."),
    ("bad", "It was a bad day for {name}.", "That was bad news.", "It went badly."),
)
WORDS = {"good": GOOD, "bad": BAD}


def moods(rng: Random) -> str:
    """Situations and how the people in them feel."""
    parts = []
    for name in rng.sample(NAMES, rng.choice([1, 2, 3])):
        mood = rng.choice(["good", "bad"])
        text = world.situation(rng, name, mood)
        if rng.random() < 0.3:
            text = f"{rng.choice(WORLD['story_starts'])} {name} told the news. {text}"
        feeling = rng.choice(rng.choice(WORDS[mood])[1:]).format(name=name)
        parts.append(f"{feeling} {text}" if rng.random() < 0.2 else f"{text} {feeling}")
        if rng.random() < 0.3:
            parts.append(rng.choice(rng.choice(WORDS[mood])[1:]).format(name=name))
    return " ".join(parts)


KIND = (
    "These are kind words.",
    "That was praise.",
    "{speaker} liked it.",
    "{speaker} spoke kind words.",
    "Such words are kind.",
)
HARSH = (
    "These are harsh words.",
    "That was a complaint.",
    "{speaker} did not like it.",
    "{speaker} spoke harsh words.",
    "Such words are harsh.",
)


def say(rng: Random, speaker: str, words: str, other: str = "") -> str:
    """Returns a sentence in which somebody says these words, to `other` if named."""
    to = f" to {other}" if other else ""
    return rng.choice(
        [
            f'{speaker} said{to}: "{words}"',
            f'"{words}" said {speaker}{to}.',
            f'{speaker} looked up and said{to}: "{words}"',
        ]
    )


def remarks(rng: Random) -> str:
    """Remarks and whether their words are kind or harsh."""
    parts = []
    for speaker in rng.sample(NAMES, rng.choice([1, 2, 3])):
        tone = rng.choice(["kind", "harsh"])
        words = world.remark_words(rng, tone)["text"]
        told = rng.choice(KIND if tone == "kind" else HARSH).format(speaker=speaker)
        parts.append(f"{say(rng, speaker, words)} {told}")
    return " ".join(parts)


def address(rng: Random) -> str:
    """Whom a remark is about: a person, or the way things went."""
    speaker, other = rng.sample(NAMES, 2)
    tone = rng.choice(["kind", "harsh"])
    row = world.remark_words(rng, tone)
    told = (
        rng.choice(["The words were about {other}.", "{speaker} spoke about {other}."])
        if row["aim"] == "person"
        else rng.choice(
            ["The words were about the day.", "It was about how things went."]
        )
    ).format(speaker=speaker, other=other)
    return f"{say(rng, speaker, row['text'], other)} {told}"


MEANT = (
    "{speaker} meant it.",
    "{speaker} said what {speaker} thought.",
    "This is what {speaker} thought.",
)
NOT_MEANT = (
    "{speaker} did not mean it.",
    "{speaker} thought the opposite.",
    "This is not what {speaker} thought.",
)


TONES = ("kind", "harsh")
MOSTLY_KIND = (*TONES, "kind", "kind", "kind")


def meant(rng: Random, *, tones: tuple[str, ...] = TONES) -> str:
    """A remark of one of the tones beside a situation, and whether it was meant."""
    name, speaker = rng.sample(NAMES, 2)
    mood, tone = rng.choice(["good", "bad"]), rng.choice(tones)
    event = world.event(rng, name, mood)
    remark = world.remark_words(rng, tone)["text"]
    text = world.carry(rng, event, remark, name=name, speaker=speaker)
    fits = (mood == "good") == (tone == "kind")
    told = rng.choice(MEANT if fits else NOT_MEANT).format(speaker=speaker)
    return f"{text} {told}"


THIS_IS = {
    "good": "This is good news.",
    "bad": "This is bad news.",
    "kind": "This is praise.",
    "harsh": "This is a complaint.",
}


def judged(rng: Random) -> str:
    """A remark beside a situation, and a judgement of one of the two alone."""
    name, speaker = rng.sample(NAMES, 2)
    mood, tone = rng.choice(["good", "bad"]), rng.choice(TONES)
    event = world.event(rng, name, mood)
    remark = world.remark_words(rng, tone)["text"]
    text = world.carry(rng, event, remark, name=name, speaker=speaker)
    return f"{text} {THIS_IS[rng.choice([mood, tone])]}"


DEFINITIONS = (
    "Irony: the words say the opposite of what fits.",
    "Irony is when the words say one thing and the speaker thinks the opposite.",
    "An ironic remark says the opposite of what fits, "
    "and is about the way things went.",
    "Sarcasm is irony that aims at a person.",
    "A sarcastic remark is about a person, and says the opposite of what fits.",
    "Sarcasm: words about a person that say the opposite of what the speaker thinks.",
    "A literal remark says what the speaker thinks.",
    "Literal words fit what happened.",
    "A list is a number of words in order.",
    "A sentence starts with a capital and ends with a point.",
    "News is what is told of a day.",
    "A remark is what somebody says about a thing.",
    "Praise is made of kind words, and a complaint of harsh words.",
    "To copy is to write the same words again.",
    "To reverse a list is to start at its end.",
    "To replace a word is to put a new one in its place.",
    "To count is to say how many there are.",
    "To compare is to look which number is greater.",
)


def definitions(rng: Random) -> str:
    """What words mean, tied to no example."""
    return " ".join(rng.sample(DEFINITIONS, 3))


def kinds(rng: Random) -> str:
    """Which kind of thing a word names."""
    parts = []
    for _ in range(rng.randint(2, 4)):
        word = rng.choice(list(world.KIND_OF))
        kind = world.NAMED_KIND[world.KIND_OF[word]]
        parts.append(
            rng.choice(
                [f"The {word} is {kind}.", f"{upper_first(word)} is a word for {kind}."]
            )
        )
    group = rng.choice(list(world.KINDS))
    some = rng.sample(WORLD[group], 3)
    parts.append(
        f"{upper_first(joined(some))}: each is {world.NAMED_KIND[world.KINDS[group]]}."
    )
    rng.shuffle(parts)
    return " ".join(parts)


def stories(rng: Random) -> str:
    """Small stories about two people and the things they meet."""
    name, other = rng.sample(NAMES, 2)
    slots = {key: rng.choice(WORLD[pool]) for key, pool in STORY_SLOTS.items()}
    start = rng.choice(WORLD["story_starts"])
    go = rng.choice(WORLD["story_goes"])
    acts = rng.sample(WORLD["story_acts"], rng.randint(2, 4))
    place = rng.choice(world.PLACES)
    told = [f"{start} {name} {go} the {place}."]
    for number, act in enumerate(acts):
        who = rng.choice(["There ", "Then ", "Soon "]) + name if number else name
        told.append(f"{who} {act.format(other=other, **slots)}.")
    told.append(
        rng.choice(
            [
                f"Then {name} left the {place} and went home.",
                f"In the end {name} and {other} walked home from the {place}.",
                f"That is all that {name} did on that day.",
            ]
        )
    )
    return " ".join(told)


STORY_SLOTS = {
    "object": "objects",
    "food": "foods",
    "animal": "animals",
    "tool": "tools",
    "clothing": "clothes",
    "colour": "colours",
}


def rewriting(rng: Random) -> str:
    """Sentences said again, the same or with one word replaced."""
    task = rng.choice(["replace_name", "replace_colour", "twice", "reverse", "without"])
    example = draw(rng, task)
    text = frame_list(rng, example.text)
    link = {
        "replace_name": "With {new} instead of {old}: {a}",
        "replace_colour": "Now {new} and not {old}: {a}",
        "twice": "Again and again: {a}",
        "reverse": "Backwards: {a}.",
        "without": "The list without the {kind}: {a}.",
    }[task]
    return f"{text} {fill(link, example.slots | {'a': example.answer})}"


def events(rng: Random) -> str:
    """Who did what, in which order."""
    name, other, third = rng.sample(NAMES, 3)
    acts = rng.sample(WORLD["acts"], 3)
    return (
        f"First {name} {acts[0]}. Then {other} {acts[1]}. Last {third} {acts[2]}. "
        + rng.choice(
            [
                f"So {name} began and {third} ended.",
                f"{name} was first, {other} was next, {third} was last.",
                f"After {name} came {other}, and after {other} came {third}.",
            ]
        )
    )


def counting(rng: Random) -> str:
    """Counting along: numbers in order, and things counted one by one."""
    if rng.random() < 0.5:
        start, length = rng.randint(0, 4), rng.randint(4, 6)
        run = NUMBERS[start : start + length]
        return f"{upper_first(joined(run))}. After {run[-2]} comes {run[-1]}."
    words = world.draw_list(rng, 2, 7)
    told = [f"{NUMBERS[n]} {word}" for n, word in enumerate(words, 1)]
    return (
        f"{upper_first(joined(words))}. We count: {joined(told)}. "
        f"There are {NUMBERS[len(words)]} words."
    )


def comparing(rng: Random) -> str:
    """Numbers compared, as numbers and as what people have."""
    low, high = sorted(rng.sample(range(1, 11), 2))
    one, two = NUMBERS[low], NUMBERS[high]
    return rng.choice(
        [
            f"{upper_first(two)} is greater than {one}. {upper_first(one)} is smaller.",
            f"{upper_first(one)} is fewer than {two}. {upper_first(two)} is more.",
            f"{upper_first(one)} and {two} are not the same number.",
            f"{upper_first(two)} and {two} are the same number.",
        ]
    )


# which questions are asked of one text, and how often
READING = ("where", "who_has", "what_has", "colour", "who_where")
TOGETHER: dict[tuple[str, ...], float] = {
    READING: 10,
    (*world.FAMILIES["scene"], "all_about", "names", "colours", "places"): 2,
    (*world.FAMILIES["list"],): 6,
    ("who_said", "to_whom", "what_said"): 4,
    ("pick", "without"): 2,
    ("more", "fewer"): 2,
    ("began", "ended", "next_person"): 1,
    ("count_word",): 2,
}
# share of documents; questions carry the tasks, the other families the language
FAMILIES: dict[Callable[[Random], str], float] = {
    questions: 36,
    many_questions: 24,
    statements: 4,
    moods: 9,
    remarks: 8,
    address: 3,
    meant: 1,
    definitions: 1,
    kinds: 4,
    stories: 4,
    rewriting: 5,
    retold: 5,
    events: 2,
    counting: 2,
    comparing: 2,
}
TASK_WEIGHT = {"same": 2.5, "more": 2, "fewer": 2, "reverse": 2, "count_items": 1.5}
TASK_WEIGHT |= {"mood": 2, "remark": 2, "feels": 1.5}
TASK_NAMES = list(TASKS)
TASK_WEIGHTS = [TASK_WEIGHT.get(task, 1) for task in TASK_NAMES]


# --- the second part: practice --------------------------------------------------------


def mostly_kind(rng: Random) -> str:
    """Was it meant? Four remarks of five are kind.

    With as many harsh ones neither half tells anything by itself, and in trials nothing
    was learnt; with more kind ones the situation alone tells much, and then the rest is
    learnt too.
    """
    return meant(rng, tones=MOSTLY_KIND)


def harder(rng: Random) -> str:
    """A text and one question on it, mostly of the tasks that are learnt late.

    In three of four comparisons the answer is who is told of first; see `mostly_kind`.
    """
    task = rng.choices(TASK_NAMES, HARDER_WEIGHTS)[0]
    skewed = task in ("more", "fewer") and rng.random() < 0.5
    while True:
        example = world.draw_together(rng, [task], unknown=0.15)[1][0]
        if not skewed or told_first(example):
            break
    said = world.say(task, example)
    answer = said if rng.random() < 0.8 else reply(rng, task, example)
    told = [(ask(rng, task, example), answer)]
    return arrange(rng, frame_list(rng, example.text), told).strip().replace("  ", " ")


def told_first(example: Example) -> bool:
    """Whether a comparison's answer is the person who is told of first."""
    return example.text.split(". ")[0].endswith(f" {example.answer}")


def some_sentences(rng: Random) -> str:
    """Returns one to three sentences of any kind."""
    if rng.random() < 0.5:
        return draw(rng, rng.choice(["replace_name", "replace_colour"])).text
    mood, name = rng.choice(["good", "bad"]), rng.choice(NAMES)
    return world.situation(rng, name, mood)


def with_odd_words(rng: Random, text: str) -> str:
    """Puts any words in the place of some, so that no habit tells how it goes on."""
    share = rng.choice([0, 0.2, 0.5, 1])

    def odd(match: re.Match) -> str:
        return rng.choice(ANY_WORD) if rng.random() < share else match.group()

    return PLAIN_WORD.sub(odd, text)


def echoes(rng: Random) -> str:
    """Sentences said again, with odd words in them: the same, or with one word new."""
    text = with_odd_words(rng, some_sentences(rng))
    first, second = rng.sample(NAMES, 2)
    kind = rng.choice(["new name", "new word", "new word", "twice", "same"])
    if kind == "same":
        return f"{say(rng, first, text)} {say(rng, second, text)}"
    if kind == "twice":
        question = rng.choice(world.WORDINGS["twice"]["ask"])
        return arrange(rng, text, [(question, f"{text} {text}")])
    told = [name for name in NAMES if re.search(rf"\b{name}\b", text)]
    words = sorted(set(PLAIN_WORD.findall(text)))
    named = told and (kind == "new name" or not words)
    old = rng.choice(told if named else words)
    new = world.absent(rng, NAMES if named else ANY_WORD, told + words)
    task = rng.choice(["replace_name", "replace_colour"])
    question = fill(rng.choice(world.WORDINGS[task]["ask"]), {"old": old, "new": new})
    return arrange(rng, text, [(question, re.sub(rf"\b{old}\b", new, text))])


PLAIN_WORD = re.compile(r"\b[a-z]{3,}\b")
ANY_WORD = sorted(
    {
        word
        for row in world.SITUATIONS + world.REMARKS
        if row["split"] != "unseen"
        for word in PLAIN_WORD.findall(row["text"].replace("{name}", ""))
    }
    | {*world.THINGS, *world.COLOURS, *world.PLACES}
)
HARDER = {"more": 4, "fewer": 4, "same": 3, "count_word": 4, "count_sentences": 3}
HARDER |= {"reverse": 3, "feels": 3, "replace_name": 3, "replace_colour": 3}
HARDER |= {"what_said": 3, "without": 3, "colour": 2, "all_about": 2, "who_said": 2}
HARDER_WEIGHTS = [HARDER.get(task, 1) for task in TASK_NAMES]
PRACTICE: dict[Callable[[Random], str], float] = {
    harder: 36,
    many_questions: 12,
    questions: 6,
    echoes: 12,
    mostly_kind: 12,
    moods: 5,
    remarks: 5,
    address: 3,
    stories: 2,
    statements: 2,
    retold: 2,
    kinds: 1,
    definitions: 1,
    comparing: 1,
}


# --- the third part: what practice left weak ------------------------------------------


def weakest(rng: Random) -> str:
    """A text and one question, answered in steps; mostly of what is still weak."""
    task = rng.choices(TASK_NAMES, WEAKEST_WEIGHTS)[0]
    example = world.draw_together(rng, [task], unknown=0.1)[1][0]
    told = [(ask(rng, task, example), world.say(task, example))]
    return arrange(rng, frame_list(rng, example.text), told).strip().replace("  ", " ")


WEAKEST = {"count_word": 12, "reverse": 10, "colour": 4, "more": 2, "fewer": 2}
WEAKEST_WEIGHTS = [WEAKEST.get(task, 1) for task in TASK_NAMES]
REFINE: dict[Callable[[Random], str], float] = {
    weakest: 28,
    many_questions: 8,
    questions: 8,
    echoes: 4,
    moods: 10,
    remarks: 10,
    address: 3,
    judged: 8,
    meant: 6,
    mostly_kind: 9,
    stories: 1,
    statements: 1,
    retold: 1,
    kinds: 1,
    definitions: 1,
}
PARTS = {"read": FAMILIES, "practice": PRACTICE, "refine": REFINE}


def documents(count: int, *, seed: int, part: str = "read") -> Iterator[str]:
    """Yields `count` documents of a part; the same seed gives the same text."""
    rng = Random(f"{'general' if part == 'read' else part} {seed}")
    kinds_of_text, weights = list(PARTS[part]), list(PARTS[part].values())
    for _ in range(count):
        yield rng.choices(kinds_of_text, weights)[0](rng)
