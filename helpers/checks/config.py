"""The settings of a run, and rules over them.

Settings come from a YAML or JSON file with the names of `trl sft` (SFTConfig, LoRA and
quantisation side by side, or in tables `peft_config`, `quantization_config` and
`model_init_kwargs`), or from the calls of a training script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from helpers.checks.core import Place, joined, rule, setting
from helpers.checks.folder import MARKED, Folder
from helpers.checks.script import UNKNOWN, Script
from helpers.checks.source import Source
from helpers.formats import DataError

RATE = 2e-5
"""Learning rate that SFTConfig takes if none is given."""

LENGTH = 1024
"""Its max_length."""

LORA_RATE = 5e-5
"""Below it, an adapter hardly moves."""

SOFT_RATE = 1e-3
"""Below it, a soft prompt hardly moves."""

SOFT_RATE_HIGH = 3e-2
"""From it on, a text that a soft prompt starts with is soon erased."""

_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_target_modules": "target_modules",
    "lora_modules_to_save": "modules_to_save",
    "lora_task_type": "task_type",
}
_BITS = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type")
_PEFT = {
    "LoraConfig": "LORA",
    "PromptTuningConfig": "PROMPT_TUNING",
    "PrefixTuningConfig": "PREFIX_TUNING",
    "PromptEncoderConfig": "P_TUNING",
}
_GONE = {
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps=0.1",
    "overwrite_output_dir": "nothing",
    "group_by_length": "train_sampling_strategy",
    "dataset_batch_size": "nothing",
    "tokenizer": "processing_class",
}


@dataclass
class Config:
    """The settings of one run; what is not given is not there.

    Attributes:
        file: where they are from.
        training: by SFTConfig's names.
        peft: by the names of PEFT's configuration, with `peft_type`; None: no adapter.
        quantization: by BitsAndBytesConfig's names; None: none.
        model: what from_pretrained is given, such as dtype.
        trainer: what SFTTrainer is given beside these.
        command: whether `trl sft` reads them, which has defaults of its own.
        partial: whether there may be more of them: then no default is assumed.
    """

    file: str
    training: dict[str, Any] = field(default_factory=dict)
    peft: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    command: bool = False
    partial: bool = False

    @property
    def max_length(self) -> int | None:
        """Tokens after which the trainer cuts."""
        value = self.training.get("max_length", LENGTH)
        return value if isinstance(value, int) or value is None else LENGTH

    @property
    def rate(self) -> float | None:
        """The learning rate; None where it is computed."""
        default = UNKNOWN if self.partial else RATE
        return _number(self.training.get("learning_rate", default))

    @property
    def kind(self) -> str:
        """PEFT's name of the method, "" for full tuning."""
        return str((self.peft or {}).get("peft_type", "")).upper()

    @property
    def is_soft(self) -> bool:
        """Whether vectors before the text are trained, and no layer."""
        return self.kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")


def load(path: str | Path) -> Config:
    """Read a YAML or JSON file of settings.

    Raises:
        DataError: it cannot be read or holds no settings.
    """
    import yaml

    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} cannot be read as YAML or JSON ({error}): mend it."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no settings: write 'name: value' lines.")
    return from_settings(value, file=str(path))


def from_settings(values: Mapping[str, Any], *, file: str = "settings") -> Config:
    """Sort the settings of `trl sft` to what they belong to."""
    values = dict(values)
    peft = values.pop("peft_config", None)
    if values.pop("use_peft", False):
        peft = {"peft_type": "LORA", **(peft or {})}
        given = {old: values.pop(old) for old in _LORA if old in values}
        peft |= {_LORA[old]: value for old, value in given.items()}
    bits = {name: values.pop(name) for name in _BITS if name in values}
    quantization = values.pop("quantization_config", None)
    command = quantization is None and bool(bits)
    model = dict(values.pop("model_init_kwargs", None) or {})
    if "dtype" in values:
        model["dtype"] = values.pop("dtype")
    trainer = {
        name: values.pop(name)
        for name in ("formatting_func", "data_collator")
        if name in values
    }
    return Config(
        file,
        values,
        peft=peft,
        quantization=bits if command else quantization,
        model=model,
        trainer=trainer,
        command=command,
    )


