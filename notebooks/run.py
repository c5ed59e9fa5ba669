"""Run the notebooks from top to bottom, each in a fresh kernel.

    python notebooks/run.py             all of them, as HTML into build/
    python notebooks/run.py 05 08       those two
    python notebooks/run.py --update    and store the outputs, times and memory
    python notebooks/run.py --check     nbval: cells marked to repeat must repeat

A notebook is replaced only by `--update`, only after it ran to its end, and by a
rename: an interrupted run leaves every file as it was. Its headline in the closing
table is the last line it printed that starts with `RESULT: `.

Exit status: 0 all ran, 1 one failed, 2 nothing to run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode, ValidationError
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
HEADLINE = "RESULT: "
POLL_SECONDS = 0.1  # between two looks at the kernel's memory

# Defaults of the kernel's environment; what the caller has set wins.
ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else a warning about frozen modules
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\bit/s\b|\bs/it\b")
CELL_FILE = re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py")
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Outcome:
    """What one notebook's run came to.

    Attributes:
        name: The notebook's file name without its ending.
        seconds: Wall-clock time, the kernel's start included.
        peak_bytes: Largest sum of resident memory over the kernel and its children.
        headline: The text after the last printed `RESULT: `, or nothing.
        problem: Which cell failed and how, in one sentence; None if all ran.
    """

    name: str
    seconds: float
    peak_bytes: int
    headline: str
    problem: str | None


class Execution(threading.Thread):
    """One notebook's run in a thread of its own.

    The main thread stays free to show progress, to sample memory and to receive
    Ctrl-C, which nbclient would otherwise swallow. `notebook` fills while it runs.
    """

    def __init__(self, notebook: NotebookNode, *, env: Mapping[str, str], cwd: Path):
        """Prepares the run; `start` begins it.

        Args:
            notebook: The notebook, changed in place.
            env: The kernel's whole environment.
            cwd: The folder that the kernel works in.
        """
        super().__init__(daemon=True)
        self.notebook = notebook
        self.code_cells = [
            index for index, cell in enumerate(notebook.cells) if runs(cell)
        ]
        self.reached = 0  # code cells begun so far
        self.error: BaseException | None = None
        self._start_options = {"env": dict(env), "cwd": str(cwd)}
        self._client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            # Else every kernel warns that its sockets are not encrypted.
            config=Config(KernelManager={"transport_encryption": "auto"}),
            on_cell_execute=self._on_cell_execute,
        )

    def _on_cell_execute(self, cell: NotebookNode, cell_index: int) -> None:
        self.reached = self.code_cells.index(cell_index) + 1

    def run(self) -> None:
        """Executes the cells; an exception is kept in `error`."""
        try:
            asyncio.run(self._client.async_execute(**self._start_options))
        except BaseException as error:
            self.error = error

    def processes(self) -> list[psutil.Process]:
        """Returns the kernel and all its descendants, none before it started."""
        pid = getattr(getattr(self._client.km, "provisioner", None), "pid", None)
        try:
            kernel = psutil.Process(pid) if pid else None
            return [kernel, *kernel.children(recursive=True)] if kernel else []
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        """Ends the kernel and its descendants at once."""
        doomed = self.processes()
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(doomed, timeout=5)
        self.join(timeout=10)


def runs(cell: NotebookNode) -> bool:
    """Tells whether a cell is one that a kernel executes."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def find(names: Sequence[str] = (), *, folder: Path = FOLDER) -> list[Path]:
    """Returns the notebooks to run, in the order of their numbers.

    Args:
        names: Numbers, stems or paths such as "05", "05_instruction_tuning" or
            "notebooks/05_instruction_tuning.ipynb"; all notebooks if empty.
        folder: Where the notebooks are.

    Raises:
        LookupError: If a name fits no notebook, or there is none at all.
    """
    known = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not known:
        raise LookupError(f"no notebook NN_*.ipynb in {folder}; nothing to run")
    if not names:
        return known
    chosen: set[Path] = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        fitting = [path for path in known if stem and path.stem.startswith(stem)]
        if not fitting:
            have = ", ".join(path.stem for path in known)
            raise LookupError(f"no notebook begins with '{name}'; there are: {have}")
        chosen.update(fitting)
    return sorted(chosen)


def kernel_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment that a kernel gets: the caller's, with our defaults.

    `MODEL` (a folder or a Hub id) may come from the caller. A folder is made
    absolute, since a kernel works in another folder; and unless `MODEL` is a Hub id
    the Hub is switched off, so that no cell can reach for it unseen.
    """
    env = {**ENVIRONMENT, **environ}
    model = env.get("MODEL", "")
    is_folder = bool(model) and Path(model).is_dir()
    if is_folder:
        env["MODEL"] = str(Path(model).resolve())
    if is_folder or not model:
        env.setdefault("HF_HUB_OFFLINE", "1")
    return env


def memory(processes: Sequence[psutil.Process]) -> int:
    """Returns the resident bytes of the processes; pages they share count twice."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def headline(notebook: NotebookNode) -> str:
    """Returns what follows the last `RESULT: ` at a line's start on stdout."""
    found = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                for line in output.text.splitlines():
                    if line.startswith(HEADLINE):
                        found = line.removeprefix(HEADLINE).strip()
    return found


