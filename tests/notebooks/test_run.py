"""The runner: on two small notebooks, on a failing one, and under Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

import run  # noqa: E402

GOOD = ["print('RESULT: first')", "print('RESULT: 90% right')\n1 + 1", ""]
BAD = ["x = 1", "raise ValueError('no such\\nrow')", "print('RESULT: never')"]
SLOW = ["import time\nopen('started', 'w').close()\ntime.sleep(120)"]


def write(path: Path, sources: list[str]) -> Path:
    cells = [
        nbformat.v4.new_code_cell(source, id=f"c{i}")
        for i, source in enumerate(sources)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int, bytes]:
    """A run with --update, one good and one bad: folder, text, status, bad file."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder / "00_good.ipynb", GOOD)
    before = write(folder / "01_bad.ipynb", BAD).read_bytes()
    done = subprocess.run(
        command(folder, "--update"), capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    return folder, done.stdout, done.returncode, before


def command(folder: Path, *options: str) -> list[str]:
    script = str(ROOT / "notebooks" / "run.py")
    where = ["--folder", str(folder), "--output", str(folder / "build")]
    return [sys.executable, script, *where, *options]


def test_every_notebook_runs_although_one_fails(finished) -> None:
    folder, text, status, _ = finished
    assert status == 1
    assert re.search(r"^00_good  \d+ s  ok  90% right$", text, re.M)
    assert re.search(
        r"^01_bad  \d+ s  FAILED in code cell 2 of 3: ValueError", text, re.M
    )
    for name in "00_good", "01_bad":
        assert "<html" in (folder / "build" / f"{name}.html").read_text("utf-8")


def test_closing_table_and_failure_name_notebook_and_cell(finished) -> None:
    _, text, _, _ = finished
    row = re.search(r"^00_good +\d+ +([\d,]+) MiB  ok +90% right$", text, re.M)
    assert row and int(row[1].replace(",", "")) > 20
    assert re.search(r"^01_bad +\d+ +[\d,]+ MiB  failed +-$", text, re.M)
    assert text.rstrip().endswith(
        "failed: 01_bad.ipynb, code cell 2 of 3: ValueError: no such"
    )


def test_update_stores_outputs_of_the_good_and_leaves_the_bad(finished) -> None:
    folder, _, _, before = finished
    good = nbformat.read(folder / "00_good.ipynb", as_version=4)
    assert [cell.execution_count for cell in good.cells] == [1, 2, None]
    assert good.cells[1].outputs[0].text == "RESULT: 90% right\n"
    assert good.metadata.language_info == {"name": "python"}
    assert (folder / "01_bad.ipynb").read_bytes() == before
    assert not list(folder.glob(".*")) and not list((folder / "build").glob(".*"))


def test_interrupt_ends_the_kernel_and_changes_no_file(tmp_path: Path) -> None:
    path = write(tmp_path / "00_slow.ipynb", SLOW)
    before = path.read_bytes()
    runner = subprocess.Popen(
        command(tmp_path, "--update"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # a shell's background job ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(runner.pid).children(recursive=True)
    assert children, "the kernel did not start"
    runner.send_signal(signal.SIGINT)
    text, _ = runner.communicate(timeout=30)
    assert runner.returncode == 130
    assert b"interrupted" in text and b"Traceback" not in text
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00_slow.ipynb", "started"]


def test_storing_is_all_or_nothing(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "00_good.ipynb", GOOD)
    before = path.read_bytes()

    def full_disk(self: Path, text: str, **options: object) -> None:
        with self.open("w", **options) as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.store(nbformat.read(path, as_version=4), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["00_good.ipynb"]


def test_full_disk_is_that_notebooks_problem(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "00_good.ipynb", GOOD)
    notebook = nbformat.read(path, as_version=4)
    outcome = run.Outcome("00_good", 1.0, 0, "", None)
    monkeypatch.setattr(run, "execute", lambda *_, **__: (notebook, outcome))

    def full_disk(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_atomically", full_disk)
    after = run.run_one(path, env={}, output=tmp_path, update=True)
    assert after.problem == (
        "its output could not be written: [Errno 28] No space left on device"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nbformat": 4}', "\xff"])
def test_file_that_is_no_notebook_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "00_broken.ipynb"
    path.write_text(content, encoding="latin-1")
    outcome = run.run_one(path, env={}, output=tmp_path, update=True)
    assert outcome.problem is not None
    assert "00_broken.ipynb is no notebook" in outcome.problem
    assert path.read_text(encoding="latin-1") == content


def test_dead_kernel_is_told_from_a_failing_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "00_dies.ipynb", ["1", "import os\nos._exit(1)"])
    env = run.kernel_environment(os.environ)
    outcome = run.run_one(path, env=env, output=tmp_path / "build", update=True)
    assert outcome.problem == (
        "code cell 2 of 2: the kernel died; was there enough memory?"
    )


def test_find_takes_numbers_stems_and_paths(tmp_path: Path) -> None:
    for name in "00_map", "01_start", "05_tuning":
        write(tmp_path / f"{name}.ipynb", [])
    write(tmp_path / "draft.ipynb", [])

    def stems(*names: str) -> list[str]:
        return [path.stem for path in run.find(names, folder=tmp_path)]

    assert stems() == ["00_map", "01_start", "05_tuning"]
    assert stems("05", "00_map") == ["00_map", "05_tuning"]
    assert stems("notebooks/01_start.ipynb") == ["01_start"]
    with pytest.raises(LookupError, match="begins with '07'; there are: 00_map"):
        stems("07")


def test_nothing_to_run_is_a_usage_error(tmp_path: Path, capsys) -> None:
    assert run.main(["--folder", str(tmp_path)]) == 2
    assert "no notebook NN_*.ipynb" in capsys.readouterr().err


def test_kernel_is_offline_unless_the_model_is_a_hub_id(tmp_path: Path) -> None:
    assert run.kernel_environment({})["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in run.kernel_environment({"MODEL": "owner/name"})
    local = run.kernel_environment({"MODEL": os.path.relpath(tmp_path)})
    assert local["HF_HUB_OFFLINE"] == "1"
    assert local["MODEL"] == str(tmp_path.resolve())
    assert run.kernel_environment({"HF_HUB_OFFLINE": "0"})["HF_HUB_OFFLINE"] == "0"
    assert run.kernel_environment({"PYTHONHASHSEED": "7"})["PYTHONHASHSEED"] == "7"


def test_clean_removes_bars_widgets_times_and_paths() -> None:
    new = nbformat.v4
    root, home = Path("/r/project"), Path("/h/me")
    outputs = [
        new.new_output("stream", text="  0%|   | 0/9\r100%|###| 9/9 [1.0s/it]\n"),
        new.new_output("stream", text="kept\n50%|##  | 1/2 [2it/s]\nat 50%\n"),
        new.new_output("stream", text="/r/project/a.py /h/me/b /x/ipykernel_1/2.py:3"),
        new.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {}}
        ),
        new.new_output("display_data", {"text/html": "<progress value=1>"}),
        new.new_output(
            "display_data", {"text/plain": "/h/me/x", "image/jpeg": "/h/me/"}
        ),
        new.new_output("stream", text="\n"),
    ]
    cell = new.new_code_cell("1", outputs=outputs, metadata={"execution": {"t": "1"}})
    notebook = new.new_notebook(cells=[cell], metadata={"widgets": {}, "kept": 1})
    run.clean(notebook, root=root, home=home)
    texts = [o.text for o in cell.outputs if o.output_type == "stream"]
    assert texts == ["kept\nat 50%\n", "a.py ~/b cell:3", "\n"]
    shown = [o.data for o in cell.outputs if o.output_type == "display_data"]
    assert shown == [{"text/plain": "~/x", "image/jpeg": "/h/me/"}]
    assert "execution" not in cell.metadata
    assert "widgets" not in notebook.metadata and notebook.metadata.kept == 1


def test_progress_is_shown_on_a_terminal_only(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def fake(path: Path, *, progress, **options: object) -> run.Outcome:
        if progress:
            progress(path.stem, 1.0, 0, 9)
            progress(path.stem, 2.0, 3, 9)
        return run.Outcome(path.stem, 2.4, 2**20, "", None)

    monkeypatch.setattr(run, "run_one", fake)
    run.run([tmp_path / "00_map.ipynb"], output=tmp_path, update=False)
    assert capsys.readouterr().out == "00_map  2 s  ok\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run.run([tmp_path / "00_map.ipynb"], output=tmp_path, update=False)
    shown = capsys.readouterr().out
    assert "00_map  1 s  starting the kernel" in shown
    assert "00_map  2 s  cell 3 of 9" in shown
    assert shown.endswith("\r\033[K00_map  2 s  ok\n")


def test_check_sees_an_output_that_no_longer_repeats(tmp_path: Path, capfd) -> None:
    cells = [
        nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(1)", execution_count=1),
        nbformat.v4.new_code_cell("print(2)", execution_count=2),
    ]
    path = tmp_path / "00_map.ipynb"
    for stored, other, status in ("1\n", "0\n", 0), ("9\n", "2\n", 1):
        cells[0].outputs = [nbformat.v4.new_output("stream", text=stored)]
        cells[1].outputs = [nbformat.v4.new_output("stream", text=other)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        assert run.main(["--folder", str(tmp_path), "--check"]) == status
    assert "1 failed, 1 passed" in capfd.readouterr().out
    assert json.loads(path.read_text("utf-8"))["cells"][0]["outputs"]


def test_a_picture_is_kept_in_few_colours() -> None:
    import base64
    import io

    from PIL import Image

    image = Image.effect_noise((80, 60), 90).convert("RGBA")
    whole = io.BytesIO()
    image.save(whole, "PNG")
    small = run.in_few_colours(base64.b64encode(whole.getvalue()).decode("ascii"))
    again = Image.open(io.BytesIO(base64.b64decode(small)))
    assert again.size == image.size
    assert len(again.getcolors()) <= 64
    assert len(base64.b64decode(small)) < len(whole.getvalue())
    assert run.in_few_colours(small) == small
