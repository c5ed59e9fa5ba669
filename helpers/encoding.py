"""From rows to token ids and the loss mask, as SFTTrainer would, but in batches.

SFTTrainer renders and tokenises one row at a time. Here each chat template is compiled
once and all texts go through the fast tokenizer together, which gives the same ids and
labels several times faster, and gives them *before* a trainer exists, so that a row
that would be cut or trained on nothing can be seen.

A row has one of three shapes:

======================  =======================  ===================================
keys                    what is learnt           SFTTrainer setting that gives it
======================  =======================  ===================================
messages                the assistant's turns    assistant_only_loss=True
prompt, completion      the completion           completion_only_loss=True (default)
text                    every token              default
======================  =======================  ===================================

A template without ``{% generation %}`` does not say where the answers are; there each
assistant turn is what follows its prompt (the prefix difference of prompt/completion).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.formats import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    import datasets

MASKED = -100
"""Label of a token that adds nothing to the loss (the default of cross-entropy)."""

ROLES = ("system", "user", "assistant", "tool")

Messages = Sequence[Mapping[str, Any]]

_BATCH = 128
"""Rows rendered and tokenised together. Offsets take far more memory than ids, and
larger batches (measured: 1,000) were slower, as they set off full garbage collections.
"""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass
class Encoded:
    """Token ids and labels, one entry for each row, in the rows' order.

    Attributes:
        input_ids: token ids of each row, ``(rows, tokens)``, ragged.
        labels: the same ids where the token is learnt and -100 elsewhere; same shape.
            They are not shifted: the model shifts them.
        cut: indexes of the rows whose answer lost tokens at ``max_length``.
        unfinished: indexes of the rows whose last end token fell beyond
            ``max_length``: such a row does not teach the model to stop.
    """

    input_ids: list[list[int]]
    labels: list[list[int]]
    cut: list[int]
    unfinished: list[int]

    @property
    def empty(self) -> list[int]:
        """Indexes of the rows that were cut before their answer: nothing to learn."""
        return [index for index in self.cut if _learns_nothing(self.labels[index])]


class _Request(NamedTuple):
    """A conversation to render, and how to name it when that fails."""

    messages: Messages
    where: str
    opening: bool = False
    options: Mapping[str, Any] | None = None


class _Rendered(NamedTuple):
    """Its text, and the characters of its answers where the template marks them."""

    text: str
    spans: list[tuple[int, int]] | None
    request: _Request


class _Template(NamedTuple):
    """A chat template, and whether it marks its answers."""

    source: str
    marked: bool


class _Answer(NamedTuple):
    """Where an answer lies in a rendered text.

    It starts at the character ``start``, or, where ``prompt`` is given, at the first
    token in which the text differs from that prompt; it ends before the character
    ``end``, or with the text.
    """

    start: int = 0
    end: int | None = None
    prompt: str | None = None


class _Draft(NamedTuple):
    """A row as text. ``answers`` None: every token is learnt."""

    text: str
    add_special_tokens: bool
    answers: list[_Answer] | None


def encode(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    loss_on: str = "answers",
) -> Encoded:
    """Turn rows into token ids and labels, equal to SFTTrainer's own preparation.

    Ids and labels are those of TRL's ``SFTTrainer`` for the same rows, with
    ``assistant_only_loss=True`` for messages under a template that has
    ``{% generation %}``, and ``completion_only_loss=True`` for prompt/completion.
    Messages under any other template are masked turn by turn: a turn starts at the
    first token in which the conversation differs from its prompt. A plain text or
    completion gets the end token; messages get what the template writes.

    Two things differ, on purpose. SFTTrainer drops a row whose answer lies wholly
    beyond ``max_length``; here it stays, with labels of -100, and is named in ``cut``
    and ``empty``. And where the tokenizer's offsets leave out white space at the edge
    of an answer, transformers loses the answer or runs on into the next turn, and
    where an answer's last character takes several tokens (a marked answer without end
    token), it learns the first of them; here the mask covers the tokens that overlap
    the answer, no more and no fewer.

    Args:
        rows: mappings with ``messages``, or ``prompt`` and ``completion`` (both texts
            or both lists of messages), or ``text``; ``tools`` and
            ``chat_template_kwargs`` are passed to the template, other keys ignored.
        tokenizer: a fast tokenizer; for messages, one with a chat template.
        max_length: number of tokens after which a row is cut; None: never.
        loss_on: ``"answers"``, or ``"all"`` to learn the prompts as well
            (``assistant_only_loss=False``, ``completion_only_loss=False``).

    Returns:
        Ids and labels, row by row.

    Raises:
        DataError: for a row of no known shape or of two at once, a missing content,
            an unknown role, a row that its template refuses, a conversation without
            an answer, or one whose prompts are no prefix of it. The row is named.
        ValueError: for an unknown ``loss_on`` or a ``max_length`` below 1.

    Source:
        ``SFTTrainer._prepare_dataset`` of TRL 1.16.0,
        https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/sft_trainer.py
    """
    if loss_on not in ("answers", "all"):
        raise ValueError(f'loss_on is {loss_on!r}; use "answers" or "all".')
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}; use 1 or more, or None.")
    _require_fast(tokenizer)
    encoded = Encoded([], [], [], [])
    renderer = _Renderer(tokenizer)
    numbered = enumerate(rows)
    while batch := list(islice(numbered, _BATCH)):
        drafts = _drafts(batch, renderer, answers=loss_on == "answers")
        encodings = _tokenise([draft[:2] for draft in drafts], tokenizer)
        encoded.input_ids += [encoding.ids for encoding in encodings]
        encoded.labels += _labels(drafts, encodings, tokenizer)
    for index, labels in enumerate(encoded.labels):
        if _learns_nothing(labels):
            raise DataError(
                f"{_where('row', index)} has no token to learn from: its answer is "
                "empty once rendered; give the answer a text or leave the row out."
            )
    if max_length is not None:
        _truncate(encoded, max_length, tokenizer)
    return encoded


def render(
    messages: Messages,
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Write a conversation as the text that the model reads.

    Args:
        messages: dictionaries with ``role`` and ``content``.
        tokenizer: its chat template is used.
        add_generation_prompt: end with the opening of the assistant's turn, as when
            the model is to answer.

    Returns:
        The text, special tokens included: tokenise it with
        ``add_special_tokens=False``, or it gets a second BOS.

    Raises:
        DataError: if the conversation is malformed or the template refuses it.
    """
    _check_messages(messages, "the conversation", "messages")
    request = _Request(messages, "the conversation", opening=add_generation_prompt)
    return _Renderer(tokenizer).render([request])[0].text


