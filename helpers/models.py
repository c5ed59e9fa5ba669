"""Load, save and measure models, and refuse pairs of parts that do not belong together.

What goes wrong without a word in the libraries is an error here: weights that are
missing and get random values, a tokenizer with more entries than the model has rows,
an adapter whose keys match nothing, or one that was trained on another base.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "tiny_llama"
"""The base model that comes with the repository."""

STAMP = "base_fingerprint.json"
"""File beside an adapter that names the weights which it was trained on."""

QUANTIZATIONS = ("nf4",)
"""What :func:`load` can store the linear layers in: four bits a weight."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")

_SAVED_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt", ".md", ".bin"}


class ModelError(ValueError):
    """A model, tokenizer or adapter that cannot be used as asked."""


def load(
    model: str | Path = SHIPPED,
    *,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    quantization: str | None = None,
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, ready to answer.

    Only safetensors are read and no code from a model's folder is run. The model is
    in evaluation mode; the tokenizer pads on the left, as generation needs it, with
    the token that :func:`set_pad` chose. With an adapter, its tokenizer is used if it
    was saved with one, since that is what it was trained with.

    Args:
        model: a folder, or an id on the Hugging Face Hub.
        adapter: a folder with a PEFT adapter (LoRA, soft prompt, ...) for that model.
        dtype: of the weights: "float32", "bfloat16" or "float16". What is to be
            trained wants float32: small updates vanish in the others.
        quantization: "nf4" stores the linear layers, the head left out, in four bits
            with double quantisation, and computes with them in `dtype`; None leaves
            them as they are.
        device: such as "cpu" or "cuda:1"; None: "cuda" if there is one, else "cpu".

    Returns:
        The model and the tokenizer.

    Raises:
        ModelError: if a folder or a part of it is missing or unreadable, if the
            tokenizer knows more tokens than the model has rows, if the adapter
            does not fit the model or was stamped with another base, or if bitsandbytes
            is missing or cannot compute in four bits on the device, or not with rows as
            wide as the model's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kinds = ("float32", "bfloat16", "float16")
    if dtype not in kinds:
        raise ModelError(f"dtype is {dtype!r}; use one of {', '.join(kinds)}.")
    source = _source(model)
    if adapter is not None:
        _check_adapter_folder(Path(adapter))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    stored = _quantized(quantization, dtype, device)
    with _quiet(), _one_sentence(f"The model {source}"):
        network, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **stored,
        )
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise ModelError(
            f"The weights of {source} lack {len(names)} tensors, the first of them "
            f"{names[0]}, which would be random; get the complete model."
        )
    own = adapter is not None and _has_tokenizer(Path(adapter))
    words = str(adapter) if own else source
    with _quiet(), _one_sentence(f"The tokenizer of {words}"):
        tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False)
    _check_vocabulary(network, tokenizer, words)
    set_pad(tokenizer)
    tokenizer.padding_side = "left"
    if stored:
        _check_blocks(network, source)
        _keep_order(network)
        network.quantized_from = (source, fingerprint(network))
    if adapter is not None:
        network = _with_adapter(network, Path(adapter))
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    return network.to(device).eval(), tokenizer


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Save a model or an adapter with its tokenizer: all of it, or nothing.

    Everything is written to a new folder beside the wanted one, which then takes its
    name. If that fails (a full disk, say), what was there before is untouched. An
    adapter is stamped with the fingerprint of its base.

    Args:
        model: a model, or a PEFT model, of which only the adapter is saved.
        tokenizer: saved beside it, with its chat template.
        folder: made if it is missing; replaced if it holds an earlier model.

    Raises:
        ModelError: if it could not be saved, or if the folder holds anything else
            than a saved model, which replacing it would delete.
    """
    from safetensors import SafetensorError

    folder = Path(folder).resolve()
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            new = Path(scratch) / "new"
            with _quiet():
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
            if getattr(model, "peft_config", None):
                stamp_adapter(new, fingerprint(model))
            _replace(folder, new, Path(scratch) / "old")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The model was not saved to {folder} ({_reason(error)}), and what was "
            "there before is unchanged; make room or choose another folder."
        ) from error


def require_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot write conversations.

    Raises:
        ModelError: if it has no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat "
            "template, as most base models; take the instruct version of the model, or "
            "set tokenizer.chat_template."
        )


def set_pad(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the tokenizer a padding token if it has none.

    The end token is the last choice: a collator that masks every padding token in the
    labels then masks the ends of the answers too, and the model never learns to stop.
    The helpers pass an attention mask and set their own labels, so that the
    choice does not change their results.

    Args:
        tokenizer: changed in place.

    Returns:
        Where the padding token comes from: "pad" (it had one), "unk" or "eos".

    Raises:
        ModelError: if it has none of the three.
    """
    for source in ("pad", "unk", "eos"):
        token = getattr(tokenizer, f"{source}_token")
        if token is not None:
            tokenizer.pad_token = token
            return source
    raise ModelError(
        "The tokenizer has no padding, unknown or end token; set tokenizer.pad_token "
        "to a token that no text contains."
    )


