"""Families: how to recognise each, and how to convert one row of it.

A family is one entry of `FAMILIES`: what speaks for it, the columns that it uses, the
shapes that it can give, and its converter. Whatever concerns more than one row (trees
whose messages lie in rows of their own, the scheme of tags) it does in `prepare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.formats import conll, preferences, trees
from helpers.formats.results import Record, RejectError
from helpers.formats.turns import (
    TURN_COLUMNS,
    Message,
    alternating,
    exchange,
    messages_from,
    require_answer,
    with_system,
)
from helpers.formats.values import (
    Row,
    checked_text,
    is_blank,
    is_no_input,
    listed,
    only,
    parsed,
    text,
)

Converter = Callable[[Row], dict[str, Any]]
Converted = dict[str, Any]


@dataclass
class Column:
    """What the rows hold under one key.

    Attributes:
        kinds: "from" or "role" (lists of turns, named after the turns' key), "human"
            (lists of exchanges), "objects" (other lists of objects), "texts" (lists of
            texts), "empty" (an empty list), "object", "bool", "null" (also NaN and
            blank text) or "other".
        count: The number of rows that have the key.
        first: The first of them.
    """

    kinds: set[str] = field(default_factory=set)
    count: int = 0
    first: int = 0


Columns = Mapping[str, Column]
Recogniser = Callable[[Columns], tuple[str, ...]]


@dataclass(frozen=True)
class Options:
    """What the caller may choose of a family.

    Attributes:
        paths: "best" (of each tree the path of the best-ranked replies) or "all" (each
            path that ends in an answer).
        tag_column: The column of the tags, counted from 1, or None to find it.
        scheme: The scheme of the tags, or None to find it.
    """

    paths: str = "best"
    tag_column: int | None = None
    scheme: str | None = None


Prepare = Callable[[Iterable[Record], Options, "Counter[str]", str], Iterator[Record]]
Units = Callable[[Row, Options], list[tuple[str, Row]]]

_SUPERVISED = ("messages", "prompt_completion", "prompt")


@dataclass(frozen=True)
class Family:
    """One format: how to recognise it and how to convert a row of it.

    Attributes:
        name: The name that `format=` takes.
        recognise: Returns the columns that speak for this family, or nothing.
        convert: Turns one row into messages, text or another shape; None for a family
            that is recognised, so that it is not taken for another, but not converted.
        columns: All columns that the family uses; the others are meta data.
        shapes: What `to=` may be; the first is what it is where the caller names none.
        asks: The caller must name the shape, since no choice is the obvious one.
        units: Splits a row into the tasks in it, each with its place; None for one.
        prepare: Sees all records before the first is converted; None where each row
            stands for itself.
    """

    name: str
    recognise: Recogniser
    convert: Converter | None
    columns: frozenset[str]
    shapes: tuple[str, ...] = _SUPERVISED
    asks: bool = False
    units: Units | None = None
    prepare: Prepare | None = None


# ------------------------------------------------------- what the rows hold, in columns


def observe(
    records: Iterable[Record],
) -> tuple[dict[str, Column], int, Record | None]:
    """Return what the records hold, column by column; how many objects; the first."""
    columns: dict[str, Column] = {}
    total, first = 0, None
    for record in records:
        if first is None:
            first = record
        value = record.value
        if not isinstance(value, Mapping):
            continue
        total += 1
        for key, one in value.items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = Column(first=record.row)
            column.count += 1
            column.kinds.add(_kind(key, one))
    return columns, total, first


def _kind(key: str, value: Any) -> str:
    if isinstance(value, str) and key not in TURN_COLUMNS:
        return "null" if not value or value.isspace() else "other"
    value = parsed(value) if key in TURN_COLUMNS else value
    if is_blank(value):
        return "null"
    if isinstance(value, list):
        return _list_kind(value)
    if isinstance(value, Mapping):
        return "object"
    return "bool" if isinstance(value, bool) else "other"


def _list_kind(value: list[Any]) -> str:
    if not value:
        return "empty"
    objects = [item for item in value if isinstance(item, Mapping)]
    for key in ("from", "role", "human"):
        if any(key in item for item in objects):
            return key
    if objects:
        return "objects"
    return "texts" if all(isinstance(item, str) for item in value) else "other"


# --------------------------------------------------------- instructions and their input

_ANSWERS = ("output", "response")


def _recognise_alpaca(columns: Columns) -> tuple[str, ...]:
    if "context" in columns and "input" not in columns:
        return ()
    return _instruction_evidence(columns, "input")


def _recognise_dolly(columns: Columns) -> tuple[str, ...]:
    if "context" not in columns:
        return ()
    return _instruction_evidence(columns, "context")


def _instruction_evidence(columns: Columns, extra: str) -> tuple[str, ...]:
    answers = [column for column in _ANSWERS if column in columns]
    if "instruction" not in columns or not answers:
        return ()
    return ("instruction", *({extra} & columns.keys()), *answers)


def _instruction_converter(extra: str) -> Converter:
    """Convert an instruction, with the optional text under `extra`, and its answer."""

    def convert_row(row: Row) -> Converted:
        content = _instruction(row, "instruction", extra)
        answer = text(row, only(row, _ANSWERS, advice="drop one of these columns"))
        return with_system(row, exchange(content, answer))

    return convert_row


def _instruction(row: Row, column: str, extra: str) -> str:
    """Return an instruction and behind it, where there is one, its input."""
    content = text(row, column)
    given = row.get(extra)
    if not is_blank(given) and not is_no_input(text(row, extra)):
        content += f"\n\n{given}"
    return content


# ------------------------------------------------------------- several tasks in one row


def _recogniser(*columns: str, **kinds: str) -> Recogniser:
    """Recognise a family by columns that all are there, some of them of a kind."""
    names = (*columns, *kinds)

    def recognise(found: Columns) -> tuple[str, ...]:
        if not all(name in found for name in names):
            return ()
        fits = all(kind in found[name].kinds for name, kind in kinds.items())
        return names if fits else ()

    return recognise


def _instance_units(row: Row, options: Options) -> list[tuple[str, Row]]:
    """Split a row of Self-Instruct, or one of Unnatural Instructions with rewordings.

    Those carry their input within the instruction, and may have constraints.
    """
    units = []
    for column in ("instances", "reformulations"):
        if column == "reformulations" and not row.get(column):
            continue
        for index, instance in enumerate(listed(row, column, "tasks")):
            place = f"{column}[{index}]"
            given = dict(instance) if isinstance(instance, Mapping) else {}
            own = {"instruction": row.get("instruction"), **given}
            units.append((place, own))
    return units


def _convert_instance(row: Row) -> Converted:
    if is_blank(row.get("instruction_with_input")):
        content = _instruction(row, "instruction", "input")
    else:
        content = text(row, "instruction_with_input")
    limits = row.get("constraints")
    if not is_blank(limits) and not is_no_input(text(row, "constraints")):
        content += f"\n\n{limits}"
    return {"messages": exchange(content, text(row, "output"))}


def _natural_units(row: Row, options: Options) -> list[tuple[str, Row]]:
    """Split a task of Super-NaturalInstructions; the old files have bare texts."""
    definition = row.get("Definition")
    if isinstance(definition, list) and definition:
        definition = definition[0]
    units = []
    for index, instance in enumerate(listed(row, "Instances", "tasks")):
        given = dict(instance) if isinstance(instance, Mapping) else {}
        units.append((f"Instances[{index}]", {**given, "Definition": definition}))
    return units


def _convert_natural(row: Row) -> Converted:
    content = _instruction(row, "Definition", "input")
    answers = row.get("output")
    if not isinstance(answers, list):
        return {"messages": exchange(content, text(row, "output"))}
    if not answers:
        raise RejectError("output", "is an empty list")
    done = {"messages": exchange(content, checked_text(answers[0], "output[0]"))}
    if len(answers) > 1:
        done["note"] = "several answers are given as right: the first is learned"
    return done


# ------------------------------------------------------------------------ conversations


def _turns_recogniser(key: str, home: str) -> Recogniser:
    """Recognise lists of turns by the turns' own key, under either column."""

    def recognise(columns: Columns) -> tuple[str, ...]:
        found = [c for c in TURN_COLUMNS if c in columns and key in columns[c].kinds]
        # Nothing but empty lists: the column's name alone must decide.
        if not found and home in columns and columns[home].kinds <= {"null", "empty"}:
            found = [home]
        return tuple(found)

    return recognise


def _turns_converter(key: str, value: str, home: str) -> Converter:
    columns = (home, *(column for column in TURN_COLUMNS if column != home))

    def convert_row(row: Row) -> Converted:
        column = only(row, columns, advice="drop one of these columns")
        if column not in row:
            raise RejectError(column, "is missing")
        messages = messages_from(row[column], column, key=key, value=value)
        require_answer(messages, column)
        return with_system(row, messages)

    return convert_row


def _recognise_exchanges(columns: Columns) -> tuple[str, ...]:
    names = ("conversation", *TURN_COLUMNS)
    return tuple(n for n in names if n in columns and "human" in columns[n].kinds)


def _convert_exchanges(row: Row) -> Converted:
    names = ("conversation", *TURN_COLUMNS)
    column = only(row, names, advice="drop one of these columns")
    messages: list[Message] = []
    for index, turn in enumerate(listed(row, column, "exchanges")):
        place = f"{column}[{index}]"
        if not isinstance(turn, Mapping):
            raise RejectError(place, "is not an object")
        said = [text(turn, who, f"{place}.{who}") for who in ("human", "assistant")]
        messages += exchange(*said)
    return with_system(row, messages)


_MOSS_MARKS = {"Human": ("<|Human|>:", "<eoh>"), "MOSS": ("<|MOSS|>:", "<eom>")}


def _convert_moss(row: Row) -> Converted:
    """Convert turns that are numbered keys, with marks around their texts."""
    turns = row.get("chat")
    if not isinstance(turns, Mapping) or not turns:
        raise RejectError("chat", "is not an object with turns")
    messages: list[Message] = []
    for number in range(1, len(turns) + 1):
        place = f"chat.turn_{number}"
        turn = turns.get(f"turn_{number}")
        if not isinstance(turn, Mapping):
            raise RejectError(place, "is missing or is not an object")
        said = [_moss_text(turn, who, place) for who in _MOSS_MARKS]
        messages += exchange(*said)
    return with_system(row, messages, "meta_instruction")


def _moss_text(turn: Row, who: str, place: str) -> str:
    label = f"{place}.{who}"
    start, end = _MOSS_MARKS[who]
    said = text(turn, who, label).strip().removeprefix(start).removesuffix(end)
    return checked_text(said.strip(), label)


_BARE_COLUMNS = ("data", "conversations")


def _recognise_bare(columns: Columns) -> tuple[str, ...]:
    return tuple(
        n for n in _BARE_COLUMNS if n in columns and "texts" in columns[n].kinds
    )


def _convert_bare(row: Row) -> Converted:
    column = only(row, _BARE_COLUMNS, advice="drop one of these columns")
    messages = alternating(listed(row, column, "texts"), column)
    require_answer(messages, column)
    return with_system(row, messages)


def _convert_parallel(row: Row) -> Converted:
    asked, said = listed(row, "input", "texts"), listed(row, "output", "texts")
    if len(asked) != len(said):
        raise RejectError("output", f"has {len(said)} texts for {len(asked)} of input")
    messages: list[Message] = []
    for index, (prompt, answer) in enumerate(zip(asked, said, strict=True)):
        messages += exchange(
            checked_text(prompt, f"input[{index}]"),
            checked_text(answer, f"output[{index}]"),
        )
    return with_system(row, messages)


# -------------------------------------------------------------------------------- pairs

_PAIRS = {
    "prompt": ("completion", "response", "answer"),
    "input": ("output",),
    "source": ("target",),
}
_QUESTIONS = {"question": ("answer",)}
# Beside these, an answer is a letter or a number to be judged, or has its reasons.
_NOT_A_PAIR = {"rationale", "choices", "options", "instruction_id_list"}


def _pairs_recogniser(pairs: Mapping[str, tuple[str, ...]]) -> Recogniser:
    """Recognise a prompt column beside one of its answer columns."""

    def recognise(columns: Columns) -> tuple[str, ...]:
        found: list[str] = []
        for prompt, answers in pairs.items():
            present = [answer for answer in answers if answer in columns]
            # Beside an instruction, input and output are Alpaca's columns.
            alpaca = prompt == "input" and "instruction" in columns
            if prompt in columns and present and not alpaca:
                if {"object", "texts"} & columns[prompt].kinds:
                    continue
                found += [prompt, *present]
        return () if _NOT_A_PAIR & columns.keys() else tuple(found)

    return recognise


def _pairs_converter(pairs: Mapping[str, tuple[str, ...]]) -> Converter:
    """Convert the one pair that a row has."""

    def convert_row(row: Row) -> Converted:
        prompts = [
            prompt
            for prompt, answers in pairs.items()
            if prompt in row and any(answer in row for answer in answers)
        ]
        if len(prompts) > 1:
            raise RejectError("/".join(prompts), "are all prompts: keep one pair")
        present = [prompt for prompt in pairs if prompt in row]
        prompt = (prompts or present or list(pairs))[0]
        asked = _side(row, prompt, "user")
        answer = only(row, pairs[prompt], advice="drop one of these columns")
        answered = _side(row, answer, "assistant")
        require_answer(answered, answer)
        return with_system(row, asked + answered)

    return convert_row


def _side(row: Row, column: str, role: str) -> list[Message]:
    """Return one side of a pair, which is a text or a list of messages."""
    if isinstance(row.get(column), list):
        return messages_from(row[column], column)
    return [{"role": role, "content": text(row, column)}]


def _convert_reasoned(row: Row) -> Converted:
    """Convert a question whose reasons come before the answer (FLAN's CoT files)."""
    reasons, answer = text(row, "rationale"), text(row, "answer")
    return with_system(row, exchange(text(row, "question"), f"{reasons}\n\n{answer}"))


# ----------------------------------------------------------- text, tests without answer


def _recognise_text(columns: Columns) -> tuple[str, ...]:
    # Beside a label it is classification data, whose target would be lost.
    other = {"label", "message_id"} & columns.keys()
    return ("text",) if "text" in columns and not other else ()


def _convert_text(row: Row) -> Converted:
    return {"text": text(row, "text")}


def _convert_ifeval(row: Row) -> Converted:
    return {"prompt": [{"role": "user", "content": text(row, "prompt")}]}


def _recognise_turns(columns: Columns) -> tuple[str, ...]:
    return (
        ("turns",) if "turns" in columns and "texts" in columns["turns"].kinds else ()
    )


def _convert_turns(row: Row) -> Converted:
    """Convert the first question; the next ones need the model's own answer."""
    turns = listed(row, "turns", "texts")
    done = {"prompt": [{"role": "user", "content": checked_text(turns[0], "turns[0]")}]}
    if len(turns) > 1:
        done["note"] = "later questions hang on the answer to the first: left out"
    return done


def _recognise_choices(columns: Columns) -> tuple[str, ...]:
    names = [n for n in ("choices", "options") if n in columns]
    return ("question", *names) if names and "question" in columns else ()


# --------------------------------------------------------------------------------- tags


def _recognise_tags(columns: Columns) -> tuple[str, ...]:
    tags = [n for n in columns if n in conll.TAG_COLUMNS or n.startswith("column ")]
    return ("tokens", *tags) if tags and "tokens" in columns else ()


def _prepare_tags(
    records: Iterable[Record], options: Options, notes: Counter[str], name: str
) -> Iterator[Record]:
    """Find the tags' column and their scheme in all rows; yield the rows in IOB2."""
    rows = (r.value for r in records if isinstance(r.value, Mapping))
    column = conll.tag_column(rows, options.tag_column, name)
    scheme = options.scheme or _scheme(records, column, name)
    for record in records:
        if isinstance(record.value, Mapping):
            try:
                tokens, tags = conll.row_tags(record.value, column)
            except RejectError:
                yield record  # its own conversion says what is wrong
                continue
            changed = {"tokens": tokens, "tags": conll.to_iob2(tags, scheme)}
            notes[f"tags in {scheme} became IOB2"] += 1
            record = record._replace(value={**record.value, **changed})
        yield record


def _scheme(records: Iterable[Record], column: str, name: str) -> str:
    evidence = conll.Evidence()
    for record in records:
        if isinstance(record.value, Mapping):
            try:
                evidence.add(conll.row_tags(record.value, column)[1])
            except RejectError:
                continue
    return evidence.scheme(name)


def _convert_tags(row: Row) -> Converted:
    tokens, tags = conll.row_tags(row, "tags")
    return {"tokens": tokens, "tags": tags}


# ---------------------------------------------------------------------------- the table


def convertible() -> list[str]:
    """Return the names of the families that are converted."""
    return [family.name for family in FAMILIES.values() if family.convert]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "alpaca",
            _recognise_alpaca,
            _instruction_converter("input"),
            frozenset({"instruction", "input", "output", "response", "system"}),
        ),
        Family(
            "dolly",
            _recognise_dolly,
            _instruction_converter("context"),
            frozenset({"instruction", "context", "output", "response", "system"}),
        ),
        Family(
            "sharegpt",
            _turns_recogniser("from", home="conversations"),
            _turns_converter("from", "value", home="conversations"),
            frozenset({*TURN_COLUMNS, "system"}),
        ),
        Family(
            "messages",
            _turns_recogniser("role", home="messages"),
            _turns_converter("role", "content", home="messages"),
            frozenset({*TURN_COLUMNS, "system"}),
        ),
        Family(
            "prompt_completion",
            _pairs_recogniser(_PAIRS),
            _pairs_converter(_PAIRS),
            frozenset({*_PAIRS, *sum(_PAIRS.values(), ()), "system"}),
        ),
        Family(
            "question_answer",
            _pairs_recogniser(_QUESTIONS),
            _pairs_converter(_QUESTIONS),
            frozenset({"question", "answer", "system"}),
        ),
        Family("text", _recognise_text, _convert_text, frozenset({"text"}), ("text",)),
        Family(
            "self_instruct",
            _recogniser("instruction", instances="objects"),
            _convert_instance,
            frozenset({"instruction", "instances", "reformulations"}),
            units=_instance_units,
        ),
        Family(
            "super_natural_instructions",
            _recogniser("Definition", Instances="objects"),
            _convert_natural,
            frozenset({"Definition", "Instances"}),
            units=_natural_units,
        ),
        Family(
            "exchanges",
            _recognise_exchanges,
            _convert_exchanges,
            frozenset({"conversation", *TURN_COLUMNS, "system"}),
        ),
        Family(
            "moss",
            _recogniser(chat="object"),
            _convert_moss,
            frozenset({"chat", "meta_instruction"}),
        ),
        Family(
            "bare_turns",
            _recognise_bare,
            _convert_bare,
            frozenset({*_BARE_COLUMNS, "system"}),
        ),
        Family(
            "parallel_turns",
            _recogniser(input="texts", output="texts"),
            _convert_parallel,
            frozenset({"input", "output", "system"}),
        ),
        Family(
            "oasst_tree",
            _recogniser(prompt="object"),
            trees.convert_path,
            frozenset({"prompt", "path"}),
            units=lambda row, options: trees.paths(row, options.paths),
        ),
        Family(
            "oasst_messages",
            _recogniser("message_id", "parent_id", "text", "role"),
            trees.convert_path,
            frozenset({"prompt", "path"}),
            units=lambda row, options: trees.paths(row, options.paths),
            prepare=lambda records, options, notes, name: trees.gather(records, notes),
        ),
        Family(
            "chain_of_thought",
            _recogniser("question", "answer", "rationale"),
            _convert_reasoned,
            frozenset({"question", "answer", "rationale", "system"}),
        ),
        Family(
            "preference",
            preferences.recognise,
            preferences.convert,
            preferences.COLUMNS,
            ("preference", *_SUPERVISED),
            asks=True,
        ),
        Family(
            "labelled",
            preferences.recognise_labelled,
            preferences.convert_labelled,
            preferences.LABELLED_COLUMNS,
            ("preference", *_SUPERVISED),
            asks=True,
        ),
        Family(
            "tags",
            _recognise_tags,
            _convert_tags,
            frozenset({"tokens", *conll.TAG_COLUMNS}),
            ("tokens",),
            prepare=_prepare_tags,
        ),
        Family(
            "ifeval",
            _recogniser("prompt", "instruction_id_list"),
            _convert_ifeval,
            frozenset({"prompt"}),
            ("prompt",),
        ),
        Family(
            "mt_bench",
            _recognise_turns,
            _convert_turns,
            frozenset({"turns"}),
            ("prompt",),
        ),
        Family(
            "multiple_choice",
            _recognise_choices,
            None,
            frozenset({"question", "choices", "options", "answer"}),
        ),
    )
}