def encode_prompts(
    prompts: Sequence[str | Messages],
    tokenizer: PreTrainedTokenizerBase,
    *,
    answers: Sequence[str] | None = None,
) -> list[list[int]]:
    """Token ids of prompts as the model reads them when it answers.

    A text gets the tokenizer's own special tokens, but never a second BOS (where the
    text already starts with it) and never a closing EOS. Messages are rendered with
    the opening of the assistant's turn, and get only what the template writes.

    Args:
        prompts: texts, or lists of messages.
        tokenizer: a fast tokenizer; for messages, one with a chat template.
        answers: one text for each prompt, to be put behind it and tokenised together
            with it, so that the tokens at the border are those that training makes.
            After messages, it is preceded by the white space (if any) that the
            template puts there.

    Returns:
        One list of token ids for each prompt.

    Raises:
        DataError: if a prompt is empty or malformed, or its template refuses it. The
            prompt is named.
    """
    _require_fast(tokenizer)
    renderer = _Renderer(tokenizer)
    texts = []
    for index, prompt in enumerate(prompts):
        where = _where("prompt", index)
        answer = None if answers is None else answers[index]
        if isinstance(prompt, str):
            texts.append((prompt + (answer or ""), True))
        else:
            texts.append((_render_prompt(prompt, answer, renderer, where), False))
    ids = [encoding.ids for encoding in _tokenise(texts, tokenizer)]
    ids = [
        _one_bos(row, text, tokenizer) if raw else row
        for row, (text, raw) in zip(ids, texts, strict=True)
    ]
    for index, row in enumerate(ids):
        if not row:
            raise DataError(
                f"{_where('prompt', index)} is empty; give the model something to read."
            )
    return ids


