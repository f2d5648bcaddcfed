"""Beside other packages, installed for real: `pytest -n 0 -m neighbours`.

Each has its own environment with Kedro and the wheel of this package. They are
installed from an index; the commands themselves can only reach this machine.
TELEMETRY_TEST_CACHE names a folder that keeps the environments for the next run.
"""

from __future__ import annotations

import json
import os
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

import pytest
import support

pytestmark = [pytest.mark.neighbours, pytest.mark.timeout(1200)]

OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
CACHE = Path(OUTSIDE.get("TELEMETRY_TEST_CACHE") or tempfile.mkdtemp(prefix="kedro-"))
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
KEDRO = f"kedro=={version('kedro')}"
NEIGHBOURS = {
    "kedro": [f"kedro[server]=={version('kedro')}", "ipython", "jupyterlab", "build"],
    "kedro-airflow": ["kedro-airflow"],
    "kedro-databricks": ["kedro-databricks"],
    "kedro-docker": ["kedro-docker"],
    "kedro-mlflow": ["kedro-mlflow", "kedro-datasets"],
    "kedro-skills": ["kedro-skills"],
    "kedro-viz": ["kedro-viz"],
}
READY: set[str] = set()


@dataclass(frozen=True)
class Neighbour:
    """An environment, and the variables of a command that runs in it."""

    scripts: Path
    env: dict[str, str]

    def run(
        self, *line: str | Path, cwd: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
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
        assert done.returncode == 0, done.stdout + done.stderr
        return done


def install(name: str) -> Path:
    """Make the environment of a neighbour. Return the folder of its scripts."""
    scripts = CACHE / name / SCRIPTS
    pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check"]
    if name not in READY:
        if not scripts.exists():
            venv.create(CACHE / name, with_pip=True)
        root = str(support.ROOT)
        for wanted in ([KEDRO, *NEIGHBOURS[name], root], ["--force-reinstall", root]):
            options = ["--no-deps"] if "--force-reinstall" in wanted else []
            line = [*pip, "install", "--quiet", *options, *wanted]
            subprocess.run(line, env=OUTSIDE, check=True)
        line = [*pip, "list", "--format=freeze"]
        frozen = subprocess.check_output(line, env=OUTSIDE, text=True).splitlines()
        assert "kedro-telemetry==1.1.0+hardened" in frozen
        READY.add(name)
    return scripts


@pytest.fixture
def neighbour(env: dict[str, str]) -> Callable[[str], Neighbour]:
    """Find a neighbour by its name. Its events go to this test's collector."""

    def find(name: str) -> Neighbour:
        scripts = install(name)
        path = f"{scripts}{os.pathsep}{env['PATH']}"
        return Neighbour(scripts, {**env, "PATH": path})

    return find


@pytest.fixture
def kedro(neighbour: Callable[[str], Neighbour]) -> Neighbour:
    return neighbour("kedro")


# --- Other plugins: their public names are sent, their values are not ---


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("kedro-viz", "viz build --include-hooks", "viz build --include-hooks"),
        (
            "kedro-viz",
            "viz run --env=client --host secret.example --help",
            "viz run --env ***** --host ***** --help",
        ),
        ("kedro-databricks", "databricks --help", "***** *****"),
        ("kedro-docker", "docker build --image=client", "docker build --image *****"),
        ("kedro-airflow", "airflow create -t dags", "airflow create -t *****"),
        ("kedro-mlflow", "mlflow init --env=local", "mlflow init --env *****"),
        ("kedro-skills", "skills list", "skills list"),
        ("kedro", "server start --host=a --help", "server start --host ***** --help"),
        ("kedro", "jupyter lab --version", "jupyter lab *****"),
        ("kedro", "ipython -- -c pass", "ipython ***** ***** *****"),
    ],
)
def test_only_public_names_of_other_plugins_are_sent(
    neighbour: Callable[[str], Neighbour],
    collector: support.Collector,
    project: Path,
    tmp_path: Path,
    name: str,
    arguments: str,
    shown: str,
) -> None:
    found = neighbour(name)
    docker = tmp_path / "docker" / "docker"  # kedro-docker only runs beside it
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho client\n")
    docker.chmod(0o755)
    path = f"{found.env['PATH']}{os.pathsep}{docker.parent}"
    found.run("kedro", *arguments.split(" "), cwd=project, PATH=path)
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == [f"kedro {shown}"]