def half_precision() -> str | None:
    """Name the half precision in which this machine trains faster than in float32.

    On a GPU that computes in bfloat16 it is that, on an older one float16. A processor
    gains from bfloat16 only if it multiplies matrices of it itself (AMX); any other
    converts each number there and back, which takes several times as long as float32.

    Returns:
        "bf16" or "fp16", the name of the Trainer's setting to switch on, or None: stay
        in float32.

    Source: `torch.cuda.is_bf16_supported`, which by default also says yes where each
    bfloat16 operation is emulated; `torch.cpu.get_capabilities`.
    """
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else None


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count weights; tied ones once, four-bit ones each (not their packed bytes).

    Args:
        model: any module.

    Returns:
        Numbers under "total" and "trainable".
    """
    sizes = [(_elements(weight), weight.requires_grad) for weight in model.parameters()]
    return {
        "total": sum(size for size, _ in sizes),
        "trainable": sum(size for size, trainable in sizes if trainable),
    }


def footprint(model: torch.nn.Module) -> int:
    """Bytes that parameters and buffers hold, as they are stored.

    Storage that is shared (tied embeddings) counts once; four-bit weights count with
    their packed bytes and their quantisation constants.

    Args:
        model: any module.

    Returns:
        Bytes.
    """
    tensors = [*model.parameters(), *model.buffers()]
    for weight in model.parameters():
        tensors += _constants(getattr(weight, "quant_state", None))
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def fingerprint(model: torch.nn.Module) -> str:
    """Hash the base weights of a model, adapters left out.

    The weights are rounded to bfloat16 first, so that a base has one fingerprint
    whether it is loaded in float32 or bfloat16. Tied weights count once. A PEFT model
    has the fingerprint of its base, unless an adapter was merged into it.

    A model that :func:`load` quantised has the fingerprint of the files that it was
    made from as long as its weights are what they were: an adapter fits the base in
    four bits and in sixteen. Once merged into, or quantised elsewhere, it has its own.

    Args:
        model: a model, or a PEFT model around it.

    Returns:
        SHA-256 in hexadecimal.
    """
    base = model.get_base_model() if getattr(model, "peft_config", None) else model
    own = _hashed(_base_weights(model))
    source, was = getattr(base, "quantized_from", (None, None))
    if was != own:
        return own
    names = {name for name, _ in _base_weights(model)}
    return _hashed(_saved_weights(source, names))


def stamp_adapter(folder: str | Path, base_fingerprint: str) -> None:
    """Write beside a saved adapter which weights it was trained on.

    PEFT keeps only the base's name or path. :func:`load` compares the stamp and
    refuses another base; an adapter without a stamp is loaded unchecked.

    Args:
        folder: where the adapter was saved.
        base_fingerprint: what :func:`fingerprint` gave for the base.
    """
    text = json.dumps({"sha256": base_fingerprint}, indent=2) + "\n"
    (Path(folder) / STAMP).write_text(text, encoding="utf-8")


# ------------------------------------------------------------------- in four bits


def _quantized(
    quantization: str | None, dtype: str, device: str | torch.device
) -> dict[str, Any]:
    """What from_pretrained needs to store linear layers in four bits; or nothing."""
    import torch
    from transformers import BitsAndBytesConfig

    if quantization is None:
        return {}
    if quantization not in QUANTIZATIONS:
        raise ModelError(
            f"quantization is {quantization!r}; use one of {', '.join(QUANTIZATIONS)}, "
            "or None."
        )
    _require_four_bits(device)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,  # the library's own choice is fp4
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _require_four_bits(device: str | torch.device) -> None:
    """Put a few numbers into four bits and back, as the model's weights will be."""
    import torch

    still = (
        "without quantization, full tuning and LoRA in float32 or bfloat16 still work"
    )
    try:
        from bitsandbytes import functional
    except Exception as error:  # what its native library raises is not documented
        raise ModelError(
            f"Four bits need bitsandbytes, which cannot be imported "
            f"({_reason(error)}); install it, or go on without: {still}."
        ) from error
    try:
        packed, state = functional.quantize_4bit(
            torch.ones(64, device=device), quant_type="nf4", compress_statistics=True
        )
        functional.dequantize_4bit(packed, state)
    except Exception as error:
        raise ModelError(
            f"bitsandbytes has no kernel for four bits on {device} "
            f"({_reason(error)}); choose another device, or go on without: {still}."
        ) from error