def class_ids(
    labels: Iterable[Any], *, names: Sequence[str] | None = None
) -> tuple[list[int], list[str]]:
    """Number the labels of a classification task.

    Call it on the training labels first, then on the others with the names that it
    returned: a label that training never saw has no output in the model's head.

    Args:
        labels: one for each row.
        names: the labels in the order of the head's outputs; None: those found, in
            alphabetical order.

    Returns:
        The number of each row's label, and the names.

    Raises:
        DataError: if there are no labels, if one is no text or empty, or if one is
            not among ``names``. The row is named.

    >>> ids, names = class_ids(["irony", "literal", "irony"])
    >>> ids, names
    ([0, 1, 0], ['irony', 'literal'])
    >>> class_ids(["literal"], names=names)[0]
    [1]
    """
    labels = list(labels)
    if not labels:
        raise DataError("There are no labels; give one for each row.")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise DataError(
                f"{_where('row', index)} has the label {label!r}, which is no text to "
                "be learnt; give it a label or leave the row out."
            )
    names = sorted(set(labels)) if names is None else list(names)
    number = {name: position for position, name in enumerate(names)}
    for index, label in enumerate(labels):
        if label not in number:
            raise DataError(
                f"{_where('row', index)} has the label {label!r}, which training never "
                f"saw (it saw {', '.join(names)}); correct it or train with such rows."
            )
    return [number[label] for label in labels], names


def to_dataset(encoded: Encoded) -> datasets.Dataset:
    """Build the pre-tokenised data set that SFTTrainer takes as it is.

    Rows with nothing left to learn (``encoded.empty``) are left out, as SFTTrainer
    leaves them out: a batch of them alone has no loss.

    Args:
        encoded: what :func:`encode` returned.

    Returns:
        A data set with the columns ``input_ids`` and ``labels``.

    Raises:
        DataError: if no row is left.
    """
    import datasets

    dropped = set(encoded.empty)
    kept = [index for index in range(len(encoded.labels)) if index not in dropped]
    if not kept:
        raise DataError(
            f"None of the {len(encoded.labels)} rows has a token to learn from; give "
            "rows, or raise max_length so that their answers are not cut off."
        )
    return datasets.Dataset.from_dict(
        {
            "input_ids": [encoded.input_ids[index] for index in kept],
            "labels": [encoded.labels[index] for index in kept],
        }
    )


def arrange(
    encoded: Encoded, batch_size: int, *, window: int = 4, seed: int = 0
) -> Encoded:
    """Order rows so that those of one batch are of like length: less padding.

    The rows are shuffled, then sorted within windows of a few batches only, and each
    window's batches are shuffled. Sorting all rows would pad still less, but where
    length tells the task, as it often does, a batch would hold one task alone, and its
    gradient pull one way. Train on the result with
    ``train_sampling_strategy="sequential"``.

    Args:
        encoded: what :func:`encode` returned.
        batch_size: rows in a batch.
        window: batches that are sorted together; 1 leaves the shuffled order.
        seed: of the shuffling.

    Returns:
        The same rows in another order; ``cut`` and ``unfinished`` follow them.

    Raises:
        ValueError: if ``batch_size`` or ``window`` is smaller than 1.

    >>> rows = [[1], [1, 2, 3], [1], [1, 2, 3]]
    >>> arranged = arrange(Encoded(rows, rows, [], []), 2, window=2)
    >>> sorted(sum(map(len, arranged.input_ids[i : i + 2])) for i in (0, 2))
    [2, 6]
    """
    if batch_size < 1 or window < 1:
        raise ValueError(
            f"batch_size and window must be 1 or more, not {batch_size} and {window}."
        )
    rng = Random(seed)
    shuffled = list(range(len(encoded.input_ids)))
    rng.shuffle(shuffled)
    order: list[int] = []
    for start in range(0, len(shuffled), batch_size * window):
        part = shuffled[start : start + batch_size * window]
        part.sort(key=lambda index: len(encoded.input_ids[index]))
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        # a short batch stays the last one: before others it would shift their rows
        whole = [batch for batch in batches if len(batch) == batch_size]
        rng.shuffle(whole)
        order += [index for batch in whole for index in batch]
        order += [index for batch in batches[len(whole) :] for index in batch]
    now = {index: place for place, index in enumerate(order)}
    return Encoded(
        [encoded.input_ids[index] for index in order],
        [encoded.labels[index] for index in order],
        sorted(now[index] for index in encoded.cut),
        sorted(now[index] for index in encoded.unfinished),
    )


