"""Real `kedro` commands in a real project, and the bytes that arrive."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import support
from support import Collector

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: needs fork and shells", allow_module_level=True)

KEDRO = [sys.executable, "-m", "kedro"]
PREPARE = """\
import os, sys, time
from pathlib import Path
import psutil
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

def run_session():
    bootstrap_project(Path.cwd())
    with KedroSession.create(project_path=Path.cwd()) as session:
        session.run()

def command(*arguments):
    try:
        KedroCLI(Path.cwd()).main(arguments)
    except (Exception, SystemExit) as end:
        return getattr(end, "code", 1)

"""


def python(script: str, cwd: Path, env: dict[str, str], *options: str) -> None:
    """Run a script that must succeed."""
    line = [sys.executable, *options, "-c", PREPARE + script]
    done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr
    assert "ResourceWarning" not in done.stderr


CLIENT_CLI = """\
import click
cli = click.Group("acme")
option = click.Option(["--wayne-account"])
cli.add_command(click.Command("wayne-enterprises", params=[option]))
"""
MASKED = {
    (): "kedro",
    ("--version",): "kedro --version",
    ("registry", "list"): "kedro registry list",
    ("registry", "describe", "list"): "kedro registry describe *****",
    ("run", "--pipeline=ds", "-e", "base"): "kedro run --pipeline ***** -e *****",
    ("run", os.fsdecode(b"--pipeline=\xff")): "kedro run --pipeline *****",
    ("-v", "run", "--params=a:1"): "kedro -v ***** *****",
    ("wayne-enterprises", "--wayne-account=gotham"): "kedro ***** *****",
    ("run", "--params=password:hunter2"): "kedro run --params *****",
}
if support.KEDRO_018:  # it does not tell plugins about commands that fail
    del MASKED["run", os.fsdecode(b"--pipeline=\xff")]


def test_each_command_arrives_masked_without_any_name_of_the_user(
    project: Path, env: dict[str, str], collector: Collector, home: Path
) -> None:
    (project / "src" / "acme" / "cli.py").write_text(CLIENT_CLI)
    env |= {"LOGNAME": os.fsdecode(b"clark.kent\xff"), "CLIENT": "lexcorp"}
    python("".join(f"command(*{arguments})\n" for arguments in MASKED), project, env)
    collector.wait(len(MASKED))
    assert sorted(collector.commands) == sorted(MASKED.values())
    names = ["acme", "wayne", "gotham", "clark", "kent", "lexcorp", "hunter2"]
    names += ["password", str(project), str(home), project.parent.name]
    names += [socket.gethostname(), platform.release(), platform.python_version()]
    for request in collector.requests:
        assert [name for name in names if name.encode() in request] == []
        assert len(request) < 1536


def test_a_run_arrives_with_counts_as_a_preview_shows_it(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    """A run that names pipelines only has the count of datasets."""

    def counts(properties: dict[str, object]) -> list[object]:
        kinds = ("datasets", "nodes", "pipelines")
        return [properties.get(f"number_of_{kind}") for kind in kinds]

    support.kedro("run", cwd=project, env=env)
    (whole,) = collector.wait()
    support.kedro("run", "--pipeline=ds", cwd=project, env=env)
    _, part = collector.wait(2)
    assert whole["event"] == part["event"] == "Kedro Project Statistics"
    assert counts(whole["properties"]) == [3, 4, 3]
    assert counts(part["properties"]) == [3, None, None]

    env["KEDRO_TELEMETRY_PREVIEW"] = "1"
    shown = support.kedro("run", cwd=project, env=env).stderr
    body = collector.requests[0].decode().partition("\r\n\r\n")[2]
    assert f"{collector.url!r}\n{body}\n" in shown


def test_a_command_that_fails_fails_the_same_and_arrives(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    option = "--no-such-option" if support.KEDRO_018 else "--pipeline=nowhere"
    outcomes = []
    for switch in ("1", ""):
        variables = env | {"DO_NOT_TRACK": switch}
        done = support.kedro("run", option, cwd=project, env=variables)
        outcomes.append((done.returncode, done.stdout, done.stderr))
    assert outcomes[0] == outcomes[1]
    assert done.returncode != 0
    (event,) = collector.wait()
    assert event["event"] == "CLI command"


# --- One event for each command, and none for anything else ---

# This node has exactly one child, which ends like a command.
FORKS = """\
def one():
    import os, sys, psutil
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.wait() == (child, 0)
    assert psutil.Process().children(recursive=True) == []
    return 1
"""


def test_a_node_sees_no_sender_and_its_forked_children_send_nothing(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    module = project / "src" / "acme" / "pipelines" / "ds" / "__init__.py"
    text = module.read_text().replace("def one():\n    return 1\n", FORKS)
    assert FORKS in text
    module.write_text(text)
    done = support.kedro("run", "--pipeline=ds", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    support.wait_for_senders()
    assert collector.commands == ["kedro run --pipeline *****"]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_run_with_worker_processes_is_one_event(
    context: str, project: Path, env: dict[str, str], collector: Collector
) -> None:
    (project / "conf" / "base" / "catalog.yml").write_text("{}\n")
    env |= {"KEDRO_MP_CONTEXT": context, "PYTHONWARNINGS": "always"}
    done = support.kedro("run", "--runner=ParallelRunner", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr
    support.wait_for_senders()
    assert collector.commands == ["kedro run --runner *****"]


def test_sessions_and_packaged_projects_send_nothing(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    """Nor does a session in a process that has run a command."""
    python('run_session()\ncommand("run", "--help")\nrun_session()', project, env)
    env["PYTHONPATH"] += os.pathsep + str(project / "src")
    packaged = [sys.executable, "-m", "acme", f"--conf-source={project / 'conf'}"]
    subprocess.check_call(packaged, cwd=project, env=env)
    support.wait_for_senders()
    assert collector.commands == ["kedro run --help"]
    assert collector.events[0]["event"] == "CLI command"


MANY = """\
def count():
    children = psutil.Process().children()
    ended = [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
    return len(children) - len(ended), len(ended)

most = 0
for number in range(10):
    assert not command("info")
    assert not command("registry", "list")
    most = max(most, count()[0])
assert most, "each command waited for its sender"
while count()[0]:
    time.sleep(0.01)
assert not command("--version")
assert count() == (1, 0)
"""


def test_twenty_commands_in_one_process_are_twenty_events(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    """The next command reaps the senders that have ended. No warning is shown."""
    python(MANY, project, env, "-X", "dev", "-W", "error::ResourceWarning")
    collector.wait(21)
    support.wait_for_senders()
    expected = ["kedro info", "kedro registry list"] * 10 + ["kedro --version"]
    assert sorted(collector.commands) == sorted(expected)
    assert len({event["identity"] for event in collector.events}) == 1


def test_closed_streams_do_not_matter(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    line = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *KEDRO, "--version"]
    subprocess.check_call(line, cwd=project, env=env)
    collector.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: needs prlimit")
def test_a_sender_that_cannot_be_started_does_not_matter(
    project: Path, env: dict[str, str], collector: Collector, home: Path
) -> None:
    line = ["prlimit", "--nofile=7:7", *KEDRO, "registry", "list"]  # too few for Popen
    both = subprocess.check_output(
        line, cwd=project, env=env, text=True, stderr=subprocess.STDOUT
    )
    assert both == "- __default__\n- de\n- ds\n\n"
    assert (support.own_folder(home) / "salt").exists(), "it is off"
    assert collector.stays_silent()
