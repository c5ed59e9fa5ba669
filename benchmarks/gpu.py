"""Tuning on a GPU: `SFTTrainer`'s defaults, our settings and a bare loop, in pairs.

Models of the shapes of Llama 3.2 1B, 3.2 3B and 3.1 8B are made on the GPU with random
weights: speed and memory need no trained ones. Each case trains a few steps and writes
a row: real tokens a second (padding does not count), the peaks that PyTorch's
allocator saw, what `helpers.memory` predicted, and the loss of each step. Cases of one
pair see the same rows in the same order, so their losses must agree.

Three settings:

- defaults: `SFTTrainer` with `SFTConfig()` as it comes, which is 8 rows padded to the
  longest, activation checkpointing, bf16 autocast, sdpa attention, TRL's fused loss;
- ours: the same 8 rows a step, laid end to end, each attending to itself alone, and
  checkpointing only if the planner says that it does not fit without;
- bare: ours in a plain loop, without Trainer.

    python benchmarks/gpu.py                   everything, to results/gpu.json
    python benchmarks/gpu.py --tiny            each path on a tiny model, on a CPU too
    python benchmarks/gpu.py --budget-seconds 300 --out FILE

The most telling cases come first. The record is written after each, and a run that was
stopped goes on where it stopped; a whole record is made anew. A case that runs out of
memory is a row that says so.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import records

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers import memory, models  # noqa: E402

WARM_UP = 2  # steps that are not timed: kernels are chosen, some compiled
SEED = 0
RATES = {"full": 1e-4, "lora": 3e-4, "qlora": 3e-4}  # so that random models learn
SHORTEST, MIDDLE, SPREAD = 16, 0.2, 0.8  # of mixed rows, see lengths()
BARE = ("bare", "chunked")  # settings and loss
AGAIN = 75  # exit status of a worker that asks for another
GROUPED = (2, 12)  # PyTorch from which varlen_attn takes enable_gqa
GRACE = 30  # seconds past the budget after which a case is stopped from outside

SHAPES = {
    0: (400, 128, 256, 2, 2, 1, True),  # --tiny
    1: (128_256, 2048, 8192, 16, 32, 8, True),
    3: (128_256, 3072, 8192, 28, 24, 8, True),
    8: (128_256, 4096, 14_336, 32, 32, 8, False),
}
"""Vocabulary, hidden, intermediate, layers, heads, key and value heads, tied."""


@dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes:
        billions: of parameters, a key of SHAPES.
        technique: "full", "lora" or "qlora".
        settings: "defaults", "ours" or "bare".
        rows: "mixed" lengths as instruction data has them, or "even" ones.
        length: of the longest row in tokens.
        batch: rows of an optimiser step.
        steps: that are timed.
        checkpointing: of activations; None: as the settings have it.
        loss: "fused" (TRL's), and in the bare loop also "chunked", "full" or "liger".
        optimizer: by its name in the planner.
        weights: dtype of the weights that are not in four bits.
        upcast: whether PEFT's prepare_model_for_kbit_training goes over them.
    """

    billions: int
    technique: str
    settings: str
    rows: str = "even"
    length: int = 1024
    batch: int = 8
    steps: int = 4
    checkpointing: bool | None = None
    loss: str = "fused"
    optimizer: str = "adamw"
    weights: str = "bfloat16"
    upcast: bool = False

    @property
    def packed(self) -> bool:
        """Whether rows are laid end to end."""
        return self.settings != "defaults"

    @property
    def pair(self) -> str:
        """What cases that see the same model and rows have in common."""
        same = (self.technique, self.rows, self.length, self.batch, self.steps)
        kind = "" if self.weights == "bfloat16" else " float32"
        return f"{self.billions}B {' '.join(map(str, same))}{kind}"

    @property
    def name(self) -> str:
        """A name that no other case has."""
        marks = {None: "", True: " checkpointing", False: " no checkpointing"}
        loss = "" if self.loss == "fused" else f" {self.loss} loss"
        optimizer = "" if self.optimizer == "adamw" else f" {self.optimizer}"
        upcast = " upcast" if self.upcast else ""
        more = marks[self.checkpointing] + loss + optimizer + upcast
        return f"{self.pair} {self.settings}{more}"