def _check_blocks(model: PreTrainedModel, source: str) -> None:
    """Refuse widths that bitsandbytes does not put back as they were.

    On a CPU with AVX-512, version 0.50.2 takes another block's scale where a row is
    no whole number of blocks, and says nothing.
    """
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit

    layers = [part for part in model.modules() if isinstance(part, Linear4bit)]
    for width in sorted({layer.in_features for layer in layers}):
        places = torch.arange(16 * width, device=model.device)
        scales = 4.0 ** (places // 64 % 5)  # no two neighbours have the same
        weight = ((places * 1.7).sin() * scales).reshape(16, width)
        back = functional.dequantize_4bit(
            *functional.quantize_4bit(weight, quant_type="nf4")
        )
        if (back - weight).norm() > 0.15 * weight.norm():
            raise ModelError(
                f"{source} has layers with {width} inputs, and on {model.device} "
                "bitsandbytes puts rows of that width into four bits wrongly; use a "
                "GPU, a width that is a multiple of 64, or no quantization."
            )


def _keep_order(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from rearranging weights on a CPU that multiplies bfloat16.

    With AVX512-BF16, version 0.50.2 does so at a layer's first pass in evaluation, for
    a product in bfloat16, whatever type was asked for. That product has no gradient:
    of a model that is trained after an evaluation only what lies behind its last such
    layer learns, and nothing is said.
    """
    from bitsandbytes.nn import Linear4bit

    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False


# ------------------------------------------------------------------------ loading


def _source(model: str | Path) -> str:
    """Tell a folder from a Hub id, and check what the folder must hold."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        # A Path, "./x", "~/x" or "a/b/c" is never an id on the Hub.
        if isinstance(model, str) and _HUB_ID.fullmatch(model):
            return model
        raise ModelError(
            f"The model folder {model} does not exist; give an existing folder or a "
            "Hub id such as owner/name."
        )
    for part, found in {
        "config.json": (folder / "config.json").is_file(),
        "weights (*.safetensors)": any(folder.glob("*.safetensors")),
        "tokenizer (tokenizer.json)": _has_tokenizer(folder),
    }.items():
        if not found:
            raise ModelError(
                f"The model folder {folder} has no {part}; give a folder that "
                "save_pretrained wrote for both model and tokenizer."
            )
    return str(folder)


def _has_tokenizer(folder: Path) -> bool:
    return any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")
    )


def _check_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {source} has the token id {highest}, but the model has "
            f"only {rows} embeddings; call model.resize_token_embeddings("
            f"{highest + 1}) and train the new rows before saving, or use the "
            "tokenizer that belongs to the model."
        )


def _check_adapter_folder(folder: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"The adapter folder {folder} has no {name}; give the folder that "
                "save_pretrained of a PEFT model wrote."
            )