def mix(
    parts: Sequence[tuple[Encoded, float]], tokens: int, *, seed: int = 0
) -> Encoded:
    """Draw rows from several texts until a budget of tokens is full, each its share.

    Runs that are to be compared must read equally much. Rows are drawn without
    replacement, whole, so that a share is overshot by less than its last row.

    Args:
        parts: for each text what :func:`encode` returned, and its share of the tokens.
        tokens: the budget, end and start tokens included.
        seed: of the drawing and of the order.

    Returns:
        The drawn rows, shuffled. (``cut`` and ``unfinished`` are left empty.)

    Raises:
        DataError: if a text is too short for its share.
        ValueError: if the shares are negative or do not sum to 1, or the budget is
            below 1.

    >>> one, two = (Encoded([[id] * 10] * 9, [[id] * 10] * 9, [], []) for id in (5, 6))
    >>> mixed = mix([(one, 0.75), (two, 0.25)], 80)
    >>> sorted(row[0] for row in mixed.input_ids)
    [5, 5, 5, 5, 5, 5, 6, 6]
    """
    shares = [share for _, share in parts]
    if not parts or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(
            f"the shares are {shares}; they must be 0 or more and sum to 1"
        )
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; it must be 1 or more")
    rng, drawn = Random(seed), []
    for number, (encoded, share) in enumerate(parts, start=1):
        order, wanted = list(range(len(encoded.input_ids))), share * tokens
        rng.shuffle(order)
        for index in order:
            if wanted <= 0:
                break
            drawn.append((encoded.input_ids[index], encoded.labels[index]))
            wanted -= len(encoded.input_ids[index])
        if wanted > 0:
            raise DataError(
                f"Text {number} is {len(order)} rows of {share * tokens - wanted:,.0f} "
                f"tokens, fewer than its share of {share * tokens:,.0f}; give more "
                "text or lower the budget."
            )
    rng.shuffle(drawn)
    return Encoded([ids for ids, _ in drawn], [labels for _, labels in drawn], [], [])


def to_blocks(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, length: int
) -> list[list[int]]:
    """Write texts one after the other and cut the row of tokens into equal blocks.

    What pre-training reads: no padding, every token is learnt once. Each text stands
    between the tokenizer's BOS and EOS (where it has them), so that a model can see
    where one ends. The tokens behind the last whole block are left out.

    Args:
        texts: plain texts, without special tokens.
        tokenizer: the model's.
        length: tokens in a block.

    Returns:
        Token ids, ``(blocks, length)``.

    Raises:
        DataError: if a text is empty, or all of them do not fill one block.
        ValueError: if ``length`` is smaller than 2: nothing could be predicted.
    """
    if length < 2:
        raise ValueError(f"length is {length}; a block needs 2 tokens or more.")
    before, after = (
        [] if token is None else [token]
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )
    ids: list[int] = []
    for start in range(0, len(texts), _BATCH):
        part = list(texts[start : start + _BATCH])
        encoded = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for index, tokens in enumerate(encoded, start=start):
            if not tokens:
                raise DataError(
                    f"text {index + 1} (index {index}) is empty; leave it out."
                )
            ids += [*before, *tokens, *after]
    if len(ids) < length:
        count = "1 text" if len(texts) == 1 else f"{len(texts)} texts"
        raise DataError(
            f"The corpus has {count} with {len(ids)} tokens in all, too few for one "
            f"block of {length}; give more text or shorter blocks."
        )
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]


def _where(kind: str, index: int) -> str:
    """Name a row for people (counted from 1) and for code (its index)."""
    return f"{kind} {index + 1} (index {index})"


def _require_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} cannot tell where its tokens lie in the text; "
            "load the fast version of the tokenizer (tokenizer.json)."
        )


# ------------------------------------------------------------------ rows to text


def _drafts(
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    renderer: _Renderer,
    *,
    answers: bool,
) -> list[_Draft]:
    """Render numbered rows, all their conversations together; find their answers."""
    requests = [
        _requests(row, _where("row", index), renderer, answers=answers)
        for index, row in rows
    ]
    rendered = iter(renderer.render([one for own in requests for one in own]))
    return [
        _draft(row, list(islice(rendered, len(own))), renderer, answers=answers)
        for (_, row), own in zip(rows, requests, strict=True)
    ]


