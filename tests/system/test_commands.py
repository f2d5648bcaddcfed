"""Real `kedro` commands in a real project, and the bytes that arrive."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import support
from network import side_by_side

KEDRO = [sys.executable, "-m", "kedro"]
COUNTS = ("number_of_datasets", "number_of_nodes", "number_of_pipelines")
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


def run(
    *line: str, cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        line,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def python(script: str, cwd: Path, env: dict[str, str], *options: str) -> None:
    """Run a script that must succeed."""
    done = run(sys.executable, *options, "-c", PREPARE + script, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert b"telemetry" not in done.stderr
    assert b"ResourceWarning" not in done.stderr


def replace_node(project: Path, code: str) -> None:
    """Replace the function of the first node in each of the two pipelines."""
    for name in ("ds", "de"):
        module = project / "src" / "acme" / "pipelines" / name / "__init__.py"
        text = module.read_text().replace("def one():\n    return 1", code)
        assert code in text
        module.write_text(text)


# --- What arrives ---

MASKED = {
    (): "kedro",
    ("--version",): "kedro --version",
    ("registry", "list"): "kedro registry list",
    ("registry", "describe", "list"): "kedro registry describe *****",
    ("run", "--pipeline=ds", "-e", "base"): "kedro run --pipeline ***** -e *****",
    ("run", os.fsdecode(b"--pipeline=\xff")): "kedro run --pipeline *****",
    ("-v", "run", "--params=a:1"): "kedro ***** ***** *****",
    ("wayne-enterprises", "--wayne-account=gotham"): "kedro ***** *****",
    ("run", "--params=password:hunter2"): "kedro run --params *****",
}
if support.KEDRO_018:  # it does not tell plugins about commands that fail
    del MASKED["run", os.fsdecode(b"--pipeline=\xff")]


def test_each_command_arrives_masked_without_any_name_of_the_user(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
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


def test_a_run_counts_and_only_datasets_if_it_names_a_pipeline(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("run", cwd=project, env=env)
    support.kedro("run", "--pipeline=ds", cwd=project, env=env)
    events = {event["properties"]["command"]: event for event in collector.wait(2)}
    whole, part = events["kedro run"], events["kedro run --pipeline *****"]
    assert {event["event"] for event in (whole, part)} == {"Kedro Project Statistics"}
    assert [whole["properties"][name] for name in COUNTS] == [3, 4, 3]
    assert [part["properties"].get(name) for name in COUNTS] == [3, None, None]
    for field in ("username", "package_name"):  # with the same salt
        assert whole["properties"][field] == part["properties"][field]


def test_a_preview_shows_the_event_that_would_arrive(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("registry", "list", cwd=project, env=env)
    env["KEDRO_TELEMETRY_PREVIEW"] = "1"
    shown = support.kedro("registry", "list", cwd=project, env=env).stderr
    collector.wait()
    body = collector.requests[0].decode().partition("\r\n\r\n")[2]
    assert shown.endswith(f"\nPOST {collector.url!r}\n{body}\n")
    assert "This event would be sent." in shown


# --- One event for each command, and none for anything else ---

# Each run of this node has exactly one child, which ends like a command.
FORKS = """\
def one():
    import os, sys, psutil
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.wait() == (child, 0)
    assert psutil.Process().children(recursive=True) == []
    return 1"""


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: Unix has fork")
def test_a_node_sees_no_sender_and_its_forked_children_send_nothing(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    replace_node(project, FORKS)
    done = support.kedro("run", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    support.wait_for_senders()
    assert collector.commands == ["kedro run"]


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: Unix has fork")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_run_with_worker_processes_is_one_event(
    context: str, project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    (project / "conf" / "base" / "catalog.yml").write_text("{}\n")
    env |= {"KEDRO_MP_CONTEXT": context, "PYTHONWARNINGS": "always"}
    done = support.kedro("run", "--runner=ParallelRunner", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr
    support.wait_for_senders()
    assert collector.commands == ["kedro run --runner *****"]


SESSIONS = """\
run_session()
command("run", "--help")  # is an event
run_session()
"""


def test_sessions_and_packaged_projects_send_nothing(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    env["PYTHONPATH"] += os.pathsep + str(project / "src")
    packaged = [sys.executable, "-m", "acme", f"--conf-source={project / 'conf'}"]
    python(SESSIONS, project, env, "-W", "ignore")
    assert run(*packaged, cwd=project, env=env).returncode == 0
    support.wait_for_senders()
    assert collector.commands == ["kedro run --help"]
    assert "number_of_datasets" not in collector.events[0]["properties"]


MANY = """\
def count():
    children = psutil.Process().children()
    ended = [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
    return len(children) - len(ended), len(ended)

most = 0
for number in range(10):
    assert not command("info")
    assert not command("registry", "list")
    most = max(most, *count())
assert most > 2, "a command waited for an earlier sender"
while count()[0]:
    time.sleep(0.01)
assert not command("--version")
assert count() == (1, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: Unix has zombies")
def test_twenty_commands_in_one_process_are_twenty_events(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """The next command reaps the senders that have ended. No warning is shown."""
    python(MANY, project, env, "-X", "dev", "-W", "error::ResourceWarning")
    collector.wait(21)
    support.wait_for_senders()
    expected = ["kedro info", "kedro registry list"] * 10 + ["kedro --version"]
    assert sorted(collector.commands) == sorted(expected)
    assert len({event["identity"] for event in collector.events}) == 1


# --- Nothing disturbs the command ---


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: Unix has shells")
def test_closed_streams_do_not_matter(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    line = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *KEDRO, "--version"]
    assert run(*line, cwd=project, env=env).returncode == 0
    collector.wait()
    assert collector.commands == ["kedro --version"]


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: Linux's limits")
def test_a_sender_that_cannot_be_started_does_not_matter(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    limited = ["prlimit", "--nofile=5:5", *KEDRO]  # Kedro needs five, a pipe more
    done = run(*limited, "registry", "list", cwd=project, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"- __default__\n- de\n- ds\n\n"
    assert (support.own_folder(home) / "salt").exists(), "it is off"
    assert collector.stays_silent()


def test_a_command_that_fails_fails_the_same_and_arrives(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    option = "--no-such-option" if support.KEDRO_018 else "--pipeline=nowhere"

    def outcome(switch: str) -> tuple[int, bytes, bytes]:
        variables = env | {"DO_NOT_TRACK": switch}
        done = run(*KEDRO, "run", option, cwd=project, env=variables)
        return done.returncode, done.stdout, done.stderr

    off, on = side_by_side(outcome, ["1", ""])
    assert on == off
    assert on[0] != 0
    (event,) = collector.wait()
    assert event["event"] == "CLI command"


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: Unix has signals")
def test_ctrl_c_in_a_run_ends_it_in_the_same_way(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    waits = "def one():\n    print('runs', flush=True)\n    import time; time.sleep(60)"
    replace_node(project, waits)

    def interrupt(switch: str) -> int:
        child = subprocess.Popen(
            [*KEDRO, "run"],
            cwd=project,
            env={**env, "DO_NOT_TRACK": switch},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout
        while b"runs" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        return child.returncode

    off, on = side_by_side(interrupt, ["1", ""])
    assert off == on != 0
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro run"]
