"""A model's folder without its weights: tokenizer, template, configurations; rules."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.checks.core import Place, excerpt, joined, rule
from helpers.formats import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")

_SMALL = ["*.json", "*.jinja", "*.model", "*.txt"]
_MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>")
_HEADER_LIMIT = 100_000_000  # bytes, the format's own limit


@dataclass
class Folder:
    """What is known of a model.

    Attributes:
        name: as the caller gave it.
        tokenizer: a fast one; None where the folder has none.
        config: config.json.
        generation: generation_config.json.
        tensors: shape of each weight, by its name; empty where no weights are there.
        adapter: adapter_config.json, for the folder of an adapter.
        adapter_tensors: shape of each weight of the adapter.
        stamped: whether the adapter says which base it belongs to.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase | None
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Sequence[int]] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    adapter_tensors: Mapping[str, Sequence[int]] = field(default_factory=dict)
    stamped: bool = False

    @cached_property
    def template(self) -> str:
        """The chat template, "" where there is none."""
        found = self.tokenizer.chat_template if self.tokenizer is not None else None
        if isinstance(found, dict):  # several, by name
            found = found.get("default") or next(iter(found.values()), "")
        return found or ""

    @cached_property
    def rows(self) -> int:
        """Rows of the embedding, by its weight or config.json; 0: unknown."""
        for name, shape in self.tensors.items():
            if name.endswith("embed_tokens.weight"):
                return shape[0]
        return int(self.config.get("vocab_size") or 0)

    @cached_property
    def modules(self) -> set[str]:
        """Last names of the modules that have a weight matrix."""
        return {
            name.split(".")[-2]
            for name, shape in self.tensors.items()
            if name.endswith(".weight") and len(shape) == 2
        }

    @property
    def tied(self) -> bool:
        """Whether input and output share their embedding."""
        return bool(self.config.get("tie_word_embeddings"))

    @cached_property
    def stops(self) -> set[int]:
        """Ids at which generation ends."""
        return _ids(self.generation.get("eos_token_id")) or _ids(
            self.config.get("eos_token_id")
        )

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """A conversation as text; None where the template refuses it."""
        from helpers import encoding

        try:
            return encoding.render(messages, self.tokenizer)
        except DataError:
            return None


def load(model: str | Path) -> Folder:
    """Read a folder, or an id on the Hub, but no weights.

    Args:
        model: folder of a model or an adapter, or an id.

    Raises:
        DataError: there is no such model, or a file of it is broken.
    """
    path = Path(model)
    if not path.is_dir():
        path = _from_hub(str(model))
    adapter = _read(path / "adapter_config.json")
    base = Path(str(adapter.get("base_model_name_or_path") or "")) if adapter else path
    base = base if base.is_dir() else path
    found = Folder(
        str(model),
        _tokenizer(path if _has_tokenizer(path) else base),
        config=_read(base / "config.json"),
        generation=_read(base / "generation_config.json"),
        tensors=_shapes(base, "model*.safetensors"),
        adapter=adapter,
        adapter_tensors=_shapes(path, "adapter_model.safetensors"),
        stamped=(path / "base_fingerprint.json").is_file(),
    )
    if not found.config and not adapter and found.tokenizer is None:
        raise DataError(
            f"{model} holds neither config.json nor a tokenizer: name the folder of a "
            "model."
        )
    return found


def _ids(value: Any) -> set[int]:
    return set(value) if isinstance(value, list) else {value} - {None}


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_SMALL))
    except Exception as error:  # its kinds are many: no network, no access, no model
        raise DataError(
            f"{model} is no folder, and could not be had from the Hub "
            f"({type(error).__name__}): check the name."
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no object: fetch it again.")
    return value


def _has_tokenizer(path: Path) -> bool:
    return any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model"))


def _tokenizer(path: Path) -> PreTrainedTokenizerBase | None:
    if not _has_tokenizer(path):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # whatever a broken file makes of it
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"The tokenizer of {path} cannot be loaded ({reason}): fetch it again."
        ) from error


