"""Rules over the rows as they stand in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from helpers.checks.core import Place, excerpt, joined, places, rule
from helpers.checks.source import ROLES, TURNS, Row, Source, Turn, turns

TRAINED = (*TURNS, "prompt", "completion", "text", "input_ids", "labels")
"""Columns that SFTTrainer reads."""

MASKED = -100

_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|begin_of_text|end_of_text|end|user"
    r"|start_header_id|end_header_id|system|assistant|eom_id)\|>"
    r"|<(?:start|end)_of_turn>|</s>|<s>\[INST\]"
)


def each_turn(source: Source) -> Iterator[tuple[int, Turn]]:
    """Every turn of every conversation, with its row's number."""
    for row in source.rows:
        for _, spoken in turns(row.value):
            for turn in spoken:
                yield row.number, turn


@rule(
    "foreign-roles",
    "warning",
    pitfall=1,
    needs="source",
    title="Roles that chat templates do not know, such as human and gpt",
    ignored="SFTTrainer renames from/value to role/content but not the roles. A "
    "template then writes nothing for these turns, or only its default system prompt, "
    "and the loss goes to 0 on nothing.",
    fix="`python -m helpers convert` maps them to user and assistant.",
)
def foreign_roles(source: Source) -> Iterator[Place]:
    """Find turns of other roles."""
    known = ROLES | {"developer", "function"}
    for number, turn in each_turn(source):
        if turn.role not in known:
            yield Place(number, turn.field, f"role {turn.role!r}")


@rule(
    "no-known-format",
    "error",
    pitfall=2,
    needs="source",
    title="The columns fit no format, or more than one",
    ignored="SFTTrainer ends with KeyError 'text' or 'completion', and does not say "
    "which column it missed.",
    fix="Rename the columns, or say the format with --format.",
)
def no_known_format(source: Source) -> Iterator[Place]:
    """Find a file without a format."""
    if source.problem and not source.shape:
        yield Place(0, joined(list(source.columns)), source.problem)


@rule(
    "needs-conversion",
    "note",
    pitfall=2,
    needs="source",
    title="A format that SFTTrainer does not take as it is",
    ignored="SFTTrainer ends with KeyError 'text': it takes messages, prompt and "
    "completion, text or input_ids.",
    fix="`python -m helpers convert` writes messages.",
)
def needs_conversion(source: Source) -> Iterator[Place]:
    """Find a file that is to be converted first."""
    if source.is_sft and not source.shape:
        yield Place(0, joined(list(source.columns)), f"format {source.family}")


@rule(
    "two-formats",
    "error",
    pitfall=4,
    needs="source",
    title="A row that holds two formats at once",
    ignored="SFTTrainer takes prompt and completion and never says that it left the "
    "text or the messages unread.",
    fix="Keep the columns of one format.",
)
def two_formats(source: Source) -> Iterator[Place]:
    """Find rows with two filled families of columns."""
    families = {
        "messages": ("messages",),
        "conversations": ("conversations",),
        "prompt/completion": ("prompt", "completion"),
        "text": ("text",),
    }
    for row in source.rows:
        present = [
            name
            for name, columns in families.items()
            if all(_filled(row.value.get(column)) for column in columns)
        ]
        if len(present) > 1:
            yield Place(row.number, " and ".join(present), excerpt(dict(row.value)))


def _filled(value: Any) -> bool:
    return value is not None and value != "" and value != []


@rule(
    "messages-as-text",
    "error",
    pitfall=5,
    needs="source",
    title="Messages written as one JSON string",
    ignored="The trainer finds no list of messages: no row is trained, or it ends with "
    "'No columns match'.",
    fix="Parse the string (json.loads), or `python -m helpers convert`.",
)
def messages_as_text(source: Source) -> Iterator[Place]:
    """Find strings that are lists of turns."""
    for row in source.rows:
        for column in (*TURNS, "prompt", "completion"):
            value = row.value.get(column)
            if isinstance(value, str) and _is_json_turns(value):
                yield Place(row.number, column, excerpt(value))


