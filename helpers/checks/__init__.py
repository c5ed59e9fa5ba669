"""The doctor: what is wrong with data, tokenizer, settings, before anything is trained.

Libraries for fine-tuning let many mistakes through in silence. A rule here knows one
of them: where it is, what happens if nothing is done, and what to do. One probe builds
what the trainer would see of each row and holds it against what is asked later.

>>> report = check_rows([{"prompt": "2 + 3 =", "completion": " "}])
>>> finding = report.findings[0]
>>> finding.rule.id, finding.places[0].row, finding.places[0].field
('blank-content', 1, 'completion')

Source: threads on each mistake, named in the project's catalogue; the behaviour was
observed with TRL 1.16.0, PEFT 0.21.2 and transformers 5.23.0; tests show it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from helpers.checks import config as _config
from helpers.checks import folder as _folder
from helpers.checks import probe as _probe
from helpers.checks import quality, rows, source
from helpers.checks import script as _script
from helpers.checks.core import RULES, Case, Finding, Place, Report, Rule, run

__all__ = [
    "RULES",
    "Case",
    "Finding",
    "Place",
    "Report",
    "Rule",
    "check",
    "check_rows",
    "diagnose",
]

Step = Callable[[str], None]
_CODE = (".py", ".ipynb")


def check(
    path: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    format: str | None = None,
    skip: Iterable[str] = (),
    step: Step = lambda _: None,
) -> Report:
    """Check a file of rows, a model's folder, settings: whatever is given.

    Without a model, neither torch nor transformers is imported.

    Args:
        path: a data file of any container and format.
        model: folder of a model or an adapter, or an id on the Hub.
        config: YAML or JSON with the settings of `trl sft`, or a training script
            (.py, .ipynb), which is read and not run.
        test: the file that is kept for testing, to find leakage.
        format: of both files; None detects it.
        skip: ids of rules that are not to run.
        step: called with what is being done.

    Returns:
        The findings, errors first.

    Raises:
        DataError: a file cannot be read at all.
        ValueError: nothing is given, or a rule to skip is unknown.

    >>> from helpers import models
    >>> check(model=models.SHIPPED).sound
    True
    """
    if path is None and model is None and config is None:
        raise ValueError("There is nothing to check; name a file, a model or settings.")
    step("reading")
    case = Case()
    if path is not None:
        case.source = source.read(path, format=format)
    if test is not None:
        case.test = source.read(test, format=format)
    if model is not None:
        case.folder = _folder.load(Path(model) if Path(model).is_dir() else str(model))
    if config is not None and str(config).endswith(_CODE):
        case.script = _script.load(config)
        case.config = _config.from_script(case.script)
    elif config is not None:
        case.config = _config.load(config)
    named = (path, model, config)
    title = " · ".join(str(part) for part in named if part is not None)
    return diagnose(case, title=title, skip=skip, step=step)


def check_rows(given: Iterable[Any], *, format: str | None = None) -> Report:
    """Check rows in memory, without a model.

    Args:
        given: mappings.
        format: a name in `formats.FAMILIES`; None detects it.
    """
    found = source.from_rows(given, format=format)
    return diagnose(Case(source=found), title="rows")


def diagnose(
    case: Case, *, title: str, skip: Iterable[str] = (), step: Step = lambda _: None
) -> Report:
    """Run all rules over a case; build the probe first, where rows and model are there.

    Args:
        case: what is known.
        title: of the report.
        skip: ids of rules that are not to run.
        step: called with what is being done.

    Raises:
        ValueError: a rule to skip is unknown.
    """
    skipped = set(skip)
    if unknown := skipped - RULES.keys():
        raise ValueError(
            f"There is no rule {', '.join(sorted(unknown))}; --json lists those that "
            "found something."
        )
    tokenizer = case.folder.tokenizer if case.folder is not None else None
    if case.source is not None and case.source.is_sft and tokenizer is not None:
        length = case.config.max_length if case.config is not None else _config.LENGTH
        case.probe = _probe.build(
            case.source,
            case.folder,
            max_length=length,
            step=lambda done: step(f"encoding, {done} rows"),
        )
    active = [rule for rule in RULES.values() if rule.id not in skipped]
    findings, checked = run(case, active, step=step)
    samples = tuple(case.probe.samples) if case.probe is not None else ()
    return Report(title, tuple(findings), checked, _figures(case), samples)


def _figures(case: Case) -> dict[str, Any]:
    """Counts for the head of a view, and the histogram of lengths."""
    if case.source is None:
        return {}
    found = case.source
    figures: dict[str, Any] = {
        "rows": len(found.rows) + len(found.broken),
        "format": found.family or "unknown",
    }
    if case.probe is not None:
        seen = case.probe.seen
        figures["encoded"] = len(seen)
        figures["tokens"] = sum(one.length for one in seen)
        figures["trained tokens"] = sum(one.trained for one in seen)
        figures["unit"] = "tokens"
        lengths = [one.length for one in seen]
    else:
        figures["unit"] = "words"
        lengths = [len(f"{asked} {answer}".split()) for _, asked, answer in found.pairs]
    figures["lengths"] = quality.histogram(lengths)
    return figures


# The rules of `rows` are registered when it is imported.
assert rows.TRAINED
