"""Soft prompts: trained vectors before the embeddings, one frozen model for many tasks.

A soft prompt is a tensor ``(virtual tokens, width)``. It is stored as PEFT stores it,
so that plain PEFT loads what is written here and the other way round. Rows of different
tasks, each with its own soft prompt, are answered in one batch.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.encoding import encode_prompts
from helpers.formats import DataError
from helpers.models import STAMP, ModelError, fingerprint, stamp_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = "prompt_embeddings"  # PEFT's name of the tensor


def write(vectors: torch.Tensor, folder: str | Path, model: PreTrainedModel) -> int:
    """Store a soft prompt as PEFT does, stamped with the base that it belongs to.

    Args:
        vectors: ``(virtual tokens, width)``.
        folder: made if it is missing; an earlier soft prompt in it is replaced.
        model: the frozen base.

    Returns:
        Bytes that the vectors' file takes.

    Raises:
        ModelError: if the vectors do not fit the model or are not finite.

    Source: PEFT 0.21, PromptTuningConfig and its checkpoint format.
    """
    from peft import PromptTuningConfig
    from safetensors.torch import save_file

    _check(vectors, model, "The soft prompt")
    settings = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=vectors.shape[0],
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        num_attention_heads=model.config.num_attention_heads,
        num_layers=model.config.num_hidden_layers,
        base_model_name_or_path=model.name_or_path,
        inference_mode=True,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        settings.save_pretrained(scratch)
        save_file({KEY: vectors.detach().cpu().contiguous()}, Path(scratch) / WEIGHTS)
        stamp_adapter(scratch, fingerprint(model))
        for name in (CONFIG, STAMP, WEIGHTS):
            os.replace(Path(scratch) / name, folder / name)
    return (folder / WEIGHTS).stat().st_size


def read(folder: str | Path, model: PreTrainedModel) -> torch.Tensor:
    """Read a soft prompt that PEFT or :func:`write` stored.

    Args:
        folder: with the adapter's configuration and weights.
        model: the frozen base that the soft prompt is for.

    Returns:
        The vectors ``(virtual tokens, width)`` on the model's device.

    Raises:
        ModelError: if the folder holds no soft prompt, if it was trained on another
            base, has another width, leaves no room in the model's context, or holds
            a number that is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]
        found = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"The soft prompt {folder} could not be read ({error}); give the folder "
            "that soft_prompts.write, or save_pretrained of a PEFT model, wrote."
        ) from error
    if kind != "PROMPT_TUNING" or set(found) != {KEY}:
        raise ModelError(
            f"The folder {folder} holds an adapter of type {kind} with the tensors "
            f"{', '.join(sorted(found)[:3])}; give one of type PROMPT_TUNING, or load "
            "it by models.load."
        )
    stamp = folder / STAMP
    if stamp.is_file():
        base = json.loads(stamp.read_text(encoding="utf-8"))["sha256"]
        if base != fingerprint(model):
            raise ModelError(
                f"The soft prompt {folder} was trained on another base (fingerprint "
                f"{base[:12]}…) than {model.name_or_path}; load the base it was "
                "trained on."
            )
    _check(found[KEY], model, f"The soft prompt {folder}")
    return found[KEY].to(model.device)


def score_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, torch.Tensor],
    tasks: Sequence[str],
    texts: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 32,
) -> list[list[float]]:
    """Log-likelihood of each label, rows of different tasks in one batch.

    Each row is read after its own task's soft prompt. Rows are padded on the right,
    where a causal model does not see it: soft prompt and tokens stand at the positions
    at which they stand alone. (PEFT takes one soft prompt a batch, and pads of its
    input on the left would come between soft prompt and text.)

    Args:
        model: the frozen base, without an adapter, in evaluation mode.
        tokenizer: the model's.
        prompts: a soft prompt ``(virtual tokens, width)`` for each task; the numbers
            of virtual tokens may differ.
        tasks: the task of each row.
        texts: the text of each row, up to where its label is due.
        labels: the labels of each task, each with the space before it.
        batch_size: sequences at a time. Labels of one token share a sequence.

    Returns:
        For each row log p(label | soft prompt, text) of its task's labels, in nats.

    Raises:
        ModelError: if a soft prompt does not fit the model or is not finite.
        DataError: if a row's task has no soft prompt or no labels, if a row is too
            long for the context, or if there are not as many tasks as texts.
    """
    import torch

    _check_rows(prompts, tasks, texts, labels)
    for task, vectors in prompts.items():
        _check(vectors, model, f"The soft prompt of {task!r}")
    wanted = _label_spans(tokenizer, tasks, texts, labels)
    contexts: dict[tuple, list[int]] = {}
    for place, (row, ids, _) in enumerate(wanted):
        contexts.setdefault((tasks[row], *ids[:-1]), []).append(place)
        _check_room(model, row, len(prompts[tasks[row]]) + len(ids) - 1)
    logs = [0.0] * len(wanted)
    unique = sorted(contexts, key=lambda one: -len(prompts[one[0]]) - len(one))
    for start in range(0, len(unique), batch_size):
        batch = unique[start : start + batch_size]
        with torch.no_grad():
            logits = _forward(model, [prompts[task] for task, *_ in batch], batch)
        for context, row_logits in zip(batch, logits, strict=True):
            for place in contexts[context]:
                logs[place] = _log_probability(row_logits, *wanted[place][1:])
    found: list[list[float]] = [[] for _ in texts]
    for (row, _, _), log in zip(wanted, logs, strict=True):
        found[row].append(log)
    return found


