"""The probe: what the trainer would see of each row, held against what is asked later.

Every row is rendered and encoded as SFTTrainer would do it. Rules
read the outcome; the first rows are kept to be looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from helpers import encoding
from helpers.checks.core import Place, excerpt, rule
from helpers.checks.folder import Folder
from helpers.checks.privacy import hide
from helpers.checks.source import CALLS, Row, Source, Turn, shape_of, turns
from helpers.formats import DataError

if TYPE_CHECKING:
    from helpers.checks.config import Config

MASKED = encoding.MASKED

_BATCH = 256
_HOPELESS = 200
"""Rows refused in a row, from the first on, after which no more are tried."""

_SAMPLES = 3

_CONVERSATIONS = {
    "messages": ("messages",),
    "prompt_completion_messages": ("prompt", "completion"),
}
"""Columns that are rendered together."""


@dataclass(slots=True)
class Seen:
    """One row as the trainer sees it.

    Attributes:
        row: the record.
        length: its tokens.
        trained: how many of them are learnt.
        ids: all of them.
        last: place of the last token that is learnt; -1 if none is.
        lost: tokens to learn beyond `max_length`.
    """

    row: Row
    length: int
    trained: int
    ids: array[int]
    last: int
    lost: int = 0


@dataclass
class Probe:
    """All rows as the trainer sees them.

    Attributes:
        folder: the model's.
        seen: the rows that could be encoded.
        refused: number and reason of the others.
        max_length: tokens after which the trainer cuts; None: never.
        samples: the first rows, to be shown.
        tried: number of rows that were tried.
    """

    folder: Folder
    seen: list[Seen]
    refused: list[tuple[int, str]]
    max_length: int | None
    samples: list[dict[str, Any]] = field(default_factory=list)
    tried: int = 0

    @cached_property
    def lost(self) -> list[tuple[str, Place]]:
        """Role and place of the turns that are not in the text as they are."""
        return [
            (turn.role, Place(seen.row.number, turn.field, excerpt(turn.text)))
            for seen in self.seen
            for turn in _lost_turns(seen.row.value, self.folder)
        ]


def build(
    source: Source,
    folder: Folder,
    *,
    max_length: int | None = 1024,
    step: Callable[[int], None] = lambda _: None,
) -> Probe:
    """Encode the rows of a source as SFTTrainer would.

    Args:
        source: its `ready` rows are taken.
        folder: its tokenizer encodes.
        max_length: SFTConfig's; its default is 1024.
        step: called with the number of rows done, to show progress.
    """
    probe = Probe(folder, [], [], max_length)
    rows = [row for row in source.ready if shape_of(row.value) != "input_ids"]
    for start in range(0, len(rows), _BATCH):
        if len(probe.refused) >= _HOPELESS and not probe.seen:
            break
        batch = rows[start : start + _BATCH]
        _encode(batch, probe)
        step(start + len(batch))
    probe.tried = len(probe.seen) + len(probe.refused)
    return probe


def _encode(batch: Sequence[Row], probe: Probe) -> None:
    """Encode rows together; where that fails, halve them to find which one it is."""
    tokenizer = probe.folder.tokenizer
    try:
        done = encoding.encode([row.value for row in batch], tokenizer)
    except DataError as error:
        if len(batch) == 1:
            reason = str(error).replace("row 1 (index 0)", "the row")
            probe.refused.append((batch[0].number, reason))
            return
        if len(probe.refused) >= _HOPELESS and not probe.seen:
            return
        middle = len(batch) // 2
        _encode(batch[:middle], probe)
        _encode(batch[middle:], probe)
        return
    for row, ids, labels in zip(batch, done.input_ids, done.labels, strict=True):
        trained = len(labels) - labels.count(MASKED)
        last = len(labels) - 1
        while labels[last] == MASKED:  # each row learns something, or is refused
            last -= 1
        # An array, as millions of small lists would slow the collector down.
        seen = Seen(row, len(ids), trained, array("i", ids), last)
        if probe.max_length is not None and len(ids) > probe.max_length:
            beyond = labels[probe.max_length :]
            seen.lost = len(beyond) - beyond.count(MASKED)
        probe.seen.append(seen)
        if len(probe.samples) < _SAMPLES:
            probe.samples.append(_sample(row, ids, labels, probe))


def _lost_turns(value: Mapping[str, Any], folder: Folder) -> Iterator[Turn]:
    columns = _CONVERSATIONS.get(shape_of(value), ())
    messages = [message for column in columns for message in value[column]]
    text = folder.render(messages) if messages else None
    if text is None:
        return
    for column, spoken in turns(value):
        for turn in spoken if column in columns else ():
            # trimmed edges of what is only read cost nothing
            told = turn.text if turn.role == "assistant" else turn.text.strip()
            if turn.text != CALLS and told not in text:
                yield turn


def _sample(
    row: Row, ids: Sequence[int], labels: Sequence[int], probe: Probe
) -> dict[str, Any]:
    """Texts of what is context and what is learnt, run by run."""
    tokenizer = probe.folder.tokenizer
    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(ids, labels, strict=True):
        learnt = label != MASKED
        if not runs or runs[-1][0] != learnt:
            runs.append((learnt, []))
        runs[-1][1].append(token)
    return {
        "row": row.number,
        "tokens": len(ids),
        "trained": sum(label != MASKED for label in labels),
        "bos": len(ids) > 0 and ids[0] == tokenizer.bos_token_id,
        "end": tokenizer.convert_ids_to_tokens(ids[-1]),
        "text": [
            (learnt, hide(tokenizer.decode(part, skip_special_tokens=False)))
            for learnt, part in runs
        ],
        "asked": _asked(row.value, probe.folder, ids),
    }


def _asked(value: Mapping[str, Any], folder: Folder, ids: Sequence[int]) -> str:
    """Whether the prompt that generation gives is how the trained row begins."""
    prompt = _prompt(value, folder)
    if prompt is None:
        return "has no prompt"
    try:
        asked = encoding.encode_prompts([prompt], folder.tokenizer)[0]
    except DataError as error:
        return f"cannot be asked: {error}"
    same = next(
        (n for n, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b),
        min(len(asked), len(ids)),
    )
    if same == len(asked):
        return "begins as it is asked"
    return f"differs from what is asked at token {same + 1}"


def _prompt(value: Mapping[str, Any], folder: Folder) -> Any:
    """What is asked of the model to get this row's first answer; None: nothing."""
    kind = shape_of(value)
    if kind == "prompt_completion":
        if not folder.template:
            return value["prompt"]
        return [{"role": "user", "content": value["prompt"]}]
    if kind == "prompt_completion_messages":
        return value["prompt"]
    if kind != "messages":
        return None
    asked = takewhile(lambda one: one["role"] != "assistant", value["messages"])
    return list(asked) or None