def describe(execution: Execution) -> str | None:
    """Says in one sentence which cell failed and how; None if none did."""
    error = execution.error
    if error is None:
        return None
    place = f"code cell {execution.reached} of {len(execution.code_cells)}"
    if not execution.reached:
        place = "before the first cell"
    if isinstance(error, CellExecutionError):
        first_line = (error.evalue or "").strip().split("\n")[0]
        return f"{place}: {error.ename}: {first_line}"
    if isinstance(error, DeadKernelError):
        return f"{place}: the kernel died; was there enough memory?"
    return f"{place}: {type(error).__name__}: {error}"


def execute(
    path: Path,
    *,
    env: Mapping[str, str],
    progress: Callable[[str, float, int, int], None] | None = None,
) -> tuple[NotebookNode, Outcome]:
    """Executes one notebook in a fresh kernel; its file is only read.

    Args:
        path: The notebook; its kernel works in the folder it lies in.
        env: The kernel's whole environment.
        progress: Called about ten times a second with the notebook's name, the
            seconds so far, the code cell now running (from 1) and their number.

    Returns:
        The executed notebook (up to the failing cell, if one fails) and its outcome.

    Raises:
        KeyboardInterrupt: On Ctrl-C, after the kernel was ended.
        ValueError: If the file is no notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no notebook that can be read: {reason}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    execution = Execution(notebook, env=env, cwd=path.parent)
    begun, peak = time.monotonic(), 0
    try:
        execution.start()
        while execution.is_alive():
            execution.join(POLL_SECONDS)
            peak = max(peak, memory(execution.processes()))
            if progress is not None:
                seconds, cells = time.monotonic() - begun, len(execution.code_cells)
                progress(path.stem, seconds, execution.reached, cells)
    except BaseException:
        execution.stop()
        raise
    return notebook, Outcome(
        name=path.stem,
        seconds=time.monotonic() - begun,
        peak_bytes=peak,
        headline=headline(notebook),
        problem=describe(execution),
    )


def clean(
    notebook: NotebookNode, *, root: Path = ROOT, home: Path | None = None
) -> None:
    """Removes from a notebook, in place, what would differ on another machine.

    Progress bars, widgets and timestamps go; paths under the repository become
    relative, those under the home folder begin with `~`, and the file that a kernel
    makes up for a cell becomes `cell`. Pictures take 64 colours.

    Args:
        notebook: An executed notebook.
        root: The repository's folder.
        home: The user's folder; theirs by default.
    """
    folders = [(root, ""), (home or Path.home(), f"~{os.sep}")]

    def neutral(text: str) -> str:
        for folder, short in folders:
            text = text.replace(f"{folder}{os.sep}", short)
        return CELL_FILE.sub("cell", text)

    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if _neutralise(o, neutral)]


def _neutralise(output: NotebookNode, neutral: Callable[[str], str]) -> bool:
    """Cleans one output in place; tells whether anything is left to keep."""
    if output.output_type == "stream":
        # A bar rewrites its line after each carriage return: the last state counts.
        lines = [line.split("\r")[-1] for line in output.text.split("\n")]
        kept = [line for line in lines if not PROGRESS_BAR.search(line)]
        output.text = neutral("\n".join(kept))
        return bool(output.text.strip()) or len(kept) == len(lines)
    data = output.get("data", {})
    if WIDGET in data or "<progress " in str(data.get("text/html", "")):
        return False
    for kind, value in data.items():
        if kind.startswith("text/") and isinstance(value, str):
            data[kind] = neutral(value)
        if kind == "image/png":
            data[kind] = in_few_colours(value)
    return True


def in_few_colours(picture: str) -> str:
    """Returns a plot, PNG in base64, with 64 colours: a third of the bytes.

    A picture that has few colours already comes back as it is.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    smaller = io.BytesIO()
    few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(smaller, "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode("ascii")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file aside and renames it into place: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def store(notebook: NotebookNode, path: Path) -> None:
    """Replaces a notebook's file by its executed and cleaned form."""
    clean(notebook)
    write_atomically(path, nbformat.writes(notebook) + "\n")


def export(notebook: NotebookNode, path: Path) -> None:
    """Writes an executed notebook, finished or not, as one HTML page."""
    resources = {"metadata": {"name": path.stem}}
    html, _ = HTMLExporter().from_notebook_node(notebook, resources=resources)
    write_atomically(path, html)


def run_one(
    path: Path,
    *,
    env: Mapping[str, str],
    output: Path,
    update: bool,
    progress: Callable[[str, float, int, int], None] | None = None,
) -> Outcome:
    """Executes a notebook, writes its HTML and, if asked, its stored outputs.

    A file that cannot be read or written becomes the outcome's problem, so that the
    notebooks after it still run.

    Args:
        path: The notebook.
        env: The kernel's whole environment.
        output: The folder for the HTML page.
        update: Whether to store the outputs in the notebook, if all its cells ran.
        progress: As for `execute`.
    """
    begun = time.monotonic()
    try:
        notebook, outcome = execute(path, env=env, progress=progress)
    except (OSError, ValueError) as error:
        return Outcome(path.stem, time.monotonic() - begun, 0, "", str(error))
    try:
        export(notebook, output / f"{path.stem}.html")
        if update and outcome.problem is None:
            store(notebook, path)
    except OSError as error:
        problem = outcome.problem or f"its output could not be written: {error}"
        return Outcome(
            outcome.name,
            outcome.seconds,
            outcome.peak_bytes,
            outcome.headline,
            problem,
        )
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Lays out the closing table: one line a notebook, columns aligned."""
    header = ("notebook", "seconds", "peak memory", "", "result")
    rows = [
        (
            outcome.name,
            f"{outcome.seconds:.0f}",
            f"{outcome.peak_bytes / 2**20:,.0f} MiB",
            "ok" if outcome.problem is None else "failed",
            outcome.headline or "-",
        )
        for outcome in outcomes
    ]
    width = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    rule = tuple("-" * w for w in [*width, 6])
    lines = []
    for name, seconds, peak, status, result in [header, rule, *rows]:
        lines.append(
            f"{name:<{width[0]}}  {seconds:>{width[1]}}  {peak:>{width[2]}}"
            f"  {status:<{width[3]}}  {result}"
        )
    return "\n".join(lines)


def show_progress(name: str, seconds: float, cell: int, cells: int) -> None:
    """Rewrites the terminal's last line with where a notebook is."""
    place = f"cell {cell} of {cells}" if cell else "starting the kernel"
    print(f"\r\033[K{name}  {seconds:.0f} s  {place}", end="", flush=True)


def run(paths: Sequence[Path], *, output: Path, update: bool) -> list[Outcome]:
    """Runs notebooks one after the other, with a line for each as it ends."""
    env = kernel_environment(os.environ)
    on_terminal = sys.stdout.isatty()
    outcomes = []
    for path in paths:
        outcome = run_one(
            path,
            env=env,
            output=output,
            update=update,
            progress=show_progress if on_terminal else None,
        )
        outcomes.append(outcome)
        status = "ok" if outcome.problem is None else f"FAILED in {outcome.problem}"
        result = f"  {outcome.headline}" if outcome.headline else ""
        clear = "\r\033[K" if on_terminal else ""
        print(f"{clear}{path.stem}  {outcome.seconds:.0f} s  {status}{result}")
        sys.stdout.flush()
    return outcomes


def promise(path: Path) -> str:
    """Returns the sentence in bold that stands below a notebook's title."""
    first = nbformat.read(path, as_version=4).cells[0].source
    found = re.search(r"\*\*(.+?)\*\*", first, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def keep_record(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Stores what these runs took, beside the kept rows of the other notebooks."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import records

    kept = records.RESULTS / "notebooks.json"
    rows = json.loads(kept.read_text("utf-8"))["rows"] if kept.exists() else []
    by_name = {row["notebook"]: row for row in rows}
    for outcome in outcomes:
        name = f"{outcome.name}.ipynb"
        by_name[name] = {
            "notebook": name,
            "question": promise(folder / name),
            "seconds": round(outcome.seconds, 1),
            "peak_megabytes": round(outcome.peak_bytes / 1e6),
            "result": outcome.headline,
        }
    rows = [by_name[name] for name in sorted(by_name)]
    records.write("notebooks", rows, command="python notebooks/run.py --update")


def check(paths: Sequence[Path]) -> int:
    """Runs notebooks under nbval; returns its exit status.

    Only cells that bear `# NBVAL_CHECK_OUTPUT` must print what is stored. Two
    notebooks run at once, each on one core: small models use no more.
    """
    nbval = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    files = [str(path) for path in paths]
    command = [sys.executable, "-m", "pytest", *nbval, *files]
    env = kernel_environment(os.environ)
    if len(files) > 1:
        command += ["-n", "2", "--dist", "loadfile"]
        env = {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="notebooks/run.py", description="Run notebooks, each in a fresh kernel."
    )
    parser.add_argument("names", nargs="*", help="numbers or names; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the notebooks'")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="for HTML")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="store the outputs")
    what.add_argument("--check", action="store_true", help="nbval: outputs repeat")
    options = parser.parse_args(arguments)
    try:
        paths = find(options.names, folder=options.folder)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if options.check:
            return check(paths)
        outcomes = run(paths, output=options.output, update=options.update)
    except KeyboardInterrupt:
        print("\ninterrupted: the kernel was ended, no notebook was changed by it")
        return 130
    print(f"\n{table(outcomes)}\n\nHTML pages: {options.output}")
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    if options.update and not failed and options.folder == FOLDER:
        keep_record(outcomes, options.folder)
    for outcome in failed:
        print(f"failed: {outcome.name}.ipynb, {outcome.problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
