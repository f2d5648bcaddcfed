"""Real `kedro` commands in a real project, and the bytes that arrive."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import support

from kedro_telemetry import plugin

CLIENT_CLI = """\
import click

@click.group(name="acme")
def cli():
    pass

@cli.command("wayne-enterprises")
@click.option("--wayne-account")
@click.argument("names", nargs=-1)
def wayne(wayne_account, names):
    pass
"""
SESSION = """\
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
bootstrap_project(Path.cwd())
with KedroSession.create(project_path=Path.cwd()) as session:
    session.run()
"""


def test_a_run_arrives_masked(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """The published example, and only the number of datasets: a run that names its pipelines loads only those."""
    done = support.kedro("run", "--pipeline=ds", "--env=base", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    (event,) = collector.wait()
    assert event["event"] == "Kedro Project Statistics"
    assert event["properties"]["command"] == "kedro run --pipeline ***** --env *****"
    assert {name for name in event["properties"] if name.startswith("number")} == {"number_of_datasets"}


def test_a_run_of_everything_has_all_counts(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    support.kedro("run", cwd=project, env=env)
    (event,) = collector.wait()
    properties = event["properties"]
    assert properties["number_of_datasets"] == 3
    assert properties["number_of_nodes"] == 4
    assert properties["number_of_pipelines"] == 3


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("registry", "list"), "kedro registry list"),
        (("registry", "describe", "list"), "kedro registry describe *****"),
        (("run", "--pipeline", "no-such-client"), "kedro run --pipeline *****"),
        (("run", "--params=password:1"), "kedro run --params *****"),
        (("-v", "run", "--params=password:1"), "kedro -v ***** --params *****"),
        (("wayne-enterprises", "--wayne-account=7", "clark"), "kedro ***** ***** *****"),
        (("--version",), "kedro --version"),
        ((), "kedro"),
    ],
)
def test_other_commands_arrive_when_they_end(
    project: Path, env: dict[str, str], collector: support.Collector, arguments: tuple[str, ...], shown: str
) -> None:
    """Also those that fail; of a project's own commands and options nothing is shown."""
    (project / "src" / "acme" / "cli.py").write_text(CLIENT_CLI)
    support.kedro(*arguments, cwd=project, env=env)
    if support.KEDRO_018 and "no-such-client" in arguments:  # an exception: Kedro 0.18 calls no hook then
        assert collector.stays_silent()
        return
    (event,) = collector.wait()
    support.wait_for_no_sender()
    assert len(collector.requests) == 1
    assert event["properties"]["command"] == shown


def test_no_name_of_the_users_is_in_the_bytes(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """No path, user, host or project name, no argument, no environment value; at most 1.5 KiB."""
    (project / "src" / "acme" / "cli.py").write_text(CLIENT_CLI)
    secrets = {**env, "LOGNAME": "clark.kent", "CLIENT": "lexcorp"}
    support.kedro("wayne-enterprises", "--wayne-account", "gotham", cwd=project, env=secrets)
    support.kedro("run", "--params=password:hunter2", "--env=base", cwd=project, env=secrets)
    collector.wait(2)
    names = ["acme", "wayne", "gotham", "clark", "kent", "lexcorp", "hunter2", "password", socket.gethostname()]
    names += [str(project), str(home), project.parent.name, platform.release(), platform.python_version()]
    for request in collector.requests:
        assert [name for name in names if name.encode() in request] == []
        assert len(request) <= 1536


def test_a_preview_shows_what_is_sent(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """URL, headers and body are those that then arrive, byte for byte."""
    support.kedro("registry", "list", cwd=project, env=env)
    support.kedro("registry", "list", cwd=project, env=env)
    collector.wait(2)
    shown = support.kedro("registry", "list", cwd=project, env={**env, plugin.PREVIEW: "1"}).stderr
    support.wait_for_no_sender()
    assert len(collector.requests) == 2
    head, _, body = collector.requests[1].decode().partition("\r\n\r\n")
    first, _, headers = head.replace("\r\n", "\n").partition("\n")
    assert first == "POST /api/track HTTP/1.1"
    assert f"\nPOST {collector.url}\n{headers}\n\n{body}\n" in shown
    assert "Telemetry is on" in shown.splitlines()[0]


@pytest.mark.parametrize("consent", [None, "consent: false\n", "consent: [\n"])
def test_a_preview_needs_no_consent_and_writes_nothing(
    template: Path, tmp_path: Path, env: dict[str, str], collector: support.Collector, home: Path, consent: str | None
) -> None:
    project = support.copy_project(template, tmp_path / "acme", consent)
    done = support.kedro("run", cwd=project, env={**env, plugin.PREVIEW: "1"})
    assert done.returncode == 0
    assert "Telemetry is off" in done.stderr
    assert '"number_of_nodes":4' in done.stderr
    assert "examples" in done.stderr
    assert list(home.iterdir()) == []
    assert (project / ".telemetry").exists() == (consent is not None)
    assert collector.stays_silent(0.3)


@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
def test_each_runner_sends_one_event(
    project: Path, env: dict[str, str], collector: support.Collector, runner: str
) -> None:
    """Workers send nothing, and a fork finds no thread of telemetry's to warn of."""
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text("{}\n")
    done = support.kedro("run", f"--runner={runner}", cwd=project, env={**env, "PYTHONWARNINGS": "always"})
    assert done.returncode == 0, done.stderr
    collector.wait()
    support.wait_for_no_sender()
    assert len(collector.requests) == 1
    assert "telemetry" not in done.stderr


def test_a_session_in_a_script_sends_nothing(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    subprocess.run([sys.executable, "-c", SESSION], cwd=project, env=env, check=True, capture_output=True)
    assert collector.stays_silent(0.3)


def test_fifty_commands_are_fifty_events(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    """Each once. (A thousand are counted by the benchmark.)"""
    script = (
        "import json, sys; from pathlib import Path; from kedro.framework.cli.cli import KedroCLI\n"
        "for number in range(50):\n"
        "    try: KedroCLI(Path.cwd())(['registry', 'list'] if number % 2 else ['info'])\n"
        "    except SystemExit: pass\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=project, env=env, check=True, capture_output=True)
    collector.wait(50, 60)
    support.wait_for_no_sender()
    commands = [event["properties"]["command"] for event in collector.bodies]
    assert sorted(commands) == ["kedro info"] * 25 + ["kedro registry list"] * 25
    assert len({json.dumps(event) for event in collector.bodies}) == 2
