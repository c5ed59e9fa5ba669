"""Every number that README and cards show stands in a record, and records are whole."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECORDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
}
MARKED = re.compile(r"<!-- from (\w+) -->")
BLOCK = re.compile(r"<!-- from \w+ -->.*?<!-- /from -->", re.DOTALL)


def test_there_are_records() -> None:
    assert {"base", "notebooks", "speed_training"} <= set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_how_where_and_when(name: str) -> None:
    record = RECORDS[name]
    for fact in ("rows", "command", "date", "hardware", "python", "versions"):
        assert record[fact], fact
    for row in record["rows"]:
        assert "value" in row or "seconds" in row
        if "low" in row:
            assert row["low"] <= row["value"] <= row["high"]
        if "per_seed" in row:
            # Fewer than five only where the record itself says so.
            least = record.get("budget", {}).get("seeds", 5)
            assert len(row["per_seed"]) == len(row["seeds"]) >= min(5, least)


def test_the_readmes_tables_are_what_the_records_say() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import figures

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(MARKED.findall(readme)) == set(figures.TABLES)
    assert figures.filled(readme) == readme


def test_no_percentage_stands_in_the_readme_outside_those_tables() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = BLOCK.sub("", readme)
    assert not re.findall(r"\d+(?:\.\d+)? ?%", prose)


def test_a_table_says_when_its_record_is_of_another_base(monkeypatch, tmp_path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import figures

    for name, known in {
        "ours": RECORDS["base"]["model_sha256"],
        "other": "0" * 64,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"model_sha256": known}))
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert figures.age("ours") == figures.age("absent") == ""
    assert "an earlier base (00000000)" in figures.age("other")
