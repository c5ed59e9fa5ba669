"""The set-up cell and what it runs on Colab and Kaggle, without either of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

import badges  # noqa: E402
import bootstrap  # noqa: E402

WANTED = {"numpy": ">=2.0,<3", "torch": ">=2.8,<3", "trl": ">=1.16,<2"}
LOCKED = {"numpy": "2.4.6", "torch": "2.13.0", "trl": "1.16.0", "tqdm": "4.70.1"}

# Stands in for pip: notes how it was called and what it was held to.
FAKE_PIP = """
import json, os, pathlib, sys
constraints = pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text()
note = {"argv": sys.argv[1:], "constraints": constraints.split()}
pathlib.Path(os.environ["FAKE_PIP_NOTE"]).write_text(json.dumps(note))
print("first line\\nno matching distribution", file=sys.stderr)
sys.exit(int(os.environ.get("FAKE_PIP_STATUS", "0")))
"""


def test_plan_installs_what_is_absent_and_keeps_what_fits() -> None:
    plan = bootstrap.plan(WANTED, LOCKED, {"numpy": "2.0.2", "torch": "2.9.1+cu126"})
    assert plan.install == ["trl==1.16.0"]
    assert plan.constraints == [
        "numpy>=2.0.2,<=2.4.6",
        "torch==2.9.1+cu126",
        "tqdm==4.70.1",
        "trl==1.16.0",
    ]
    assert plan.unsuitable == []


def test_plan_replaces_what_is_out_of_range_but_never_torch() -> None:
    plan = bootstrap.plan(WANTED, LOCKED, {"numpy": "1.26.4", "torch": "2.5.1"})
    assert plan.install == ["numpy==2.4.6", "trl==1.16.0"]
    assert "torch==2.5.1" in plan.constraints
    assert plan.unsuitable == ["torch 2.5.1 (wanted >=2.8,<3)"]


def test_plan_takes_torch_only_where_there_is_none() -> None:
    assert "torch==2.13.0" in bootstrap.plan(WANTED, LOCKED, {}).install


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        "torchvision",
        "torchaudio",
        "triton",
        "pytorch-triton",
        "nvidia-nccl-cu12",
    ],
)
def test_plan_pins_what_belongs_to_the_gpu(name: str) -> None:
    plan = bootstrap.plan(WANTED, {**LOCKED, name: "9.9"}, {name: "1.2.3+cu9"})
    assert f"{name}=={'1.2.3+cu9'}" in plan.constraints
    assert not [line for line in plan.install if line.startswith(f"{name}=")]


def test_plan_of_a_complete_platform_is_empty() -> None:
    plan = bootstrap.plan(WANTED, LOCKED, {**LOCKED, "torch": "2.8.0"})
    assert plan.install == plan.unsuitable == []


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.10", ">=2.9", True),
        ("2.0", ">=2,<3", True),
        ("3.0.0", "<3", False),
        ("1.0", "==1", True),
        ("1.0", ">1", False),
        ("1.1", "<=1.0", False),
        ("anything", "", True),
    ],
)
def test_satisfies_compares_numbers_not_letters(version, wanted, fits) -> None:
    assert bootstrap.satisfies(version, wanted) is fits


def test_split_refuses_what_it_would_misread() -> None:
    with pytest.raises(ValueError, match="'torch; sys_platform"):
        bootstrap.split("torch; sys_platform == 'linux'")


def test_own_declarations_can_be_read_and_are_all_locked() -> None:
    declared = bootstrap.requirements((ROOT / "pyproject.toml").read_text("utf-8"))
    locked = bootstrap.pins((ROOT / "requirements.lock").read_text("utf-8"))
    assert declared["trl"].startswith(">=1.16")
    assert set(declared) <= set(locked)
    for name, wanted in declared.items():
        assert bootstrap.satisfies(locked[name], wanted), name


def test_pip_failure_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess([], 1, "", "a\nno space left\n")

    monkeypatch.setattr(bootstrap.subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="^pip could not install trl==1: no space"):
        bootstrap.pip_install(bootstrap.Plan(["trl==1"], [], []))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A git repository with the tag, as the cell's address would offer it."""
    source = tmp_path / "published"
    (source / "notebooks").mkdir(parents=True)
    for name in "notebooks/bootstrap.py", "pyproject.toml", "requirements.lock":
        (source / name).write_bytes((ROOT / name).read_bytes())
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        [*identity, "commit", "--quiet", "-m", "x"],
        ["tag", badges.repository().tag],
    ):
        subprocess.run(["git", *command], cwd=source, check=True)
    return source