def from_script(script: Script) -> Config:
    """Collect the settings that are written out in a script's calls."""
    arguments = script.named("SFTConfig", "TrainingArguments")
    config = Config(script.file, partial=len(arguments) != 1 or arguments[0].open)
    for call in script.calls:
        settings = dict(call.settings)
        if call in arguments:
            for name, value in settings.items():  # of several runs, what all share
                known = config.training.setdefault(name, value)
                config.training[name] = value if value == known else UNKNOWN
            config.trainer["arguments"] = call.name
        elif call.name in _PEFT:
            config.peft = {"peft_type": _PEFT[call.name], **settings}
        elif call.name == "BitsAndBytesConfig":
            config.quantization = settings
        elif call.name == "SFTTrainer":
            config.trainer |= {**settings, "class": call.name}
        elif call.name == "from_pretrained" and "Model" in call.owner:
            config.model |= settings
            config.trainer["loaded"] = True
        elif call.name in ("add_tokens", "add_special_tokens"):
            config.trainer["new_tokens"] = ", ".join(call.arguments) or UNKNOWN
        elif call.name == "resize_token_embeddings":
            config.trainer["resized"] = True
    return config


def _number(value: Any) -> float | None:
    try:
        return float(value)  # YAML reads 2e-5 as text
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------ rules on the loss


@rule(
    "formatting-func-ignored",
    "error",
    pitfall=3,
    needs="config source",
    title="A formatting_func beside messages or a prompt column",
    ignored="SFTTrainer renders the messages or the prompt and lets the function's "
    "text lie.",
    fix="Apply the function first, then drop the columns that it read.",
)
def formatting_func_ignored(config: Config, source: Source) -> Iterator[Place]:
    """Find a function that competes with columns."""
    given = config.trainer.get("formatting_func")
    competing = [c for c in ("messages", "prompt") if c in source.columns]
    if given is not None and competing:
        yield Place(0, "formatting_func", f"and the column {joined(competing)}")


@rule(
    "prompts-trained",
    "warning",
    pitfall=14,
    needs="config source",
    title="The loss is on the prompts as well",
    ignored="SFTTrainer trains every token of messages unless told otherwise: the "
    "model learns to write users' turns.",
    fix="assistant_only_loss: true, or prompt and completion.",
)
def prompts_trained(config: Config, source: Source) -> Iterator[Place]:
    """Find messages without assistant_only_loss, completions with their loss off."""
    if source.shape == "messages" or (not source.shape and source.is_sft):
        told = config.training.get("assistant_only_loss", config.partial)
        if source.family != "text" and not told:
            yield from setting("assistant_only_loss", False)
    elif config.training.get("completion_only_loss") is False and source.is_sft:
        yield from setting("completion_only_loss", False)


@rule(
    "completion-loss-ignored",
    "error",
    pitfall=15,
    needs="config source",
    title="completion_only_loss on data without a completion",
    ignored="SFTTrainer leaves the flag unread and trains every token.",
    fix="assistant_only_loss: true for messages.",
)
def completion_loss_ignored(config: Config, source: Source) -> Iterator[Place]:
    """Find the flag, where the rows have no prompt and completion."""
    asked = config.training.get("completion_only_loss") is True
    if asked and source.shape in ("messages", "text"):
        yield Place(0, "completion_only_loss", f"the rows are {source.shape}")


@rule(
    "answers-not-marked",
    "error",
    pitfall=16,
    needs="config folder",
    title="assistant_only_loss under a template that marks no answers",
    ignored="The run ends with ValueError before its first step.",
    fix="Use prompt and completion, helpers.encoding, or a template with "
    "{% generation %}.",
)
def answers_not_marked(config: Config, folder: Folder) -> Iterator[Place]:
    """Ask TRL whether it has a training template for this one."""
    if not config.training.get("assistant_only_loss") or not folder.template:
        return
    if not MARKED.search(folder.template):
        from trl.chat_template_utils import get_training_chat_template

        try:
            get_training_chat_template(folder.tokenizer)
        except ValueError as error:
            yield Place(0, "chat_template", str(error)[:90])


