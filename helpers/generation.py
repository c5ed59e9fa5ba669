"""Answers and label scores in batches, equal to those obtained one by one."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.encoding import encode_prompts
from helpers.formats import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import (
        Cache,
        GenerationConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: the answer without prompt and special tokens; after messages, also
            without white space at its ends (the template's, not the answer's).
        tokens: number of tokens written, an end token included.
        ended: it stopped at an end token, not at the limit.
    """

    text: str
    tokens: int
    ended: bool


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Let the model continue texts, or answer conversations.

    Prompts of similar length are batched, the longest first, padded on the left and
    masked; a soft prompt gets batches of one length, since PEFT leaves out the
    positions of padded ones. Generation stops at every end token that the model's
    generation configuration or the tokenizer names; the sampling and repetition
    settings of that configuration are not used.

    Args:
        model: on any device; evaluated without dropout and left in the mode it had.
        tokenizer: the model's.
        prompts: texts, or lists of messages, which get the opening of an answer.
        max_new_tokens: most tokens to write; fewer where the context is full.
        batch_size: prompts at a time.
        temperature: 0 takes the likeliest token each time; above 0, tokens are drawn
            from the whole distribution at that temperature.
        seed: of the draws; the same seed, prompts and batch size give the same answers.
        progress: called with the number of prompts done and their total.

    Returns:
        One answer for each prompt, in order.

    Raises:
        DataError: if a prompt is malformed or leaves no room in the context.
        ValueError: for a negative temperature or a size below 1.
    """
    import torch

    _check_positive(max_new_tokens=max_new_tokens, batch_size=batch_size)
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; use 0 or more.")
    ids = encode_prompts(prompts, tokenizer)
    context = _context(model)
    _check_room(context, [len(row) + 1 for row in ids], "with one token of answer")
    limits = [min(max_new_tokens, context - len(row)) for row in ids]
    settings = _settings(model, tokenizer, temperature)
    soft_prompt = _virtual_tokens(model) > 0
    answers: dict[int, Answer] = {}
    devices = range(torch.cuda.device_count())  # manual_seed seeds all of them
    with _evaluating(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch in _batches(ids, batch_size, same_length=soft_prompt):
            rows = [ids[index] for index in batch]
            settings.max_new_tokens = max(limits[index] for index in batch)
            new = _generate(model, rows, settings)
            for index, written in zip(batch, new, strict=True):
                strip = not isinstance(prompts[index], str)
                answers[index] = _read(
                    written[: limits[index]], tokenizer, settings.eos_token_id, strip
                )
            if progress is not None:
                progress(len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


def score_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    *,
    batch_size: int = 32,
    reuse_prefix: bool = False,
) -> dict[str, np.ndarray]:
    """Log-likelihood of each label as the continuation of each prompt.

    Prompt and label are tokenised together. Where that merges characters across the
    border for one of the labels, all labels are scored from the token before it, so
    that they stay comparable. No end token is scored. Give the space before a label
    after a text yourself (" yes"); after messages the template's is used.

    Args:
        model: evaluated without dropout and left in the mode it had.
        tokenizer: the model's.
        prompts: texts, or lists of messages, which get the opening of an answer.
        labels: texts, the same for every prompt.
        batch_size: sequences at a time.
        reuse_prefix: run the tokens that all prompts begin with (the same instruction
            or examples) once, and keep their keys and values for every prompt. The
            scores are the same up to rounding. A soft prompt is run each time.

    Returns:
        Arrays ``(prompts, labels)``, in nats: "sum", log p(label | prompt), and
        "mean", the same for each token scored.

    Raises:
        DataError: if there is no label, if one is empty, or if a prompt is malformed
            or too long for the context with a label.
    """
    import numpy as np

    _check_positive(batch_size=batch_size)
    if not labels:
        raise DataError("There are no labels to score; give at least one.")
    for number, label in enumerate(labels, start=1):
        if not label.strip():
            raise DataError(
                f"Label {number} (index {number - 1}) is empty: every model would be "
                "certain of it; give it a text."
            )
    count = len(labels)
    opened = encode_prompts(prompts, tokenizer)
    closed = encode_prompts(
        [prompt for prompt in prompts for _ in labels],
        tokenizer,
        answers=[label for _ in prompts for label in labels],
    )
    rows = [closed[i : i + count] for i in range(0, len(closed), count)]
    # The last token is predicted, not read.
    longest = [max(map(len, row)) - 1 for row in rows]
    _check_room(_context(model), longest, "with its longest label")
    starts: list[int] = []
    for index, (prompt, row) in enumerate(zip(opened, rows, strict=True)):
        start = min(_common(prompt, ids) for ids in row)
        if start == 0:
            raise DataError(
                f"prompt {index + 1} (index {index}) merges with a label into the "
                "first token, which is predicted from nothing; start the prompt with a "
                "longer text or with a BOS token."
            )
        starts += [start] * count
    logs = _log_likelihoods(
        model, tokenizer, closed, starts, batch_size, reuse_prefix=reuse_prefix
    )
    shape = (len(prompts), count)
    sums = np.array([sum(row) for row in logs]).reshape(shape)
    sizes = np.array([len(row) for row in logs]).reshape(shape)
    return {"sum": sums, "mean": sums / sizes}


def sequence_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int = 512,
) -> dict[str, float | int]:
    """Total cross-entropy of texts, for perplexity and bits per byte.

    Every token of every text is predicted once, the first one from the BOS token (from
    the EOS token in a tokenizer without BOS). Tokens, not texts, have equal weight:
    divide the total by the total. No end token is counted. A text of more than
    ``max_length - 1`` tokens is split into windows that follow each other, each of
    which starts again from BOS alone: its first tokens lack their context, so that
    the loss of long texts is somewhat too high, and lower for longer windows.

    Args:
        model: evaluated without dropout and left in the mode it had.
        tokenizer: the model's.
        texts: plain texts, without special tokens.
        batch_size: windows at a time.
        max_length: tokens in a window, BOS included; at most the model's context.

    Returns:
        "nats" (the total), "tokens" and "bytes" (of the texts in UTF-8).

    Raises:
        DataError: if there is no text, if one is empty, or if the tokenizer has
            neither BOS nor EOS.
        ValueError: for a ``max_length`` below 2.
    """
    _check_positive(batch_size=batch_size, max_length=max_length - 1)
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    if start is None:
        raise DataError(
            "The tokenizer has no BOS or EOS token to predict the first token from; "
            "set tokenizer.bos_token."
        )
    if not texts:
        raise DataError("There are no texts to measure; give at least one.")
    width = int(min(max_length, _context(model))) - 1
    windows = []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    for index, ids in enumerate(encoded["input_ids"]):
        if not ids:
            raise DataError(f"text {index + 1} (index {index}) is empty; leave it out.")
        windows += [
            [start, *ids[place : place + width]] for place in range(0, len(ids), width)
        ]
    logs = _log_likelihoods(model, tokenizer, windows, [1] * len(windows), batch_size)
    return {
        "nats": -sum(sum(row) for row in logs),
        "tokens": sum(len(row) for row in logs),
        "bytes": sum(len(text.encode()) for text in texts),
    }


# -------------------------------------------------------------------- generation


def _settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float
) -> GenerationConfig:
    """Decoding without any default of the model's own, but with all its end tokens."""
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id
    ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
    ends = sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})
    pad = tokenizer.pad_token_id
    draw = {"temperature": temperature, "top_k": 0} if temperature else {"top_k": 50}
    return GenerationConfig(
        use_cache=True,
        do_sample=temperature > 0,
        num_beams=1,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends,
        # Hidden by the mask: any id will do.
        pad_token_id=(ends or [0])[0] if pad is None else pad,
        **({"temperature": 1.0} | draw),
    )


