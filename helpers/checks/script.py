"""A training script, read and never run: its calls and their settings.

Some mistakes are made in code alone, between one call and the next. The
rules here find those that can be seen without running anything.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.checks.core import Place, rule
from helpers.formats import DataError

UNKNOWN = "(computed)"
"""Value of a setting that is not written out in the script."""


@dataclass(frozen=True)
class Call:
    """One call in a script.

    Attributes:
        name: the last part of what is called, such as "from_pretrained".
        owner: what stands before it, such as "PeftModel".
        line: 1-based.
        arguments: source of the positional ones.
        sources: source of the named ones.
        settings: values of the named ones, `UNKNOWN` where they are computed.
        target: variable that takes the result, or several with commas; "" if none.
        alone: whether the result is thrown away.
        wrapper: name of the call that it is an argument of, "" if none.
        scope: name of the function that it stands in, "" outside of all.
        open: whether more settings come from a mapping (`**settings`).
    """

    name: str
    owner: str
    line: int
    arguments: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: str = ""
    alone: bool = False
    wrapper: str = ""
    scope: str = ""
    open: bool = False


@dataclass(frozen=True)
class Script:
    """The calls of a script, in their order."""

    file: str
    calls: tuple[Call, ...]

    def named(self, *names: str) -> list[Call]:
        """The calls of some names."""
        return [call for call in self.calls if call.name in names]


def load(path: str | Path) -> Script:
    """Read a Python file, or the code cells of a notebook.

    Raises:
        DataError: it cannot be read, or is no Python.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if str(path).endswith(".ipynb"):
            text = _cells(json.loads(text))
        return read(text, file=str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a Python script ({error}): mend it, or name a "
            "YAML file of settings."
        ) from error


def _cells(notebook: Mapping[str, Any]) -> str:
    cells = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    lines = "\n".join(cells).split("\n")
    kept = [line if line.lstrip()[:1] not in ("%", "!") else "pass" for line in lines]
    return "\n".join(kept)


def read(text: str, *, file: str = "script") -> Script:
    """Find the calls of a script.

    >>> read("a = f(x, rate=2)").calls[0].settings
    {'rate': 2}
    """
    tree = ast.parse(text)
    calls = list(_walk(tree, ""))
    return Script(file, tuple(sorted(calls, key=lambda call: call.line)))


def _walk(node: ast.AST, scope: str) -> Iterator[Call]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        scope = f"{getattr(node, 'name', 'lambda')}, line {node.lineno}"
    yield from _calls(node, scope)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, scope)


def _calls(node: ast.AST, scope: str) -> Iterator[Call]:
    """The calls that are direct children of a node, with what becomes of them."""
    target = ""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = ast.unparse(node.targets[0]).strip("()")
    wrapper = _name(node.func)[1] if isinstance(node, ast.Call) else ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword):
            child = child.value
        if isinstance(child, ast.Call):
            owner, name = _name(child.func)
            yield Call(
                name,
                owner,
                child.lineno,
                tuple(ast.unparse(argument) for argument in child.args),
                {k.arg: ast.unparse(k.value) for k in child.keywords if k.arg},
                {k.arg: _value(k.value) for k in child.keywords if k.arg},
                target,
                isinstance(node, ast.Expr),
                wrapper,
                scope,
                any(k.arg is None for k in child.keywords),
            )


def _name(function: ast.expr) -> tuple[str, str]:
    owner, _, name = ast.unparse(function).rpartition(".")
    return owner, name


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        text = ast.unparse(node)
        # torch.bfloat16 and "bfloat16" are one setting
        return text.removeprefix("torch.") if text.startswith("torch.") else UNKNOWN


# ------------------------------------------------------------------------------- rules


def _place(script: Script, call: Call, told: str) -> Place:
    return Place(0, f"{script.file}, line {call.line}", told)


TRAINERS = ("SFTTrainer", "Trainer")


@rule(
    "adapter-not-trainable",
    "error",
    pitfall=39,
    needs="script",
    title="A loaded adapter that is to be trained, but is frozen",
    ignored="'does not require grad', or a run in which nothing moves.",
    fix="PeftModel.from_pretrained(…, is_trainable=True).",
)
def adapter_not_trainable(script: Script) -> Iterator[Place]:
    """Find an adapter loaded for answering that goes into a trainer."""
    trained = {_model(call) for call in script.named(*TRAINERS)}
    for call in script.named("from_pretrained"):
        frozen = "PeftModel" in call.owner and not call.settings.get("is_trainable")
        if frozen and (call.target in trained or call.wrapper in TRAINERS):
            yield _place(script, call, f"{call.owner}.from_pretrained")


def _model(call: Call) -> str:
    """Source of the model that a trainer or get_peft_model takes."""
    return call.sources.get("model", (call.arguments or ("",))[0])


@rule(
    "base-used-twice",
    "warning",
    pitfall=40,
    needs="script",
    title="One base model wrapped twice",
    ignored="PEFT puts its layers into the model itself: the second run trains on top "
    "of the first, and what was kept as the base is none any more.",
    fix="Load the base anew for each run.",
)
def base_used_twice(script: Script) -> Iterator[Place]:
    """Find a variable that is wrapped again without being loaded again."""
    wrapped: dict[tuple[str, str], int] = {}
    for call in script.calls:
        wraps = call.name == "get_peft_model" or (
            call.name in TRAINERS and "peft_config" in call.sources
        )
        key = (call.scope, _model(call) if wraps else "")
        if key in wrapped:
            yield _place(script, call, f"{key[1]}, wrapped in line {wrapped[key]}")
        elif key[1].isidentifier():
            wrapped[key] = call.line
        for name in call.target.split(", ") if not wraps else ():
            wrapped.pop((call.scope, name), None)