@rule(
    "foreign-collator",
    "error",
    pitfall=18,
    needs="config",
    title="A data collator of transformers is passed in",
    ignored="DataCollatorForLanguageModeling writes its own labels: the mask is gone, "
    "and where padding is the end token, so is every end.",
    fix="Pass no collator: SFTTrainer has the right one.",
)
def foreign_collator(config: Config) -> Iterator[Place]:
    """Find a collator."""
    given = config.trainer.get("data_collator")
    if given is not None:
        yield from setting("data_collator", given)


@rule(
    "unknown-end-token",
    "error",
    pitfall=21,
    needs="config folder",
    title="eos_token names a token that the tokenizer does not have",
    ignored="The run ends with an error, or a model is trained to stop at a token "
    "that has no row.",
    fix="Name a token of the tokenizer, the one that its template ends answers with.",
)
def unknown_end_token(config: Config, folder: Folder) -> Iterator[Place]:
    """Look the token up."""
    token = config.training.get("eos_token")
    if not isinstance(token, str) or folder.tokenizer is None or token == UNKNOWN:
        return
    if token not in folder.tokenizer.get_vocab():
        yield from setting("eos_token", token)


@rule(
    "leaking-packs",
    "warning",
    pitfall=30,
    needs="config",
    title="Packing that lets rows read each other",
    ignored="With 'wrapped', a row's tokens attend to the rows before it in the pack "
    "and rows are cut in two.",
    fix="packing_strategy: bfd.",
)
def leaking_packs(config: Config) -> Iterator[Place]:
    """Find the strategy."""
    wrapped = config.training.get("packing_strategy") == "wrapped"
    if config.training.get("packing") and wrapped:
        yield from setting("packing_strategy", "wrapped")


@rule(
    "packed-soft-prompt",
    "error",
    pitfall=31,
    needs="config",
    title="Packing together with prompt tuning",
    ignored="The soft prompt stands before the first row of a pack alone; the others "
    "are trained without it, and read their neighbours.",
    fix="packing: false.",
)
def packed_soft_prompt(config: Config) -> Iterator[Place]:
    """Find both."""
    if config.training.get("packing") and config.is_soft:
        yield from setting("packing", f"true with {config.kind}")


@rule(
    "packing-without-length",
    "error",
    pitfall=29,
    needs="config",
    title="Packing without max_length",
    ignored="SFTTrainer ends with ValueError: it does not know how long a pack is.",
    fix="Set max_length.",
)
def packing_without_length(config: Config) -> Iterator[Place]:
    """Find packing with max_length null."""
    if config.training.get("packing") and config.max_length is None:
        yield from setting("max_length", None)


# -------------------------------------------------------------------- rules on adapters


@rule(
    "new-tokens-not-resized",
    "error",
    pitfall=32,
    needs="config",
    title="Tokens are added, and the model is not resized",
    ignored="IndexError, or, where the vocabulary is padded, a row that was never "
    "trained, in silence.",
    fix="model.resize_token_embeddings(len(tokenizer)).",
)
def new_tokens_not_resized(config: Config) -> Iterator[Place]:
    """Find added tokens in a script without a resize."""
    changed = {"new_tokens", "loaded"} <= config.trainer.keys()
    if changed and not config.trainer.get("resized"):
        yield from setting("add_tokens", config.trainer["new_tokens"])


@rule(
    "new-tokens-untrained",
    "error",
    pitfall=33,
    needs="config",
    title="New tokens with plain LoRA",
    ignored="The new rows stay as they were initialised: they move by 0.0.",
    fix="modules_to_save: [embed_tokens, lm_head], or embed_tokens alone with "
    "ensure_weight_tying where they are tied.",
)
def new_tokens_untrained(config: Config) -> Iterator[Place]:
    """Find added tokens where no setting trains their rows."""
    if "new_tokens" not in config.trainer or config.kind != "LORA":
        return
    peft = config.peft or {}
    targets = [*_list(peft.get("modules_to_save")), *_list(peft.get("target_modules"))]
    if "embed_tokens" not in targets and not peft.get("trainable_token_indices"):
        yield from setting("add_tokens", config.trainer["new_tokens"])