def test_a_run_beside_the_hooks_of_mlflow_is_one_event(
    neighbour: Callable[[str], Neighbour], collector: support.Collector, project: Path
) -> None:
    quiet = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    found = neighbour("kedro-mlflow")
    found.run("kedro", "run", "--pipeline=ds", cwd=project, **quiet)
    (event,) = collector.wait()
    support.wait_for_senders()
    assert event["event"] == "Kedro Project Statistics"
    assert collector.connections == 1


def test_kedro_viz_keeps_its_own_tracking_off(
    neighbour: Callable[[str], Neighbour], collector: support.Collector, project: Path
) -> None:
    script = (
        "from pathlib import Path\n"
        "from kedro_viz.integrations.kedro import telemetry\n"
        "print(telemetry.get_heap_app_id(Path.cwd()), telemetry.get_heap_identity())"
    )
    done = neighbour("kedro-viz").run("python", "-c", script, cwd=project)
    assert done.stdout == "None None\n"
    assert collector.stays_silent()


def test_kedro_databricks_finds_the_name_that_it_imports(
    neighbour: Callable[[str], Neighbour], tmp_path: Path
) -> None:
    script = (
        "from kedro.framework.startup import ProjectMetadata as original\n"
        "from kedro_databricks.resource_generator import node_resource_generator\n"
        "print(node_resource_generator.ProjectMetadata is original)"
    )
    done = neighbour("kedro-databricks").run("python", "-c", script, cwd=tmp_path)
    assert done.stdout == "True\n"


# --- Kedro's own ways to run ---


def test_a_server_is_one_event_when_it_ends(
    kedro: Neighbour, collector: support.Collector, project: Path
) -> None:
    """The runs that its clients ask for send nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/run"
    port = f"--port={address.split(':')[2].partition('/')[0]}"
    line = [str(kedro.scripts / "kedro"), "server", "start", "--host=127.0.0.1", port]
    post = Request(address, b"{}", {"Content-Type": "application/json"})
    server = subprocess.Popen(line, cwd=project, env=kedro.env)
    try:
        end = time.monotonic() + 60
        answer = None
        while answer is None:
            assert server.poll() is None, "it has ended"
            assert time.monotonic() < end, "it does not listen"
            try:
                with build_opener(ProxyHandler({})).open(post, timeout=60) as response:
                    answer = json.load(response)
            except OSError:
                time.sleep(0.1)
        assert answer["status"] == "success"
        assert collector.connections == 0
        server.send_signal(signal.SIGINT)
        server.wait(60)
    finally:
        server.kill()
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro server start --host ***** --port *****"]


def test_a_session_in_ipython_sends_nothing(
    kedro: Neighbour, collector: support.Collector, project: Path
) -> None:
    load = "get_ipython().run_line_magic('load_ext', 'kedro.ipython')"
    typed = f"{load}; session.run(); print('ran')"
    done = kedro.run("ipython", "--colors=NoColor", "-c", typed, cwd=project)
    assert "ran\n" in done.stdout
    assert collector.stays_silent()


def test_without_the_session_hook_a_run_is_one_event_without_counts(
    kedro: Neighbour, collector: support.Collector, project: Path
) -> None:
    with (project / "src" / "acme" / "settings.py").open("a") as file:
        file.write('\nDISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)\n')
    kedro.run("kedro", "run", cwd=project)
    (event,) = collector.wait()
    support.wait_for_senders()
    assert event["event"] == "CLI command"
    assert collector.connections == 1
