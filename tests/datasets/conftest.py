"""The committed rows and the pre-training text, read or drawn once for all tests."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
# The builders are scripts beside their data, and must not become a package: a package
# of that name would hide the library. So their folder stands on the path.
for folder in (Path(__file__).parent, DATASETS):
    sys.path.insert(0, str(folder))

DOCUMENTS = 100_000
PRACTISED = 30_000


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
def practised() -> list[str]:
    """Documents of the second part of what the shipped base reads."""
    import build
    import make_general

    drawn = make_general.documents(
        build.PRACTICE_DOCUMENTS, seed=build.SEED, practice=True
    )
    return list(islice(drawn, PRACTISED))


@pytest.fixture(scope="session")
def documents(practised: list[str]) -> list[str]:
    """Documents of both parts of what the shipped base reads, the first part first."""
    import build
    import make_general

    drawn = make_general.documents(build.DOCUMENTS, seed=build.SEED)
    return [*islice(drawn, DOCUMENTS), *practised]