def _is_json_turns(text: str) -> bool:
    if not text.lstrip().startswith("["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(value) and all(
        isinstance(turn, Mapping) and turn.keys() & {"role", "from"} for turn in value
    )


@rule(
    "blank-content",
    "error",
    pitfall=6,
    needs="source",
    title="A turn, prompt or answer that is missing, null or blank",
    ignored="The row trains the end token alone: the model learns to answer with "
    "nothing.",
    fix="Fill it in or leave the row out.",
)
def blank_content(source: Source) -> Iterator[Place]:
    """Find blank contents, also those for which conversion left rows out."""
    seen = set()
    for number, turn in each_turn(source):
        if turn.text is None or turn.text == [] or _is_blank(turn.text):
            seen.add(number)
            yield Place(number, turn.field, repr(turn.text))
    for row in source.rows:
        for column in ("text", "prompt", "completion"):
            if column in row.value and _is_blank(row.value[column]):
                seen.add(row.number)
                yield Place(row.number, column, repr(row.value[column]))
    for number, column, reason in source.rejected:
        if number not in seen and reason.split(" (")[0] in ("is blank", "is null"):
            yield Place(number, column, reason)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


@rule(
    "not-converted",
    "error",
    needs="source",
    title="A row that cannot be converted",
    ignored="Such a row stops the trainer, or is trained as something else.",
    fix="Mend the row or leave it out.",
)
def not_converted(source: Source) -> Iterator[Place]:
    """Find records that are no rows, and rejections that no other rule explains."""
    yield from places((number, "", reason) for number, reason in source.broken)
    told = ("is blank", "is null", "is an empty list")
    for number, column, reason in source.rejected:
        if not reason.startswith(told) and "unknown role" not in reason:
            yield Place(number, column, reason)


@rule(
    "media",
    "note",
    needs="source",
    title="Images, sound or video beside the text",
    ignored="A text model reads the placeholders and never sees the media.",
    fix="Train the text alone, or take a model and a trainer for these media.",
)
def media(source: Source) -> Iterator[Place]:
    """Find rows with media."""
    for row in source.rows:
        for column in ("image", "images", "video", "videos", "audio", "audios"):
            if _filled(row.value.get(column)):
                yield Place(row.number, column, excerpt(row.value[column]))


@rule(
    "mixed-types",
    "error",
    pitfall=7,
    needs="source",
    title="A column that is text in one row and something else in another",
    ignored="Arrow refuses the column (ArrowInvalid), or the trainer ends with "
    "'NoneType has no attribute endswith', and neither names the row.",
    fix="Give the column one type.",
)
def mixed_types(source: Source) -> Iterator[Place]:
    """Find values whose type is not that of the column's first value."""
    first: dict[str, str] = {}
    for row in source.rows:
        for column in TRAINED:
            value = row.value.get(column)
            if value is None:
                continue
            kind = _kind(value)
            if kind != first.setdefault(column, kind):
                told = f"is {kind}, the first is {first[column]}"
                yield Place(row.number, column, told)
            elif kind == "number":
                yield Place(row.number, column, f"is a number: {value}")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, Mapping) else "number"


@rule(
    "other-keys",
    "warning",
    pitfall=8,
    needs="source",
    title="Rows or calls with other keys than the first",
    ignored="Dataset.from_list drops keys that the first row lacks, and Arrow adds "
    "nulls for keys that a row lacks: a template writes them into the text as None.",
    fix="Give each row the same keys; write tools and arguments as JSON strings.",
)
def other_keys(source: Source) -> Iterator[Place]:
    """Find keys that the first row lacks, and arguments of differing keys."""
    first = set(source.rows[0].value) if source.rows else set()
    arguments: set[str] | None = None
    for row in source.rows:
        used = (*TRAINED, "tools", "chat_template_kwargs", "system")
        extra = [key for key in row.value if key in used and key not in first]
        if extra:
            yield Place(row.number, joined(extra), "not in the first row")
        for keys in _argument_keys(row.value.get("messages")):
            arguments = keys if arguments is None else arguments
            if keys != arguments:
                told = f"arguments {sorted(keys)}, the first call has others"
                yield Place(row.number, "messages.tool_calls", excerpt(told))