def _list(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, list | tuple | set) else []


@rule(
    "token-indices",
    "error",
    pitfall=34,
    needs="config",
    title="trainable_token_indices in SFTTrainer",
    ignored="With tied embeddings AttributeError; with others the output row is not "
    "trained, in silence.",
    fix="Tied: modules_to_save=['embed_tokens'] with ensure_weight_tying; others: "
    "embed_tokens and lm_head.",
)
def token_indices(config: Config) -> Iterator[Place]:
    """Find the setting."""
    value = (config.peft or {}).get("trainable_token_indices")
    if value:
        yield from setting("trainable_token_indices", value)


@rule(
    "tied-embeddings-saved",
    "warning",
    pitfall=36,
    needs="config folder",
    title="Tied embeddings among modules_to_save",
    ignored="Input and output embedding part: after a merge or a reload the model has "
    "another output than the one that was trained.",
    fix="ensure_weight_tying: true.",
)
def tied_embeddings_saved(config: Config, folder: Folder) -> Iterator[Place]:
    """Find them where the model ties them."""
    peft = config.peft or {}
    saved = {"embed_tokens", "lm_head"} & set(_list(peft.get("modules_to_save")))
    if saved and folder.tied and not peft.get("ensure_weight_tying"):
        yield from setting("modules_to_save", joined(sorted(saved)))


@rule(
    "other-base",
    "error",
    pitfall=37,
    needs="config folder",
    title="The adapter belongs to another base than the one that is configured",
    ignored="If the shapes fit, it loads without a word and answers nonsense.",
    fix="Load it on the base that adapter_config.json names.",
)
def other_base(config: Config, folder: Folder) -> Iterator[Place]:
    """Compare the base's names."""
    named = config.training.get("model_name_or_path")
    own = folder.adapter.get("base_model_name_or_path")
    if named and own and named not in (own, folder.name):
        yield Place(0, "model_name_or_path", f"{named}; the adapter's base is {own}")


@rule(
    "misspelt-target",
    "error",
    pitfall=42,
    needs="config folder",
    title="A target module that the model does not have",
    ignored="PEFT trains the others and says nothing of this one.",
    fix="Spell it as the model does.",
)
def misspelt_target(config: Config, folder: Folder) -> Iterator[Place]:
    """Compare the targets with the names of the model's weights."""
    peft = config.peft or {}
    targets = peft.get("target_modules")
    if not folder.modules or not isinstance(targets, list | tuple | set):
        return
    for target in targets:
        last = str(target).rsplit(".", 1)[-1]
        if last not in folder.modules | {"lm_head"}:
            near = get_close_matches(last, folder.modules, 1)
            told = f"{target}" + (f", perhaps {near[0]}" if near else "")
            yield Place(0, "target_modules", told)


@rule(
    "slow-lora",
    "warning",
    pitfall=43,
    needs="config",
    title="LoRA at the learning rate of full tuning",
    ignored="SFTConfig's default of 2e-5 hardly moves an adapter: the run ends, and "
    "little was learnt.",
    fix="learning_rate: 1e-4 to 2e-4.",
)
def slow_lora(config: Config) -> Iterator[Place]:
    """Find LoRA with a rate below 5e-5."""
    rate = config.rate
    if config.kind == "LORA" and rate is not None and rate < LORA_RATE:
        yield from setting("learning_rate", rate)


