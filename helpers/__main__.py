"""Commands: `check FILE`, `convert FILE`, `memory MODEL`.

`--help` tells the options of each. A command that cannot do what was asked says why
in one sentence and exits with 2.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, get_args

from helpers import formats, memory


class _Parser(argparse.ArgumentParser):
    """One sentence for an error, instead of the usage and a sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help tells what it takes.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line, or None to take them from there.

    Returns:
        The exit status: 0; 1 where `check` found something or `convert` left rows
        out; or 2 where the command could not be done.
    """
    parser = _Parser(prog="python -m helpers", description=__doc__)
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add_memory(commands.add_parser("memory", help="will it fit on this GPU?"))
    _add_convert(commands.add_parser("convert", help="your data as a trainer takes it"))
    _add_check(commands.add_parser("check", help="what is wrong with data or model?"))
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_memory)
    add = parser.add_argument
    add("model", help="a folder, a config.json or an id on the Hub; no weights needed")
    add("--method", action="append", choices=memory.METHODS, help="default: all three")
    add("--batch", type=int, default=1, help="rows in a forward pass (1)")
    add("--length", type=int, help="tokens of a row (2048, or the model's context)")
    add("--accumulation", type=int, default=1, help="passes for an optimiser step (1)")
    add("--rank", type=int, default=16, help="of LoRA (16)")
    add("--targets", default="all-linear", help="such as q_proj,v_proj (all-linear)")
    _add_choice(parser, "optimizer", memory.Optimizer, "adamw")
    _add_choice(parser, "attention", memory.Attention, "flash")
    _add_choice(parser, "loss", memory.Loss, "fused")
    _add_choice(parser, "compute", memory.Dtype, "bfloat16")
    add("--no-checkpointing", action="store_true", help="keep all activations")
    add("--json", action="store_true", help="print a record, sizes in bytes")
    add("--plot", metavar="FILE", help="draw the parts as bars, such as plan.png")


def _add_choice(
    parser: argparse.ArgumentParser, name: str, kind: object, default: str
) -> None:
    known = get_args(kind)
    told = f"{', '.join(known)} ({default})"
    parser.add_argument(
        f"--{name}", choices=known, default=default, metavar="NAME", help=told
    )


def _memory(options: argparse.Namespace) -> int:
    shape = memory.load_shape(options.model)
    recipes = [_recipe(method, options, shape) for method in _methods(options)]
    plans = [memory.plan(shape, recipe) for recipe in recipes]
    if options.plot:
        _draw(plans, options.plot)
    if options.json:
        print(json.dumps(memory.as_record(plans), indent=2))
    else:
        print(memory.report(plans))
    return 0


def _draw(plans: list[memory.Plan], path: str) -> None:
    try:
        memory.draw(plans).savefig(path)
    except (OSError, ValueError) as error:  # ValueError: a format it cannot write
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise memory.PlanError(
            f"The picture cannot be written to {path} ({reason}); name a file such as "
            "plan.png in a folder that exists."
        ) from error


def _methods(options: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(options.method or memory.METHODS))


def _recipe(
    method: str, options: argparse.Namespace, shape: memory.Shape
) -> memory.Recipe:
    named = tuple(options.targets.split(","))
    length = options.length
    return memory.Recipe(
        method=method,
        batch=options.batch,
        length=min(2048, shape.context) if length is None else length,
        accumulation=options.accumulation,
        rank=options.rank,
        targets=memory.LINEAR if options.targets == "all-linear" else named,
        optimizer=options.optimizer,
        checkpointing=not options.no_checkpointing,
        attention=options.attention,
        loss=options.loss,
        compute=options.compute,
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_convert)
    add = parser.add_argument
    add("file", help="a file, a folder of files, or an id on the Hub")
    add("--output", required=True, metavar="FILE", help="new file: .jsonl or .parquet")
    add("--to", choices=formats.SHAPES, metavar="SHAPE", help=_listed(formats.SHAPES))
    known = [family.name for family in formats.FAMILIES.values() if family.convert]
    add("--format", choices=known, metavar="NAME", help="where it cannot be detected")
    add("--report", metavar="FILE", help="all rows that were left out, as JSON Lines")
    add("--keep-meta", action="store_true", help="keep all other columns, as JSON text")
    add("--split", default="train", help="of a data set on the Hub (train)")
    add("--paths", choices=("best", "all"), default="best", help="of a tree (best)")
    add("--tag-column", type=int, metavar="N", help="of tagged text, counted from 1")
    add("--scheme", choices=("IO", "IOB1", "IOB2", "BIOES"), help="of the tags")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def _convert(options: argparse.Namespace) -> int:
    given = vars(options).copy()
    path, output = given.pop("file"), given.pop("output")
    given.pop("run")
    try:
        report = formats.convert_file(path, output, **given)
    except formats.DataError as error:
        # The same words with the options as they are typed here.
        said = re.sub(r"\b(format|to|paths|scheme)='(\w+)'", r"--\1 \2", str(error))
        said = re.sub(r"\b(format|to|scheme)= ", r"--\1 ", said)
        raise formats.DataError(said.replace("tag_column=", "--tag-column ")) from error
    print(formats.describe(report, options.report))
    return 1 if report.rejected else 0


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_check)
    add = parser.add_argument
    add("file", nargs="?", help="rows of any usual format; may be left out")
    add("--model", help="folder of a model or adapter, or an id on the Hub")
    add("--config", help="settings of trl sft (YAML, JSON), or a training script")
    add("--test", metavar="FILE", help="rows kept for testing, to find leakage")
    add("--format", help="of the files, where it cannot be told from the columns")
    add("--skip", action="append", default=[], metavar="RULE", help="not this rule")
    add("--json", action="store_true", help="print a record")
    add("--html", metavar="FILE", help="write a page")


def _check(options: argparse.Namespace) -> int:
    from helpers import checks
    from helpers.checks import show

    with show.progress(hidden=options.json) as step:
        report = checks.check(
            options.file,
            model=options.model,
            config=options.config,
            test=options.test,
            format=options.format,
            skip=options.skip,
            step=step,
        )
    if options.html:
        Path(options.html).write_text(show.as_html(report), encoding="utf-8")
    if options.json:
        print(show.as_json(report))
    else:
        show.to_terminal(report)
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