def _shapes(folder: Path, pattern: str) -> dict[str, Sequence[int]]:
    """Shapes from the headers of safetensors files; no weight is read."""
    shapes: dict[str, Sequence[int]] = {}
    for path in sorted(folder.glob(pattern)):
        try:
            with path.open("rb") as handle:
                (length,) = struct.unpack("<Q", handle.read(8))
                header = json.loads(handle.read(min(length, _HEADER_LIMIT)))
        except (OSError, ValueError, struct.error) as error:
            raise DataError(
                f"{path} has no readable header ({error}): fetch it again."
            ) from error
        header.pop("__metadata__", None)
        shapes.update({name: told["shape"] for name, told in header.items()})
    return shapes


# ------------------------------------------------------------------------------- rules

_SYSTEM = "Zebra rules apply."
_ASK = "Which animal?"
_SAY = "A striped one."


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


_TALK = [_turn("user", _ASK), _turn("assistant", _SAY)]


@rule(
    "no-template",
    "note",
    needs="folder",
    title="The tokenizer has no chat template",
    ignored="Messages cannot be rendered; a base model is trained on prompt and "
    "completion, or gets a template first.",
    fix="Set tokenizer.chat_template, or use prompt and completion.",
)
def no_template(folder: Folder) -> Iterator[Place]:
    """Find a tokenizer without a template."""
    if folder.tokenizer is not None and not folder.template:
        yield Place(0, "chat_template", "none")


@rule(
    "template-drops-system",
    "warning",
    pitfall=10,
    needs="folder",
    title="The chat template drops or refuses a system prompt",
    ignored="What the system prompt says reaches neither training nor the model; a "
    "refusing template ends the run.",
    fix="Put it at the head of the first user's turn.",
)
def template_drops_system(folder: Folder) -> Iterator[Place]:
    """Find a template in which the system's text is missing."""
    if not folder.template:
        return
    shown = folder.render([_turn("system", _SYSTEM), *_TALK])
    if shown is None:
        yield Place(0, "chat_template", "refuses a system turn")
    elif _SYSTEM not in shown:
        yield Place(0, "chat_template", excerpt(shown))


@rule(
    "template-injects-system",
    "warning",
    pitfall=10,
    needs="folder",
    title="The chat template adds a system prompt of its own",
    ignored="Every row without a system prompt is trained under one that you did not "
    "write; asked by other software, the model may not get it.",
    fix="Give each row a system prompt, or take the default out of the template.",
)
def template_injects_system(folder: Folder) -> Iterator[Place]:
    """Find words in a rendered conversation that nobody said."""
    shown = folder.render(_TALK) if folder.template else None
    if shown is None:
        return
    rest = shown.replace(_ASK, " ").replace(_SAY, " ")
    for marker in _markers(folder, shown):
        rest = rest.replace(marker, " ")
    said = [
        word
        for word in re.findall(r"[A-Za-z]{2,}", rest)
        if word.lower() not in _ROLE_WORDS
    ]
    if len(said) > 3:
        yield Place(0, "chat_template", excerpt(rest))


_ROLE_WORDS = {
    *("user", "assistant", "system", "model", "human", "inst", "sys", "bot"),
    *("instruction", "response", "input", "output", "think"),
}


def _markers(folder: Folder, shown: str) -> list[str]:
    tokens = getattr(folder.tokenizer, "added_tokens_decoder", {}).values()
    known = [token.content for token in tokens if token.content.strip()]
    return sorted({*known, *_MARKER.findall(shown)}, key=len, reverse=True)


@rule(
    "template-edits-answer",
    "note",
    pitfall=11,
    needs="folder",
    title="The chat template edits answers",
    ignored="White space at the edges, or what stands between <think> marks, is not "
    "trained as it stands in the row.",
    fix="Sound where it is meant; or else use prompt and completion.",
)
def template_edits_answer(folder: Folder) -> Iterator[Place]:
    """Find answers that do not come out as they went in."""
    if not folder.template:
        return
    for answer in ("  padded \n", "<think>a plan</think>\n\nThe answer."):
        shown = folder.render([_turn("user", _ASK), _turn("assistant", answer)])
        if shown is not None and answer not in shown:
            yield Place(0, "chat_template", f"{answer!r} becomes …{shown[-60:]!r}")


