"""Install, on Colab or Kaggle, what the notebooks need and the platform lacks.

The notebooks' first cell runs this after it cloned the repository; see `badges.py`.
What the platform brings in a suitable version stays, and torch with its CUDA
packages stays in any version: replacing those would break the GPU. The rest comes
in the versions of `requirements.lock`.

Only the standard library is used, since nothing else is sure to be there.
"""

import importlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = re.compile(r"(torch(audio|vision)?|(pytorch-)?triton|(nvidia|cuda)-.*)\Z")
COMPARISONS = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


@dataclass(frozen=True)
class Plan:
    """What to ask of pip.

    Attributes:
        install: Requirements such as "trl==1.16.0"; empty if nothing is missing.
        constraints: Lines for pip's `--constraint`.
        unsuitable: Packages of the platform that stay although their version is
            outside the declared range, such as "torch 2.5.1 (wanted >=2.8,<3)".
    """

    install: list[str]
    constraints: list[str]
    unsuitable: list[str]


def normalise(name: str) -> str:
    """Returns a distribution's name as registries compare it.

    >>> normalise("Rouge_Score")
    'rouge-score'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def split(requirement: str) -> tuple[str, str]:
    """Splits a requirement into its normalised name and its version range.

    >>> split("rouge_score>=0.1.2,<0.2")
    ('rouge-score', '>=0.1.2,<0.2')

    Raises:
        ValueError: If it has extras, a marker or an operator not understood here.
    """
    match = re.fullmatch(r"([\w.-]*\w)\s*((?:[<>=]=?\s*[\w.]+,?\s*)*)", requirement)
    if match is None:
        raise ValueError(f"requirement '{requirement}' is not NAME and plain ranges")
    return normalise(match[1]), match[2].replace(" ", "")


def release(version: str) -> tuple[int, ...]:
    """Returns a version's leading numbers, without closing zeros, to compare.

    >>> release("2.13.0+cu126"), release("5.0rc1")
    ((2, 13), (5,))
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def satisfies(version: str, wanted: str) -> bool:
    """Tells whether a version lies in a range; an empty range takes all.

    >>> satisfies("2.9.1+cu126", ">=2.8,<3"), satisfies("3.0", ">=2.8,<3")
    (True, False)
    """
    for clause in filter(None, wanted.split(",")):
        operator, bound = re.fullmatch(r"([<>=]+)(.+)", clause).groups()
        if not COMPARISONS[operator](release(version), release(bound)):
            return False
    return True


def requirements(pyproject: str) -> dict[str, str]:
    """Reads the declared dependencies out of `pyproject.toml`'s text.

    Returns:
        The range of each, such as {"trl": ">=1.16,<2"}.
    """
    declared = tomllib.loads(pyproject)["project"]["dependencies"]
    return dict(split(requirement) for requirement in declared)


def pins(lock: str) -> dict[str, str]:
    """Reads the exact versions out of `requirements.lock`'s text."""
    lines = (line.split("#")[0].strip() for line in lock.splitlines())
    split_lines = (line.partition("==") for line in lines if line)
    return {normalise(name): version for name, _, version in split_lines}


def plan(
    wanted: Mapping[str, str], locked: Mapping[str, str], installed: Mapping[str, str]
) -> Plan:
    """Decides what to install beside what a platform has.

    A declared dependency is installed, in its locked version, if it is absent or out
    of range. What those bring along comes in the locked version if it is absent, and
    otherwise stays or moves no further than to the locked version. Torch and CUDA
    packages that are there are pinned to what they are.

    Args:
        wanted: Declared ranges by name.
        locked: Exact versions by name.
        installed: The platform's versions by name.
    """
    install, unsuitable = [], []
    for name, wanted_range in sorted(wanted.items()):
        have = installed.get(name)
        if have is not None and satisfies(have, wanted_range):
            continue
        if have is not None and PLATFORM.match(name):
            unsuitable.append(f"{name} {have} (wanted {wanted_range})")
            continue
        install.append(f"{name}=={locked[name]}")
    constraints = [
        f"{name}=={version}"
        for name, version in installed.items()
        if PLATFORM.match(name)
    ]
    for name, version in locked.items():
        have = installed.get(name)
        if have is None:
            constraints.append(f"{name}=={version}")
        elif not PLATFORM.match(name):
            low, high = sorted([have.split("+")[0], version], key=release)
            constraints.append(f"{name}>={low},<={high}")
    return Plan(install, sorted(constraints), unsuitable)


def pip_install(todo: Plan) -> None:
    """Has pip carry out a plan.

    Raises:
        RuntimeError: With pip's last words, if it could not.
    """
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(todo.constraints) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        done = subprocess.run(
            [*pip, "--constraint", str(constraints), *todo.install],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it gave no reason"]
        names = ", ".join(todo.install)
        raise RuntimeError(f"pip could not install {names}: {words[-1]}")
    importlib.invalidate_caches()


def main() -> None:
    """Installs what is missing and prints what was done, in a line or two."""
    declared = requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locked = pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    installed = {normalise(d.name): d.version for d in distributions()}
    todo = plan(declared, locked, installed)
    if todo.install:
        pip_install(todo)
    print("Installed:", ", ".join(todo.install) or "nothing, all was there")
    for package in todo.unsuitable:
        print(f"Left as the platform has it: {package}")
    names = [requirement.partition("==")[0] for requirement in todo.install]
    replaced = [name for name in names if name in installed]
    stale = [name for name in replaced if name.replace("-", "_") in sys.modules]
    if stale:
        print(f"Already in use in an older version: {', '.join(stale)}.")
        print("Restart the session once, then run this cell again.")


if __name__ == "__main__":
    main()