def _label_spans(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    texts: Sequence[str],
    labels: Mapping[str, Sequence[str]],
) -> list[tuple[int, list[int], int]]:
    """For each row and label: row, ids of text and label, place of the first scored.

    Where text and label merge into one token, all labels of the row are scored from
    the token before it, as `generation.score_labels` does.
    """
    pairs = [(row, label) for row, task in enumerate(tasks) for label in labels[task]]
    opened = encode_prompts(texts, tokenizer)
    closed = encode_prompts(
        [texts[row] for row, _ in pairs],
        tokenizer,
        answers=[label for _, label in pairs],
    )
    starts = [len(ids) for ids in opened]
    for (row, _), ids in zip(pairs, closed, strict=True):
        same = [a == b for a, b in zip(opened[row], ids, strict=False)]
        starts[row] = min([starts[row], *(i for i, hit in enumerate(same) if not hit)])
    return [
        (row, ids, starts[row]) for (row, _), ids in zip(pairs, closed, strict=True)
    ]


def _forward(
    model: PreTrainedModel, prompts: Sequence[torch.Tensor], rows: Sequence[tuple]
) -> Iterator[torch.Tensor]:
    """Logits of each row from its soft prompt's last vector on: (1 + tokens, ids).

    The last vector's prediction is that of the row's first token.
    """
    import torch

    embed = model.get_input_embeddings()
    whole = []
    for vectors, (_, *ids) in zip(prompts, rows, strict=True):
        read = embed(torch.tensor(ids, dtype=torch.long, device=model.device))
        whole.append(torch.cat([vectors.to(read), read]))
    padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
    sizes = torch.tensor([len(one) for one in whole], device=model.device)
    mask = torch.arange(padded.shape[1], device=model.device) < sizes[:, None]
    output = model(inputs_embeds=padded, attention_mask=mask.long(), use_cache=False)
    for logits, vectors, size in zip(output.logits, prompts, sizes, strict=True):
        yield logits[len(vectors) - 1 : size]


def _log_probability(logits: torch.Tensor, ids: Sequence[int], start: int) -> float:
    """Log-probability of ids[start:]; logits[i] predicts ids[i]."""
    import torch

    logs = logits[start : len(ids)].float().log_softmax(-1)
    wanted = torch.tensor(ids[start:], device=logits.device)[:, None]
    return logs.gather(-1, wanted).double().sum().item()


def _check(vectors: torch.Tensor, model: PreTrainedModel, name: str) -> None:
    import torch

    width = model.get_input_embeddings().weight.shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors):
        raise ModelError(
            f"{name} has the shape {tuple(vectors.shape)}, but {model.name_or_path} "
            f"reads vectors of {width} numbers; load the base it was trained on."
        )
    context = _context(model)
    if len(vectors) >= context:
        raise ModelError(
            f"{name} has {len(vectors)} virtual tokens, but {model.name_or_path} reads "
            f"at most {context} tokens, text included; train a shorter one."
        )
    broken = (~torch.isfinite(vectors)).any(-1).nonzero()
    if len(broken):
        raise ModelError(
            f"{name} holds a number that is not finite (nan or infinite) in virtual "
            f"token {broken[0].item() + 1} (index {broken[0].item()}); train it again "
            "at a lower learning rate."
        )


def _check_rows(
    prompts: Mapping[str, torch.Tensor],
    tasks: Sequence[str],
    texts: Sequence[str],
    labels: Mapping[str, Sequence[str]],
) -> None:
    if len(tasks) != len(texts):
        raise DataError(
            f"There are {len(tasks)} tasks but {len(texts)} texts; give one for each."
        )
    for row, task in enumerate(tasks):
        for what, known in (("soft prompt", prompts), ("list of labels", labels)):
            if task not in known or not len(known[task]):
                raise DataError(
                    f"row {row + 1} (index {row}) names the task {task!r}, which has "
                    f"no {what}; give one, or use one of {', '.join(sorted(known))}."
                )


def _check_room(model: PreTrainedModel, row: int, length: int) -> None:
    context = _context(model)
    if length > context:
        raise DataError(
            f"row {row + 1} (index {row}) is {length} tokens long with its soft prompt "
            f"and a label, but the model reads at most {context}; shorten it."
        )


def _context(model: PreTrainedModel) -> float:
    return getattr(model.config, "max_position_embeddings", None) or float("inf")