@rule(
    "date-in-template",
    "warning",
    pitfall=12,
    needs="folder",
    title="The chat template writes the date of the day",
    ignored="Every row is trained under the day of training; asked on another day, "
    "the prompt differs, and no run repeats.",
    fix="Pass a fixed date_string in chat_template_kwargs, in training and after.",
)
def date_in_template(folder: Folder) -> Iterator[Place]:
    """Find the clock in a template."""
    if found := re.search(r"strftime_now|datetime\.now", folder.template):
        start = found.start()
        yield Place(0, "chat_template", excerpt(folder.template[start : start + 80]))


@rule(
    "no-generation-mark",
    "note",
    pitfall=16,
    needs="folder",
    title="The chat template does not mark its answers",
    ignored="assistant_only_loss ends with an error, unless TRL has a training "
    "template for exactly this one; without it the prompts are trained as well.",
    fix="Use prompt and completion, or helpers.encoding, which finds answers without "
    "marks.",
)
def no_generation_mark(folder: Folder) -> Iterator[Place]:
    """Find a template without the generation block."""
    if folder.template and not MARKED.search(folder.template):
        yield Place(0, "chat_template", excerpt(folder.template))


@rule(
    "answer-without-stop",
    "error",
    pitfall=17,
    needs="folder",
    title="The chat template closes an answer with no token that stops generation",
    ignored="The model never learns to end an answer: it talks on to the last token "
    "that it is allowed.",
    fix="Let the template write the end token after each answer.",
)
def answer_without_stop(folder: Folder) -> Iterator[Place]:
    """Find a template whose last token in an answer is plain text."""
    last = _last_token(folder)
    if last is not None and last not in _special(folder):
        name = folder.tokenizer.convert_ids_to_tokens(last)
        yield Place(0, "chat_template", f"the last token of an answer is {name!r}")


@rule(
    "stop-not-in-generation",
    "error",
    pitfall=21,
    needs="folder",
    title="The token that ends a trained answer does not end generation",
    ignored="The model writes its end token and goes on, often into a user's turn of "
    "its own making.",
    fix="Put it into generation_config.eos_token_id, or set SFTConfig(eos_token=…).",
)
def stop_not_in_generation(folder: Folder) -> Iterator[Place]:
    """Compare the template's last token with the generation configuration."""
    last = _last_token(folder)
    wrong = folder.stops and last is not None and last not in folder.stops
    if wrong and last in _special(folder):
        name = folder.tokenizer.convert_ids_to_tokens(last)
        told = f"{name!r} ({last}) is not among {sorted(folder.stops)}"
        yield Place(0, "generation_config.eos_token_id", told)


def _last_token(folder: Folder) -> int | None:
    """The last token of a rendered answer that is not white space."""
    shown = folder.render(_TALK) if folder.template else None
    if shown is None:
        return None
    ids = folder.tokenizer(shown.rstrip(), add_special_tokens=False)["input_ids"]
    return ids[-1]


def _special(folder: Folder) -> set[int]:
    added = folder.tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special}
    return special | {folder.tokenizer.eos_token_id}


@rule(
    "split-markers",
    "warning",
    pitfall=22,
    needs="folder",
    title="Markers of the chat template are no tokens of their own",
    ignored="Each marker is spelt in pieces: it costs room, is learnt slowly, and "
    "nothing stops at it.",
    fix="Use a template whose markers the tokenizer has, or add them as tokens.",
)
def split_markers(folder: Folder) -> Iterator[Place]:
    """Find markers that encode to several ids."""
    shown = folder.render(_TALK) if folder.template else None
    for marker in sorted(set(_MARKER.findall(shown or ""))):
        ids = folder.tokenizer(marker, add_special_tokens=False)["input_ids"]
        if len(ids) > 1:
            yield Place(0, "chat_template", f"{marker} is {len(ids)} tokens")


@rule(
    "tokens-without-rows",
    "error",
    pitfall=32,
    needs="folder",
    title="The tokenizer has tokens for which the model has no row",
    ignored="IndexError at the first such token, or, on a GPU, an assertion that "
    "names nothing.",
    fix="model.resize_token_embeddings(len(tokenizer)), and train the new rows.",
)
def tokens_without_rows(folder: Folder) -> Iterator[Place]:
    """Compare the tokenizer's ids with the embedding's rows."""
    if folder.tokenizer is None or not folder.rows or folder.adapter:
        return
    beyond = _beyond(folder)
    if beyond:
        told = f"{joined(beyond)} of {len(folder.tokenizer)}; rows: {folder.rows}"
        yield Place(0, "tokenizer", told)


