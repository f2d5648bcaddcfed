"""Every test starts from a scrubbed environment, a home of its own, and a network that ends at loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import environment
import psutil
import pytest
from hypothesis import Phase, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "guard"))

import network
import outside
import sitecustomize  # noqa: F401  the guard of the child processes, for this process as well
import support

settings.register_profile("no-shrinking", phases=[Phase.explicit, Phase.reuse, Phase.generate])  # for mutants
OWN = Path.home() / ".config" / "kedro"  # before the environment is scrubbed
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background would hand on that it is ignored


def surroundings() -> dict[Path, int]:
    """When the files of the checkout and of the user's own configuration of Kedro were written; caches left out."""
    files = [path for path in environment.ROOT.glob("[!.]*/**/*") if not {"__pycache__", "dist"} & set(path.parts)]
    return {path: path.stat().st_mtime_ns for path in [*files, *OWN.glob("**/*")] if path.is_file()}


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_written_elsewhere() -> Iterator[None]:
    """The suite leaves the checkout, and the home of the person who runs it, as they were."""
    before = surroundings()
    yield
    assert surroundings() == before


@pytest.fixture(scope="session")
def attempts(request: pytest.FixtureRequest) -> Callable[[], int]:
    """How often anything tried to leave the machine: always 0 where this cannot be seen."""
    if any(item.get_closest_marker("neighbours") for item in request.session.items):
        return int  # they are installed from an index
    try:
        outside.close()
    except (OSError, subprocess.SubprocessError) as error:
        if network.IN_CI and sys.platform == "linux":
            pytest.fail(f"missing in CI: a network namespace: {error}")
        warnings.warn(f"NOT SEEN HERE: what a sender tries to send elsewhere: {error}", stacklevel=1)
        return int
    return outside.attempts


@pytest.fixture(autouse=True)
def _scrub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, attempts: Callable[[], int]
) -> Iterator[None]:
    """A scrubbed environment; afterwards, no process is left and nothing tried to leave the machine."""
    before, tried = psutil.Process().children(recursive=True), attempts()
    home = tmp_path_factory.mktemp("home")
    escapes = home / "escapes.log"
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in support.scrubbed(home, TELEMETRY_TEST_ESCAPES=str(escapes)).items():
        monkeypatch.setenv(name, value)
    yield
    support.wait_for_no_sender(8)
    started = [child for child in psutil.Process().children(recursive=True) if child not in before]
    _, alive = psutil.wait_procs(started, timeout=8)
    assert not alive, "processes are left"
    assert not escapes.exists(), escapes.read_text()
    assert attempts() == tried, "something tried to leave the machine"


@pytest.fixture
def home() -> Path:
    """The home folder of this test."""
    return Path(os.environ["HOME"])


@pytest.fixture
def env(collector: support.Collector) -> dict[str, str]:
    """The environment for a command that sends to this test's collector."""
    return {**os.environ, "KEDRO_TELEMETRY_ENDPOINT": collector.url}


@pytest.fixture
def collector() -> Iterator[support.Collector]:
    """A healthy collector on loopback."""
    with support.collecting() as found:
        yield found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Kedro project made once by `kedro new`; tests work on copies."""
    return support.make_project(tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("template_home"))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project of this test's own, whose `.telemetry` says yes."""
    return support.copy_project(template, tmp_path / "acme")
