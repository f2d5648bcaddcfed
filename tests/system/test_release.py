"""The release: the same bytes wherever it is built, and what is in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import support

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: needs umask", allow_module_level=True)

EPOCH = "1767225600"  # SOURCE_DATE_EPOCH of every release
VERSION = "2.0.0+hardened"
WHEEL = f"kedro_telemetry-{VERSION}-py3-none-any.whl"
SDIST = f"kedro_telemetry-{VERSION}.tar.gz"
PACKAGE = {f"kedro_telemetry/{n}" for n in ("__init__.py", "plugin.py", "py.typed")}


def build(folder: Path, umask: int) -> Path:
    """Build a copy of the repository in a new folder. Return where the files are."""
    folder.mkdir(parents=True)
    for name in ("kedro_telemetry", "tests"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(support.ROOT / name, folder / name, ignore=caches)
    for name in ("pyproject.toml", "README.md", "SECURITY.md", "LICENSE"):
        shutil.copy(support.ROOT / name, folder)
    for file in folder.rglob("*"):  # what a second checkout differs in
        os.utime(file, (umask, umask))
    line = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "."]
    env = os.environ | {"SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": str(umask)}
    subprocess.run(
        line, cwd=folder, env=env, umask=umask, check=True, capture_output=True
    )
    return folder / "dist"


def test_builds_in_two_places_are_identical_and_complete(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", 0o022), build(tmp_path / "an other", 0o077)
    for dist in (one, other):
        assert sorted(file.name for file in dist.iterdir()) == [WHEEL, SDIST]
    for name in (WHEEL, SDIST):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    check_wheel(one / WHEEL, tmp_path / "installed")
    check_sdist(one / SDIST)
    line = [sys.executable, "-m", "check_wheel_contents", "--no-config", WHEEL]
    assert subprocess.check_output(line, cwd=one, text=True) == f"{WHEEL}: OK\n"


def check_wheel(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        wheel.extractall(folder)
    info = f"kedro_telemetry-{VERSION}.dist-info"
    metadata = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert set(names) == PACKAGE | {f"{info}/{name}" for name in metadata}
    for name in PACKAGE:
        assert (folder / name).read_bytes() == (support.ROOT / name).read_bytes()
    points = Distribution.at(folder / info).entry_points
    assert {(point.group, point.name, point.value) for point in points} == {
        ("console_scripts", "kedro-telemetry", "kedro_telemetry.plugin:main"),
        ("kedro.cli_hooks", "kedro-telemetry", "kedro_telemetry.plugin:telemetry_hook"),
        ("kedro.hooks", "kedro-telemetry", "kedro_telemetry.plugin:telemetry_hook"),
    }


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tests = [path for path in (support.ROOT / "tests").rglob("*.*") if path.is_file()]
    wanted = {str(path.relative_to(support.ROOT)) for path in tests}
    wanted = {name for name in wanted if "__pycache__" not in name} | PACKAGE
    assert wanted | {"SECURITY.md", "README.md", "LICENSE", "pyproject.toml"} <= names


def test_documents_and_workflow_have_the_same_build_command() -> None:
    workflow = support.ROOT / ".github" / "workflows" / "release.yml"
    if not workflow.exists():
        pytest.skip("NOT TESTED HERE: an sdist has no workflows")
    for path in (workflow, support.ROOT / "SECURITY.md"):
        text = path.read_text(encoding="utf-8")
        assert f"SOURCE_DATE_EPOCH={EPOCH} python3 -m build\n" in text
