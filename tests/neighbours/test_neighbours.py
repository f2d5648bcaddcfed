"""Beside other packages, installed for real: `pytest -n 0 -m neighbours`.

Each has its own environment with Kedro and the wheel of this package. They are
installed from an index; the commands themselves can only reach this machine.
TELEMETRY_TEST_CACHE names a folder that keeps the environments for the next run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import venv
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import support
from support import Collector

pytestmark = [pytest.mark.neighbours, pytest.mark.timeout(1200)]

OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
CACHE = Path(OUTSIDE.get("TELEMETRY_TEST_CACHE") or tempfile.mkdtemp(prefix="kedro-"))
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
KEDRO = f"kedro=={version('kedro')}"
NEIGHBOURS = {
    "kedro": [f"kedro[server]=={version('kedro')}", "ipython", "jupyterlab"],
    "kedro-airflow": ["kedro-airflow"],
    "kedro-databricks": ["kedro-databricks"],
    "kedro-docker": ["kedro-docker"],
    "kedro-mlflow": ["kedro-mlflow", "kedro-datasets"],
    "kedro-skills": ["kedro-skills"],
    "kedro-viz": ["kedro-viz"],
}
READY: set[str] = set()


def install(name: str) -> Path:
    """Make the environment of a neighbour, once. Return the folder of its scripts."""
    scripts = CACHE / name / SCRIPTS
    if name not in READY:
        if not scripts.exists():
            venv.create(CACHE / name, with_pip=True)
        pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check"]
        ours = str(support.ROOT)
        for wanted in ([KEDRO, *NEIGHBOURS[name]], ["--force-reinstall", "--no-deps"]):
            line = [*pip, "install", "-q", *wanted, ours]
            subprocess.run(line, env=OUTSIDE, check=True)
        line = [*pip, "list", "--format=freeze"]
        frozen = subprocess.check_output(line, env=OUTSIDE, text=True).splitlines()
        assert f"kedro-telemetry=={version('kedro-telemetry')}" in frozen
        READY.add(name)
    return scripts


def run(name: str, *line: str, cwd: Path, env: dict[str, str]) -> str:
    """Run a program of a neighbour's environment. Return its output."""
    scripts = install(name)
    done = subprocess.run(
        [str(scripts / line[0]), *line[1:]],
        cwd=cwd,
        env={**env, "PATH": f"{scripts}{os.pathsep}{env['PATH']}"},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Other plugins: their public names are sent, their values are not ---


# The environment and the command, and what is sent after `kedro`.
SENT = {
    "kedro-viz viz build --include-hooks": "viz build --include-hooks",
    "kedro-viz viz run --env=client --host a --help": (
        "viz run --env ***** --host ***** --help"
    ),
    "kedro-databricks databricks --help": "***** *****",
    "kedro-docker docker build --image=client": "docker build --image *****",
    "kedro-airflow airflow create -t dags": "airflow create -t *****",
    "kedro-mlflow mlflow init --env=local": "mlflow init --env *****",
    "kedro-skills skills list": "skills list",
    "kedro server start --host=a --help": "server start --host ***** --help",
    "kedro jupyter lab --version": "jupyter lab --version",
    "kedro ipython -- -c pass": "ipython ***** ***** *****",
}


@pytest.mark.parametrize("case", SENT)
def test_only_public_names_of_other_plugins_are_sent(
    case: str, project: Path, env: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    docker = tmp_path / "docker" / "docker"  # kedro-docker only runs beside it
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho client\n")
    docker.chmod(0o755)
    env["PATH"] += f"{os.pathsep}{docker.parent}"
    name, *arguments = case.split(" ")
    run(name, "kedro", *arguments, cwd=project, env=env)
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == [f"kedro {SENT[case]}"]


def test_a_run_beside_the_hooks_of_mlflow_is_one_event(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    env |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    run("kedro-mlflow", "kedro", "run", "--pipeline=ds", cwd=project, env=env)
    (event,) = collector.wait()
    support.wait_for_senders()
    assert event["event"] == "Kedro Project Statistics"
    assert collector.connections == 1


def test_kedro_viz_keeps_its_own_tracking_off(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    script = (
        "from kedro_viz.integrations.kedro import telemetry\n"
        "print(telemetry.get_heap_app_id('.'), telemetry.get_heap_identity())"
    )
    output = run("kedro-viz", "python", "-c", script, cwd=project, env=env)
    assert output == "None None\n"
    assert collector.stays_silent()


def test_kedro_databricks_finds_the_name_that_it_imports(
    tmp_path: Path, env: dict[str, str]
) -> None:
    script = (
        "from kedro.framework.startup import ProjectMetadata as original\n"
        "from kedro_databricks.resource_generator import node_resource_generator\n"
        "print(node_resource_generator.ProjectMetadata is original)"
    )
    output = run("kedro-databricks", "python", "-c", script, cwd=tmp_path, env=env)
    assert output == "True\n"


def test_a_server_is_one_event_when_it_ends(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    """The runs that its clients ask for send nothing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [str(install("kedro") / "kedro"), "server", "start", "--host=127.0.0.1"]
    server = subprocess.Popen([*line, f"--port={port}"], cwd=project, env=env)
    headers = {"Content-Type": "application/json"}
    answers: list[bytes] = []

    def answered() -> bool:
        assert server.poll() is None, "it has ended"
        post = Request(f"http://127.0.0.1:{port}/run", b"{}", headers)
        with suppress(OSError), build_opener(ProxyHandler({})).open(post) as response:
            answers.append(response.read())
        return bool(answers)

    try:
        support.wait_until(answered, 60)
        assert b'"status":"success"' in answers[0].replace(b" ", b"")
        assert collector.connections == 0
        server.send_signal(signal.SIGINT)
        server.wait(60)
    finally:
        server.kill()
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro server start --host ***** --port *****"]


def test_a_session_in_ipython_sends_nothing(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    load = "get_ipython().run_line_magic('load_ext', 'kedro.ipython')"
    typed = f"{load}; session.run(); print('ran')"
    line = ["ipython", "--colors=NoColor", "-c", typed]
    assert "ran\n" in run("kedro", *line, cwd=project, env=env)
    assert collector.stays_silent()


def test_without_the_session_hook_a_run_is_one_event_without_counts(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    with (project / "src" / "acme" / "settings.py").open("a") as file:
        file.write('\nDISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)\n')
    run("kedro", "kedro", "run", cwd=project, env=env)
    (event,) = collector.wait()
    support.wait_for_senders()
    assert event["event"] == "CLI command"
    assert collector.connections == 1
