"""Will it fit? Parameters and peak memory of a tuning run, before anything is loaded.

From a model's `config.json` alone: how many parameters it has (exactly), and how many
bytes full tuning, LoRA or QLoRA need at their peak, part by part. Neither torch nor a
network is needed; only an id on the Hub is looked up there.

One training step has four moments that can be its peak, and :func:`plan` computes each:

| moment | what is alive beside weights, adapters and optimiser |
|---|---|
| loss | what the backward pass will need, and the logits with their gradients |
| last layer backward | the same without logits, and one layer's working memory |
| first layer backward | one layer's working memory, and all gradients |
| optimiser step | all gradients |

Bytes that one layer keeps for its backward pass, for each token (d hidden, f
intermediate, q and k widths of queries and keys, e bytes of the compute dtype; every
linear layer trained in e; :func:`layer_bytes` has the other cases, and the tests hold
it against what autograd saves: the same to the byte):

    2 norms × (4d + e·d + 4)      float32 copy of the input, normalised value, 1/RMS
    2 × e·d                       inputs of q, k, v and of gate, up
    e·(2q + 2k) + 4·heads         queries, keys, values, output, log-sum-exp
    4 × e·f                       gate, its activation, up, their product

With activation checkpointing a layer keeps only its input, and the rest exists for one
layer at a time. Eager attention adds heads × length × (4 + e) for each token.

Sources: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models", arXiv 2205.05198, sections 4 and 5, done again for RMSNorm, SwiGLU
and grouped-query attention as transformers 5 computes them; Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174 (checkpointing); Dao
et al. 2022, arXiv 2205.14135 (attention without the score matrix); Dettmers et al.
2023, arXiv 2305.14314 (NF4, double quantisation); Hsu et al. 2024, "Liger Kernel",
arXiv 2410.10989 (fused linear cross-entropy).
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["full", "lora", "qlora"]
Optimizer = Literal[
    "adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd"
]
Attention = Literal["flash", "repeated", "sdpa", "eager"]
Loss = Literal["fused", "chunked", "full"]
Dtype = Literal["bfloat16", "float16", "float32"]

METHODS: tuple[str, ...] = get_args(Method)
PARTS = (
    "weights",
    "adapters",
    "gradients",
    "optimiser",
    "activations",
    "logits",
    "other",
)
"""In bytes. "other": CUDA's context, and casts or dequantised copies of weights."""

MIB, GIB = 2**20, 2**30

CARDS = {
    "T4 16 GB": 15_360 * MIB,
    "L4 24 GB": 23_034 * MIB,
    "A100 40 GB": 40_960 * MIB,
    "A100 80 GB": 81_920 * MIB,
    "H100 80 GB": 81_559 * MIB,
    "H200 141 GB": 143_771 * MIB,
}
"""Bytes in all as nvidia-smi reports them: github.com/modal-labs/modal-client #2797."""

CONTEXT = GIB // 2
"""Bytes that CUDA and its libraries take beside PyTorch's allocator, roughly."""

MARGIN = 0.05
"""Share of a card that a plan leaves free, for fragments between allocations."""

TILE = (4096, 32_768)
"""Tokens and words of the vocabulary in a tile of TRL's fused loss."""

SHORTEST = 128
"""Tokens of a row below which a shorter row is no advice."""

LINEAR = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""The linear layers of a block, PEFT's "all-linear"."""


class PlanError(ValueError):
    """A model or recipe that no plan can be made for, in one sentence."""


# -------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Family:
    """What a kind of model does where its config does not say, or cannot say."""

    tied: bool = False
    head_dim: int | None = None  # None: hidden size by heads
    qkv_bias: bool | None = False  # None: the config's attention_bias, for o too
    head_norms: bool = False  # of each query and key
    norms: int = 2  # of width hidden in each block
    mlp_bias: bool = False  # whether the config may ask for it


FAMILIES = {
    "llama": Family(qkv_bias=None, mlp_bias=True),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qkv_bias=None, head_dim=128, head_norms=True),
    "gemma": Family(qkv_bias=None, head_dim=256, tied=True),
    "gemma2": Family(qkv_bias=None, head_dim=256, tied=True, norms=4),
    "gemma3_text": Family(
        qkv_bias=None, head_dim=256, tied=True, norms=4, head_norms=True
    ),
}
"""By `model_type`, as in transformers 5."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide about memory."""

    name: str
    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    norms: int = 2

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys of a token; values have the same."""
        return self.kv_heads * self.head_dim

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of a block."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }


def load_shape(model: str | Path) -> Shape:
    """Read a model's sizes from a folder, a `config.json`, or an id on the Hub.

    Args:
        model: a path; what is no existing path is taken for an id on the Hub, whose
            config is downloaded by huggingface_hub if its cache lacks it.

    Raises:
        PlanError: if there is none, or none of a kind that can be planned.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _from_hub(str(model))
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path} is not readable as JSON ({type(error).__name__}); give the "
            "config.json that belongs to the model."
        ) from error
    name = path.parent.name if path.name == "config.json" else path.stem
    return read_shape(config, name=str(model) if _is_id(model) else name)


