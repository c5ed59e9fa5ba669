"""Write into each notebook its badges and the set-up cell that all share.

    python notebooks/badges.py             brings the notebooks up to date
    python notebooks/badges.py --check     exits with 1 if one is not

The badges (Open in Colab, Open in Kaggle) stand at the end of the first Markdown
cell between two markers; the set-up cell is the first code cell. Both are derived
from the repository's address and the version in `pyproject.toml`, and from nowhere
else. Executed outputs stay as they are.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from run import FOLDER, ROOT, find, write_atomically

BEGIN, END = "<!-- badges -->", "<!-- /badges -->"
BADGES = re.compile(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
SETUP_MARK = "# Set-up: "
SETUP_CELL = (
    SETUP_MARK
    + """fetches what Colab and Kaggle lack; elsewhere it only finds `helpers`.
import os
import runpy
import subprocess
import sys

if {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}} & set(os.environ):
    if not os.path.exists("bootstrap.py"):
        if not os.path.exists("{name}"):
            git = ["git", "clone", "--quiet", "--depth=1", "--branch={tag}"]
            address = "{address}"
            subprocess.run([*git, address], check=True)
        os.chdir("{name}/notebooks")
    runpy.run_path("bootstrap.py", run_name="__main__")
sys.path.insert(0, os.path.abspath(".."))"""
)


@dataclass(frozen=True)
class Repository:
    """Where the notebooks are published.

    Attributes:
        address: The repository's URL.
        tag: The tag that badges open and that the set-up cell clones.
    """

    address: str
    tag: str

    @property
    def slug(self) -> str:
        """Owner and name, as they stand in a URL."""
        return "/".join(self.address.rstrip("/").split("/")[-2:])

    @property
    def name(self) -> str:
        """The folder that a clone makes."""
        return self.slug.split("/")[1]


def repository(pyproject: Path = ROOT / "pyproject.toml") -> Repository:
    """Reads address and version, the one place that has them."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return Repository(project["urls"]["Repository"], f"v{project['version']}")


def badges(notebook: str, where: Repository) -> str:
    """Returns the Markdown of a notebook's badges, markers included.

    Args:
        notebook: The notebook's file name.
        where: The repository.
    """
    path = f"{where.slug}/blob/{where.tag}/notebooks/{notebook}"
    colab = "https://colab.research.google.com"
    kaggle = "https://kaggle.com"
    return "\n".join(
        [
            BEGIN,
            f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
            f"({colab}/github/{path})",
            f"[![Open in Kaggle]({kaggle}/static/images/open-in-kaggle.svg)]"
            f"({kaggle}/kernels/welcome?src=https://github.com/{path})",
            END,
        ]
    )


def setup_cell(where: Repository) -> str:
    """Returns the source of the code cell that every notebook begins with."""
    return SETUP_CELL.format(name=where.name, tag=where.tag, address=where.address)


def stamp(notebook: NotebookNode, *, name: str, where: Repository) -> None:
    """Puts badges and set-up cell into a notebook, in place.

    Args:
        notebook: The notebook.
        name: Its file name.
        where: The repository.

    Raises:
        ValueError: If the first cell is not Markdown.
    """
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        raise ValueError(f"{name}: the first cell must be Markdown with the title")
    title = notebook.cells[0]
    text = BADGES.sub("", title.source).rstrip()
    title.source = f"{text}\n\n{badges(name, where)}"
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    if code and notebook.cells[code[0]].source.startswith(SETUP_MARK):
        notebook.cells[code[0]].source = setup_cell(where)
    elif code:
        cell = nbformat.v4.new_code_cell(setup_cell(where), id="set-up")
        notebook.cells.insert(code[0], cell)


def update(path: Path, *, where: Repository, check: bool = False) -> bool:
    """Brings one notebook's file up to date.

    Args:
        path: The notebook.
        where: The repository.
        check: Leave the file as it is.

    Returns:
        Whether the file was not up to date.

    Raises:
        ValueError: If it is no notebook, or its first cell is not Markdown.
    """
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    unstamped = nbformat.writes(notebook)
    stamp(notebook, name=path.name, where=where)
    # Compare the cells, not the file's layout: another editor may indent otherwise.
    after = nbformat.writes(notebook)
    if after == unstamped:
        return False
    if not check:
        write_atomically(path, after + "\n")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="notebooks/badges.py", description="Write badges and set-up cells."
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the notebooks'")
    parser.add_argument("--check", action="store_true", help="only tell what is old")
    options = parser.parse_args(arguments)
    where, stale = repository(), []
    try:
        for path in find(folder=options.folder):
            if update(path, where=where, check=options.check):
                stale.append(path.name)
                print(path.name, "is out of date" if options.check else "written")
    except (LookupError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if not stale:
        print("all notebooks are up to date")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