def _requests(
    row: Mapping[str, Any], where: str, renderer: _Renderer, *, answers: bool
) -> list[_Request]:
    """Check a row and say what to render of it: first the whole, then what locates."""
    shape = _shape(row, where)
    if shape == "text":
        _check_text(row["text"], where, "text")
        return []
    options = _template_options(row, where)
    if shape == "messages":
        messages = row["messages"]
        _check_messages(messages, where, "messages")
        whole = _Request(messages, where, options=options)
        if not answers:
            return [whole]
        return [whole, *_prefix_requests(whole, renderer)]
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) or isinstance(completion, str):
        _check_text(prompt, where, "prompt")
        _check_text(completion, where, "completion")
        return []
    _check_messages(prompt, where, "prompt")
    _check_messages(completion, where, "completion", roles=("assistant", "tool"))
    whole = _Request([*prompt, *completion], where, options=options)
    opening = _Request(prompt, where, opening=True, options=options)
    return [whole, opening] if answers else [whole]


def _prefix_requests(whole: _Request, renderer: _Renderer) -> list[_Request]:
    """The beginnings of a conversation that locate its answers; none if marked.

    For each answer the conversation before it, opened for it, and, unless it is the
    last message, the conversation that ends with it.
    """
    messages = whole.messages
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError(
            f"{whole.where}, field messages, has no assistant message to learn from; "
            "add the answer or leave the row out."
        )
    if renderer.template(whole).marked:
        return []
    if turns[0] == 0:
        raise DataError(
            f"{whole.where}, field messages, starts with an answer, and the chat "
            "template has no {% generation %} to mark it; put the user's message "
            "before it."
        )
    beginnings = []
    for turn in turns:
        beginnings.append(whole._replace(messages=messages[:turn], opening=True))
        if turn < len(messages) - 1:
            beginnings.append(whole._replace(messages=messages[: turn + 1]))
    return beginnings


def _draft(
    row: Mapping[str, Any],
    rendered: Sequence[_Rendered],
    renderer: _Renderer,
    *,
    answers: bool,
) -> _Draft:
    """Put a row's text and the places of its answers together."""
    if not rendered:
        if row.get("text") is not None:
            return _Draft(_with_end(row["text"], renderer.tokenizer), True, None)
        prompt = row["prompt"]
        text = prompt + _with_end(row["completion"], renderer.tokenizer)
        return _Draft(text, True, [_Answer(prompt=prompt)] if answers else None)
    whole, *beginnings = rendered
    if not answers:
        found = None
    elif not beginnings:
        found = [_Answer(start, end) for start, end in whole.spans or ()]
    elif row.get("messages") is None:
        found = [_Answer(prompt=beginnings[0].text)]
    else:
        found = _answers_by_prefix(whole, beginnings)
    return _Draft(whole.text, False, found)


def _answers_by_prefix(
    whole: _Rendered, beginnings: Sequence[_Rendered]
) -> list[_Answer]:
    """Find the answers of a conversation whose template does not mark them.

    A conversation that ends with its only answer is a prompt and its completion, and
    is treated as SFTTrainer treats those, whatever the template does. Any other must
    contain the renderings of its own beginnings, or the answers cannot be told apart.
    """
    found = []
    for number, beginning in enumerate(beginnings):
        if len(beginnings) > 1 and not whole.text.startswith(beginning.text):
            raise DataError(
                f"{beginning.request.where}, field messages: the chat template has no "
                "{% generation %} and renders the conversation up to message "
                f"{len(beginning.request.messages)} differently from the whole, so "
                "that the answers cannot be found; split the row into one answer each "
                "or mark the answers in the template."
            )
        if beginning.request.opening:
            closed = beginnings[number + 1 : number + 2]
            end = len(closed[0].text) if closed else None
            found.append(_Answer(prompt=beginning.text, end=end))
    return found


def _shape(row: Mapping[str, Any], where: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where} is of type {type(row).__name__}, not a mapping; give rows with "
            "messages, prompt and completion, or text."
        )
    shapes = [key for key in ("messages", "prompt", "text") if row.get(key) is not None]
    if len(shapes) > 1:
        raise DataError(
            f"{where} has both {' and '.join(shapes)}, of which SFTTrainer would "
            "silently pick one; keep one of them."
        )
    if not shapes or (shapes == ["prompt"] and row.get("completion") is None):
        fields = ", ".join(sorted(map(str, row))) or "none"
        raise DataError(
            f"{where} has neither messages nor prompt and completion nor text (its "
            f"fields: {fields}); convert it with helpers.formats.convert."
        )
    return shapes[0]


