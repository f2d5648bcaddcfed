"""Makes the virtual environment that a script of this folder needs, and runs the script in it.

Standard library only: this is what a fresh machine runs first.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def enter(extras: str) -> None:
    """Return inside of an environment that has this package with these extras; make it if there is none."""
    folder = ROOT / ".venv"
    if Path(sys.prefix).resolve() == folder:
        return
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode() + extras.encode()).hexdigest()
    stamp = folder / "made-for"
    if not stamp.is_file() or wanted not in stamp.read_text():
        print(f"Making {folder} (a minute or two) ...", flush=True)
        venv.create(folder, with_pip=True, clear=not stamp.is_file())
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{ROOT}[{extras}]"], check=True)
        with stamp.open("a") as file:
            file.write(f"{wanted}\n")
    sys.exit(subprocess.run([str(python), *sys.argv], check=False).returncode)