# ------------------------------------------------------------------------------- rules


@rule(
    "refused-by-template",
    "error",
    pitfall=9,
    needs="probe",
    title="A row that cannot be rendered or encoded",
    ignored="The run ends at this row, often hours in, and does not name it.",
    fix="Mend the row, or leave it out.",
)
def refused_by_template(probe: Probe) -> Iterator[Place]:
    """Find rows that encoding refused."""
    for number, reason in probe.refused:
        yield Place(number, "", excerpt(reason))


@rule(
    "system-lost",
    "error",
    pitfall=10,
    needs="probe",
    title="A system prompt that the chat template leaves out",
    ignored="The row is trained as if it had none, in silence.",
    fix="Put it at the head of the first user's turn.",
)
def system_lost(probe: Probe) -> Iterator[Place]:
    """Find system turns that are not in the rendered row."""
    yield from _missing(probe, {"system"})


@rule(
    "turn-lost",
    "error",
    pitfall=1,
    needs="probe",
    title="A turn that the chat template leaves out",
    ignored="The model never sees what was said.",
    fix="Give it a role that the template knows.",
)
def turn_lost(probe: Probe) -> Iterator[Place]:
    """Find turns of users and tools that are not in the rendered row."""
    yield from _missing(probe, {"user", "tool"})


@rule(
    "answer-edited",
    "warning",
    pitfall=11,
    needs="probe",
    title="An answer that the chat template edits",
    ignored="Another text is trained than the one in the row: trimmed, or without "
    "its <think> part.",
    fix="Trim the rows yourself, or use a template that keeps them.",
)
def answer_edited(probe: Probe) -> Iterator[Place]:
    """Find answers that are not in the rendered row as they are."""
    yield from _missing(probe, {"assistant"})