def _template_options(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What SFTTrainer passes from a row to its chat template."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}, field tools, is no valid JSON ({error}); give a list of "
                "tool descriptions, as it is or as JSON."
            ) from error
    given = {} if tools is None else {"tools": tools}
    return {**given, **(row.get("chat_template_kwargs") or {})}


def _check_text(value: Any, where: str, field: str) -> None:
    if not isinstance(value, str):
        raise DataError(
            f"{where}, field {field}, is of type {type(value).__name__}, not a text; "
            "give prompt and completion both as texts or both as lists of messages."
        )


def _check_messages(
    messages: Any, where: str, field: str, *, roles: Sequence[str] = ROLES
) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError(
            f"{where}, field {field}, is not a list with at least one message; give "
            "dictionaries with role and content."
        )
    for number, message in enumerate(messages, start=1):
        fault = _message_fault(message, roles)
        if fault:
            raise DataError(f"{where}, field {field}, message {number} {fault}")


def _message_fault(message: Any, roles: Sequence[str]) -> str | None:
    if not isinstance(message, Mapping):
        kind = type(message).__name__
        return f"is of type {kind}; give a dictionary with role and content."
    role, content = message.get("role"), message.get("content")
    if role not in roles:
        return (
            f"has the role {role!r}, not one of {', '.join(roles)}; rename it, or let "
            "helpers.formats.convert do so."
        )
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return None
    return (
        f"has a content of type {type(content).__name__}, not a text; give the text or "
        "leave the row out."
    )


class _Renderer:
    """The chat template of one tokenizer, looked up once and applied in batches.

    It does what ``apply_chat_template`` does before it tokenises; that method keeps
    the characters of the answers to itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._templates: dict[bool, _Template] = {}

    def template(self, request: _Request) -> _Template:
        """The template for a request: a tokenizer may have another one for tools."""
        tools = (request.options or {}).get("tools")
        template = self._templates.get(tools is not None)
        if template is None:
            if not self.tokenizer.chat_template:
                raise DataError(
                    f"{request.where} is a conversation, but the tokenizer has no chat "
                    "template; set tokenizer.chat_template or give plain prompts."
                )
            source = self.tokenizer.get_chat_template(tools=tools)
            template = _Template(source, _GENERATION.search(source) is not None)
            self._templates[tools is not None] = template
        return template

    def render(self, requests: Sequence[_Request]) -> list[_Rendered]:
        """Render conversations, in order; those without options all at once."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for index, request in enumerate(requests):
            key = (request.opening, index if request.options else -1)
            groups.setdefault(key, []).append(index)
        done: dict[int, _Rendered] = {}
        for members in groups.values():
            group = self._render_alike([requests[index] for index in members])
            done.update(zip(members, group, strict=True))
        return [done[index] for index in range(len(requests))]

    def _render_alike(self, requests: Sequence[_Request]) -> list[_Rendered]:
        """Render conversations that share everything but their messages."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        first = requests[0]
        source, marked = self.template(first)
        variables = {**self.tokenizer.special_tokens_map, **(first.options or {})}
        try:
            texts, spans = render_jinja_template(
                conversations=[_without_none(one.messages) for one in requests],
                chat_template=source,
                add_generation_prompt=first.opening,
                return_assistant_tokens_mask=marked,
                **variables,
            )
        except (TemplateError, TypeError, ValueError) as error:
            if len(requests) > 1:  # one by one, to name the one that failed
                return [self._render_alike([one])[0] for one in requests]
            reason = " ".join(str(error).split())
            raise DataError(
                f"{first.where} is refused by the chat template ({reason}); change its "
                "roles or their order to what the template takes."
            ) from error
        if not marked:
            spans = [None] * len(texts)
        return list(map(_Rendered, texts, spans, requests))


def _without_none(messages: Messages) -> list[dict[str, Any]]:
    """Leave out empty fields: a template would write the word None."""
    return [
        {key: value for key, value in message.items() if value is not None}
        for message in messages
    ]


def _render_prompt(
    prompt: Messages, answer: str | None, renderer: _Renderer, where: str
) -> str:
    """A conversation up to the assistant's turn, and there the answer if there is one.

    The white space between the two is the template's (Llama 2 writes a space, which
    belongs to the answer's first token); a template that does not let itself be
    continued gives none.
    """
    _check_messages(prompt, where, "messages")
    opening = renderer.render([_Request(prompt, where, opening=True)])[0].text
    if answer is None:
        return opening
    answered = [*prompt, {"role": "assistant", "content": answer}]
    whole = renderer.render([_Request(answered, where)])[0].text
    rest = whole[len(opening) :] if whole.startswith(opening) else ""
    gap, found, _ = rest.partition(answer)
    return opening + (gap if found and not gap.strip() else "") + answer


def _with_end(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise DataError(
            "The tokenizer has no end token to close a text with; set "
            "tokenizer.eos_token."
        )
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


# --------------------------------------------------------------- text to tokens


def _tokenise(
    texts: Sequence[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase
) -> list[Any]:
    """Tokenise ``(text, add special tokens)`` pairs, each group in one batch.

    Returns:
        One ``tokenizers.Encoding`` for each text, in order.
    """
    # An empty call sets the backend as every call of SFTTrainer's does: no truncation,
    # no padding. The batch then goes to it directly, which saves a tenth of the time.
    tokenizer("")
    backend = tokenizer.backend_tokenizer
    encodings: list[Any] = [None] * len(texts)
    for special in (False, True):
        chosen = [index for index, (_, wanted) in enumerate(texts) if wanted == special]
        batch = backend.encode_batch(
            [texts[index][0] for index in chosen], add_special_tokens=special
        )
        for index, encoding in zip(chosen, batch, strict=True):
            encodings[index] = encoding
    return encodings


def _one_bos(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list:
    """Remove a BOS that the text already had and an EOS that ends a prompt."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if eos is not None and len(ids) > 1 and ids[-1] == eos:
        ids = ids if text.endswith(tokenizer.eos_token) else ids[:-1]
    return ids


