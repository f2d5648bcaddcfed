"""Beside the neighbours, installed for real: `python3 tests/run.py -m neighbours`.

Each neighbour has an environment of its own, with Kedro and the wheel of this package. Installing needs an index; the
commands themselves run behind the guard. TELEMETRY_TEST_CACHE keeps the environments from one run to the next.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import environment
import pytest
import support

pytestmark = pytest.mark.neighbours

OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # before conftest scrubs it
CACHE = Path(os.environ.get("TELEMETRY_TEST_CACHE") or tempfile.mkdtemp(prefix="neighbours-"))
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
NEIGHBOURS = {
    "kedro": [f"kedro[server]=={version('kedro')}", "ipython", "jupyterlab", "build"],  # what its own commands need
    "kedro-viz": ["kedro-viz"],
    "kedro-databricks": ["kedro-databricks"],
    "kedro-mlflow": ["kedro-mlflow", "kedro-datasets"],
    "kedro-airflow": ["kedro-airflow"],
    "kedro-docker": ["kedro-docker"],
}
READY: set[str] = set()


@dataclass(frozen=True)
class Neighbour:
    """An environment, and the variables of a command that runs in it."""

    scripts: Path
    env: dict[str, str]

    def run(self, *line: str | Path, cwd: Path, exits: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.scripts / line[0]), *map(str, line[1:])],
            cwd=cwd,
            env={**self.env, **variables},
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return done


def install(name: str) -> Path:
    """An environment with Kedro, this neighbour and our wheel, but not upstream's; the folder of its scripts."""
    scripts = CACHE / name / SCRIPTS
    pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check"]
    if name not in READY:
        if not scripts.exists():
            venv.create(CACHE / name, with_pip=True)
        root = str(environment.ROOT)
        wanted = [f"kedro=={version('kedro')}", *NEIGHBOURS[name], root]
        subprocess.run([*pip, "install", "-q", *wanted], env=OUTSIDE, check=True)
        subprocess.run([*pip, "install", "-q", "--force-reinstall", "--no-deps", root], env=OUTSIDE, check=True)
        frozen = subprocess.check_output([*pip, "list", "--format=freeze"], env=OUTSIDE, text=True)
        assert "kedro-telemetry==1.0.0+hardened" in frozen.splitlines()
        READY.add(name)
    return scripts


@pytest.fixture
def neighbour(env: dict[str, str]) -> Callable[[str], Neighbour]:
    """A neighbour by its name; its events go to this test's collector."""

    def find(name: str) -> Neighbour:
        scripts = install(name)
        return Neighbour(scripts, {**env, "PATH": f"{scripts}{os.pathsep}{env['PATH']}"})

    return find


@pytest.fixture
def kedro(neighbour: Callable[[str], Neighbour]) -> Neighbour:
    return neighbour("kedro")


# --- Plugins: their public words pass, their values do not ---
@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("kedro-viz", "viz build --include-hooks", "viz build --include-hooks"),
        ("kedro-viz", "viz run --env=client --host secret.example --help", "viz run --env ***** --host ***** --help"),
        ("kedro-viz", "viz deploy --bucket-name=b --help", "viz deploy --bucket-name ***** --help"),
        ("kedro-databricks", "databricks --help", "***** --help"),  # not of the vocabulary: masked all the same
        ("kedro-docker", "docker init", "docker init"),
        ("kedro-docker", "docker build --image=client", "docker build --image *****"),
        ("kedro-docker", "docker cmd --image client ls", "docker cmd --image ***** *****"),
        ("kedro-airflow", "airflow create --target-dir=dags", "airflow create --target-dir *****"),
        ("kedro-airflow", "airflow create -p __default__ -t d", "airflow create -p ***** -t *****"),
        ("kedro-mlflow", "mlflow init", "mlflow init"),
        ("kedro-mlflow", "mlflow init --env=local --force", "mlflow init --env ***** --force"),
        ("kedro-mlflow", "mlflow ui --port 1 --help", "mlflow ui --port ***** --help"),
        ("kedro", "server start --host=client --help", "server start --host ***** --help"),
        ("kedro", "jupyter lab --env local --version", "jupyter lab --env ***** --version"),
        ("kedro", "ipython -- -c pass", "ipython ***** ***** *****"),
    ],
)
def test_words_pass_and_values_do_not(
    neighbour: Callable[[str], Neighbour],
    collector: support.Collector,
    project: Path,
    tmp_path: Path,
    name: str,
    arguments: str,
    shown: str,
) -> None:
    found = neighbour(name)
    docker = tmp_path / "docker" / "docker"  # kedro-docker asks whether there is one, and the image
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho client\n")
    docker.chmod(0o755)
    path = f"{found.env['PATH']}{os.pathsep}{docker.parent}"
    found.run("kedro", *arguments.split(" "), cwd=project, PATH=path)
    (event,) = collector.wait()
    assert event["properties"]["command"] == f"kedro {shown}"
    support.wait_for_no_sender(url=collector.url)
    assert collector.connections == 1


