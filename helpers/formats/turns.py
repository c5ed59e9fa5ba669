"""Turns of a conversation, in the spellings that files have, to messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from helpers.formats.results import RejectError
from helpers.formats.values import (
    Row,
    checked_text,
    is_blank,
    is_empty,
    kind_name,
    parsed,
    quoted,
    text,
)

Message = dict[str, Any]

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_MEDIA_COLUMNS = frozenset(MEDIA)
TURN_COLUMNS = ("messages", "conversations")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_WEIGHTS = ("weight", "loss_weight")  # OpenAI's and LLaMA-Factory's, one for each turn
# The types of parts that are no text, as OpenAI, Qwen and transformers write them.
_MEDIA_PART = re.compile(r"(?:input_)?(image|video|audio|file)(?:_url)?")
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):(?: |$|(?=\n))")


def exchange(prompt: str, answer: str) -> list[Message]:
    """Return a conversation of one question and one answer."""
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]


def alternating(texts: list[Any], column: str) -> list[Message]:
    """Return messages from bare texts, of which the user says the first."""
    roles = ("user", "assistant")
    return [
        {"role": roles[n % 2], "content": checked_text(one, f"{column}[{n}]")}
        for n, one in enumerate(texts)
    ]


def messages_from(
    turns: Any, column: str, *, key: str = "role", value: str = "content"
) -> list[Message]:
    """Return the messages of a list of turns, or of JSON text that holds one.

    Args:
        turns: What stands under the column.
        column: Its name, for rejections.
        key: The turns' own key for the role: "role" or "from".
        value: Their key for the text: "content" or "value".
    """
    turns = parsed(turns)
    if not isinstance(turns, list) or not turns:
        raise RejectError(column, f"is {kind_name(turns)}, not a list of turns")
    return [
        _message(turn, f"{column}[{index}]", key, value)
        for index, turn in enumerate(turns)
    ]


def _message(turn: Any, place: str, key: str, value: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RejectError(place, f"is {kind_name(turn)}, not an object")
    name = text(turn, key, f"{place}.{key}")
    if name not in ROLES:
        known = ", ".join(ROLES)
        raise RejectError(
            f"{place}.{key}",
            f"is the unknown role {quoted([name])}: known are {known}",
        )
    role, calls = ROLES[name], turn.get("tool_calls")
    for weight in _WEIGHTS if role == "assistant" else ():
        if turn.get(weight) not in (None, 1):
            reason = (
                "is not 1, but all answers are learned in full: drop it or the turn"
            )
            raise RejectError(f"{place}.{weight}", reason)
    if role == "assistant" and isinstance(calls, list) and calls:
        content = "" if is_blank(turn.get(value)) else _content(turn, value, place)
        return {"role": role, "content": content, "tool_calls": calls}
    return {"role": role, "content": _content(turn, value, place)}


def _content(turn: Row, value: str, place: str) -> str:
    """Return the text of a turn; its parts are joined with nothing in between.

    A part that is no text leaves its kind as a placeholder, such as `<image>`.
    """
    parts = turn.get(value)
    if not isinstance(parts, list):
        return text(turn, value, f"{place}.{value}")
    texts = []
    for index, part in enumerate(parts):
        label = f"{place}.{value}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        media = _MEDIA_PART.fullmatch(kind) if isinstance(kind, str) else None
        if media:
            texts.append(f"<{media[1]}>")
            continue
        if kind != "text":
            raise RejectError(label, "is neither a text part nor one of media")
        # "text" is the usual key; LLaMA-Factory's files call it "value".
        key = "value" if "value" in part and "text" not in part else "text"
        if not isinstance(part.get(key), str):
            raise RejectError(f"{label}.{key}", "is not text")
        texts.append(part[key])
    return checked_text("".join(texts), f"{place}.{value}")


def media_of(row: Row) -> dict[str, Any]:
    """Return what a row holds besides text: columns, and parts of its turns."""
    found: dict[str, Any] = {}
    if not _MEDIA_COLUMNS.isdisjoint(row):
        found = {
            column: row[column] for column in MEDIA if not is_empty(row.get(column))
        }
    parts = [
        part
        for column in TURN_COLUMNS
        if column in row and isinstance(row[column], list)
        for turn in row[column]
        if isinstance(turn, Mapping) and isinstance(turn.get("content"), list)
        for part in turn["content"]
        if isinstance(part, Mapping) and part.get("type") != "text"
    ]
    if parts:
        found["parts"] = parts
    return found


def tools_of(row: Row) -> str:
    """Return the tools of a row as JSON text, or "" where it has none.

    As text, since tools have different keys, which Arrow would fill up with nulls;
    SFTTrainer parses it.
    """
    tools = row.get("tools")
    if is_empty(tools):
        return ""
    tools = parsed(tools)
    if not isinstance(tools, list):
        raise RejectError("tools", f"is {kind_name(tools)}, not a list of tools")
    try:
        return json.dumps(tools, ensure_ascii=False, allow_nan=False) if tools else ""
    except (TypeError, ValueError) as error:
        raise RejectError("tools", f"cannot be written as JSON ({error})") from error


def with_system(row: Row, messages: list[Message], column: str = "system"):
    """Return the finished row, a top-level system text first."""
    if is_blank(row.get(column)):
        return {"messages": messages}
    system = {"role": "system", "content": text(row, column)}
    if messages[0]["role"] != "system":
        return {"messages": [system, *messages]}
    if messages[0]["content"] != system["content"]:
        raise RejectError(column, "differs from the system turn: keep one of them")
    return {"messages": messages}


def require_answer(messages: list[Message], column: str) -> None:
    """Reject a row without a turn of the assistant."""
    if not any(message["role"] == "assistant" for message in messages):
        reason = "has no assistant turn, so there is nothing to learn"
        raise RejectError(column, reason)


def is_transcript(value: Any) -> bool:
    """Tell a text that begins as a dialogue of Human and Assistant does."""
    return isinstance(value, str) and value.lstrip("\n").startswith("Human:")


def transcript(value: str, column: str) -> list[Message]:
    """Return the messages of a text "Human: …, Assistant: …", split at blank lines.

    An empty turn of the assistant at the end, which asks for its answer, is left out.
    """
    _, *pieces = _SPEAKER.split(value.lstrip("\n"))
    speakers, texts = pieces[::2], pieces[1::2]
    if speakers[-1] == "Assistant" and not texts[-1].strip():
        speakers, texts = speakers[:-1], texts[:-1]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": checked_text(said, f"{column}[{n}]")}
        for n, (who, said) in enumerate(zip(speakers, texts, strict=True))
    ]
