"""The catalogue of open instruction data and the glossary: types, doubles, sources."""

from __future__ import annotations

import csv
import datetime
import re
from collections import Counter
from pathlib import Path

import pytest

from helpers import formats

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
COLUMNS = ["name", "year", "rows", "languages", "modality", "made", "licence"]
COLUMNS += ["commercial", "format", "paper", "link", "seen_in", "checked_on"]
ALLOWED = {
    "modality": {"text", "image+text", "video+text", "image+video+text"},
    "made": {"human", "synthetic", "mixed", ""},
    "commercial": {"yes", "no", "limits", "unclear", ""},
    "seen_in": {"card", "repository", "audit", "list", "post"},
}


def read(name: str) -> list[dict[str, str]]:
    with (DATASETS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


CATALOGUE, GLOSSARY = read("catalogue.csv"), read("glossary.csv")


def doubles(values: list[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def test_the_catalogue_is_large_and_has_more_than_text() -> None:
    assert len(CATALOGUE) >= 45
    assert list(CATALOGUE[0]) == COLUMNS
    assert sum(row["modality"] != "text" for row in CATALOGUE) >= 8
    assert all(value == value.strip() for row in CATALOGUE for value in row.values())


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row["name"])
def test_each_field_is_of_its_type_or_empty(row: dict[str, str]) -> None:
    assert None not in row.values(), "too few fields"
    assert row["name"] and row["link"] and row["format"]
    assert 2018 <= int(row["year"]) <= datetime.date.today().year
    assert row["rows"] == "" or int(row["rows"]) > 0
    assert datetime.date.fromisoformat(row["checked_on"]) <= datetime.date.today()
    assert re.fullmatch(r"https://(huggingface\.co|github\.com)/\S+", row["link"])
    assert re.fullmatch(r"(https://arxiv\.org/abs/\d{4}\.\d{4,5})?", row["paper"])
    for column, values in ALLOWED.items():
        assert row[column] in values, column
    if not row["licence"]:
        assert not row["commercial"], "use is known, but not the licence"
    if "NC" in row["licence"].split("-") and " or " not in row["licence"]:
        assert row["commercial"] == "no"


def test_each_format_has_a_converter_or_says_none() -> None:
    known = {name for name, family in formats.FAMILIES.items() if family.convert}
    named = {row["format"] for row in CATALOGUE}
    assert named <= known | {"none"}
    assert len(named) >= 6, "the catalogue shows many of the converter's formats"


def test_no_dataset_stands_there_twice() -> None:
    assert doubles([row["name"].casefold() for row in CATALOGUE]) == []
    assert doubles([row["link"].casefold() for row in CATALOGUE]) == []


def test_the_glossary_defines_each_term_once_with_source_and_notebook() -> None:
    assert len(GLOSSARY) >= 40
    assert doubles([row["term"].casefold() for row in GLOSSARY]) == []
    terms = [row["term"].casefold() for row in GLOSSARY]
    assert terms == sorted(terms)
    for row in GLOSSARY:
        assert row["definition"].endswith(".") and len(row["definition"]) < 160
        assert re.fullmatch(r"https://\S+", row["source"]), row["term"]
        assert re.fullmatch(r"0\d|10", row["notebook"]), row["term"]


def test_every_technique_of_the_comparison_is_in_the_glossary() -> None:
    terms = {row["term"].casefold() for row in GLOSSARY}
    assert terms >= {
        "pre-training",
        "adaptive tuning",
        "fine-tuning",
        "zero-shot",
        "few-shot prompt",
        "instruction tuning",
        "qlora",
        "lora",
        "prompt tuning",
        "prefix tuning",
        "ia3",
    }
