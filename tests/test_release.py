"""The release: reproducible, with these contents, meeting Kedro's own requirement."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import Distribution, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kedro_telemetry", "tests", "pyproject.toml", "README.md", "SECURITY.md", "LICENSE")
EPOCH = "1767225600"  # SOURCE_DATE_EPOCH of every build
WHEEL = "kedro_telemetry-1.0.0+hardened-py3-none-any.whl"
SDIST = "kedro_telemetry-1.0.0+hardened.tar.gz"
IN_WHEEL = {
    "kedro_telemetry/__init__.py",
    "kedro_telemetry/plugin.py",
    "kedro_telemetry/py.typed",
    "kedro_telemetry-1.0.0+hardened.dist-info/METADATA",
    "kedro_telemetry-1.0.0+hardened.dist-info/RECORD",
    "kedro_telemetry-1.0.0+hardened.dist-info/WHEEL",
    "kedro_telemetry-1.0.0+hardened.dist-info/entry_points.txt",
    "kedro_telemetry-1.0.0+hardened.dist-info/licenses/LICENSE",
}
KEDROS_OWN = [line for line in distribution("kedro").requires or [] if line.startswith("kedro-telemetry")]
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # before conftest scrubs it


def build(folder: Path, umask: int) -> Path:
    """A wheel and an sdist from a copy of the repository in this folder; the folder that holds them."""
    folder.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    for file in folder.rglob("*"):  # what a second checkout differs in
        os.utime(file, (umask, umask))
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", folder / "dist", folder],
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": str(umask)},
        umask=umask,
        check=True,
        capture_output=True,
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds: in two places, on two days, by users with two umasks."""
    folder = tmp_path_factory.mktemp("release")
    return build(folder / "here", 0o022), build(folder / "some where" / "else", 0o077)


@pytest.fixture(scope="module")
def dist(places: tuple[Path, Path]) -> Path:
    return places[0]


@pytest.mark.parametrize("name", [WHEEL, SDIST])
def test_two_builds_in_two_places_are_identical(places: tuple[Path, Path], name: str) -> None:
    assert [sorted(file.name for file in place.iterdir()) for place in places] == [[WHEEL, SDIST]] * 2
    first, second = (hashlib.sha256((place / name).read_bytes()).hexdigest() for place in places)
    assert first == second


def test_the_wheel_holds_the_plugin_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        assert set(wheel.namelist()) == IN_WHEEL
        assert wheel.read("kedro_telemetry/plugin.py") == (ROOT / "kedro_telemetry" / "plugin.py").read_bytes()


def test_the_sdist_holds_the_same_plugin(dist: Path) -> None:
    """The member that SECURITY.md tells to compare."""
    with tarfile.open(dist / SDIST) as sdist:
        file = sdist.extractfile("kedro_telemetry-1.0.0+hardened/kedro_telemetry/plugin.py")
        assert file
        assert file.read() == (ROOT / "kedro_telemetry" / "plugin.py").read_bytes()


@pytest.mark.parametrize("name", ["SECURITY.md", ".github/workflows/release.yml"])
def test_who_builds_it_again_builds_it_like_the_release(name: str) -> None:
    if name.startswith(".github") and not (ROOT / ".github").exists():
        pytest.skip("NOT TESTED HERE: an sdist has no workflows")
    assert f"SOURCE_DATE_EPOCH={EPOCH} python3 -m build\n" in (ROOT / name).read_text(encoding="utf-8")


def test_the_build_backend_is_pinned() -> None:
    """Its version is in each wheel."""
    requires = "".join(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if "requires = [" in line)
    assert f'requires = ["flit_core=={version("flit_core")}"]' in requires


def test_check_wheel_contents_finds_nothing(dist: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_wheel_contents", "--no-config", dist / WHEEL],
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{dist / WHEEL}: OK")


def test_the_sdist_holds_what_a_reviewer_needs(dist: Path) -> None:
    with tarfile.open(dist / SDIST) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    files = (ROOT / "tests").rglob("*.*")
    tests = {str(file.relative_to(ROOT)) for file in files if file.is_file() and "__pycache__" not in file.parts}
    assert tests
    assert tests <= names
    assert {"SECURITY.md", "README.md", "LICENSE", "pyproject.toml", "kedro_telemetry/plugin.py"} <= names


def test_the_metadata_is_what_kedro_looks_for(dist: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        wheel.extractall(tmp_path)
    ours = Distribution.at(tmp_path / "kedro_telemetry-1.0.0+hardened.dist-info")
    assert (ours.metadata["Name"], ours.version, ours.metadata["Requires-Python"]) == (
        "kedro-telemetry",
        "1.0.0+hardened",
        ">=3.10",
    )
    assert [line for line in ours.requires or [] if "extra ==" not in line] == ["kedro>=0.18.1"]
    assert sorted((point.group, point.name, point.value) for point in ours.entry_points) == [
        ("console_scripts", "kedro-telemetry", "kedro_telemetry.plugin:main"),
        ("kedro.cli_hooks", "kedro-telemetry", "kedro_telemetry.plugin:telemetry_hook"),
        ("kedro.hooks", "kedro-telemetry", "kedro_telemetry.plugin:telemetry_hook"),
    ]


@pytest.mark.parametrize("wanted", ["kedro-telemetry>=0.5.0", "kedro-telemetry>=0.5.0,<2", *KEDROS_OWN])
def test_the_version_meets_kedros_requirement(wanted: str) -> None:
    assert Requirement(wanted).specifier.contains("1.0.0+hardened")


@pytest.mark.neighbours
def test_a_fresh_environment_is_consistent(dist: Path, tmp_path: Path) -> None:
    """Installed from an index beside the Kedro of this environment: ours stays, and `pip check` finds nothing."""
    venv.create(tmp_path / "fresh", with_pip=True)
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", dist / WHEEL, f"kedro=={version('kedro')}"], env=OUTSIDE, check=True)
    assert subprocess.run([*pip, "check"], env=OUTSIDE, check=False).returncode == 0
    frozen = subprocess.check_output([*pip, "list", "--format=freeze"], env=OUTSIDE, text=True).splitlines()
    assert "kedro-telemetry==1.0.0+hardened" in frozen
    status = subprocess.run([scripts / "kedro-telemetry", "status"], cwd=tmp_path, check=False, capture_output=True)
    assert status.returncode == 0