def test_a_run_beside_mlflow_is_one_event(
    neighbour: Callable[[str], Neighbour], collector: support.Collector, project: Path
) -> None:
    """kedro-mlflow's own hooks run in the same session as ours."""
    variables = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    neighbour("kedro-mlflow").run("kedro", "run", "--pipeline=ds", cwd=project, exits=0, **variables)
    (event,) = collector.wait()
    assert event["event"] == "Kedro Project Statistics"
    support.wait_for_no_sender(url=collector.url)
    assert collector.connections == 1


def test_viz_keeps_its_own_tracking_off(
    neighbour: Callable[[str], Neighbour], collector: support.Collector, project: Path
) -> None:
    """Even after a yes: a yes to our table is no yes to theirs."""
    asked = (
        "import sys; from pathlib import Path\n"
        "from kedro_viz.integrations.kedro.telemetry import get_heap_app_id, get_heap_identity\n"
        "print(get_heap_app_id(Path.cwd()), get_heap_identity())"
    )
    assert neighbour("kedro-viz").run("python", "-c", asked, cwd=project).stdout == "None None\n"
    assert collector.stays_silent()


def test_databricks_imports(
    neighbour: Callable[[str], Neighbour], collector: support.Collector, tmp_path: Path
) -> None:
    """It takes ProjectMetadata from here."""
    asked = (
        "import kedro_databricks.resource_generator.node_resource_generator as generator\n"
        "from kedro.framework.startup import ProjectMetadata\n"
        "print(generator.ProjectMetadata is ProjectMetadata)"
    )
    assert neighbour("kedro-databricks").run("python", "-c", asked, cwd=tmp_path).stdout == "True\n"
    assert collector.stays_silent()


