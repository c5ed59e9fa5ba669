"""The committed rows and the pre-training text, read or drawn once for all tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
# The builders are scripts beside their data, and must not become a package: a package
# of that name would hide the library. So their folder stands on the path.
for folder in (Path(__file__).parent, DATASETS):
    sys.path.insert(0, str(folder))

DOCUMENTS = {"read": 100_000, "practice": 30_000, "refine": 30_000}


@pytest.fixture(scope="session")
def general() -> dict[str, list[dict]]:
    """The committed documents: `sample` and `heldout`."""
    return read("general")


@pytest.fixture(scope="session")
def irony() -> dict[str, list[dict]]:
    """The tone rows by split, `written` among them."""
    return read("irony")


@pytest.fixture(scope="session")
def instructions() -> dict[str, list[dict]]:
    """The instruction rows by split."""
    return read("instructions")


@pytest.fixture(scope="session")
def entities() -> dict[str, list[dict]]:
    """The tagged rows by split."""
    return read("entities")


@pytest.fixture(scope="session")
def domains() -> dict[str, list[str]]:
    """The whole text to train on of comics and of recipes."""
    import build

    return {
        name: list(make(count, seed=build.SEED))
        for name, (make, count) in build.DOMAINS.items()
    }


def read(name: str) -> dict[str, list[dict]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted((DATASETS / name).glob("*.jsonl"))
    }


@pytest.fixture(scope="session")
def parts() -> dict[str, list[str]]:
    """The first documents of each part of what the shipped base reads."""
    import build
    import make_general

    return {
        part: list(make_general.documents(count, seed=build.SEED, part=part))
        for part, count in DOCUMENTS.items()
    }


@pytest.fixture(scope="session")
def documents(parts: dict[str, list[str]]) -> list[str]:
    """Documents of all parts of what the shipped base reads, in their order."""
    return [text for found in parts.values() for text in found]