def _beyond(folder: Folder) -> list[str]:
    vocabulary = folder.tokenizer.get_vocab().items()
    return sorted(token for token, number in vocabulary if number >= folder.rows)


@rule(
    "adapter-vocabulary",
    "error",
    pitfall=35,
    needs="folder",
    title="The adapter's tokenizer has more tokens than its base has rows",
    ignored="Loaded on the base as it is, sizes do not match, or the new tokens read "
    "other rows, in silence.",
    fix="Resize the base to the adapter's tokenizer before loading; compare logits.",
)
def adapter_vocabulary(folder: Folder) -> Iterator[Place]:
    """Compare the tokenizer beside an adapter with its base."""
    if not folder.adapter or folder.tokenizer is None or not folder.rows:
        return
    saved = any("embed_tokens" in name for name in folder.adapter_tensors)
    if (beyond := _beyond(folder)) and not saved:
        yield Place(
            0, "tokenizer", f"{joined(beyond)}; rows of the base: {folder.rows}"
        )


@rule(
    "adapter-without-base",
    "warning",
    pitfall=37,
    needs="folder",
    title="The adapter does not say which weights it was trained on",
    ignored="On another base of the same shape it loads without a word and answers "
    "nonsense.",
    fix="Save it with helpers.models.save, which stamps it with the base's hash.",
)
def adapter_without_base(folder: Folder) -> Iterator[Place]:
    """Find an adapter without a stamp."""
    if folder.adapter and not folder.stamped:
        base = folder.adapter.get("base_model_name_or_path")
        yield Place(0, "adapter_config.json", f"base: {base}")


@rule(
    "adapter-keys",
    "error",
    pitfall=38,
    needs="folder",
    title="Weights of the adapter that fit no module of its base",
    ignored="load_adapter leaves them out and says nothing: the adapter does less "
    "than it learnt, or nothing.",
    fix="Load it on the base that it was trained on, wrapped in the same way.",
)
def adapter_keys(folder: Folder) -> Iterator[Place]:
    """Compare the adapter's keys with the base's."""
    if not folder.tensors or not folder.adapter_tensors:
        return
    base = {name.removesuffix(".weight") for name in folder.tensors} | {"lm_head"}
    for name in folder.adapter_tensors:
        module, found, _ = name.removeprefix("base_model.model.").partition(".lora_")
        if found and module not in base:
            yield Place(0, "adapter_model.safetensors", name)


@rule(
    "merged-and-adapter",
    "warning",
    pitfall=41,
    needs="folder",
    title="A folder with whole weights and an adapter",
    ignored="What loads it may put the adapter on top of weights that hold it already, "
    "or was saved after a merge whose result was dropped.",
    fix="Keep the merged model and the adapter in folders of their own.",
)
def merged_and_adapter(folder: Folder) -> Iterator[Place]:
    """Find adapter files beside weights of their own folder."""
    own = Path(folder.name)
    if folder.adapter and any(own.glob("model*.safetensors")):
        yield Place(0, folder.name, "adapter_config.json beside model.safetensors")


@rule(
    "pad-is-end",
    "note",
    pitfall=18,
    needs="folder",
    title="No padding token of its own",
    ignored="Padding with the end token is masked by transformers' language-modelling "
    "collator, and with it every end: the model never learns to stop.",
    fix="helpers.models.load sets one; TRL's own collator is safe.",
)
def pad_is_end(folder: Folder) -> Iterator[Place]:
    """Find a padding token that is missing or is the end token."""
    if folder.tokenizer is None:
        return
    pad, end = folder.tokenizer.pad_token, folder.tokenizer.eos_token
    if pad is None or pad == end:
        yield Place(0, "pad_token", f"pad_token: {pad}, eos_token: {end}")


@rule(
    "right-padding",
    "note",
    pitfall=51,
    needs="folder",
    title="The tokenizer pads on the right",
    ignored="Right for training. In batched generation the model goes on from padding "
    "and answers wrongly.",
    fix="tokenizer.padding_side = 'left' before generate, and pass the mask.",
)
def right_padding(folder: Folder) -> Iterator[Place]:
    """Find right padding."""
    if folder.tokenizer is not None and folder.tokenizer.padding_side == "right":
        yield Place(0, "padding_side", "right")
