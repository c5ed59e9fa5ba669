"""A report for the terminal, as JSON, and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from helpers.checks.core import SEVERITIES, Finding, Place, Report

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_BAR = 40


def as_record(report: Report) -> dict[str, Any]:
    """The report as a value that JSON can hold."""
    return {
        "title": report.title,
        "sound": report.sound,
        "rules_run": report.checked,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        "figures": report.figures,
        "findings": [_finding_record(finding) for finding in report.findings],
        "samples": list(report.samples),
    }


def _finding_record(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    return {
        "id": rule.id,
        "severity": rule.severity,
        "pitfall": rule.pitfall,
        "title": rule.title,
        "count": finding.count,
        "places": [
            {"row": place.row, "field": place.field, "excerpt": place.excerpt}
            for place in finding.places
        ],
        "ignored": rule.ignored,
        "fix": rule.fix,
    }


def as_json(report: Report) -> str:
    """The report as JSON text; what JSON cannot write is escaped."""
    return json.dumps(as_record(report), indent=2, ensure_ascii=True)


def verdict(report: Report) -> str:
    """One sentence.

    >>> verdict(Report("x", (), 12))
    'Sound: 12 rules found no error and no warning.'
    """
    if report.sound:
        return f"Sound: {report.checked} rules found no error and no warning."
    counts = [(report.count(one), one) for one in ("error", "warning")]
    told = [f"{n} {name}{'s' if n > 1 else ''}" for n, name in counts if n]
    return f"{' and '.join(told)}, from {report.checked} rules."


def place_text(place: Place) -> str:
    """A place in one line.

    >>> place_text(Place(3, "output", "is blank"))
    'row 3, output: is blank'
    """
    where = ", ".join(
        part for part in (f"row {place.row}" if place.row else "", place.field) if part
    )
    return f"{where}: {place.excerpt}" if where else place.excerpt


@contextmanager
def progress(*, hidden: bool = False) -> Iterator[Callable[[str], None]]:
    """Show what is being done, on standard error, if that is a terminal.

    Args:
        hidden: show nothing.

    Yields:
        The function to call with each step.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("reading") as status:
        yield status.update


def to_terminal(report: Report, console: Console | None = None) -> None:
    """Print the report with colours and bars.

    Args:
        report: what to print.
        console: of rich; it knows its width, and whether it may use colours. None:
            the terminal's.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()

    def line(text: str, style: str = "") -> None:
        # Text, not markup: a row's square brackets are its own.
        console.print(Text(_printable(text), style=style), soft_wrap=False)

    line(report.title, "bold")
    line(_figures_text(report.figures))
    for name, count, bar in _bars(report.figures):
        line(f"  {name:>12} {'█' * bar} {count}", "dim")
    for sample in report.samples[:1]:
        line("")
        line(_sample_head(sample), "bold")
        shown = Text("  ")
        for learnt, text in sample["text"]:
            shown.append(_printable(text), style="bold green" if learnt else "dim")
        console.print(shown)
    for finding in report.findings:
        rule = finding.rule
        line("")
        many = f" ({finding.count} places)" if finding.count > 1 else ""
        line(
            f"{rule.severity}: {rule.title}{many} [{rule.id}]", _COLOURS[rule.severity]
        )
        for place in finding.places:
            line(f"  {place_text(place)}")
        line(f"  If ignored: {rule.ignored}", "dim")
        line(f"  Do: {rule.fix}", "green")
    line("")
    line(verdict(report), "bold green" if report.sound else "bold red")


def _printable(text: str) -> str:
    """A text without characters that would steer a terminal, or that cannot be sent."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}"
        for char in text
    )


def _figures_text(figures: dict[str, Any]) -> str:
    counts = [
        f"{value:,} {name}" for name, value in figures.items() if isinstance(value, int)
    ]
    kind = [f"format {figures['format']}"] if "format" in figures else []
    return ", ".join([*counts, *kind])


def _bars(figures: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    lengths = figures.get("lengths") or []
    most = max((count for _, count in lengths), default=1)
    for name, count in lengths:
        yield name, count, -(-count * _BAR // most)


def _sample_head(sample: dict[str, Any]) -> str:
    start = "starts with BOS" if sample["bos"] else "no BOS"
    return (
        f"Row {sample['row']} as the trainer sees it: {sample['tokens']} tokens, "
        f"{sample['trained']} learnt, {start}, ends with {sample['end']}, "
        f"{sample['asked']}"
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #1a1a1a; background: #fff; }
section { border-left: 4px solid; padding: .2rem 1rem; margin: 1rem 0; }
.error { border-color: #b3261e; } .warning { border-color: #b26a00; }
.note { border-color: #0b6b8a; }
h2 { font-size: 1rem; margin: .2rem 0; } code, pre { font-family: monospace; }
li { overflow-wrap: anywhere; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
pre b { background: #d9f0d3; } td { padding: 0 .5rem; }
.bar { background: #0b6b8a; display: inline-block; height: .7rem; }
"""


def as_html(report: Report) -> str:
    """The report as one page that needs no other file; all of its text is escaped."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{_html(report.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_html(report.title)}</h1>",
        f"<p><strong>{_html(verdict(report))}</strong> ",
        f"{_html(_figures_text(report.figures))}</p>",
        _bars_html(report.figures),
        *(_sample_html(sample) for sample in report.samples),
        *(_finding_html(finding) for finding in report.findings),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _html(text: str) -> str:
    return escape(_printable(text))


def _bars_html(figures: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_html(name)}</td><td>{count}</td>"
        f'<td><span class="bar" style="width:{bar / 4}rem"></span></td></tr>'
        for name, count, bar in _bars(figures)
    )
    unit = _html(figures.get("unit", ""))
    return f"<table><caption>{unit} in a row</caption>{rows}</table>" if rows else ""


def _sample_html(sample: dict[str, Any]) -> str:
    text = "".join(
        f"<b>{_html(part)}</b>" if learnt else _html(part)
        for learnt, part in sample["text"]
    )
    return f"<h2>{_html(_sample_head(sample))}</h2><pre>{text}</pre>"


def _finding_html(finding: Finding) -> str:
    rule = finding.rule
    shown = "".join(f"<li>{_html(place_text(place))}</li>" for place in finding.places)
    more = finding.count - len(finding.places)
    shown += f"<li>and {more} more</li>" if more else ""
    return (
        f'<section class="{rule.severity}"><h2>{rule.severity}: {_html(rule.title)} '
        f"<code>{_html(rule.id)}</code></h2><ul>{shown}</ul>"
        f"<p>If ignored: {_html(rule.ignored)}</p>"
        f"<p>Do: {_html(rule.fix)}</p></section>"
    )