def cases(tiny: bool) -> list[Case]:
    """Returns the cases, the most telling first."""
    if tiny:
        return _tiny_cases()
    three = (("defaults", "fused"), ("ours", "fused"), BARE)
    head = {"rows": "mixed", "steps": 23}
    found = [Case(8, "qlora", which, loss=loss, **head) for which, loss in three]
    found += [Case(8, "qlora", which) for which in ("defaults", "ours")]
    found += _triple(1, "full", weights="float32", steps=48) + _triple(3, "qlora")
    found += [
        Case(8, "qlora", "ours", length=length, batch=1, checkpointing=again)
        for length in (8192, 2048, 512, 4096)
        for again in (True, False)
    ]
    found += [Case(8, "full", "defaults", weights="float32", batch=1)]  # does not fit
    found += [
        Case(8, "qlora", "bare", length=8192, batch=1, checkpointing=True, loss=loss)
        for loss in ("full", "chunked", "liger")
    ]
    found += [
        Case(3, "full", "ours", batch=4, checkpointing=True),
        Case(8, "full", "ours", batch=1, checkpointing=True, optimizer="adamw_8bit"),
    ]
    found += _triple(8, "lora") + _triple(3, "lora")
    found += [
        Case(8, "qlora", "defaults", upcast=True),
        Case(1, "full", "ours", length=8192, batch=1, weights="float32"),
        Case(3, "lora", "ours", length=8192, batch=1, checkpointing=True),
        Case(8, "lora", "ours", length=8192, batch=1, checkpointing=True),
    ]
    return found


def _triple(billions: int, technique: str, **more: Any) -> list[Case]:
    """The three settings on mixed rows."""
    three = (("defaults", "fused"), ("ours", "fused"), BARE)
    more = {"rows": "mixed", "steps": 8} | more
    return [
        Case(billions, technique, which, loss=loss, **more) for which, loss in three
    ]


def _tiny_cases() -> list[Case]:
    """Each path once, on a model that any machine can train."""
    small = {"length": 64, "batch": 4, "steps": 2, "rows": "mixed"}
    found = [
        Case(0, technique, settings, loss=loss, **small)
        for technique in ("qlora", "lora", "full")
        for settings, loss in (("defaults", "fused"), ("ours", "fused"), BARE)
    ]
    found += [
        Case(0, "lora", "bare", loss=loss, checkpointing=True, **small)
        for loss in ("full", "liger")
    ]
    even = {**small, "rows": "even"}
    return [
        *found,
        Case(0, "qlora", "defaults", upcast=True, **small),
        Case(0, "qlora", "ours", checkpointing=True, **small),
        Case(0, "full", "ours", optimizer="adamw_8bit", **even),
        Case(0, "full", "defaults", weights="float32", **even),
        Case(0, "full", "ours", weights="float32", **even),
    ]


# ------------------------------------------------------------------------------ data


def lengths(case: Case) -> list[list[int]]:
    """Returns the rows' lengths, step by step.

    Mixed ones are log-normal, as the lengths of written answers are: half of them are
    under a fifth of the longest, few near it.
    """
    import numpy as np

    shape = (case.steps + WARM_UP, case.batch)
    if case.rows == "even":
        return np.full(shape, case.length).tolist()
    drawn = np.random.default_rng(SEED).lognormal(0, SPREAD, shape)
    scaled = (drawn * MIDDLE * case.length).astype(int)
    return np.clip(scaled, SHORTEST, case.length).tolist()


def rows(case: Case) -> list[list[list[int]]]:
    """Returns ids, row by row in each step, some far more frequent than others."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    vocabulary = SHAPES[case.billions][0]
    chances = 1 / (np.arange(vocabulary) + 10.0)
    bounds = np.cumsum(chances / chances.sum())

    def draw(count: int) -> list[int]:
        found = np.searchsorted(bounds, generator.random(count))
        return found.clip(0, vocabulary - 1).tolist()

    return [[draw(count) for count in step] for step in lengths(case)]


# ------------------------------------------------------------------------- prediction


def shape_of(case: Case) -> memory.Shape:
    """Returns the model's sizes as the planner takes them."""
    return memory.read_shape(settings_of(case), name=f"Llama {case.billions}B")


