"""The test suite: `python3 tests/run.py [pytest's arguments]`. Makes its own environment first."""

from __future__ import annotations

import subprocess
import sys

import environment

if __name__ == "__main__":
    environment.enter("test")
    sys.exit(
        subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=environment.ROOT, check=False).returncode
    )
