"""Shapes: what a trainer takes, made from what a family's converter gives.

A converter gives messages, text, tokens with tags, a prompt alone, or a prompt with
answers that were compared or labelled. `shape` turns that into what `to=` names.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from helpers.formats.results import RejectError
from helpers.formats.turns import Message

SHAPES = ("messages", "prompt_completion", "preference", "prompt", "text", "tokens")

_CUT = "turns behind the last answer were left out"
_TEMPLATES = ("### Instruction", "<|im_start|>", "[INST]", "<|start_header_id|>")
_TEMPLATED = "prompts carry a template of their own: a second one would go around it"


def shape(example: dict[str, Any], to: str, notes: Counter[str]) -> dict[str, Any]:
    """Return the example in a shape; count in `notes` what the reader should know."""
    if "text" in example or "tokens" in example:
        return example
    if to == "preference":
        made = _compared(example)
    elif to == "prompt":
        made = {"prompt": _asked(example)}
    else:
        made = _supervised(example, to, notes)
    first = (made.get("messages") or made["prompt"])[0]["content"]
    if any(mark in first for mark in _TEMPLATES):
        notes[_TEMPLATED] += 1
    return made


def _compared(example: dict[str, Any]) -> dict[str, Any]:
    if "chosen" in example and example["chosen"] == example["rejected"]:
        reason = "are the same answer, so none is the better one"
        raise RejectError("chosen/rejected", reason)
    return example


def _asked(example: dict[str, Any]) -> list[Message]:
    if "prompt" in example:
        return example["prompt"]
    messages = example["messages"]
    prompt = messages[: _last_answer(messages)]
    if not prompt:
        raise RejectError("", "begins with the answer, so nothing was asked")
    return prompt


def _supervised(
    example: dict[str, Any], to: str, notes: Counter[str]
) -> dict[str, Any]:
    if "chosen" in example:
        messages = example["prompt"] + example["chosen"]
    elif "label" in example:
        if not example["label"]:
            raise RejectError("label", "is false: a bad answer is nothing to learn")
        messages = example["prompt"] + example["completion"]
    else:
        messages = example["messages"]
    if to == "messages":
        return {"messages": messages}
    last = _last_answer(messages)
    if last + 1 < len(messages):
        notes[_CUT] += 1
    prompt = _asked({"messages": messages})
    return {"prompt": prompt, "completion": messages[last : last + 1]}


def _last_answer(messages: list[Message]) -> int:
    return max(n for n, m in enumerate(messages) if m["role"] == "assistant")
