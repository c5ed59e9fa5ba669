r"""Answers that were compared, or marked good or bad.

The question stands in a column of its own, in the turns before the answers, or inside
both answers, as text ("\n\nHuman: …\n\nAssistant: …") or as turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.formats.results import RejectError
from helpers.formats.turns import (
    TURN_COLUMNS,
    Message,
    is_transcript,
    messages_from,
    require_answer,
    transcript,
    with_system,
)
from helpers.formats.values import (
    Row,
    checked_text,
    is_blank,
    is_empty,
    is_no_input,
    kind_name,
    text,
)

# The better answer first.
_ANSWERS = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("response_j", "response_k"),
)
_LABELS = ("label", "kto_tag")
_PROMPTS = ("prompt", "instruction", "question")
_INPUTS = ("input", "context")
_COMPLETIONS = ("completion", "response", "output")
_GIVEN = {*_PROMPTS, *_INPUTS, *TURN_COLUMNS, "system"}
COLUMNS = frozenset(_GIVEN.union(*_ANSWERS))
LABELLED_COLUMNS = frozenset({*_GIVEN, *_LABELS, *_COMPLETIONS})


def recognise(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Recognise a better and a worse answer."""
    for pair in _ANSWERS:
        if all(column in columns for column in pair):
            return pair
    return ()


def recognise_labelled(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Recognise answers that are marked good or bad."""
    return tuple(n for n in _LABELS if n in columns and "bool" in columns[n].kinds)


def convert(row: Row) -> dict[str, Any]:
    """Return a row with prompt, chosen and rejected, each a list of messages."""
    better, worse = next(
        (pair for pair in _ANSWERS if pair[0] in row or pair[1] in row), _ANSWERS[0]
    )
    chosen, rejected = _answer(row, better), _answer(row, worse)
    prompt = _prompt(row)
    shared = _shared(chosen, rejected)
    if shared:
        # The answers hold the question too: it must be the same one.
        said = [message["content"] for message in shared]
        if any(message["content"] not in said for message in prompt):
            raise RejectError(better, "begins with another question than the prompt")
        prompt = shared
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    if not prompt:
        raise RejectError("prompt", "is missing, and the answers do not begin with it")
    for column, answer in ((better, chosen), (worse, rejected)):
        require_answer(answer, column)
        if answer[0]["role"] == "user":
            raise RejectError(column, "begins with a question that the other has not")
    prompt = with_system(row, prompt)["messages"]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """Return the turns that both begin with, up to the last of the user."""
    count = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        count += 1
    while count and chosen[count - 1]["role"] == "assistant":
        count -= 1
    return chosen[:count]


def _answer(row: Row, column: str) -> list[Message]:
    """Return an answer, which is a text, one turn or a list of turns."""
    if column not in row:
        raise RejectError(column, "is missing")
    value = row[column]
    if isinstance(value, Mapping):
        return _turns([value], column)
    if isinstance(value, list):
        return _turns(value, column)
    if is_transcript(value):
        return transcript(value, column)
    return [{"role": "assistant", "content": checked_text(value, column)}]


def _turns(value: list[Any], column: str) -> list[Message]:
    sharegpt = any(isinstance(turn, Mapping) and "from" in turn for turn in value)
    keys = ("from", "value") if sharegpt else ("role", "content")
    return messages_from(value, column, key=keys[0], value=keys[1])


def _prompt(row: Row) -> list[Message]:
    """Return the question of a row, or nothing where it has no column for it."""
    for column in (*TURN_COLUMNS, *_PROMPTS):
        value = row.get(column)
        if is_empty(value):
            continue
        if isinstance(value, list):
            return _turns(value, column)
        if is_transcript(value):
            return transcript(value, column)
        content = text(row, column)
        for extra in _INPUTS:
            given = row.get(extra)
            if not is_blank(given) and not is_no_input(text(row, extra)):
                content += f"\n\n{given}"
        return [{"role": "user", "content": content}]
    return []


def convert_labelled(row: Row) -> dict[str, Any]:
    """Return a row with prompt, completion and whether it is a good one."""
    column = next((name for name in _LABELS if name in row), _LABELS[0])
    label = row.get(column)
    if not isinstance(label, bool):
        raise RejectError(column, f"is {kind_name(label)}, not true or false")
    prompt = _prompt(row)
    answer = next((name for name in _COMPLETIONS if name in row), "")
    if answer:
        completion = _answer(row, answer)
    else:
        asked = next((name for name in TURN_COLUMNS if name in row), TURN_COLUMNS[0])
        require_answer(prompt, asked)
        if prompt[-1]["role"] != "assistant":
            raise RejectError(asked, "ends without an answer")
        prompt, completion = prompt[:-1], prompt[-1:]
    if not prompt:
        raise RejectError("prompt", "is missing, so nothing was asked")
    prompt = with_system(row, prompt)["messages"]
    return {"prompt": prompt, "completion": completion, "label": label}