def _argument_keys(messages: Any) -> Iterator[set[str]]:
    for turn in _mappings(messages):
        for call in _mappings(turn.get("tool_calls")):
            for function in _mappings([call.get("function", call)]):
                for arguments in _mappings([function.get("arguments")]):
                    yield set(arguments)


def _mappings(values: Any) -> list[Mapping]:
    """The mappings of a list; none if it is no list."""
    values = values if isinstance(values, list) else []
    return [value for value in values if isinstance(value, Mapping)]


@rule(
    "role-order",
    "warning",
    pitfall=9,
    needs="source",
    title="Turns in another order than user, assistant, user, assistant",
    ignored="A strict template ends the run; a lenient one trains on a conversation "
    "that never happens when the model is asked.",
    fix="Merge turns of one side, put a user's turn first, cut what has no answer.",
)
def role_order(source: Source) -> Iterator[Place]:
    """Find the first turn that is out of order in each conversation."""
    for row in source.rows:
        for column, spoken in turns(row.value):
            if column in TURNS and source.becomes != "preference":
                yield from _disorder(row, spoken)


_PLAIN = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "developer": "system",
}
_AFTER = {
    "": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}


def _disorder(row: Row, spoken: list[Turn]) -> Iterator[Place]:
    before = ""
    for turn in spoken:
        role = _PLAIN.get(turn.role, turn.role)
        if role not in _AFTER.get(before, ()):
            told = f"{role} after {before}" if before else f"starts with {role}"
            yield Place(row.number, turn.field, told)
            return
        before = role
    if before != "assistant" and before in _AFTER:
        yield Place(row.number, spoken[-1].field, f"ends with {before}")


@rule(
    "preference-as-sft",
    "warning",
    pitfall=4,
    needs="source",
    title="Good and bad answers, in a file that supervised tuning reads as good",
    ignored="SFTTrainer does not look at label, chosen or rejected: bad answers are "
    "learnt like good ones.",
    fix="Leave out what is not wanted, or use DPO or KTO.",
)
def preference_as_sft(source: Source) -> Iterator[Place]:
    """Find judged rows beside messages or a prompt and completion."""
    for row in source.rows if source.shape not in ("", "text") else ():
        if row.value.get("label") is False:
            yield Place(row.number, "label", "false")
        elif _filled(row.value.get("rejected")):
            yield Place(row.number, "rejected", excerpt(row.value["rejected"]))


@rule(
    "system-column",
    "warning",
    pitfall=10,
    needs="source",
    title="A system prompt in a column of its own",
    ignored="SFTTrainer reads the messages alone: the system prompt is never trained.",
    fix="Make it the first message; `python -m helpers convert` does.",
)
def system_column(source: Source) -> Iterator[Place]:
    """Find rows with messages and a top-level system."""
    for row in source.rows:
        value = row.value.get("system")
        if any(column in row.value for column in TURNS) and not _is_blank(value):
            yield Place(row.number, "system", excerpt(value))


@rule(
    "control-tokens",
    "warning",
    pitfall=13,
    needs="source",
    title="A control token of a model inside the text",
    ignored="The tokenizer reads it as the real token: a user's '</s>' ends the turn, "
    "and who writes it can pose as the system.",
    fix="Take it out, or put a character between its signs.",
)
def control_tokens(source: Source) -> Iterator[Place]:
    """Find the control tokens of the usual models."""
    for prose in source.texts:
        if "<" in prose.text and (found := _CONTROL.search(prose.text)):
            yield Place(prose.row, prose.field, found[0])