def _with_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put the adapter on the model, or say in one sentence why it does not fit."""
    from peft import PeftConfig, PeftModel

    stamp = folder / STAMP
    with _one_sentence(f"The adapter {folder}"):
        settings = PeftConfig.from_pretrained(str(folder))
        trained_on = (
            json.loads(stamp.read_text("utf-8"))["sha256"] if stamp.is_file() else None
        )
    if trained_on is not None and trained_on != fingerprint(model):
        raise ModelError(
            f"The adapter {folder} was trained on other weights (fingerprint "
            f"{trained_on[:12]}…) than those of {model.name_or_path}; load the base it "
            "was trained on."
        )
    width, wanted = model.config.hidden_size, getattr(settings, "token_dim", None)
    if wanted is not None and wanted != width:
        raise ModelError(
            f"The adapter {folder} is made for a hidden size of {wanted}, but "
            f"{model.name_or_path} has {width}; load the base it was trained on."
        )
    with warnings.catch_warnings(), _one_sentence(f"The adapter {folder}"):
        # PEFT 0.21 asks transformers 5 for a property by its former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = PeftModel.from_pretrained(model, str(folder))
    _check_adapter_keys(adapted, folder)
    return adapted


def _check_adapter_keys(model: PreTrainedModel, folder: Path) -> None:
    """PEFT leaves out what it does not recognise; here each saved tensor must be in."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        saved = set(file.keys())
    different = saved ^ set(get_peft_model_state_dict(model))
    if different:
        raise ModelError(
            f"The adapter {folder} and {model.name_or_path} differ in {len(different)} "
            f"tensors, the first of them {sorted(different)[0]}; load the base it was "
            "trained on."
        )


@contextlib.contextmanager
def _one_sentence(subject: str) -> Iterator[None]:
    """Turn what the libraries raise into one sentence about ``subject``."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"{subject} could not be loaded ({_reason(error)}); check that its files "
            "are complete and belong together."
        ) from error


def _reason(error: Exception) -> str:
    """The message on one line, short: libraries write paragraphs."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars, which would be stored in a notebook, then show them again."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# ------------------------------------------------------------------------- saving


def _check_replaceable(folder: Path) -> None:
    """Only a saved model may be replaced: anything else would be deleted."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    held = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    names = {entry.name for entry in held}
    foreign = [
        entry for entry in held if entry.is_dir() or entry.suffix not in _SAVED_SUFFIXES
    ]
    if foreign or not names & {"config.json", "adapter_config.json"}:
        first = (foreign or held)[0].name
        raise ModelError(
            f"{folder} holds something else than a saved model ({first}), which saving "
            "would delete; choose another folder."
        )


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put ``new`` in the place of ``folder``; on failure put the earlier one back."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


# ---------------------------------------------------------------------- measuring


def _elements(weight: torch.nn.Parameter) -> int:
    """Number of weights; bitsandbytes packs two in a byte and keeps the shape aside."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def _constants(state: Any) -> list[torch.Tensor]:
    """Tensors of a bitsandbytes quantisation state, the nested one included."""
    import torch

    if state is None:
        return []
    own = [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
    return own + _constants(state.state2)


def _hashed(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 of names, shapes and values; of four-bit weights with their scales."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        for part in (weight, *_constants(getattr(weight, "quant_state", None))):
            data = part.detach().to("cpu", torch.bfloat16).reshape(-1)
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _saved_weights(
    source: str, names: Iterable[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """These weights as they lie in the files of a folder, or of the Hub's cache."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    wanted = ["*.safetensors", "*.safetensors.index.json"]
    local = Path(source).is_dir()
    folder = Path(
        source
        if local
        else snapshot_download(source, allow_patterns=wanted, local_files_only=True)
    )
    index = folder / "model.safetensors.index.json"
    files = (
        json.loads(index.read_text("utf-8"))["weight_map"] if index.is_file() else {}
    )
    for name in sorted(names):
        with safe_open(folder / files.get(name, "model.safetensors"), "pt") as file:
            yield name, file.get_tensor(name)


def _base_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of the base, named as if no adapter were there."""
    if not getattr(model, "peft_config", None):
        yield from model.named_parameters()
        return
    prefix = getattr(model.base_model, "prefix", None)
    wrappers = {"base_layer", "original_module", "token_adapter"}
    added = {"modules_to_save", "trainable_tokens_delta"}
    for name, weight in model.get_base_model().named_parameters():
        parts = name.split(".")
        tuned = prefix and any(part.startswith(prefix) for part in parts)
        if not tuned and added.isdisjoint(parts):
            yield ".".join(part for part in parts if part not in wrappers), weight