@rule(
    "merge-thrown-away",
    "error",
    pitfall=41,
    needs="script",
    title="The result of merge_and_unload is thrown away",
    ignored="The variable stays the wrapped model; saved, it gives adapter files "
    "whose weights are in the base already, or no merged model at all.",
    fix="model = model.merge_and_unload(); save, reload and compare.",
)
def merge_thrown_away(script: Script) -> Iterator[Place]:
    """Find a merge that nothing takes."""
    for call in script.named("merge_and_unload"):
        if call.alone:
            yield _place(script, call, f"{call.owner}.merge_and_unload()")


@rule(
    "merge-of-four-bits",
    "warning",
    pitfall=45,
    needs="script",
    title="An adapter trained on 4-bit weights is merged",
    ignored="It was trained on the rounded weights: merged into 4 bits it is rounded "
    "again, merged into the whole ones it sits on other weights. Answers shift.",
    fix="Evaluate the form that you deploy, not the one that you trained.",
)
def merge_of_four_bits(script: Script) -> Iterator[Place]:
    """Find a merge in a script that loads 4-bit weights."""
    four = any(call.settings.get("load_in_4bit") for call in script.calls)
    for call in script.named("merge_and_unload") if four else ():
        yield _place(script, call, f"{call.owner}.merge_and_unload()")


@rule(
    "generation-padding",
    "warning",
    pitfall=51,
    needs="script",
    title="A batch is generated from right padding, or without its mask",
    ignored="The model goes on from padding: wrong answers for the shorter prompts.",
    fix="tokenizer.padding_side = 'left', and pass attention_mask (**inputs).",
)
def generation_padding(script: Script) -> Iterator[Place]:
    """Find generate with bare ids, where a tokenizer pads."""
    pads = any(call.settings.get("padding") for call in script.calls)
    for call in script.named("generate") if pads else ():
        ids = [*call.arguments[:1], call.sources.get("input_ids", "")]
        bare = any(one.endswith(("input_ids", "['input_ids']")) for one in ids)
        if bare and "attention_mask" not in call.sources:
            yield _place(script, call, "generate without attention_mask")
    for call in script.calls:
        if call.settings.get("padding_side") == "right" and script.named("generate"):
            yield _place(script, call, "padding_side='right'")


@rule(
    "template-returns-dict",
    "error",
    pitfall=52,
    needs="script",
    title="The result of apply_chat_template is taken for a list of ids",
    ignored="In transformers 5 it is a dictionary: len() is 2, and a model takes its "
    "keys for tokens or fails.",
    fix="Pass return_dict=True and unpack it: generate(**inputs); or tokenize=False "
    "for the text.",
)
def template_returns_dict(script: Script) -> Iterator[Place]:
    """Find a result that is measured, or given to generate as it is."""
    found = {}
    for call in script.named("apply_chat_template"):
        whole = "return_dict" not in call.settings
        if whole and call.settings.get("tokenize", True) is True:
            found[call.target] = call
            if call.wrapper in ("len", "generate"):
                yield _place(script, call, f"{call.wrapper}(apply_chat_template(…))")
    for call in script.named("len", "generate"):
        for name in (*call.arguments[:1], call.sources.get("input_ids", "")):
            if name and name in found:
                yield _place(script, call, f"{call.name}({name})")


@rule(
    "asked-while-training",
    "warning",
    pitfall=53,
    needs="script",
    title="The model is asked while it is still in training mode",
    ignored="Dropout is on: answers differ from call to call and are worse.",
    fix="model.eval() before generate.",
)
def asked_while_training(script: Script) -> Iterator[Place]:
    """Find generate after train without eval or a reload in between."""
    training = set()
    for call in script.calls:
        if call.name == "train" and not call.arguments:
            training.add(call.scope)
        elif call.name in ("eval", "from_pretrained", "load", "pipeline"):
            training.discard(call.scope)
        elif call.name == "generate" and call.scope in training:
            yield _place(script, call, f"{call.owner}.generate after train()")


@rule(
    "no-generation-prompt",
    "warning",
    pitfall=53,
    needs="script",
    title="The model is asked without the opening of its turn",
    ignored="It may go on with the user's turn, or write the opening as its answer.",
    fix="apply_chat_template(…, add_generation_prompt=True).",
)
def no_generation_prompt(script: Script) -> Iterator[Place]:
    """Find a rendered prompt without it that generate takes."""
    asked = {
        name
        for call in script.named("generate")
        for name in (*call.arguments, *call.sources.values())
    }
    for call in script.named("apply_chat_template"):
        goes_on = call.wrapper == "generate" or call.target in asked
        if goes_on and not call.settings.get("add_generation_prompt"):
            yield _place(script, call, f"{call.target or 'the prompt'}")


@rule(
    "template-and-specials",
    "error",
    pitfall=19,
    needs="script",
    title="A rendered conversation is tokenised with special tokens on top",
    ignored="Two start tokens: the model is asked otherwise than it was trained.",
    fix="tokenizer(text, add_special_tokens=False).",
)
def template_and_specials(script: Script) -> Iterator[Place]:
    """Find the text of apply_chat_template in a call of the tokenizer."""
    texts = {
        call.target
        for call in script.named("apply_chat_template")
        if call.settings.get("tokenize", True) is False and call.target
    }
    for call in script.calls:
        adds = call.settings.get("add_special_tokens", True) is True
        if call.name in ("tokenizer", "encode") and call.arguments and adds:
            given = call.arguments[0]
            if texts.intersection((given, given.strip("[]"))):
                yield _place(script, call, f"{call.name}({given})")