@rule(
    "labels-of-other-tokens",
    "error",
    pitfall=25,
    needs="source",
    title="Labels that are neither -100 nor the token at their place",
    ignored="The model learns to write other tokens than those of the row; no library "
    "compares the two.",
    fix="Write labels as a copy of input_ids with -100 where nothing is to be learnt.",
)
def labels_of_other_tokens(source: Source) -> Iterator[Place]:
    """Find labels that fit no token, and lists of differing lengths."""
    for row, ids, labels in _tokenised(source):
        if labels is None or _is_shifted(ids, labels):
            continue
        wrong = [
            n
            for n, (token, label) in enumerate(zip(ids, labels, strict=False))
            if label not in (MASKED, token)
        ]
        if len(ids) != len(labels):
            told = f"{len(ids)} ids, {len(labels)} labels"
            yield Place(row.number, "labels", told)
        elif wrong:
            told = f"label {labels[wrong[0]]} at token {ids[wrong[0]]}"
            yield Place(row.number, f"labels[{wrong[0]}]", told)


@rule(
    "mask-without-labels",
    "error",
    pitfall=25,
    needs="source",
    title="Tokens without labels",
    ignored="SFTTrainer trains every token of input_ids, the prompt, padding and what "
    "attention_mask hides; it adds no end token.",
    fix="Write labels.",
)
def mask_without_labels(source: Source) -> Iterator[Place]:
    """Find tokenised rows with padding or a mask and no labels."""
    for row, ids, labels in _tokenised(source):
        mask = row.value.get("attention_mask")
        if labels is None:
            masked = isinstance(mask, list) and mask  # whatever else stands there
            hidden = f", {mask.count(0)} of them hidden" if masked else ""
            yield Place(row.number, "input_ids", f"{len(ids)} tokens{hidden}")


@rule(
    "user-in-completion",
    "error",
    pitfall=26,
    needs="source",
    title="A user's turn inside the completion",
    ignored="The whole completion is trained: the model learns to write users' turns.",
    fix="Use messages, or split the row so that each completion is one answer.",
)
def user_in_completion(source: Source) -> Iterator[Place]:
    """Find turns of others in a conversational completion."""
    for row in source.rows:
        for column, spoken in turns(row.value):
            for turn in spoken if column == "completion" else ():
                if _PLAIN.get(turn.role, turn.role) not in ("assistant", "tool"):
                    yield Place(row.number, turn.field, f"role {turn.role!r}")


@rule(
    "shifted-labels",
    "error",
    pitfall=27,
    needs="source",
    title="Labels that are already shifted by one",
    ignored="The model shifts them again and learns to skip every other token.",
    fix="Do not shift: labels stand at the place of their own token.",
)
def shifted_labels(source: Source) -> Iterator[Place]:
    """Find labels that are the ids, one place on."""
    for row, ids, labels in _tokenised(source):
        if labels is not None and _is_shifted(ids, labels):
            yield Place(row.number, "labels", f"labels {labels[:6]}, ids {ids[:6]}")


def _tokenised(source: Source) -> Iterable[tuple[Row, list[int], list[int] | None]]:
    for row in source.rows:
        ids, labels = row.value.get("input_ids"), row.value.get("labels")
        if isinstance(ids, list):
            yield row, ids, labels if isinstance(labels, list) else None


def _is_shifted(ids: list[int], labels: list[int]) -> bool:
    pairs = [
        (after, label)
        for after, label in zip(ids[1:], labels, strict=False)
        if label != MASKED
    ]
    if len(pairs) < 2 or any(after != label for after, label in pairs):
        return False
    # a row of one repeated token is shifted and unshifted alike
    return any(
        label not in (MASKED, token) for token, label in zip(ids, labels, strict=False)
    )
