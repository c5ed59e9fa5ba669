"""Badges and set-up cells: written once, found again, told when old."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

import badges  # noqa: E402

WHERE = badges.Repository("https://github.com/owner/name", "v1.2.3")


def write(folder: Path, *cells: nbformat.NotebookNode) -> Path:
    path = folder / "00_map.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def markdown(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(text, id="title")


def code(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(text, id="first")


def test_address_and_tag_come_from_the_project_file(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nversion = "2.0"\n[project.urls]\nRepository = "https://h/o/n/"\n',
        encoding="utf-8",
    )
    where = badges.repository(project)
    assert (where.tag, where.slug, where.name) == ("v2.0", "o/n", "n")


def test_first_writing_adds_badges_and_set_up_cell(tmp_path: Path) -> None:
    path = write(tmp_path, markdown("# Map\n\nA promise."), code("1 + 1"))
    assert badges.update(path, where=WHERE)
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code"]
    assert cells[0].source.startswith("# Map\n\nA promise.\n\n<!-- badges -->\n")
    links = re.findall(r"\]\((https[^)]*ipynb)\)", cells[0].source)
    file = "owner/name/blob/v1.2.3/notebooks/00_map.ipynb"
    assert links == [
        f"https://colab.research.google.com/github/{file}",
        f"https://kaggle.com/kernels/welcome?src=https://github.com/{file}",
    ]
    assert cells[1].source == badges.setup_cell(WHERE)
    assert cells[2].source == "1 + 1"


def test_second_writing_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, markdown("# Map"), code("1 + 1"))
    badges.update(path, where=WHERE)
    before = path.read_bytes()
    assert not badges.update(path, where=WHERE)
    assert path.read_bytes() == before


def test_new_tag_replaces_links_and_keeps_outputs(tmp_path: Path) -> None:
    cell = code(badges.setup_cell(WHERE))
    cell.execution_count = 1
    path = write(
        tmp_path, markdown("# Map\n\n" + badges.badges("00_map.ipynb", WHERE)), cell
    )
    assert not badges.update(path, where=WHERE)
    newer = badges.Repository(WHERE.address, "v9")
    assert badges.update(path, where=newer, check=True)
    assert "v9" not in path.read_text("utf-8")
    assert badges.update(path, where=newer)
    text = path.read_text("utf-8")
    assert "v1.2.3" not in text
    assert text.count("<!-- badges -->") == 1
    cells = nbformat.read(path, as_version=4).cells
    assert (len(cells), cells[1].execution_count) == (2, 1)


def test_notebook_without_code_gets_badges_only(tmp_path: Path) -> None:
    path = write(tmp_path, markdown("# Map"))
    badges.update(path, where=WHERE)
    assert len(nbformat.read(path, as_version=4).cells) == 1


@pytest.mark.parametrize("cells", [[], [code("1")]])
def test_notebook_without_title_is_refused(tmp_path: Path, cells, capsys) -> None:
    write(tmp_path, *cells)
    assert badges.main(["--folder", str(tmp_path)]) == 2
    assert "00_map.ipynb: the first cell must be Markdown" in capsys.readouterr().err


def test_check_tells_and_writing_heals(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, markdown("# Map"), code("1"))
    before = path.read_bytes()
    assert badges.main(["--folder", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == "00_map.ipynb is out of date\n"
    assert path.read_bytes() == before
    assert badges.main(["--folder", str(tmp_path)]) == 0
    assert badges.main(["--folder", str(tmp_path), "--check"]) == 0
    assert "all notebooks are up to date" in capsys.readouterr().out


def test_set_up_cell_is_short_and_narrow() -> None:
    lines = badges.setup_cell(badges.repository()).splitlines()
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 88
