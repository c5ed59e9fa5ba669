"""The repository's shape: clean notebooks, the README's table, no machine's traces."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDTH = 88
SETUP_MARK = "# Set-up: "

# Written so that this file does not match its own patterns.
MACHINE_PATH = re.compile(
    r"(?<![\w.:~*}\])-])/(?:root|home|work|tmp|opt|mnt|Users|private)/[\w.]"
)
REGISTRY = re.compile(
    r"pypi\.(?:org)|python(?:hosted)\.org|download\.(?:pytorch)\.org"
    r"|--(?:extra-)?index-(?:url)"
)
TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[\w-]{20,})"
)
WARNING = re.compile(r"\b\w*Warning\b|\bDEPRECATED\b|Traceback \(most recent call")
PROGRESS = re.compile(r"\d+%\||\r|\bit/s\b|\bs/it\b|<progress ")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(output: NotebookNode) -> str:
    """All that an output says as text: stream, error, text/*."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join([output.ename, output.evalue, *output.traceback])
    data = output.data.items()
    return "\n".join(str(text) for kind, text in data if kind.startswith("text/"))


def faults_of_outputs(notebook: NotebookNode) -> list[str]:
    faults = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            text = shown(output)
            found = {
                "a warning": WARNING.search(text),
                "a progress bar": PROGRESS.search(text),
                "a token": TOKEN.search(text),
                "a machine's path": MACHINE_PATH.search(text),
                "output on stderr": output.get("name") == "stderr",
                "an error": output.output_type == "error",
                "a widget": any("widget" in kind for kind in output.get("data", {})),
            }
            faults += [
                f"cell {number} shows {what}" for what, hit in found.items() if hit
            ]
    if "widgets" in notebook.metadata:
        faults.append("the metadata keeps widgets")
    return faults


def faults_of_execution(notebook: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"execution counts are {counts}, not 1 to {len(counts)} of one run"]
    return []


def faults_of_length(notebook: NotebookNode) -> list[str]:
    sources = [cell.source for cell in code_cells(notebook)]
    own = [text for text in sources if not text.startswith(SETUP_MARK)]
    lengths = sorted(len(text.splitlines()) for text in own)
    if not lengths:
        return []
    nine_tenths = lengths[int(0.9 * (len(lengths) - 1))]
    faults = []
    if statistics.median(lengths) > 6:
        faults.append(f"the median cell has {statistics.median(lengths)} lines, over 6")
    if nine_tenths > 15:
        faults.append(
            f"nine tenths of the cells have up to {nine_tenths} lines, over 15"
        )
    if lengths[-1] > 30:
        faults.append(f"the longest cell has {lengths[-1]} lines, over 30")
    for text in sources:
        wide = [line for line in text.splitlines() if len(line) > WIDTH]
        faults += [f"a code line is wider than {WIDTH}: {line[:60]}" for line in wide]
    return faults


def faults_of_teaching(notebook: NotebookNode) -> list[str]:
    first = notebook.cells[0]
    faults = []
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        faults.append("the first cell is no Markdown with a title")
    own = [c for c in code_cells(notebook) if not c.source.startswith(SETUP_MARK)]
    if not own:
        return faults
    if not any(re.search(r"^\s*assert\b", cell.source, re.M) for cell in own):
        faults.append("no cell asserts anything")
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    if not re.search(r"^#+ .*exercise", prose, re.M | re.I):
        faults.append("no heading names an exercise")
    return faults


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def test_notebook_is_named_and_small(path: Path) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    assert path.stat().st_size <= 500_000


def test_notebook_is_valid(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)


def test_notebook_was_run_once_from_top_to_bottom(notebook: NotebookNode) -> None:
    assert faults_of_execution(notebook) == []


def test_notebook_outputs_are_clean(notebook: NotebookNode) -> None:
    assert faults_of_outputs(notebook) == []


def test_notebook_cells_are_short(notebook: NotebookNode) -> None:
    assert faults_of_length(notebook) == []


def test_notebook_asserts_and_has_exercises(notebook: NotebookNode) -> None:
    assert faults_of_teaching(notebook) == []


def test_notebooks_have_different_numbers() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


def test_badges_and_set_up_cells_are_current() -> None:
    if not NOTEBOOKS:
        pytest.skip("there is no notebook yet")
    script = ROOT / "notebooks" / "badges.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def bad_notebook() -> NotebookNode:
    """A notebook with every fault that the rules above know."""
    new = nbformat.v4
    outputs = [
        new.new_output("stream", name="stderr", text="UserWarning: old\n"),
        new.new_output("stream", text="10%|#    | 1/10 [00:01, 3.0it/s]"),
        new.new_output("stream", text="hf_" + "a" * 30),
        new.new_output("stream", text="/".join(["saved in ", "home", "me", "x"])),
        new.new_output("error", ename="ValueError", evalue="no", traceback=[]),
        new.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {}}
        ),
    ]
    cell = new.new_code_cell("x = 1\n" * 40 + "y = " + "1" * 90, outputs=outputs)
    return new.new_notebook(cells=[cell], metadata={"widgets": {}})


def test_rules_find_every_fault_of_a_bad_notebook() -> None:
    bad = bad_notebook()
    outputs = faults_of_outputs(bad)
    for what in "warning", "progress bar", "token", "path", "stderr", "error", "widget":
        assert any(what in fault for fault in outputs), what
    assert "the metadata keeps widgets" in outputs
    assert "[None], not 1 to 1" in faults_of_execution(bad)[0]
    assert [f.split()[1] for f in faults_of_length(bad)] == [
        "median",
        "tenths",
        "longest",
        "code",
    ]
    assert len(faults_of_teaching(bad)) == 3


def test_rules_pass_a_good_notebook() -> None:
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Title"),
        new.new_code_cell("assert 1 + 1 == 2\nprint(2)", execution_count=1),
        new.new_markdown_cell("## Exercises"),
    ]
    cells[1].outputs = [new.new_output("stream", text="2 of 100% at a/home/b\n")]
    good = new.new_notebook(cells=cells)
    assert faults_of_outputs(good) == []
    assert faults_of_execution(good) == []
    assert faults_of_length(good) == []
    assert faults_of_teaching(good) == []


def test_readme_lists_every_notebook_in_a_table() -> None:
    rows = [
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    for path in NOTEBOOKS:
        assert any(f"(notebooks/{path.name})" in row for row in rows), path.name


def test_readme_links_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?://", target):
            assert (ROOT / target).exists(), target


def test_datasets_folder_never_hides_the_library_of_that_name() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()
    import datasets

    assert hasattr(datasets, "load_dataset")


def tracked_text() -> dict[str, str]:
    """The tracked and the not yet tracked files that are text, by relative path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content[:8192]:
            texts[name] = content.decode("utf-8", errors="replace")
    return texts


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{name}: {match[0]}"
        for name, text in tracked_text().items()
        for pattern in (MACHINE_PATH, REGISTRY, TOKEN)
        for match in pattern.finditer(text)
    ]
    assert found == []


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "only pins"
    pairs = (line.split("==") for line in lines)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_lock_is_exact_and_holds_every_declared_dependency() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    pins = locked()
    for declared in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        requirement = Requirement(declared)
        assert requirement.specifier.contains(pins[requirement.name]), declared
    assert pins["torch"] == "2.13.0"
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-"))]


def test_make_has_the_documented_targets() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", text, re.M))
    documented = "run test test-quick lab data base bench bench-techniques badges help"
    assert targets == set(documented.split())