@rule(
    "four-bit-defaults",
    "warning",
    pitfall=44,
    needs="config",
    title="The defaults of bitsandbytes for 4 bits",
    ignored="fp4 instead of nf4, which loses more, and computing in float32, which is "
    "slow.",
    fix="bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16.",
)
def four_bit_defaults(config: Config) -> Iterator[Place]:
    """Find 4 bits without the two settings; `trl sft` has better defaults."""
    bits = config.quantization or {}
    if not bits.get("load_in_4bit"):
        return
    quant = bits.get("bnb_4bit_quant_type", "nf4" if config.command else "fp4")
    if quant == "fp4":
        yield from setting("bnb_4bit_quant_type", quant)
    if not config.command and not bits.get("bnb_4bit_compute_dtype"):
        yield from setting("bnb_4bit_compute_dtype", "float32")


@rule(
    "random-soft-prompt",
    "warning",
    pitfall=46,
    needs="config",
    title="A soft prompt that starts from random vectors",
    ignored="They are some fifty times as long as a token's vector: learning takes "
    "long and may not arrive. A text without the mode TEXT is not read.",
    fix="prompt_tuning_init: TEXT with a text, or SAMPLE_VOCAB.",
)
def random_soft_prompt(config: Config) -> Iterator[Place]:
    """Find prompt tuning in the default mode."""
    peft = config.peft or {}
    mode = str(peft.get("prompt_tuning_init", "RANDOM")).rsplit(".", 1)[-1]
    if config.kind == "PROMPT_TUNING" and mode not in ("TEXT", "SAMPLE_VOCAB", UNKNOWN):
        yield from setting("prompt_tuning_init", mode)


@rule(
    "soft-prompt-length",
    "warning",
    pitfall=47,
    needs="config folder",
    title="A soft prompt's text that is not as long as the prompt",
    ignored="The text is cut, or repeated until it fills the prompt, with a start "
    "token in its midst.",
    fix="num_virtual_tokens: the number of tokens of the text.",
)
def soft_prompt_length(config: Config, folder: Folder) -> Iterator[Place]:
    """Count the tokens as PEFT does."""
    peft = config.peft or {}
    text, wanted = peft.get("prompt_tuning_init_text"), peft.get("num_virtual_tokens")
    usable = isinstance(text, str) and isinstance(wanted, int) and text != UNKNOWN
    if not usable or folder.tokenizer is None:
        return
    found = len(folder.tokenizer(text)["input_ids"])
    if found != wanted:
        yield from setting("num_virtual_tokens", f"{wanted}, the text has {found}")


@rule(
    "soft-prompt-rate",
    "warning",
    pitfall=48,
    needs="config",
    title="A learning rate at which a soft prompt stands still, or loses its text",
    ignored="At 2e-5 the vectors move by a third of a per cent; at 3e-2 and more they "
    "move by several times their own length.",
    fix="Try 1e-3 to 1e-2 and log how far the vectors move.",
)
def soft_prompt_rate(config: Config) -> Iterator[Place]:
    """Find rates outside the useful range."""
    rate = config.rate
    if config.kind not in ("PROMPT_TUNING", "P_TUNING") or rate is None:
        return
    if not SOFT_RATE <= rate < SOFT_RATE_HIGH:
        yield from setting("learning_rate", rate)


@rule(
    "soft-prompt-padding",
    "warning",
    pitfall=49,
    needs="config folder",
    title="A soft prompt and batches that are padded on the left",
    ignored="PEFT ignores position ids: padding moves the row's positions, and its "
    "logits shift.",
    fix="Rows of one length, batches of one, or padding on the right in training.",
)
def soft_prompt_padding(config: Config, folder: Folder) -> Iterator[Place]:
    """Find soft prompts with left padding and batches over one."""
    default = 1 if config.partial else 8
    batch = config.training.get("per_device_train_batch_size", default)
    side = getattr(folder.tokenizer, "padding_side", "")
    if config.is_soft and batch != 1 and side == "left":
        yield from setting("padding_side", side)


