"""Draws the README's picture and its tables from the records.

    python benchmarks/figures.py            # after `make bench` or a new record

The README's tables stand between markers that name their record; what is drawn or
written there comes from the record alone.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers import views  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SPLITS = ("new_rows", "new_wordings", "new_combinations", "held_out")


def rows_of(name: str) -> list[dict]:
    """Returns a record's rows."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def percent(row: dict) -> str:
    """Returns a row's value and interval in percent."""
    return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]".replace("%", "")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def instruction_table() -> str:
    """Returns exact match by technique and test, in percent with intervals."""
    found: dict[str, dict[str, str]] = {}
    for row in rows_of("instruction_tuning"):
        if row["metric"] == "exact match":
            found.setdefault(row["technique"], {})[row["split"]] = percent(row)
    header = ["", *(split.replace("_", " ") for split in SPLITS)]
    return table(
        header, [[name, *(by[s] for s in SPLITS)] for name, by in found.items()]
    )


def notebooks_table() -> str:
    """Returns the table of notebooks with their measured time and memory."""
    return table(
        ["notebook", "question it answers", "seconds", "peak MB"],
        [
            [
                f"[{row['notebook'].removesuffix('.ipynb')}](notebooks/{row['notebook']})",
                row["question"],
                f"{row['seconds']:.0f}",
                f"{row['peak_megabytes']:.0f}",
            ]
            for row in rows_of("notebooks")
        ],
    )


def speed_table() -> str:
    """Returns the pairs of the speed records."""
    lines = []
    for what in ("encoding", "training", "answers", "imports"):
        for row in rows_of(f"speed_{what}"):
            lines.append(
                [
                    row["what"].rstrip("."),
                    f"{row['value']:,.1f} {row['metric']}",
                    f"{row['times_ours']:.2f} [{row['times_ours_low']:.2f}, "
                    f"{row['times_ours_high']:.2f}]",
                    f"{row['peak_megabytes']:,.0f}",
                ]
            )
    return table(["", "speed", "time, ours = 1 [min, max]", "peak MB"], lines)


TABLES = {
    "instruction_tuning": instruction_table,
    "notebooks": notebooks_table,
    "speed": speed_table,
}


def filled(readme: str) -> str:
    """Returns the README's text with each marked table made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- from {name} -->\n).*?(\n<!-- /from -->)"
        readme = re.sub(
            pattern, lambda m, t=make(): m[1] + t + m[2], readme, flags=re.DOTALL
        )
    return readme


def picture() -> None:
    """Draws exact match of the full tuning and of the baselines."""
    order = ("full tuning", "LoRA r 16", "majority answer", "untuned base")
    rows = [row for row in rows_of("instruction_tuning") if row["metric"] == "exact match"]
    bars = [
        (
            f"{row['technique']}, {row['split'].replace('_', ' ')}",
            row["value"],
            row["low"],
            row["high"],
        )
        for technique in order
        for row in rows
        if row["technique"] == technique
    ]
    figure = views.interval_plot(
        bars, x_label="exact match (%)", title="Instruction tuning a 2 M LLaMA"
    )
    figure.savefig(RESULTS / "instruction_tuning.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    picture()