def _missing(probe: Probe, roles: set[str]) -> Iterator[Place]:
    for role, place in probe.lost:
        if role in roles:
            yield place


@rule(
    "control-ids",
    "error",
    pitfall=13,
    needs="probe",
    title="A special token of this model inside the text of a row",
    ignored="The text becomes the token itself: a user's end token ends the turn.",
    fix="Take it out, or put a character between its signs.",
)
def control_ids(probe: Probe) -> Iterator[Place]:
    """Find texts that contain the spelling of a special token."""
    added = probe.folder.tokenizer.added_tokens_decoder.values()
    names = [token.content for token in added if token.special]
    for seen in probe.seen:
        for where, text in _contents(seen.row.value):
            found = next((name for name in names if name in text), None)
            if found is not None:
                yield Place(seen.row.number, where, f"{found} in {excerpt(text)}")
                break


def _contents(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for _, spoken in turns(value):
        for turn in spoken:
            yield turn.field, turn.text
    if shape_of(value) == "prompt_completion":
        yield "prompt", value["prompt"]


@rule(
    "no-stop-trained",
    "error",
    pitfall=17,
    needs="probe",
    title="The last token that is learnt does not stop generation",
    ignored="The model never learns to end.",
    fix="Let the template write the end token inside its generation block.",
)
def no_stop_trained(probe: Probe) -> Iterator[Place]:
    """Find rows whose last learnt token, but for white space, is no special one."""
    tokenizer = probe.folder.tokenizer
    added = tokenizer.added_tokens_decoder.items()
    stops = {number for number, token in added if token.special}
    stops |= probe.folder.stops | {tokenizer.eos_token_id}
    for seen in probe.seen:
        place = seen.last
        while place > 0 and not tokenizer.decode([seen.ids[place]]).strip():
            place -= 1
        if seen.ids[place] not in stops:
            tail = tokenizer.decode(seen.ids[max(0, place - 8) : place + 1])
            yield Place(seen.row.number, "", f"ends with {excerpt(tail)}")


@rule(
    "double-bos",
    "error",
    pitfall=19,
    needs="probe",
    title="Two start tokens at the head of a row",
    ignored="The model is trained on a beginning that it never meets when asked.",
    fix="Pass messages, not rendered text; or take the start token out of the text.",
)
def double_bos(probe: Probe) -> Iterator[Place]:
    """Find rows that start with the start token twice."""
    bos = probe.folder.tokenizer.bos_token_id
    for seen in probe.seen:
        if bos is not None and list(seen.ids[:2]) == [bos, bos]:
            yield Place(seen.row.number, "", f"ids begin with {bos}, {bos}")


@rule(
    "double-end",
    "warning",
    pitfall=20,
    needs="probe",
    title="Two end tokens at the tail of a row",
    ignored="The model learns that something follows an end.",
    fix="Pass messages, not rendered text; or take the end token out of the text.",
)
def double_end(probe: Probe) -> Iterator[Place]:
    """Find rows whose last two tokens, but for white space, are end tokens."""
    tokenizer = probe.folder.tokenizer
    ends = probe.folder.stops | {tokenizer.eos_token_id}
    for seen in probe.seen:
        if ends.isdisjoint(seen.ids[-4:-1]):
            continue
        tail = [
            token
            for token in seen.ids[-4:]
            if token in ends or tokenizer.decode([token]).strip()
        ][-2:]
        if len(tail) == 2 and set(tail) <= ends:
            yield Place(seen.row.number, "", f"ids end with {tail[0]}, {tail[1]}")


@rule(
    "border-merges",
    "warning",
    pitfall=23,
    needs="probe",
    title="Tokens that grow together over the border of prompt and answer",
    ignored="The first token of the answer is another one in training than when the "
    "model is asked, and may not be learnt at all.",
    fix="Move the space from the end of the prompt to the head of the completion.",
)
def border_merges(probe: Probe) -> Iterator[Place]:
    """Find plain prompts whose ids are no beginning of the whole row's."""
    plain = [s for s in probe.seen if shape_of(s.row.value) == "prompt_completion"]
    if not plain:
        return
    texts = [seen.row.value["prompt"] for seen in plain]
    alone = encoding.encode_prompts(texts, probe.folder.tokenizer)
    for seen, ids in zip(plain, alone, strict=True):
        if list(seen.ids[: len(ids)]) != ids:
            text = seen.row.value["prompt"][-20:] + "|" + seen.row.value["completion"]
            yield Place(seen.row.number, "prompt", excerpt(text))


@rule(
    "asked-otherwise",
    "warning",
    pitfall=24,
    needs="probe source",
    title="Plain prompts for a model that is asked through a chat template",
    ignored="The model learns to answer a bare text, and is later asked inside the "
    "template: it answers as if it had not been trained.",
    fix="Train on messages, or ask without the template; one renderer for both.",
)
def asked_otherwise(probe: Probe, source: Source) -> Iterator[Place]:
    """Find plain prompts, where the tokenizer has a template."""
    if not probe.folder.template or source.shape != "prompt_completion":
        return
    differing = [s for s in probe.samples if not s["asked"].startswith("begins")]
    for sample in differing:
        yield Place(sample["row"], "prompt", sample["asked"])


@rule(
    "cut-answers",
    "warning",
    pitfall=28,
    needs="probe",
    title="Answers that are cut at max_length",
    ignored="The end token is lost: such rows teach not to stop.",
    fix="Raise max_length, or leave these rows out.",
)
def cut_answers(probe: Probe) -> Iterator[Place]:
    """Find rows that lose some of what is to be learnt."""
    for seen in probe.seen:
        if 0 < seen.lost < seen.trained:
            told = f"{seen.length} tokens, cut at {probe.max_length}"
            yield Place(seen.row.number, "", told)


@rule(
    "dropped-rows",
    "warning",
    pitfall=28,
    needs="probe",
    title="Rows whose answer lies wholly beyond max_length",
    ignored="SFTTrainer drops them without a word.",
    fix="Raise max_length, or shorten the prompts.",
)
def dropped_rows(probe: Probe) -> Iterator[Place]:
    """Find rows that lose all that is to be learnt."""
    for seen in probe.seen:
        if seen.trained and seen.lost == seen.trained:
            told = f"{seen.length} tokens, cut at {probe.max_length}"
            yield Place(seen.row.number, "", told)


@rule(
    "all-rows-dropped",
    "error",
    pitfall=28,
    needs="probe",
    title="No row has anything left to learn at max_length",
    ignored="SFTTrainer drops them all and ends with 'num_samples=0'.",
    fix="Raise max_length.",
)
def all_rows_dropped(probe: Probe) -> Iterator[Place]:
    """Find data of which nothing is left."""
    if probe.seen and all(seen.lost == seen.trained for seen in probe.seen):
        yield Place(0, "max_length", f"{len(probe.seen)} rows, all dropped")


@rule(
    "beyond-context",
    "warning",
    pitfall=28,
    needs="probe",
    title="Rows longer than the model's context",
    ignored="Positions that the model never learnt: its output there is noise.",
    fix="Set max_length to the context at most, or leave these rows out.",
)
def beyond_context(probe: Probe) -> Iterator[Place]:
    """Find rows that are beyond the context even after the cut."""
    context = probe.folder.config.get("max_position_embeddings")
    for seen in probe.seen if context else ():
        length = min(seen.length, probe.max_length or seen.length)
        if length > context:
            yield Place(seen.row.number, "", f"{length} tokens, context {context}")


@rule(
    "packed-cuts",
    "warning",
    pitfall=29,
    needs="probe config",
    title="Packing with rows longer than a pack",
    ignored="The overflow loses its end token, or fills a pack in which nothing is "
    "learnt.",
    fix="Leave long rows out before packing.",
)
def packed_cuts(probe: Probe, config: Config) -> Iterator[Place]:
    """Find rows that are longer than max_length, where packing is on."""
    if config.training.get("packing"):
        for seen in probe.seen:
            if probe.max_length and seen.length > probe.max_length:
                told = f"{seen.length} tokens, packs of {probe.max_length}"
                yield Place(seen.row.number, "", told)