def _generate(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], settings: GenerationConfig
) -> list[list[int]]:
    """Generate from prompts padded on the left; the new tokens alone."""
    import torch

    width = max(map(len, rows))
    pad = settings.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad(), warnings.catch_warnings():
        # PEFT leaves out position ids; without padding they are the usual ones.
        warnings.filterwarnings("ignore", "Position ids are not supported")
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
        )
    return output[:, width:].tolist()


def _read(
    written: list[int],
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    strip: bool,
) -> Answer:
    """Cut the new tokens at the first end token and decode them."""
    stop = next((i for i, token in enumerate(written) if token in ends), None)
    kept = written if stop is None else written[: stop + 1]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Answer(text.strip() if strip else text, len(kept), stop is not None)


# ----------------------------------------------------------------------- scoring


def _log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    batch_size: int,
    *,
    reuse_prefix: bool = False,
) -> list[list[float]]:
    """Log-probability of each token from ``start`` on, given all before it.

    Sequences are padded on the right, where a causal model does not see it. Labels of
    one token share their context, which is then run once.

    Returns:
        One list for each sequence, of ``len(sequence) - start`` values, in nats.
    """
    import torch

    contexts: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        contexts.setdefault(tuple(sequence[:-1]), []).append(index)
    unique = list(contexts)
    pad = tokenizer.pad_token_id or 0
    reuse = reuse_prefix and _virtual_tokens(model) == 0
    shared = _shared(unique, starts) if reuse else 0
    logs: dict[int, list[float]] = {}
    with _evaluating(model), torch.no_grad():
        cache = _cache(model, unique[0][:shared]) if shared else None
        for batch in _batches(unique, batch_size):
            rows = [unique[number] for number in batch]
            logits = _logits(model, [row[shared:] for row in rows], pad, cache, shared)
            for row, row_logits in zip(rows, logits, strict=True):
                for index in contexts[row]:
                    wanted, start = sequences[index][shared:], starts[index] - shared
                    logs[index] = _scores(row_logits, wanted, start)
    return [logs[index] for index in range(len(sequences))]