def run_cell(
    folder: Path, published: Path | None, *, times: int = 1, **more: str
) -> subprocess.CompletedProcess:
    """Runs the set-up cell as a new session would, and shows where it ends."""
    stub = folder.parent / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "pip.py").write_text(FAKE_PIP, encoding="utf-8")
    where = badges.repository()
    cell = badges.setup_cell(where) + "\n"
    (folder / "cell.py").write_text(
        cell * times + "print('cwd', os.getcwd())\nprint('first', sys.path[0])\n",
        "utf-8",
    )
    hidden = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "COVERAGE_PROCESS_START"}
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    env |= {
        "PYTHONPATH": str(stub),
        "FAKE_PIP_NOTE": str(folder.parent / "note"),
        **more,
    }
    if published is not None:
        env |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{published.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": where.address,
        }
    return subprocess.run(
        [sys.executable, "cell.py"], cwd=folder, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("host", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_cell_clones_and_says_what_it_did(
    tmp_path: Path, published: Path, host
) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    done = run_cell(folder, published, **{host: "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Installed: nothing, all was there"
    name = badges.repository().name
    assert lines[-2:] == [
        f"cwd {folder / name / 'notebooks'}",
        f"first {folder / name}",
    ]
    assert not (tmp_path / "note").exists(), "pip was called for nothing"


def test_cell_can_be_run_again(tmp_path: Path, published: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    for _ in "same session", "new session":
        done = run_cell(folder, published, times=2, COLAB_RELEASE_TAG="1")
        assert done.returncode == 0, done.stderr
        name = badges.repository().name
        assert f"cwd {folder / name / 'notebooks'}\n" in done.stdout


def test_cell_has_pip_install_what_is_missing(tmp_path: Path, published: Path) -> None:
    project = published / "pyproject.toml"
    text = project.read_text("utf-8").replace('"trl>=1.16,<2"', '"absent-one>=1,<2"')
    text = text.replace('"torch>=2.8,<3"', '"torch>=90,<91"')
    project.write_text(text, "utf-8")
    lock = published / "requirements.lock"
    lock.write_text(lock.read_text("utf-8") + "absent-one==1.5\n", "utf-8")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, "commit", "-aqm", "y"], cwd=published, check=True)
    tag = badges.repository().tag
    subprocess.run(["git", "tag", "-f", tag], cwd=published, check=True, stdout=-3)
    folder = tmp_path / "session"
    folder.mkdir()
    done = run_cell(folder, published, COLAB_RELEASE_TAG="1")
    assert done.returncode == 0, done.stderr
    assert "Installed: absent-one==1.5\n" in done.stdout
    assert "Left as the platform has it: torch 2." in done.stdout
    note = json.loads((tmp_path / "note").read_text("utf-8"))
    assert note["argv"][-1] == "absent-one==1.5"
    assert [line for line in note["constraints"] if line.startswith("torch==2.")]
    failed = run_cell(folder, published, COLAB_RELEASE_TAG="1", FAKE_PIP_STATUS="1")
    assert "could not install absent-one==1.5: no matching dist" in failed.stderr


def test_cell_does_nothing_visible_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    done = run_cell(folder, None)
    assert done.stdout == f"cwd {folder}\nfirst {tmp_path}\n"
    assert done.stderr == ""


def test_replaced_packages_already_in_use_ask_for_a_restart(
    monkeypatch, capsys
) -> None:
    plan = bootstrap.Plan(["psutil==9.9", "absent-one==1"], [], [])
    monkeypatch.setattr(bootstrap, "plan", lambda *_: plan)
    monkeypatch.setattr(bootstrap, "pip_install", lambda todo: None)
    monkeypatch.setitem(sys.modules, "psutil", object())
    bootstrap.main()
    shown = capsys.readouterr().out
    assert "Already in use in an older version: psutil.\n" in shown
    assert "Restart the session once" in shown