def read_shape(config: Any, *, name: str = "model") -> Shape:
    """Read a model's sizes from its configuration.

    Args:
        config: what `config.json` holds.
        name: how to call the model.

    Raises:
        PlanError: if it is no such configuration, or of a kind that is not known.

    >>> config = {"model_type": "llama", "vocab_size": 32_000, "hidden_size": 4_096}
    >>> config |= {"intermediate_size": 11_008, "num_hidden_layers": 32}
    >>> config |= {"num_attention_heads": 32, "max_position_embeddings": 4_096}
    >>> f"{parameters(read_shape(config))['total']:,}"  # Llama 2 7B
    '6,738,415,616'
    """
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise PlanError(
            f"The configuration of {name} has the model_type {kind!r}; plans are made "
            f"for {', '.join(FAMILIES)}."
        )
    family = FAMILIES[kind]
    number = _Numbers(config, name)
    heads, hidden = number("num_attention_heads"), number("hidden_size")
    kv_heads = number("num_key_value_heads", heads)
    if heads % kv_heads:
        raise PlanError(
            f"The configuration of {name} has {heads} heads for {kv_heads} key and "
            "value heads, which do not divide them; correct the file."
        )
    asked = bool(config.get("attention_bias"))
    return Shape(
        name=name,
        family=kind,
        vocabulary=number("vocab_size"),
        hidden=hidden,
        intermediate=number("intermediate_size"),
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number("head_dim", family.head_dim or max(1, hidden // heads)),
        context=number("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        qkv_bias=asked if family.qkv_bias is None else family.qkv_bias,
        o_bias=asked and family.qkv_bias is None,
        mlp_bias=family.mlp_bias and bool(config.get("mlp_bias")),
        head_norms=family.head_norms,
        norms=family.norms,
    )


@dataclass(frozen=True)
class _Numbers:
    """Reads whole positive numbers from a configuration, or says what is wrong."""

    config: Mapping[str, Any]
    name: str

    def __call__(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(
                f"The configuration of {self.name} has {value!r} for {key}; it must "
                "be a whole number from 1."
            )
        return value


def _is_id(model: str | Path) -> bool:
    return not Path(model).expanduser().exists()


def _from_hub(model: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json"))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{model} is no folder with a config.json, and no such file came from the "
            f"Hub ({type(error).__name__}); give a folder, a config.json or an "
            "id such as owner/name, and for an id a network or its cache."
        ) from error


# ---------------------------------------------------------------------- parameters


def parameters(shape: Shape) -> dict[str, int]:
    """Count a model's parameters, exactly; tied embeddings count once.

    Args:
        shape: of the model.

    Returns:
        Numbers under "embedding", "head" (0 if tied), "linear" (matrices of the
        blocks), "bias", "norm" and "total".
    """
    biases = (
        shape.qkv_bias * (shape.queries + 2 * shape.keys)
        + shape.o_bias * shape.hidden
        + shape.mlp_bias * (2 * shape.intermediate + shape.hidden)
    )
    norms = shape.norms * shape.hidden + shape.head_norms * 2 * shape.head_dim
    table = shape.vocabulary * shape.hidden
    counts = {
        "embedding": table,
        "head": 0 if shape.tied else table,
        "linear": shape.layers * sum(i * o for i, o in shape.linear.values()),
        "bias": shape.layers * biases,
        "norm": shape.layers * norms + shape.hidden,
    }
    return counts | {"total": sum(counts.values())}


def lora_parameters(shape: Shape, rank: int, targets: Sequence[str] = LINEAR) -> int:
    """Count what LoRA trains: r × (inputs + outputs) for each adapted matrix.

    Source: Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    return shape.layers * rank * sum(sum(shape.linear[name]) for name in targets)


def nf4_bytes(elements: int, *, double: bool = True) -> int:
    """Bytes of a matrix in bitsandbytes' NF4, its constants included.

    Half a byte for each weight and a scale for each 64: four bytes, or with double
    quantisation one, then four for each 256 scales and four for their mean. The
    16 levels of weights, and the 256 of scales, are kept with each matrix in float32.

    Source: Dettmers et al. 2023, arXiv 2305.14314, section 3; bitsandbytes 0.50.

    >>> round(8 * nf4_bytes(2**24) / 2**24, 3)  # bits for each weight
    4.127
    """
    blocks = ceil(elements / 64)
    levels = 4 * 16
    scales = 4 * blocks
    if double:
        levels += 4 * 256
        scales = blocks + 4 * ceil(blocks / 256) + 4
    return ceil(elements / 2) + scales + levels


# ------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe:
    """How a model is to be tuned; the defaults are SFTTrainer's with bf16 on a GPU.

    Attributes:
        method: "full", "lora" or "qlora" (NF4 with double quantisation).
        batch: rows in a forward pass.
        length: tokens of each row, padding included.
        accumulation: forward passes for an optimiser step.
        rank: of LoRA.
        targets: the linear layers that LoRA adapts.
        dropout: of LoRA; any above 0 costs a copy of each adapted input, and a mask.
        optimizer: by its name in transformers; "adamw" keeps two values in the
            parameter's dtype, "8bit" two bytes, "32bit" eight. What is paged may move
            to the host in need, and is counted in full here.
        checkpointing: of activations, for each block.
        attention: "flash" (FlashAttention, or sdpa without padding), "repeated" (the
            same by a kernel that has keys and values repeated for each head, as
            PyTorch's varlen_attn before 2.12), "sdpa" (with padding: a mask, and
            they are repeated too) or "eager".
        loss: "fused" (TRL's: a tile of the logits at a time), "chunked" (some tokens
            at a time, made again in the backward pass), or "full".
        chunks: into which "chunked" cuts the tokens.
        compute: dtype of activations.
        autocast: whether torch.autocast makes them so (Trainer's bf16 and fp16).
        weights: dtype of what is not in four bits; None: float32 for full tuning, else
            as `compute`. With QLoRA it concerns embeddings, head and norms.
        adapters: dtype of LoRA's matrices; None: float32 for LoRA as PEFT does,
            as `compute` for QLoRA as TRL does.
        upcast: whether PEFT's prepare_model_for_kbit_training makes float32 of what is
            not in four bits. Only for QLoRA.
    """

    method: Method = "qlora"
    batch: int = 1
    length: int = 2048
    accumulation: int = 1
    rank: int = 16
    targets: tuple[str, ...] = LINEAR
    dropout: float = 0.0
    optimizer: Optimizer = "adamw"
    checkpointing: bool = True
    attention: Attention = "flash"
    loss: Loss = "fused"
    chunks: int = 8
    compute: Dtype = "bfloat16"
    autocast: bool = True
    weights: Dtype | None = None
    adapters: Dtype | None = None
    upcast: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense, in one sentence."""
        for name in ("batch", "length", "accumulation", "rank", "chunks"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PlanError(f"{name} is {value!r}; it must be a whole number ≥ 1.")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                known = ", ".join(map(str, allowed))
                raise PlanError(f"{name} is {value!r}; use one of {known}.")
        if not 0 <= self.dropout < 1:
            raise PlanError(f"dropout is {self.dropout}; it must be from 0 to below 1.")
        unknown = [name for name in self.targets if name not in LINEAR]
        if unknown or not self.targets:
            raise PlanError(
                f"targets are {list(self.targets)}; use one or more of "
                f"{', '.join(LINEAR)}."
            )

    @property
    def tokens(self) -> int:
        """Tokens in a forward pass."""
        return self.batch * self.length

    @property
    def element(self) -> int:
        """Bytes of an activation."""
        return _BYTES[self.compute]

    @property
    def weight(self) -> int:
        """Bytes of a weight that is not in four bits."""
        if self.method == "qlora" and self.upcast:
            return 4
        default = "float32" if self.method == "full" else self.compute
        return _BYTES[self.weights or default]

    @property
    def adapter(self) -> int:
        """Bytes of a weight of LoRA."""
        default = self.compute if self.method == "qlora" else "float32"
        return _BYTES[self.adapters or default]

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies of weights and inputs."""
        return self.autocast and self.element < 4


_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

_CHOICES: dict[str, tuple[Any, ...]] = {
    "method": METHODS,
    "optimizer": get_args(Optimizer),
    "attention": get_args(Attention),
    "loss": get_args(Loss),
    "compute": get_args(Dtype),
    "weights": (None, *get_args(Dtype)),
    "adapters": (None, *get_args(Dtype)),
}


# ----------------------------------------------------------------------- the parts


def weight_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes of the base model's weights as they are stored."""
    counts = parameters(shape)
    rest = recipe.weight * (counts["total"] - counts["linear"])
    if recipe.method != "qlora":
        return rest + recipe.weight * counts["linear"]
    matrices = sum(nf4_bytes(i * o) for i, o in shape.linear.values())
    return rest + shape.layers * matrices


def trained(shape: Shape, recipe: Recipe) -> tuple[int, int]:
    """Give the number of trained parameters and the bytes of each."""
    if recipe.method == "full":
        return parameters(shape)["total"], recipe.weight
    return lora_parameters(shape, recipe.rank, recipe.targets), recipe.adapter


def optimizer_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes of the optimiser's two moments.

    Sources: torch.optim.AdamW keeps them in the parameter's dtype; bitsandbytes in
    float32 ("32bit"), or in one byte with a float32 scale for each 256 ("8bit";
    Dettmers et al. 2022, arXiv 2110.02861).
    """
    count, width = trained(shape, recipe)
    each = {"sgd": 0.0, "adamw": 2.0 * width, "paged_adamw_32bit": 8.0}
    if recipe.optimizer in each:
        return round(count * each[recipe.optimizer])
    # Trainer tells bitsandbytes to keep those of embeddings in float32.
    table = parameters(shape)["embedding"] if recipe.method == "full" else 0
    return round((count - table) * 2 * (1 + 4 / 256) + table * 8)


def layer_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes that one block keeps for its backward pass, for each token.

    What a frozen layer does not need is not kept: PyTorch saves a linear layer's
    input only if its weight, or an adapter on it, is trained.
    """
    return (
        _norm_bytes(shape, recipe)
        + _attention_bytes(shape, recipe)
        + _mlp_bytes(shape, recipe)
        + _rank_bytes(recipe)
    )


def _norm_bytes(shape: Shape, recipe: Recipe) -> int:
    """RMSNorm keeps its input and 1 / RMS in float32, and if trained, the product."""
    full = recipe.method == "full"
    gemma = shape.family.startswith("gemma")  # multiplies in float32
    wide = 4 + full * (4 if gemma else _residual(recipe))
    of_heads = 4 + full * (4 if gemma else recipe.element)
    values = shape.norms * shape.hidden * wide
    if not shape.head_norms:
        return values + 4 * shape.norms
    values += (shape.queries + shape.keys) * of_heads
    return values + 4 * (shape.norms + shape.heads + shape.kv_heads)


def _attention_bytes(shape: Shape, recipe: Recipe) -> int:
    element, queries = recipe.element, shape.queries
    inputs = _input_bytes(
        recipe, ("q_proj", "k_proj", "v_proj"), shape.hidden, _residual(recipe)
    )
    keys = shape.keys if recipe.attention == "flash" else queries
    kept = element * (queries + 2 * keys)
    output = _input_bytes(recipe, ("o_proj",), queries, element)
    if recipe.attention == "eager":
        # Softmax in float32, then its cast; none where they are the same.
        scores = 4 if element == 4 else 4 + element
        return inputs + kept + output + scores * shape.heads * recipe.length
    own = element * queries  # the kernel keeps its output
    shared = own if _is_shared(recipe, "o_proj", element) else 0
    return inputs + kept + own + output - shared + 4 * shape.heads


def _mlp_bytes(shape: Shape, recipe: Recipe) -> int:
    inputs = _input_bytes(
        recipe, ("gate_proj", "up_proj"), shape.hidden, _residual(recipe)
    )
    inner = _inner(recipe)
    product = _input_bytes(recipe, ("down_proj",), shape.intermediate, inner)
    return inputs + product + 3 * inner * shape.intermediate


def _rank_bytes(recipe: Recipe) -> int:
    if recipe.method == "full":
        return 0
    return len(recipe.targets) * recipe.rank * _saved(recipe)


def _residual(recipe: Recipe) -> int:
    """Bytes of a hidden state: of the embeddings, since sums keep the wider dtype."""
    return max(recipe.element, recipe.weight)


def _inner(recipe: Recipe) -> int:
    """Bytes of a value inside the MLP: bitsandbytes gives back its input's dtype."""
    return _residual(recipe) if recipe.method == "qlora" else recipe.element


def _saved(recipe: Recipe) -> int:
    """Bytes of an element of an input that a trained linear layer keeps."""
    if recipe.casts:
        return recipe.element
    return recipe.weight if recipe.method == "full" else recipe.adapter


def _is_shared(recipe: Recipe, name: str, given: int) -> bool:
    """Whether a trained layer keeps its very input and no cast or dropout of it."""
    if recipe.method == "full":
        return given == _saved(recipe)
    if name not in recipe.targets or recipe.dropout:
        return False
    return given == recipe.adapter == _saved(recipe)


def _input_bytes(recipe: Recipe, names: Sequence[str], width: int, given: int) -> int:
    """Bytes that layers with one common input keep of it: one for all, or one each."""
    kept = [n for n in names if recipe.method == "full" or n in recipe.targets]
    if not kept:
        return 0
    if _is_shared(recipe, kept[0], given):
        return width * given
    mask = recipe.method != "full" and recipe.dropout > 0
    return len(kept) * width * (_saved(recipe) + mask)


def logit_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes of the logits, what the loss keeps of them, and their gradients.

    For each logit: itself and its float32 copy that Trainer's autocast hands out, which
    nobody holds if the loss cuts the tokens; then the log probability, and the
    gradients of both, in float32. A fused loss computes a tile of logits at a time, and
    has its own copy of the hidden states and their gradient in float32.

    Source: TRL 1.16, trl/kernels/chunked_logprob.py.
    """
    tokens, element = recipe.tokens, recipe.element
    if recipe.loss == "fused":
        tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
        return element * tile + (_residual(recipe) + 4) * shape.hidden * tokens
    if recipe.loss == "chunked":
        return 12 * shape.vocabulary * ceil(tokens / recipe.chunks)
    return (element + 12 + 4 * recipe.casts) * shape.vocabulary * tokens


def _head_gradient_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes in which a loss that computes by pieces adds up the head's gradient.

    TRL does so in float32, then gives it the weight's dtype; PyTorch in the dtype of
    the copy that was multiplied with.
    """
    if recipe.method != "full" or recipe.loss == "full":
        return 0
    if recipe.loss == "fused":
        each = 4 + recipe.weight * (recipe.weight < 4)
    else:
        each = recipe.element if recipe.casts else recipe.weight
    return each * shape.vocabulary * shape.hidden


# -------------------------------------------------------------------------- moments


@dataclass(frozen=True)
class Plan:
    """What a step needs.

    Attributes:
        shape: the model.
        recipe: how it is tuned.
        moments: for each moment the bytes of each part.
    """

    shape: Shape
    recipe: Recipe
    moments: Mapping[str, Mapping[str, int]]

    @property
    def moment(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes of each part at the peak."""
        return self.moments[self.moment]

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())


def plan(shape: Shape, recipe: Recipe, *, context: int = CONTEXT) -> Plan:
    """Predict the memory of a training step.

    Args:
        shape: of the model.
        recipe: how it is tuned.
        context: bytes beside PyTorch's allocator; 0 to compare with
            torch.cuda.max_memory_allocated.

    Raises:
        PlanError: for Gemma 2 with sdpa, which cannot cap its scores.
    """
    if shape.family == "gemma2" and recipe.attention == "sdpa":
        raise PlanError(
            "Gemma 2 caps its attention scores, which sdpa cannot; plan it with the "
            "attention flash or eager."
        )
    count, width = trained(shape, recipe)
    lora = recipe.method != "full"
    always = {
        "weights": weight_bytes(shape, recipe),
        "adapters": lora * count * width,
        "gradients": (recipe.accumulation > 1) * count * width,
        "optimiser": optimizer_bytes(shape, recipe),
        "other": context,
    }
    moments = {
        "loss": _at_loss(shape, recipe),
        "last layer backward": _at_last_layer(shape, recipe),
        "first layer backward": {
            "activations": _working_bytes(shape, recipe),
            "gradients": count * width,
            "other": _weight_copies(shape, recipe, layers=1),
        },
        "optimiser step": {"gradients": count * width},
    }
    return Plan(shape, recipe, {name: _sum(always, m) for name, m in moments.items()})


def _sum(always: Mapping[str, int], moment: Mapping[str, int]) -> dict[str, int]:
    """Add the parts, but gradients only once: they are the same ones."""
    parts = {name: always.get(name, 0) + moment.get(name, 0) for name in PARTS}
    found = (always["gradients"], moment.get("gradients", 0))
    return parts | {"gradients": max(found)}


def _at_loss(shape: Shape, recipe: Recipe) -> dict[str, int]:
    given = 0 if recipe.loss == "fused" else recipe.element  # it has its own copy
    final = (4 + given) * shape.hidden * recipe.tokens  # the norm, and what it gives
    kept = recipe.method == "full" or not recipe.checkpointing
    copied = _weight_copies(shape, recipe, layers=kept * shape.layers)
    return {
        "activations": _kept_bytes(shape, recipe) + final,
        "logits": logit_bytes(shape, recipe) + _head_gradient_bytes(shape, recipe),
        "other": copied + _head_copy(shape, recipe),
    }


def _at_last_layer(shape: Shape, recipe: Recipe) -> dict[str, int]:
    full, checkpointing = recipe.method == "full", recipe.checkpointing
    head, down = shape.vocabulary * shape.hidden, shape.intermediate * shape.hidden
    working = _working_bytes(shape, recipe)
    if not checkpointing:  # what it keeps is among what all keep
        working -= layer_bytes(shape, recipe) * recipe.tokens
    return {
        "activations": _kept_bytes(shape, recipe) + working,
        "gradients": full * recipe.weight * (head + down),
        "other": _weight_copies(
            shape, recipe, layers=1 if checkpointing else shape.layers
        ),
    }


def _kept_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes that the whole forward pass keeps, the head left out."""
    mask = recipe.batch * recipe.length**2 if recipe.attention == "sdpa" else 0
    if recipe.checkpointing:
        each = _residual(recipe) * shape.hidden
    else:
        each = layer_bytes(shape, recipe)
    return shape.layers * each * recipe.tokens + mask


def _working_bytes(shape: Shape, recipe: Recipe) -> int:
    """Bytes of one block in its backward pass: what it kept, and gradients in flight.

    The MLP goes first: three gradients of its inner width live at once, when the
    product that it kept is gone. Eager attention comes when the MLP is done: the
    gradients of scores before and after the softmax live at once, in float32.
    """
    kept, inner = layer_bytes(shape, recipe), _inner(recipe)
    stream = 2 * _residual(recipe) * shape.hidden
    product = _input_bytes(recipe, ("down_proj",), shape.intermediate, inner)
    mlp = kept + stream + 3 * inner * shape.intermediate - product
    if recipe.attention != "eager":
        return mlp * recipe.tokens
    scores = 8 * shape.heads * recipe.length
    attention = kept - _mlp_bytes(shape, recipe) + stream + scores
    return max(mlp, attention) * recipe.tokens


def _weight_copies(shape: Shape, recipe: Recipe, *, layers: int) -> int:
    """Bytes of weights as they are computed with, where they are stored otherwise."""
    sizes = [i * o for i, o in shape.linear.values()]
    if recipe.method == "qlora":  # one matrix at a time
        return recipe.element * max(sizes)
    if not recipe.casts or recipe.weight == recipe.element:
        return 0
    return layers * recipe.element * sum(sizes)


def _head_copy(shape: Shape, recipe: Recipe) -> int:
    """Bytes of the head as it is multiplied with: a tile's part, or all of it."""
    cast = recipe.casts and recipe.weight != recipe.element
    words = shape.vocabulary
    if recipe.loss == "fused":
        words = min(words, TILE[1])
    return cast * recipe.element * words * shape.hidden


# ---------------------------------------------------------------------------- cards


@dataclass(frozen=True)
class Fit:
    """How a recipe stands with a card.

    Attributes:
        card: its name.
        method: of tuning.
        peak: bytes that the recipe needs.
        usable: bytes of the card that a plan may fill.
        batch: the largest batch at the recipe's length; 0 if not even one row fits.
        length: the longest row at batch 1; 0 if not even one token fits.
        change: the cheapest change by which it fits; "" if it fits as it is, None if
            none was found.
    """

    card: str
    method: str
    peak: int
    usable: int
    batch: int
    length: int
    change: str | None

    @property
    def fits(self) -> bool:
        """Whether it fits as it is."""
        return self.peak <= self.usable


def usable(card: str) -> int:
    """Bytes of a card that a plan may fill: all but :data:`MARGIN`."""
    return int(CARDS[card] * (1 - MARGIN))


def fits(shape: Shape, recipe: Recipe) -> list[Fit]:
    """Hold a recipe against each of :data:`CARDS`."""
    peak = plan(shape, recipe).peak
    return [
        Fit(
            card=card,
            method=recipe.method,
            peak=peak,
            usable=usable(card),
            batch=largest_batch(shape, recipe, usable(card)),
            length=longest(shape, replace(recipe, batch=1), usable(card)),
            change=cheapest_change(shape, recipe, usable(card)),
        )
        for card in CARDS
    ]


def largest_batch(shape: Shape, recipe: Recipe, budget: int) -> int:
    """Find the most rows of the recipe's length that fit into so many bytes, or 0."""
    return _largest(
        lambda rows: plan(shape, replace(recipe, batch=rows)).peak <= budget, 2**20
    )


def longest(shape: Shape, recipe: Recipe, budget: int) -> int:
    """Find the longest row within the context that fits at the recipe's batch, or 0."""
    return _largest(
        lambda length: plan(shape, replace(recipe, length=length)).peak <= budget,
        max(shape.context, recipe.length),
    )


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Find the largest number up to `most` for which it holds, as it does below it."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def cheapest_change(shape: Shape, recipe: Recipe, budget: int) -> str | None:
    """Find what to change so that a recipe fits, the least costly first.

    One change is preferred to several. They are tried in the order of what they cost:
    nothing (loss, attention), time (checkpointing, optimiser, smaller batches that are
    accumulated to the same), precision of what QLoRA leaves in 16 bits, what is trained
    (LoRA), precision of the whole base (QLoRA), and at last the length of the rows.

    Returns:
        The change in words, "" if none is needed, None if none is enough.
    """

    def reached(steps: Sequence[_Step]) -> int:
        """Tokens of a row if it fits then, else 0."""
        changed = _apply(steps, shape, recipe, budget)[1]
        return changed.length if plan(shape, changed).peak <= budget else 0

    single = [(), *((step,) for step in _STEPS[:-1])]
    several = [_STEPS[:end] for end in range(2, len(_STEPS) + 1)]
    enough = min(SHORTEST, recipe.length)
    steps = next((s for s in [*single, *several] if reached(s) >= enough), None)
    if steps is None:
        return None
    for step in reversed(steps):  # leave out what is not needed, the costly first
        fewer = tuple(other for other in steps if other is not step)
        steps = fewer if reached(fewer) >= reached(steps) else steps
    return _apply(steps, shape, recipe, budget)[0]


_Step = Callable[[Shape, Recipe, int], tuple[str, Recipe]]


def _apply(
    steps: Sequence[_Step], shape: Shape, recipe: Recipe, budget: int
) -> tuple[str, Recipe]:
    """Change a recipe step by step; the words name the steps that changed it.

    Batch and length come last, since the rest decides how much of them is possible.
    """
    said: list[str] = []
    for step in sorted(steps, key=lambda step: step in (_smaller_batch, _shorter)):
        words, changed = step(shape, recipe, budget)
        said += [words] if changed != recipe else []
        recipe = changed
    return " + ".join(said), recipe


def _set(words: str, **values: Any) -> _Step:
    return lambda shape, recipe, budget: (words, replace(recipe, **values))


def _smaller_optimizer(shape: Shape, recipe: Recipe, _: int) -> tuple[str, Recipe]:
    smaller = replace(recipe, optimizer="paged_adamw_8bit")
    less = optimizer_bytes(shape, smaller) < optimizer_bytes(shape, recipe)
    return "paged_adamw_8bit", smaller if less else recipe


def _without_upcast(shape: Shape, recipe: Recipe, _: int) -> tuple[str, Recipe]:
    changed = replace(recipe, upcast=False) if recipe.method == "qlora" else recipe
    return "no upcast to float32", changed


def _smaller_batch(shape: Shape, recipe: Recipe, budget: int) -> tuple[str, Recipe]:
    """Cut the batch to what fits, or to one row, and make up for it by more passes."""
    passes = 2 if recipe.batch > 1 else 1  # gradients are kept as soon as it is cut
    several = replace(recipe, accumulation=max(passes, recipe.accumulation))
    most = min(recipe.batch, max(1, largest_batch(shape, several, budget)))
    passes = ceil(recipe.batch / most)
    rows = ceil(recipe.batch / passes)
    passes *= recipe.accumulation
    words = f"batch {rows} accumulated over {passes} passes"
    return words, replace(recipe, batch=rows, accumulation=passes)


def _lighter(method: Method, *than: str) -> _Step:
    words = {"lora": "LoRA", "qlora": "QLoRA"}[method]

    def step(shape: Shape, recipe: Recipe, _: int) -> tuple[str, Recipe]:
        changed = replace(recipe, method=method)
        return words, changed if recipe.method in than else recipe

    return step


def _shorter(shape: Shape, recipe: Recipe, budget: int) -> tuple[str, Recipe]:
    length = min(recipe.length, max(1, longest(shape, recipe, budget)))
    return f"rows of {length:,}", replace(recipe, length=length)


_STEPS: tuple[_Step, ...] = (
    _set("fused loss", loss="fused"),
    _set("flash attention", attention="flash"),
    _set("activation checkpointing", checkpointing=True),
    _smaller_optimizer,
    _smaller_batch,
    _without_upcast,
    _lighter("lora", "full"),
    _lighter("qlora", "full", "lora"),
    _shorter,
)


# -------------------------------------------------------------------- out of memory


class OutOfMemory(RuntimeError):
    """A run that did not fit, with what to change, in one sentence."""


@contextmanager
def advised(
    shape: Shape, recipe: Recipe, *, budget: int | None = None
) -> Iterator[None]:
    """Turn "out of memory" into one sentence with the cheapest change that fits.

    Put it around the training. What the failed run holds on to is let go, so that the
    next one can begin in the same process; every other error passes as it is.

    Args:
        shape: of the model.
        recipe: how it is tuned.
        budget: bytes that the run may fill; None: the GPU's, or without one the
            machine's memory, less :data:`MARGIN`.

    Raises:
        OutOfMemory: in place of the error of PyTorch or of Python.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(advice(shape, recipe, budget or _memory())) from None


def advice(shape: Shape, recipe: Recipe, budget: int) -> str:
    """Say in one sentence what a run that was out of memory needs, and what to change.

    Args:
        shape: of the model.
        recipe: how it was tuned.
        budget: bytes that it could fill.
    """
    peak = plan(shape, recipe).peak
    said = (
        f"Out of memory: {recipe.method} of {shape.name} on {recipe.batch} × "
        f"{recipe.length:,} tokens needs about {_gib(peak)} GiB by the plan, and "
        f"{_gib(budget)} GiB can be used"
    )
    if peak <= budget:  # something else was there, or the plan is wrong
        change = cheapest_change(shape, recipe, int(peak * (1 - 2 * MARGIN)))
        said += "; end what else fills the memory, or change"
        return f"{said} this: {change or 'to a smaller model'}."
    change = cheapest_change(shape, recipe, budget)
    if change is None:
        return f"{said}; no change is enough: take a smaller model or a larger card."
    return f"{said}; the cheapest change by which it fits: {change}."


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch has a class of its own for GPUs, and only words for a CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


def _memory() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1] * (1 - MARGIN))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(pages * (1 - MARGIN))


# ------------------------------------------------------------------------ what it says


def as_record(plans: Sequence[Plan]) -> dict[str, Any]:
    """Put plans of one model into what JSON can hold; bytes throughout.

    Args:
        plans: of one model, at least one.
    """
    shape = plans[0].shape
    return {
        "model": asdict(shape),
        "parameters": parameters(shape),
        "plans": [
            {
                "recipe": asdict(one.recipe),
                "trained_parameters": trained(shape, one.recipe)[0],
                "peak_bytes": one.peak,
                "moment": one.moment,
                "parts": dict(one.parts),
                "moments": {name: dict(parts) for name, parts in one.moments.items()},
                "cards": [
                    asdict(fit) | {"fits": fit.fits} for fit in fits(shape, one.recipe)
                ],
            }
            for one in plans
        ],
    }


def report(plans: Sequence[Plan]) -> str:
    """Write plans of one model as text: parts, then cards.

    Args:
        plans: of one model and setting, one for each method.
    """
    shape, recipe = plans[0].shape, plans[0].recipe
    counts = parameters(shape)
    tables = counts["embedding"] + counts["head"]
    passes = "with" if recipe.checkpointing else "without"
    head = (
        f"{shape.name}: {counts['total']:,} parameters, {tables:,} of them in "
        f"{'tied embeddings' if shape.tied else 'embeddings and head'}\n"
        f"batch {recipe.batch} × {recipe.length:,} tokens, {passes} checkpointing, "
        f"{recipe.attention} attention, {recipe.loss} loss, {recipe.optimizer}"
    )
    rows = [row for one in plans for row in _card_rows(one)]
    return (
        f"{head}\n\nGiB at the peak, by part\n{_text_table(map(_part_row, plans))}\n\n"
        f"What fits ({MARGIN:.0%} of a card left free)\n{_text_table(rows)}"
    )


def _text_table(given: Iterable[Mapping[str, str]]) -> str:
    from helpers.views import answers_table

    rows = list(given)
    return answers_table(rows, columns=list(rows[0]), width=200).text


def _part_row(one: Plan) -> dict[str, str]:
    parts = {name: _gib(size) for name, size in one.parts.items()}
    return {
        "method": one.recipe.method,
        **parts,
        "peak": _gib(one.peak),
        "reached at": one.moment,
    }


def _card_rows(one: Plan) -> list[dict[str, str]]:
    return [
        {
            "method": fit.method,
            "card": fit.card,
            "GiB usable": _gib(fit.usable),
            "needed": _gib(fit.peak),
            "fits": "yes" if fit.fits else "no",
            f"batch at {one.recipe.length:,}": f"{fit.batch:,}",
            "length at batch 1": f"{fit.length:,}",
            "cheapest change": "none is enough" if fit.change is None else fit.change,
        }
        for fit in fits(one.shape, one.recipe)
    ]


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def draw(plans: Sequence[Plan]) -> Figure:
    """Draw what each method needs at its peak, part by part, as bars.

    Args:
        plans: of one model, one for each method.
    """
    from helpers.views import stacked_bars

    return stacked_bars(
        {
            one.recipe.method: {name: size / GIB for name, size in one.parts.items()}
            for one in plans
        },
        x_label="GiB at the peak",
        title=f"Memory to tune {plans[0].shape.name}",
    )
