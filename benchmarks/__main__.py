"""Makes all records but the base's: `make bench`. Each script can be run by itself."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "speed.py",
    "scoring.py",
    "adaptive.py",
    "fine_tuning.py",
    "soft_prompts.py",
    "instruction_tuning.py",
    "flan.py",
    "techniques.py",
    "qlora.py",
    "scaling.py",
    "gpu.py",
)

if __name__ == "__main__":
    for script in SCRIPTS:
        path = Path(__file__).with_name(script)
        done = subprocess.run([sys.executable, str(path)])
        if done.returncode:
            sys.exit(f"{script} ended with {done.returncode}.")