# --- Kedro's own ways to run ---
def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_is_one_event_when_it_ends(kedro: Neighbour, collector: support.Collector, project: Path) -> None:
    """`kedro server start`: the runs that its clients ask for are sessions, which send nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [str(kedro.scripts / "kedro"), "server", "start", "--host=127.0.0.1", f"--port={port}"]
    run = Request(f"http://127.0.0.1:{port}/run", b"{}", {"Content-Type": "application/json"})
    server = subprocess.Popen(line, cwd=project, env=kedro.env, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not listens(port):
            assert server.poll() is None, "it has ended"
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.1)
        with build_opener(ProxyHandler({})).open(run, timeout=60) as answer:
            assert json.load(answer)["status"] == "success"
        assert collector.connections == 0
        server.send_signal(signal.SIGINT)
        server.wait(60)
    finally:
        server.kill()
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro server start --host ***** --port *****"
    support.wait_for_no_sender(url=collector.url)
    assert collector.connections == 1


def test_without_our_session_hooks_a_run_still_counts_once(
    kedro: Neighbour, collector: support.Collector, project: Path
) -> None:
    """DISABLE_HOOKS_FOR_PLUGINS reaches hooks of sessions alone: the event comes when the command ends."""
    settings = project / "src" / "acme" / "settings.py"
    settings.write_text(settings.read_text() + '\nDISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)\n')
    kedro.run("kedro", "run", cwd=project)
    (event,) = collector.wait()
    assert event["event"] == "CLI command"
    assert not any(name.startswith("number_of") for name in event["properties"])
    support.wait_for_no_sender(url=collector.url)
    assert collector.connections == 1


@pytest.mark.parametrize(
    ("runner", "context"),
    [
        ("SequentialRunner", ""),
        ("ThreadRunner", ""),
        pytest.param("ParallelRunner", "fork", marks=pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")),
        ("ParallelRunner", "spawn"),
    ],
)
def test_a_run_is_one_event_with_every_runner(
    kedro: Neighbour, collector: support.Collector, project: Path, runner: str, context: str
) -> None:
    """Its workers send nothing; our code warns of nothing, and what warns of threads finds none of ours."""
    (project / "conf" / "base" / "catalog.yml").write_text("")  # ParallelRunner refuses declared MemoryDatasets
    variables = {"KEDRO_MP_CONTEXT": context} if context else {}
    warnings = "default,error::DeprecationWarning:kedro_telemetry.plugin,error::ResourceWarning:kedro_telemetry.plugin"
    done = kedro.run("kedro", "run", f"--runner={runner}", cwd=project, exits=0, PYTHONWARNINGS=warnings, **variables)
    assert "ResourceWarning" not in done.stderr
    assert "kedro_telemetry" not in done.stderr
    assert "multi-threaded" not in done.stderr
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro run --runner *****"
    assert event["properties"]["number_of_nodes"] == 4
    support.wait_for_no_sender(url=collector.url)
    assert collector.connections == 1


SESSION = (
    "from pathlib import Path\nfrom kedro.framework.session import KedroSession\n"
    "from kedro.framework.startup import bootstrap_project\n"
    "if __name__ == '__main__':\n"
    "    bootstrap_project(Path.cwd())\n"
    "    with KedroSession.create() as session:\n        session.run()\n    print('ran')\n"
)


def test_a_session_in_a_script_sends_nothing(kedro: Neighbour, collector: support.Collector, project: Path) -> None:
    (project / "service.py").write_text(SESSION)
    assert kedro.run("python", "service.py", cwd=project).stdout.endswith("ran\n")
    assert collector.stays_silent()


def test_ipython_with_kedros_extension_sends_nothing(
    kedro: Neighbour, collector: support.Collector, project: Path
) -> None:
    typed = "get_ipython().run_line_magic('load_ext', 'kedro.ipython'); session.run(); print('ran')"
    assert "ran\n" in kedro.run("ipython", "--colors=NoColor", "-c", typed, cwd=project).stdout
    assert collector.stays_silent()


def test_a_packaged_project_sends_nothing(
    kedro: Neighbour, collector: support.Collector, project: Path, tmp_path: Path
) -> None:
    """`kedro package` is a command like any other; the wheel that it makes is not."""
    pip = [str(kedro.scripts / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
    build = [str(kedro.scripts / "kedro"), "package"]
    quiet = {**OUTSIDE, "DO_NOT_TRACK": "1", "HOME": str(tmp_path), "PATH": kedro.env["PATH"]}
    subprocess.run(
        build, cwd=project, env=quiet, check=True, capture_output=True
    )  # builds in isolation: needs an index
    (wheel,) = (project / "dist").glob("*.whl")
    subprocess.run([*pip, "--target", tmp_path / "site", wheel], env=OUTSIDE, check=True)
    elsewhere = tmp_path / "elsewhere"
    (project / "conf").rename(tmp_path / "conf")
    elsewhere.mkdir()
    (elsewhere / ".telemetry").write_text("consent: true\n")
    path = f"{kedro.env['PYTHONPATH']}{os.pathsep}{tmp_path / 'site'}"
    kedro.run("python", "-m", "acme", f"--conf-source={tmp_path / 'conf'}", cwd=elsewhere, PYTHONPATH=path)
    assert collector.stays_silent()


@pytest.mark.skipif(os.name == "nt", reason="click completes in POSIX shells")
@pytest.mark.parametrize(("shell", "current"), [("bash", "1"), ("zsh", "1"), ("fish", "r")])
def test_shell_completion_sends_nothing(
    kedro: Neighbour, collector: support.Collector, project: Path, shell: str, current: str
) -> None:
    variables = {"_KEDRO_COMPLETE": f"{shell}_complete", "COMP_WORDS": "kedro ", "COMP_CWORD": current}
    done = kedro.run("kedro", cwd=project, exits=0, **variables)
    assert "run" in re.split(r"[,\s]", done.stdout)
    assert done.stderr == ""
    assert collector.stays_silent()


def test_the_silence_above_is_not_of_the_set_up(kedro: Neighbour, collector: support.Collector, project: Path) -> None:
    """The control of the silent ones above: the same project, environment and collector do send."""
    kedro.run("kedro", "registry", "list", cwd=project)
    assert len(collector.wait()) == 1