def settings_of(case: Case) -> dict[str, Any]:
    """Returns the model's configuration."""
    vocabulary, hidden, inner, layers, heads, kv_heads, tied = SHAPES[case.billions]
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": tied,
    }


def recipe_of(case: Case, batch: Sequence[int]) -> memory.Recipe:
    """Returns what the planner is asked for a step with rows of these lengths."""
    padded = not case.packed and len(set(batch)) > 1
    apart = packed_attention(importlib.metadata.version("torch"))
    known = memory.Recipe(
        method=case.technique,
        batch=1 if case.packed else len(batch),
        length=sum(batch) if case.packed else max(batch),
        optimizer=case.optimizer,
        checkpointing=checkpoints(case),
        attention=apart if case.packed else "sdpa" if padded else "flash",
        loss="fused" if case.loss == "liger" else case.loss,
        weights=case.weights,
        upcast=case.upcast,
    )
    return replace(known, **loss_of_loop(case))


def loss_of_loop(case: Case) -> dict[str, Any]:
    """Returns what the planner is told of a loss from all logits in a plain loop.

    There nobody holds the logits once the loss is known, as with a single chunk;
    Trainer's autocast hands out a copy of them, which stays.
    """
    alone = case.settings == "bare" and case.loss == "full"
    return {"loss": "chunked", "chunks": 1} if alone else {}


def packed_attention(torch_version: str) -> memory.Attention:
    """Returns what the planner calls the attention of packed rows in this PyTorch.

    Before its kernel could share keys and values among heads, they were repeated.
    """
    major, minor = torch_version.split(".")[:2]
    return "flash" if (int(major), int(minor)) >= GROUPED else "repeated"


def checkpoints(case: Case) -> bool:
    """Returns whether activations are checkpointed: in ours, only if they must be."""
    if case.checkpointing is not None:
        return case.checkpointing
    if not case.packed:
        return True
    without = replace(case, checkpointing=False)
    return predicted(without)[0] + memory.CONTEXT > usable()


def predicted(case: Case) -> tuple[int, memory.Recipe]:
    """Returns the highest peak that the planner expects, and the step it is of."""
    each = [recipe_of(case, batch) for batch in lengths(case)]
    plans = [memory.plan(shape_of(case), recipe, context=0) for recipe in each]
    highest = max(plans, key=lambda plan: plan.peak)
    return highest.peak, highest.recipe


def planned_now(row: dict[str, Any], torch_version: str) -> int:
    """Returns the peak that the planner expects today of a row in a record.

    Args:
        row: of the record, which keeps what was predicted before it was measured.
        torch_version: that it was measured with.
    """
    case = Case(**row["case"])
    known = row["recipe"] | {"targets": tuple(row["recipe"]["targets"])}
    if case.packed:  # the first records call it flash in any PyTorch
        known["attention"] = packed_attention(torch_version)
    known |= loss_of_loop(case)  # and plan a loop's loss as Trainer's
    return memory.plan(shape_of(case), memory.Recipe(**known), context=0).peak


def usable() -> int:
    """Returns the bytes that a plan may fill."""
    import torch

    if not torch.cuda.is_available():
        return memory.usable("H100 80 GB")
    return int(torch.cuda.mem_get_info()[1] * (1 - memory.MARGIN))


# ------------------------------------------------------------------------- attention


