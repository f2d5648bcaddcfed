"""Each test gets a clean environment, its own home, and a network of loopback alone."""

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import network
import psutil
import pytest
import sitecustomize  # noqa: F401  # guards this process like its children
import support

# For tests/tools/mutation.py, where the first input that fails is enough.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("mutation", database=None, phases=PHASES)

# A suite started in the background would pass on that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def attempts(request: pytest.FixtureRequest) -> Callable[[], int]:
    """Count what tried to leave the machine. Always 0 where that cannot be seen."""
    network.adopt_orphans()
    if any(item.get_closest_marker("neighbours") for item in request.session.items):
        return int  # these tests install packages
    try:
        network.enter_loopback()
    except (OSError, subprocess.SubprocessError) as error:
        if support.IN_CI and sys.platform == "linux":
            pytest.fail(f"missing in CI: a network namespace: {error}")
        warnings.warn(f"NOT SEEN HERE: what leaves the machine: {error}", stacklevel=1)
        return int
    return network.attempts


@pytest.fixture(autouse=True)
def _clean(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    attempts: Callable[[], int],
) -> Iterator[None]:
    """Start clean. Fail if a process is left, or something tried to leave."""
    before, tried = psutil.Process().children(recursive=True), attempts()
    home = tmp_path_factory.mktemp("home")
    escapes = home / "escapes.log"
    for name in list(os.environ):
        if name not in ("PYTEST_CURRENT_TEST", "COVERAGE_PROCESS_CONFIG"):
            monkeypatch.delenv(name)
    environment = support.clean_environment(home, TELEMETRY_TEST_ESCAPES=str(escapes))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield
    support.wait_for_senders()
    after = psutil.Process().children(recursive=True)
    _, left = psutil.wait_procs([p for p in after if p not in before], timeout=8)
    running = [p for p in left if p.is_running() and p.status() != "zombie"]
    assert not running, "processes are left"
    assert not escapes.exists(), escapes.read_text()
    assert attempts() == tried, "something tried to leave the machine"


@pytest.fixture
def home() -> Path:
    """The home folder of this test."""
    return Path(os.environ["HOME"])


@pytest.fixture
def agreed(tmp_path: Path, home: Path) -> Path:
    """A folder with both yeses, for the address in this test's environment."""
    support.agree(tmp_path, home, os.environ["KEDRO_TELEMETRY_ENDPOINT"])
    return tmp_path


@pytest.fixture
def collector() -> Iterator[support.Collector]:
    """A healthy collector on loopback."""
    with support.collecting() as found:
        yield found


@pytest.fixture
def env(collector: support.Collector) -> dict[str, str]:
    """The environment of a command that sends to this test's collector."""
    return {**os.environ, "KEDRO_TELEMETRY_ENDPOINT": collector.url}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Kedro project made by `kedro new`. Tests work on copies."""
    folder, home = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("home")
    return support.make_project(folder, home)


@pytest.fixture
def project(
    template: Path, tmp_path: Path, home: Path, collector: support.Collector
) -> Path:
    """A project in which telemetry is on, to this test's collector."""
    copy = support.copy_project(template, tmp_path / "acme")
    support.agree(copy, home, collector.url)
    return copy