def _shared(contexts: Sequence[Sequence[int]], starts: Sequence[int]) -> int:
    """Number of leading tokens that all contexts share and nothing is read from."""
    if len(contexts) < 2:
        return 0
    common = min(_common(contexts[0], context) for context in contexts)
    # The token before the first one scored must be run: its logits are needed.
    return min(common, min(starts) - 1)


def _cache(model: PreTrainedModel, prefix: Sequence[int]) -> Cache:
    """Keys and values of a prefix, for one row."""
    import torch

    ids = torch.tensor([prefix], device=model.device)
    return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


def _logits(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    pad: int,
    cache: Cache | None,
    cached: int,
) -> torch.Tensor:
    """Logits ``(rows, tokens, ids)`` of rows that follow ``cached`` tokens."""
    import torch

    width = max(map(len, rows))
    ids = [[*row] + [pad] * (width - len(row)) for row in rows]
    mask = [[1] * (cached + len(row)) + [0] * (width - len(row)) for row in rows]
    if cache is not None:
        cache = copy.deepcopy(cache)  # the model would append to it
        cache.batch_repeat_interleave(len(rows))
    logits = model(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        past_key_values=cache,
        use_cache=cache is not None,
    ).logits
    return logits[:, -width:]  # a soft prompt stands before them


def _scores(logits: torch.Tensor, sequence: Sequence[int], start: int) -> list[float]:
    """Read the log-probabilities of ``sequence[start:]`` from logits (tokens, ids)."""
    import torch

    chosen = logits[start - 1 : len(sequence) - 1].float().log_softmax(-1)
    wanted = torch.tensor(sequence[start:], device=logits.device)[:, None]
    return chosen.gather(-1, wanted)[:, 0].double().tolist()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


# ------------------------------------------------------------------- the machine


def _batches(
    rows: Sequence[Sequence[int]], batch_size: int, *, same_length: bool = False
) -> Iterator[list[int]]:
    """Indexes in batches, the longest first: if memory is short, it shows at once."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    batch: list[int] = []
    for index in order:
        new_length = batch and len(rows[index]) != len(rows[batch[0]])
        if len(batch) == batch_size or (same_length and new_length):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _virtual_tokens(model: PreTrainedModel) -> int:
    """Positions that a soft prompt takes from the context."""
    settings = getattr(model, "active_peft_config", None)
    return getattr(settings, "num_virtual_tokens", None) or 0


def _context(model: PreTrainedModel) -> float:
    """Tokens that the model can read, a soft prompt's taken off; or infinity."""
    size = getattr(model.config, "max_position_embeddings", None) or float("inf")
    return size - _virtual_tokens(model)


def _check_room(context: float, lengths: Sequence[int], how: str) -> None:
    """Refuse what the model cannot read: positions it never saw give noise."""
    for index, length in enumerate(lengths):
        if length > context:
            raise DataError(
                f"prompt {index + 1} (index {index}) is {length} tokens long {how}, "
                f"but the model reads at most {context}; shorten it."
            )


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; use 1 or more.")


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off, and back on where it was: a frozen part may differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
