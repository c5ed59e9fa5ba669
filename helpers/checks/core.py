"""What a rule is, what it finds, and how all rules are run over a case."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from helpers.checks.privacy import hide

if TYPE_CHECKING:
    from helpers.checks.config import Config
    from helpers.checks.folder import Folder
    from helpers.checks.probe import Probe
    from helpers.checks.script import Script
    from helpers.checks.source import Source

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SHOWN = 3
"""Places that a finding shows; the others are counted."""

EXCERPT = 90
"""Characters of an excerpt."""


@dataclass(frozen=True)
class Place:
    """Where a rule found something.

    Attributes:
        row: 1-based number of the record; 0 where the whole file, model or
            configuration is meant.
        field: column, setting or file, such as `messages[1].content`.
        excerpt: what stands there, cut short. Secrets are masked by their rule.
    """

    row: int = 0
    field: str = ""
    excerpt: str = ""


@dataclass(frozen=True)
class Rule:
    """One mistake that the doctor knows.

    Attributes:
        id: stable name, for `--json` and for switching it off.
        severity: "error": training goes wrong; "warning": it probably does; "note":
            worth knowing, the file is sound.
        title: what was found.
        ignored: what happens if nothing is done.
        fix: what to do.
        needs: the parts of a case that it looks at; it runs where all are there.
        find: yields the places.
        pitfall: number of the mistake in the project's catalogue of silent
            mistakes; 0 for a rule on the quality of data.
    """

    id: str
    severity: Severity
    title: str
    ignored: str
    fix: str
    needs: tuple[str, ...]
    find: Callable[..., Iterable[Place]]
    pitfall: int = 0


@dataclass(frozen=True)
class Finding:
    """One rule's places in one case: the first of them, and how many there are."""

    rule: Rule
    count: int
    places: tuple[Place, ...]


@dataclass
class Case:
    """All that is known of a run that is to be: each part may be missing.

    Attributes:
        source: the rows.
        test: the rows that are kept for testing.
        folder: tokenizer, template and configurations of the model.
        config: the settings of training.
        script: the code of training.
        probe: what the trainer would see.
    """

    source: Source | None = None
    test: Source | None = None
    folder: Folder | None = None
    config: Config | None = None
    script: Script | None = None
    probe: Probe | None = None


@dataclass(frozen=True)
class Report:
    """What the doctor says.

    Attributes:
        title: what was checked.
        findings: errors first.
        checked: number of rules that could be run.
        figures: counts and the histogram of lengths, for the views.
        samples: rows as the trainer would see them, for the views.
    """

    title: str
    findings: tuple[Finding, ...]
    checked: int
    figures: dict[str, Any] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()

    def count(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.rule.severity == severity for finding in self.findings)

    @property
    def sound(self) -> bool:
        """Whether there is nothing but notes."""
        return not self.count("error") and not self.count("warning")


RULES: dict[str, Rule] = {}
"""All rules, by their id."""


def rule(
    id: str,
    severity: Severity,
    *,
    needs: str,
    title: str,
    ignored: str,
    fix: str,
    pitfall: int = 0,
) -> Callable[[Callable[..., Iterable[Place]]], Callable[..., Iterable[Place]]]:
    """Register a function that yields places as a rule.

    Args:
        id: see `Rule`, as for the others.
        severity: of all that it finds.
        needs: names of the parts of a `Case`, separated by spaces; the function
            takes them as arguments, in this order.
        title: what was found.
        ignored: what happens if nothing is done.
        fix: what to do.
        pitfall: row of the catalogue.
    """

    def register(find: Callable[..., Iterable[Place]]) -> Callable[..., Any]:
        RULES[id] = Rule(
            id, severity, title, ignored, fix, tuple(needs.split()), find, pitfall
        )
        return find

    return register


def run(
    case: Case, rules: Iterable[Rule], *, step: Callable[[str], None] = lambda _: None
) -> tuple[list[Finding], int]:
    """Apply rules to a case.

    Args:
        case: its missing parts silence the rules that need them.
        rules: those to apply.
        step: called with each rule's id before it runs, to show progress.

    Returns:
        The findings, errors first, and the number of rules that ran.
    """
    findings, checked = [], 0
    for one in rules:
        parts = [getattr(case, need) for need in one.needs]
        if any(part is None for part in parts):
            continue
        step(one.id)
        checked += 1
        found = iter(one.find(*parts))
        first = tuple(islice(found, SHOWN))
        if first:
            findings.append(Finding(one, len(first) + sum(1 for _ in found), first))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.rule.severity))
    return findings, checked


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = EXCERPT


def excerpt(value: Any) -> str:
    """A value on one line, cut short.

    >>> excerpt("two" + chr(10) + "lines")
    'two lines'
    """
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = " ".join(hide(text[: 4 * EXCERPT]).split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def around(text: str, start: int, end: int) -> str:
    """An excerpt of what stands around a match."""
    left, before = max(0, start - 25), max(0, start - 4 * EXCERPT)
    shown = hide(text[before : end + 4 * EXCERPT])[left - before : end + 40 - before]
    return excerpt(("…" if left else "") + shown)


def places(found: Iterable[tuple[int, str, Any]]) -> Iterator[Place]:
    """Build places from rows, fields and values."""
    return (Place(row, field, excerpt(value)) for row, field, value in found)


def setting(name: str, value: Any) -> list[Place]:
    """The one place of a setting of a configuration."""
    return [Place(0, name, f"{name}: {value}")]


def joined(names: Sequence[str]) -> str:
    """Names for a sentence, at most five of them."""
    shown = ", ".join(names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