def attend_apart(query, key, value, bounds: Sequence[int], scale: float | None):
    """Attends within each row of several that lie end to end.

    Args:
        query: (1, heads, tokens, width); key and value may have fewer heads.
        key: as query.
        value: as query.
        bounds: where rows begin, and the number of tokens.
        scale: of the scores.

    Returns:
        (1, heads, tokens, width).
    """
    import torch

    each = [
        torch.nn.functional.scaled_dot_product_attention(
            *(states[:, :, start:end] for states in (query, key, value)),
            is_causal=True,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    return torch.cat(each, dim=2)


def attend_varlen(query, key, value, cumulative, longest: int, scale: float | None):
    """Does the same in one kernel, FlashAttention's as PyTorch brings it."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    own: dict[str, Any] = {"scale": scale} if "scale" in known else {}
    own |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    groups = query.shape[1] // key.shape[1]
    if "enable_gqa" in known:
        own["enable_gqa"] = True
    else:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]
    mixed = varlen_attn(*flat, cumulative, cumulative, longest, longest, **own)
    return mixed.transpose(0, 1)[None]


def varlen_agrees() -> bool:
    """Returns whether the one kernel works here and gives what the many give."""
    import torch

    if not torch.cuda.is_available():
        return False
    generator = torch.Generator("cuda").manual_seed(SEED)
    bounds = [0, 100, 101, 300]
    cumulative = torch.tensor(bounds, dtype=torch.int32, device="cuda")

    def states(heads: int):
        size = (1, heads, 300, 128)
        made = torch.randn(size, device="cuda", generator=generator)
        return made.bfloat16().requires_grad_()

    given = states(8), states(2), states(2)
    push = torch.randn(1, 8, 300, 128, device="cuda", generator=generator).bfloat16()
    try:
        one = attend_varlen(*given, cumulative, 199, None)
        grads = torch.autograd.grad(one, given, push)
    except Exception as error:  # whatever this build lacks, the other way is there
        print(f"varlen attention is not used: {type(error).__name__}: {error}")
        return False
    many = attend_apart(*given, bounds, None)
    wanted = torch.autograd.grad(many, given, push)
    pairs = zip((one, *grads), (many, *wanted), strict=True)
    worst = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
    print(f"varlen attention: relative difference {worst:.1e}")
    return worst < 2e-2


def register_packed_attention() -> str:
    """Makes "packed" an attention implementation, and returns how it is computed."""
    from transformers import AttentionInterface

    varlen = varlen_agrees()

    def packed(module, query, key, value, mask, scaling=None, **more):
        import torch

        cumulative = more["cu_seq_lens_q"]
        if torch.is_autocast_enabled(query.device.type):  # as sdpa does by itself
            narrow = torch.get_autocast_dtype(query.device.type)
            query, key, value = (x.to(narrow) for x in (query, key, value))
        if varlen:
            mixed = attend_varlen(
                query, key, value, cumulative, more["max_length_q"], scaling
            )
        else:
            if not hasattr(cumulative, "bounds"):  # one wait for the GPU in all
                cumulative.bounds = cumulative.tolist()
            mixed = attend_apart(query, key, value, cumulative.bounds, scaling)
        return mixed.transpose(1, 2).contiguous(), None

    AttentionInterface.register("packed", packed)
    return "varlen" if varlen else "row by row"


# ----------------------------------------------------------------------------- models


def device() -> str:
    """Returns where models are trained."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def build(case: Case):
    """Returns a model with random weights, in four bits for QLoRA."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = settings_of(case)
    config = AutoConfig.for_model(own.pop("model_type"), **own)
    torch.manual_seed(SEED)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, case.weights),
            attn_implementation="packed" if case.packed else "sdpa",
        )
    if case.technique == "qlora":
        quantise(model)
    if case.upcast:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=checkpoints(case)
        )
    return model


def quantise(model) -> None:
    """Turns the matrices of the blocks into NF4 with double quantisation, in place.

    The model is then what `from_pretrained` makes of a `BitsAndBytesConfig`, without
    16 GB of weights on a disk.
    """
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer
    from transformers.utils.quantization_config import QuantizationMethod

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, old in list(parent.named_children()):
                if not isinstance(old, torch.nn.Linear):
                    continue
                new = Linear4bit(
                    old.in_features,
                    old.out_features,
                    bias=False,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                    device="meta",
                )
                where = old.weight.device
                new.weight = Params4bit(
                    old.weight.data,
                    requires_grad=False,
                    compress_statistics=True,
                    quant_type="nf4",
                    module=new,
                ).to(where)
                new.requires_grad_(False)
                setattr(parent, name, new)
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    model.is_loaded_in_4bit = model.is_quantized = model.is_4bit_serializable = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.requires_grad_(False)


def adapters():
    """Returns the LoRA that all cases use."""
    from peft import LoraConfig

    return LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )


# --------------------------------------------------------------------------- training


class Watch:
    """Takes the time and the loss of each step."""

    def __init__(self) -> None:
        """Starts at the end of no step."""
        self.ends: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """Notes that a step has ended, on the GPU too."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds of each timed step."""
        ends = self.ends[WARM_UP - 1 :]
        return [later - one for one, later in zip(ends, ends[1:], strict=False)]


def train_with_trainer(case: Case, model, watch: Watch, folder: str) -> Callable:
    """Returns what trains with SFTTrainer, set up."""
    import torch
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    import datasets

    class Listener(TrainerCallback):
        def on_step_end(self, *_, **__):
            watch.step()

        def on_log(self, *_, logs=None, **__):
            watch.losses += [logs["loss"]] if "loss" in logs else []

    flat = [ids for step in rows(case) for ids in step]
    # The rows are here as ids, and each settings' trainer is to see them in one order.
    own: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": case.steps + WARM_UP,
        "per_device_train_batch_size": case.batch,
        "learning_rate": RATES[case.technique],
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if case.settings == "ours":
        own |= {"padding_free": True, "max_length": None}
        own |= {"activation_checkpointing": checkpoints(case)}
    if case.optimizer != "adamw":
        own["optim"] = case.optimizer
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**own),
        train_dataset=datasets.Dataset.from_dict({"input_ids": flat, "labels": flat}),
        processing_class=AutoTokenizer.from_pretrained(models.SHIPPED),
        peft_config=None if case.technique == "full" else adapters(),
        callbacks=[Listener()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer.train


def train_in_a_loop(case: Case, model, watch: Watch, folder: str) -> Callable:
    """Returns what trains in a plain loop, set up as SFTTrainer would."""
    import torch
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(SEED)
    base = model
    if case.technique != "full":
        model = get_peft_model(model, adapters())
    if case.technique == "qlora":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    if checkpoints(case):
        base.activation_checkpointing_enable()
        base.enable_input_require_grads()
    trained = [one for one in model.parameters() if one.requires_grad]
    fused = torch.cuda.is_available()  # as in Trainer
    optimizer = torch.optim.AdamW(
        trained, RATES[case.technique], weight_decay=0, fused=fused
    )
    losses = {"chunked": chunked_loss, "full": full_loss, "liger": liger_loss}
    loss_of = losses[case.loss]

    def run() -> None:
        model.train()
        for batch in packed_batches(case):
            labels = batch.pop("labels")
            with torch.autocast(device(), dtype=torch.bfloat16):
                states = base.model(**batch, use_cache=False).last_hidden_state[0]
                loss = loss_of(states, base.lm_head.weight, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.losses.append(loss.item())
            watch.step()

    return run


def packed_batches(case: Case) -> Iterator[dict[str, Any]]:
    """Yields each step's rows end to end, with the next token of each as its label."""
    import torch

    for step in rows(case):
        sizes = [len(ids) for ids in step]
        bounds = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
        places = [place for size in sizes for place in range(size)]
        following = [ids[1:] + [-100] for ids in step]
        flat = {
            "input_ids": torch.tensor(sum(step, []))[None],
            "position_ids": torch.tensor(places)[None],
            "labels": torch.tensor(sum(following, [])),
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
        }
        longest = {"max_length_q": max(sizes), "max_length_k": max(sizes)}
        yield {name: states.to(device()) for name, states in flat.items()} | longest


def full_loss(states, weight, labels):
    """Returns the mean cross-entropy from all logits at once."""
    import torch

    logits = torch.nn.functional.linear(states, weight).float()
    return torch.nn.functional.cross_entropy(logits, labels)


def chunked_loss(states, weight, labels):
    """Returns the same from an eighth of the logits at a time, made again backward."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def some(states, weight, labels):
        logits = torch.nn.functional.linear(states, weight).float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    pieces = zip(states.chunk(8), labels.chunk(8), strict=True)
    each = [checkpoint(some, s, weight, t, use_reentrant=False) for s, t in pieces]
    return sum(each) / (labels != -100).sum()


def liger_loss(states, weight, labels):
    """Returns the same from Liger's kernel, which makes no logits as a whole."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(weight, states.to(weight.dtype), labels)


def _has_liger() -> bool:
    import importlib.util

    import torch

    return bool(importlib.util.find_spec("liger_kernel")) and torch.cuda.is_available()


# -------------------------------------------------------------------------- measuring


def measure(case: Case) -> dict[str, Any]:
    """Trains a case and returns its row; what goes wrong is a row as well."""
    peak, recipe = predicted(case)
    row = {"what": case.name, "pair": case.pair, "technique": case.technique}
    row |= {"model_billions": case.billions, "length": case.length}
    row |= {"settings": case.settings, "case": asdict(case), "recipe": asdict(recipe)}
    row |= {"outcome": "measured", "value": None, "predicted_bytes": peak}
    if case.loss == "liger" and not _has_liger():
        return row | {"outcome": "missing", "message": "liger-kernel needs a GPU."}
    try:
        with memory.advised(shape_of(case), recipe, budget=usable()):
            row |= _trained(case)
    except memory.OutOfMemory as error:
        row |= {"outcome": "out of memory", "message": str(error)}
    except Exception as error:  # one case must not end the others
        message = f"{type(error).__name__}: {error}"
        row |= {"outcome": "failed", "message": message[:500]}
        import traceback

        print(traceback.format_exc(limit=-6))
        traceback.clear_frames(error.__traceback__)
    _clean()
    return row


def _trained(case: Case) -> dict[str, Any]:
    """Builds the model, trains it and returns what was measured."""
    watch, began, left = Watch(), time.perf_counter(), _gpu("memory_allocated")
    way = train_in_a_loop if case.settings == "bare" else train_with_trainer
    with tempfile.TemporaryDirectory() as folder:
        run = way(case, build(case), watch, folder)
        _clean()
        facts = {"built_seconds": round(time.perf_counter() - began, 2)}
        facts |= {"resident_bytes": _gpu("memory_allocated")}
        facts |= {"left_before_bytes": left}  # by the case before; about 0
        _reset_peak()
        run()
    tokens = sum(map(sum, lengths(case)[WARM_UP:]))
    padded = sum(len(step) * max(step) for step in lengths(case)[WARM_UP:])
    seconds = sum(watch.seconds)
    return facts | {
        "value": round(tokens / seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens": tokens,
        "computed_tokens": tokens if case.packed else padded,
        "step_seconds": [round(one, 4) for one in watch.seconds],
        "peak_allocated_bytes": _gpu("max_memory_allocated"),
        "peak_reserved_bytes": _gpu("max_memory_reserved"),
        "checkpointing": checkpoints(case),
        "loss": [round(loss, 5) for loss in watch.losses],
    }


def _gpu(what: str) -> int | None:
    import torch

    return getattr(torch.cuda, what)() if torch.cuda.is_available() else None


def _reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _clean() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def compared(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holds each case against its pair's defaults: speed, memory, and the losses."""
    good = [row for row in found if row["outcome"] == "measured"]
    first: dict[str, dict[str, Any]] = {}
    for row in good:
        if row["settings"] == "defaults" and not row["case"]["upcast"]:
            first.setdefault(row["pair"], row)
    pairs = []
    for row in good:
        base = first.get(row["pair"])
        if base is None or base is row:
            continue
        losses = zip(base["loss"], row["loss"], strict=True)
        apart = [abs(one - other) for one, other in losses]
        pair = {"pair": row["pair"], "what": row["what"], "than": base["what"]}
        pair |= {"speed_up": round(row["value"] / base["value"], 3)}
        pair |= {"largest_loss_difference": round(max(apart), 5)}
        pair |= {"loss_fell_by": round(base["loss"][0] - base["loss"][-1], 5)}
        pairs.append(pair)
    return pairs


def own_peak(row: dict[str, Any]) -> int | None:
    """Returns a case's peak without what the cases before it had left, or None.

    Cases share a process, and libraries keep things: bitsandbytes' list of embeddings
    that are to have 32-bit optimisers holds a model's whole embedding, for example.
    """
    peak = row.get("peak_allocated_bytes")
    return peak - (row.get("left_before_bytes") or 0) if peak else None


def error_of(row: dict[str, Any]) -> float | None:
    """Returns by how much of the measured peak a prediction is off, or None."""
    measured = own_peak(row)
    return round(row["predicted_bytes"] / measured - 1, 4) if measured else None


# ----------------------------------------------------------------------------- record


def write(out: Path, found: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Writes the record whole, with what follows from its rows."""
    shown = [row | {"prediction_error": error_of(row)} for row in found]
    records.write(
        out.stem,
        shown,
        command="python benchmarks/gpu.py",
        folder=out.parent,
        pairs=compared(shown),
        seed=SEED,
        warm_up_steps=WARM_UP,
        **facts,
    )


def read(out: Path) -> dict[str, Any]:
    """Returns the record so far."""
    return json.loads(out.read_text("utf-8")) if out.exists() else {"rows": []}


def waiting(tiny: bool, out: Path) -> list[Case]:
    """Returns the cases without a row."""
    done = {row["what"] for row in read(out)["rows"]}
    return [case for case in cases(tiny) if case.name not in done]


def work(tiny: bool, out: Path, until: float) -> None:
    """Measures the cases that wait, one by one, until they or the time are over."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    attention = register_packed_attention()
    note = out.with_suffix(".now")
    here = records.hardware()
    if read(out).get("hardware", here) != here:
        out.unlink()  # rows of two machines do not compare
    slowest = 5.0
    for case in waiting(tiny, out):
        if time.time() + slowest > until:
            print("The time is up; run it again to measure the rest.")
            break
        note.write_text(case.name, "utf-8")
        began = time.time()
        row = measure(case)
        row["case_seconds"] = round(time.time() - began, 1)
        write(out, [*read(out)["rows"], row], packed_attention=attention)
        note.unlink()
        print(told(row), flush=True)
        if "CUDA error" in row.get("message", "") and row["outcome"] == "failed":
            sys.exit(AGAIN)  # the process can do no more on this GPU


def told(row: dict[str, Any]) -> str:
    """Returns a row as one line."""
    if row["outcome"] != "measured":
        return f"{row['what']}: {row['outcome']}. {row['message'][:300]}"
    error, peak = error_of(row), own_peak(row)
    memory_words = f", {peak / 2**30:.2f} GiB, predicted {error:+.1%}" if peak else ""
    fell = f"loss {row['loss'][0]:.3f} to {row['loss'][-1]:.3f}"
    took = f"{row['case_seconds']} s"
    return f"{row['what']}: {row['value']:,.0f} tokens/s{memory_words}, {fell}, {took}"


def supervise(options: argparse.Namespace) -> int:
    """Runs the work in a process of its own, again after a crash, until it is done."""
    out, until = options.out, time.time() + options.budget_seconds
    call = [sys.executable, __file__, "--worker", str(until), "--out", str(out)]
    call += ["--tiny"] if options.tiny else []
    out.parent.mkdir(parents=True, exist_ok=True)
    if not waiting(options.tiny, out):
        out.unlink()  # it is whole, so it is asked for anew
    while waiting(options.tiny, out) and time.time() < until:
        try:
            code = subprocess.run(call, timeout=until - time.time() + GRACE).returncode
        except subprocess.TimeoutExpired:  # the case is left for another run
            out.with_suffix(".now").unlink(missing_ok=True)
            break
        if not note_crash(options.tiny, out, code) and code != AGAIN:
            break
    found = read(out)["rows"]
    for pair in read(out).get("pairs", []):
        speed, apart = pair["speed_up"], pair["largest_loss_difference"]
        print(f"{pair['what']}: {speed:.2f} times the defaults; losses within {apart}")
    return int(not found or any(row["outcome"] == "failed" for row in found))


def note_crash(tiny: bool, out: Path, code: object) -> bool:
    """Writes a row for a case whose process died in it; returns whether one did."""
    note = out.with_suffix(".now")
    if not note.exists():
        return False
    name = note.read_text("utf-8")
    note.unlink()
    case = next(case for case in cases(tiny) if case.name == name)
    row = {"what": name, "pair": case.pair, "settings": case.settings, "value": None}
    row |= {"technique": case.technique, "length": case.length, "case": asdict(case)}
    row |= {"model_billions": case.billions, "predicted_bytes": predicted(case)[0]}
    row |= {"outcome": "failed", "message": f"Its process ended: {code}."}
    write(out, [*read(out)["rows"], row])
    print(told(row), flush=True)
    return True


def main() -> int:
    """Reads the command line and measures."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=records.RESULTS / "gpu.json")
    parser.add_argument("--budget-seconds", type=float, default=3600.0)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, any device")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured; --tiny runs anywhere.")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.worker is not None:
        work(options.tiny, options.out, options.worker)
        return 0
    return supervise(options)


if __name__ == "__main__":
    sys.exit(main())
