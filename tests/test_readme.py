"""The README's example runs on files that this project did not write."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    """The README's one Python block."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


@pytest.mark.parametrize("name", ["dolly_litgpt.json", "alpaca_rasbt.json"])
def test_the_example_trains_on_a_real_file(name: str, tmp_path: Path) -> None:
    path = REAL / name
    if not path.exists():
        pytest.skip("the real files are not beside this checkout")
    code = example()
    assert '"my_file.json"' in code
    code = code.replace('"my_file.json"', repr(str(path)))
    code += (
        "\nlosses = [x['loss'] for x in trainer.state.log_history if 'loss' in x]\n"
        "print('LOSSES', losses[0], losses[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, last = map(float, re.search(r"LOSSES (\S+) (\S+)", done.stdout).groups())
    assert last < first - 0.2
