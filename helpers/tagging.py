"""Words with tags (IOB2) as token ids and labels, and back: one tag for each word.

A tokenizer cuts words into pieces, and a model that reads from left to right has seen
the whole of a word only at its last piece. So that piece alone bears the word's label,
and what the model says there is the word's tag.

    tagged = encode(rows, tokenizer)            # numbers the tags
    said = read(logits_of_each_row, tagged)     # tags again, one list a row
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.encoding import MASKED
from helpers.formats import DataError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    import datasets

Span = tuple[int, int]
Names = Mapping[tuple[str, ...], str]


@dataclass
class Tagged:
    """Rows for token classification.

    Attributes:
        input_ids: token ids of each row, ``(rows, tokens)``, ragged.
        labels: the tag's number at each word's last piece, -100 elsewhere; same shape.
        ends: for each word of each row, the place of its last piece,
            ``(rows, words)``, ragged.
        names: the tags in the order of the model's outputs.
    """

    input_ids: list[list[int]]
    labels: list[list[int]]
    ends: list[list[int]]
    names: list[str]

    def to_dataset(self) -> datasets.Dataset:
        """Returns the data set for ``DataCollatorForTokenClassification``."""
        import datasets

        columns = {"input_ids": self.input_ids, "labels": self.labels}
        return datasets.Dataset.from_dict(columns)


def encode(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    names: Sequence[str] | None = None,
) -> Tagged:
    """Turn texts whose words are tagged into token ids and labels.

    The text is tokenised as it stands, with the start token where the tokenizer sets
    one. (Handing over the words instead, ``is_split_into_words=True``, would put a
    space before each full stop: another text than the one that the model has read.)
    Where one piece ends two words, as in ``!"``, it bears the tag of the first.

    Args:
        rows: mappings with ``text``, its ``tokens`` (words and marks, in order) and
            ``tags``, one for each token, in the scheme IOB2.
        tokenizer: a fast tokenizer.
        names: the tags in the order of the outputs, as an earlier call returned them;
            None: those found, O first, then in alphabetical order.

    Returns:
        Ids, labels, last pieces, and the names.

    Raises:
        DataError: if there are no rows, a field is missing, tokens and tags differ in
            number, a token is not in the text where it should be, or a tag is empty,
            against IOB2 or not among ``names``. The row is named.
    """
    if not rows:
        raise DataError("There are no rows to tag; give at least one.")
    spans = [_spans(row, index) for index, row in enumerate(rows)]
    for index, row in enumerate(rows):
        _check_tags(row, index)
    names = _names(rows) if names is None else list(names)
    number = {name: place for place, name in enumerate(names)}
    encoded = tokenizer([row["text"] for row in rows], return_offsets_mapping=True)
    tagged = Tagged(encoded["input_ids"], [], [], names)
    for index, row in enumerate(rows):
        offsets = encoded["offset_mapping"][index]
        ends = [_last_piece(offsets, span) for span in spans[index]]
        labels = [MASKED] * len(offsets)
        for place, end in reversed(list(enumerate(ends))):
            tag = row["tags"][place]
            if tag not in number:
                raise DataError(
                    f"row {index + 1} (index {index}) has the tag {tag!r} at "
                    f"{row['tokens'][place]!r}, which training never saw (it saw "
                    f"{', '.join(names)}); correct it or train with such rows."
                )
            labels[end] = number[tag]
        tagged.labels.append(labels)
        tagged.ends.append(ends)
    return tagged


def read(
    logits: Iterable[np.ndarray | Sequence[Sequence[float]]], tagged: Tagged
) -> list[list[str]]:
    """Read one tag a word from the outputs of a model.

    Args:
        logits: for each row, in order, an array ``(tokens, tags)``; more tokens than
            the row has, as padding on the right makes them, do no harm.
        tagged: what :func:`encode` returned for these rows.

    Returns:
        The likeliest tag at each word's last piece.

    Raises:
        ValueError: if there are more or fewer rows of logits than rows.
    """
    import numpy as np

    return [
        [tagged.names[int(np.argmax(row[end]))] for end in ends]
        for row, ends in zip(logits, tagged.ends, strict=True)
    ]


def gazetteer(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], str]:
    """List the names that rows tag, each with its type (of several, the last).

    Args:
        rows: mappings with ``tokens`` and ``tags``.

    >>> gazetteer([{"tokens": ["Tin", "Alley"], "tags": ["B-PLACE", "I-PLACE"]}])
    {('Tin', 'Alley'): 'PLACE'}
    """
    known = {}
    for row in rows:
        tags = row["tags"]
        for begin in (i for i, tag in enumerate(tags) if tag.startswith("B-")):
            end = begin + 1
            while end < len(tags) and tags[end].startswith("I-"):
                end += 1
            known[tuple(row["tokens"][begin:end])] = tags[begin][2:]
    return known


def look_up(tokens: Sequence[str], known: Names) -> list[str]:
    """Tag words by a list of names, the longest first: the baseline without a model.

    >>> look_up(["In", "Tin", "Alley"], {("Tin", "Alley"): "PLACE"})
    ['O', 'B-PLACE', 'I-PLACE']
    """
    tags, place = ["O"] * len(tokens), 0
    longest = max(map(len, known), default=0)
    while place < len(tokens):
        step = 1
        for length in range(longest, 0, -1):
            kind = known.get(tuple(tokens[place : place + length]))
            if kind:
                inside = [f"I-{kind}"] * (length - 1)
                tags[place : place + length] = [f"B-{kind}", *inside]
                step = length
                break
        place += step
    return tags


def _spans(row: Mapping[str, Any], index: int) -> list[Span]:
    """Where each token lies in the row's text, in characters."""
    where = f"row {index + 1} (index {index})"
    for field in ("text", "tokens", "tags"):
        if not row.get(field):
            raise DataError(
                f"{where} has no {field}; give text, tokens and tags or leave it out."
            )
    text, spans, place = row["text"], [], 0
    for token in row["tokens"]:
        begin = text.find(token, place)
        if begin < 0 or text[place:begin].strip() or not token.strip():
            raise DataError(
                f"{where} has the token {token!r}, which does not come next in its "
                f"text ({text[place : place + 20]!r} does); list its words in order."
            )
        place = begin + len(token)
        spans.append((begin, place))
    return spans


def _check_tags(row: Mapping[str, Any], index: int) -> None:
    where = f"row {index + 1} (index {index})"
    if len(row["tokens"]) != len(row["tags"]):
        raise DataError(
            f"{where} has {len(row['tokens'])} tokens but {len(row['tags'])} tags; "
            "give one tag for each token."
        )
    before = "O"
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        prefix, _, kind = str(tag).partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not kind):
            raise DataError(
                f"{where} has the tag {tag!r} at {token!r}; IOB2 knows O, B-type and "
                "I-type."
            )
        if prefix == "I" and before not in (f"B-{kind}", f"I-{kind}"):
            raise DataError(
                f"{where} has {tag} at {token!r} after {before}; in IOB2 an entity "
                f"begins with B-{kind}."
            )
        before = tag


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The tags in use, O first."""
    found = {tag for row in rows for tag in row["tags"]}
    return ["O", *sorted(found - {"O"})]


def _last_piece(offsets: Sequence[Span], span: Span) -> int:
    """The last token that begins before the word ends; special ones have no width."""
    return max(i for i, (begin, end) in enumerate(offsets) if begin < min(end, span[1]))