@rule(
    "prefix-checkpointing",
    "error",
    pitfall=50,
    needs="config",
    title="Prefix tuning with activation checkpointing",
    ignored="Sizes do not match at the first step. SFTConfig has checkpointing on if "
    "nothing is said.",
    fix="activation_checkpointing: false.",
)
def prefix_checkpointing(config: Config) -> Iterator[Place]:
    """Find prefix tuning, unless checkpointing is switched off."""
    if config.kind != "PREFIX_TUNING":
        return
    names = ("activation_checkpointing", "gradient_checkpointing")
    values = [config.training.get(name) for name in names]
    computed = config.partial and values == [None, None]
    if not computed and not any(value is False for value in values):
        yield from setting("activation_checkpointing", values[0])


# ------------------------------------------------------------------- rules on precision


@rule(
    "half-precision-weights",
    "warning",
    pitfall=55,
    needs="config",
    title="Full tuning of bfloat16 weights",
    ignored="A small step is rounded away: at a rate of 1e-6, 2% of the weights move, "
    "where all do in float32.",
    fix="dtype: float32 (bf16: true still computes fast).",
)
def half_precision_weights(config: Config) -> Iterator[Place]:
    """Find bfloat16 weights without an adapter."""
    if config.peft is None and config.model.get("dtype") in ("bfloat16", "bf16"):
        yield from setting("dtype", config.model["dtype"])


@rule(
    "dtype-of-checkpoint",
    "warning",
    pitfall=55,
    needs="config folder",
    title="Full tuning in the half precision that the checkpoint happens to have",
    ignored="transformers 5 loads weights as they are stored: small steps are rounded "
    "away.",
    fix="dtype: float32.",
)
def dtype_of_checkpoint(config: Config, folder: Folder) -> Iterator[Place]:
    """Find dtype auto, or none in a script, with a checkpoint in half precision."""
    stored = folder.config.get("dtype") or folder.config.get("torch_dtype")
    asked = config.model.get("dtype", "auto" if config.trainer.get("class") else None)
    if config.peft is None and asked == "auto" and stored in _HALVES:
        yield from setting("dtype", f"auto, which is {stored}")


_HALVES = ("bfloat16", "float16")


@rule(
    "half-weights-half-training",
    "error",
    pitfall=56,
    needs="config",
    title="float16 weights with float16 training",
    ignored="'Attempting to unscale FP16 gradients' on a GPU; on a CPU, nothing is "
    "said and gradients vanish.",
    fix="dtype: float32 for what is trained, or bf16: true.",
)
def half_weights_half_training(config: Config) -> Iterator[Place]:
    """Find both."""
    half = config.model.get("dtype") in ("float16", "fp16", "half")
    if half and config.training.get("fp16"):
        yield from setting("fp16", True)


# ------------------------------------------------------------------------- other rules


@rule(
    "gone-setting",
    "error",
    needs="config",
    title="A setting that no longer exists",
    ignored="TypeError or a refusal at the start of the run.",
    fix="Use the new name.",
)
def gone_setting(config: Config) -> Iterator[Place]:
    """Find names of earlier versions."""
    for name in {**config.training, **config.trainer}:
        if name in _GONE:
            yield Place(0, name, f"now: {_GONE[name]}")


@rule(
    "plain-arguments",
    "warning",
    needs="config",
    title="transformers' TrainingArguments in SFTTrainer",
    ignored="Defaults differ in silence: a rate of 5e-5 instead of 2e-5, and bf16 off.",
    fix="SFTConfig takes the same settings.",
)
def plain_arguments(config: Config) -> Iterator[Place]:
    """Find a script with the one class and the other."""
    plain = config.trainer.get("arguments") == "TrainingArguments"
    if plain and config.trainer.get("class") == "SFTTrainer":
        yield from setting("args", "TrainingArguments")


@rule(
    "length-beyond-context",
    "warning",
    pitfall=28,
    needs="config folder",
    title="max_length beyond the model's context",
    ignored="Rows may be longer than what the model can read.",
    fix="max_length: the context at most.",
)
def length_beyond_context(config: Config, folder: Folder) -> Iterator[Place]:
    """Compare an explicit max_length with the context."""
    given = _number(config.training.get("max_length"))
    context = folder.config.get("max_position_embeddings")
    if given and context and given > context:
        yield from setting("max_length", f"{given:.0f}, context {context}")