def _labels(
    drafts: Sequence[_Draft],
    encodings: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """Labels ``(rows, tokens)``: -100 outside the answers."""
    prompts = iter(
        _tokenise(
            [
                (answer.prompt, draft.add_special_tokens)
                for draft in drafts
                for answer in draft.answers or ()
                if answer.prompt is not None
            ],
            tokenizer,
        )
    )
    labels = []
    for draft, encoding in zip(drafts, encodings, strict=True):
        ids = encoding.ids
        if draft.answers is None:
            labels.append(ids)
            continue
        offsets = encoding.offsets
        masked = [MASKED] * len(ids)
        for start, end, prompt in draft.answers:
            if prompt is None:
                first = bisect_right(offsets, start, key=_end_of)
            else:
                first = _common_prefix(next(prompts).ids, ids)
            stop = len(ids) if end is None else _stop(offsets, end, first)
            masked[first:stop] = ids[first:stop]
        labels.append(masked)
    return labels


def _learns_nothing(labels: list[int]) -> bool:
    return labels.count(MASKED) == len(labels)


def _end_of(offset: tuple[int, int]) -> int:
    return offset[1]


def _stop(offsets: Sequence[tuple[int, int]], end: int, first: int) -> int:
    """Number of the first token, from ``first``, that lies at or after ``end``.

    A token of which only white space was left has an empty offset at its own end, so
    that an empty offset *at* ``end`` still belongs to the answer.
    """
    stop = first
    while stop < len(offsets) and (offsets[stop][0] < end or offsets[stop][1] <= end):
        stop += 1
    return stop


def _common_prefix(prompt: Sequence[int], ids: Sequence[int]) -> int:
    """Number of leading tokens that are the same."""
    length = len(prompt)
    if ids[:length] == prompt:
        return length
    pairs = enumerate(zip(prompt, ids, strict=False))
    shorter = min(length, len(ids))
    return next((index for index, (one, other) in pairs if one != other), shorter)


def _truncate(
    encoded: Encoded, max_length: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Cut rows at ``max_length``, in place, and note what that cost."""
    # ChatML ends a turn with a token of its own, not with the tokenizer's EOS.
    added = tokenizer.added_tokens_decoder.items()
    ends = {tokenizer.eos_token_id, *(key for key, token in added if token.special)}
    for index, labels in enumerate(encoded.labels):
        lost = [label for label in labels[max_length:] if label != MASKED]
        if lost:
            encoded.cut.append(index)
        if ends.intersection(lost):
            encoded.unfinished.append(index)
        del encoded.input_ids[index][max_length:], labels[max_length:]
