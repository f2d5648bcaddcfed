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

from kedro_telemetry import plugin

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
IMPORTS = """\
from pathlib import Path
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
"""
SESSION = """\
def run_session(path):
    bootstrap_project(path)
    with KedroSession.create(project_path=path) as session:
        session.run()

"""


def python(
    script: str, cwd: Path, env: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a script that must succeed."""
    done = subprocess.run(
        [sys.executable, *options, "-c", IMPORTS + SESSION + script],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


# --- What arrives ---


def test_each_command_arrives_masked(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    (project / "src" / "acme" / "cli.py").write_text(CLIENT_CLI)
    not_utf_8 = os.fsdecode(b"--pipeline=\xff")
    env["LOGNAME"] = os.fsdecode(b"\xff")
    expected = {
        (): "kedro",
        ("--version",): "kedro --version",
        ("registry", "list"): "kedro registry list",
        ("registry", "describe", "list"): "kedro registry describe *****",
        ("run", "--pipeline=ds", "-e", "base"): "kedro run --pipeline ***** -e *****",
        ("run", not_utf_8): "kedro run --pipeline *****",
        ("-v", "run", "--params=a:1"): "kedro ***** ***** *****",
        ("wayne-enterprises", "--wayne-account=7"): "kedro ***** *****",
    }
    if support.KEDRO_018:  # it does not tell plugins about commands that fail
        del expected["run", not_utf_8]
    for arguments in expected:
        support.kedro(*arguments, cwd=project, env=env)
    collector.wait(len(expected))
    support.wait_for_senders()
    assert sorted(collector.commands) == sorted(expected.values())


def test_no_name_or_value_of_the_user_arrives(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    (project / "src" / "acme" / "cli.py").write_text(CLIENT_CLI)
    env |= {"LOGNAME": "clark.kent", "CLIENT": "lexcorp"}
    arguments = ["wayne-enterprises", "--wayne-account", "gotham"]
    support.kedro(*arguments, cwd=project, env=env)
    support.kedro("run", "--params=password:hunter2", cwd=project, env=env)
    collector.wait(2)
    names = ["acme", "wayne", "gotham", "clark", "kent", "lexcorp", "hunter2"]
    names += ["password", str(project), str(home), project.parent.name]
    names += [socket.gethostname(), platform.release(), platform.python_version()]
    for request in collector.requests:
        assert [name for name in names if name.encode() in request] == []
        assert len(request) < 1536


def test_a_run_of_the_whole_project_has_all_counts(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("run", cwd=project, env=env)
    (event,) = collector.wait()
    assert event["event"] == "Kedro Project Statistics"
    assert [event["properties"][name] for name in COUNTS] == [3, 4, 3]


def test_a_run_of_named_pipelines_only_counts_datasets(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("run", "--pipeline=ds", cwd=project, env=env)
    (event,) = collector.wait()
    assert event["event"] == "Kedro Project Statistics"
    assert [event["properties"].get(name) for name in COUNTS] == [3, None, None]


def test_a_service_session_counts_the_whole_project(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    pytest.importorskip(
        "kedro.framework.session.service_session", reason="newer than this Kedro"
    )
    with (project / "src" / "acme" / "settings.py").open("a") as file:
        file.write(
            "\nfrom kedro.framework.session.service_session import KedroServiceSession"
            "\nSESSION_CLASS = KedroServiceSession\n"
        )
    done = support.kedro("run", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    (event,) = collector.wait()
    assert [event["properties"].get(name) for name in COUNTS] == [3, 4, 3]


def test_a_command_that_fails_arrives_and_fails_the_same(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    option = "--no-such-option" if support.KEDRO_018 else "--pipeline=nowhere"
    off = support.kedro("run", option, cwd=project, env={**env, "DO_NOT_TRACK": "1"})
    on = support.kedro("run", option, cwd=project, env=env)
    assert off.returncode == on.returncode != 0
    (event,) = collector.wait()
    assert event["event"] == "CLI command"


def test_a_preview_shows_what_is_sent_byte_for_byte(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("registry", "list", cwd=project, env=env)
    preview = {**env, plugin.PREVIEW_VARIABLE: "1"}
    shown = support.kedro("registry", "list", cwd=project, env=preview).stderr
    collector.wait()
    head, _, body = collector.requests[0].decode().partition("\r\n\r\n")
    first, _, headers = head.replace("\r\n", "\n").partition("\n")
    assert first == "POST /api/track HTTP/1.1"
    assert shown.endswith(f"\n\nPOST {collector.url}\n{headers}\n\n{body}\n")
    assert "Telemetry is on" in shown
    assert "example" not in shown.partition("\n\n")[0]


def test_hashes_stay_the_same_until_the_salt_is_forgotten(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    support.kedro("registry", "list", cwd=project, env=env)
    support.kedro("registry", "list", cwd=project, env=env)
    collector.wait(2)
    assert plugin.main(["forget"]) == 0
    support.kedro("registry", "list", cwd=project, env=env)
    one, same, other = (event["properties"] for event in collector.wait(3))
    for field in ("username", "package_name"):
        assert one[field] == same[field] != other[field]


# --- One event for each command, and none for anything else ---


@pytest.mark.parametrize(
    ("runner", "context"),
    [("ParallelRunner", "fork"), ("ParallelRunner", "spawn")],
)
def test_a_run_with_worker_processes_is_one_event(
    runner: str,
    context: str,
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
) -> None:
    (project / "conf" / "base" / "catalog.yml").write_text("{}\n")
    env |= {"KEDRO_MP_CONTEXT": context, "PYTHONWARNINGS": "always"}
    done = support.kedro("run", f"--runner={runner}", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro run --runner *****"]


def test_a_session_in_a_script_sends_nothing(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    python("run_session(Path.cwd())", project, env)
    assert collector.stays_silent()


def test_a_packaged_project_sends_nothing(
    project: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path
) -> None:
    env["PYTHONPATH"] += os.pathsep + str(project / "src")
    (tmp_path / ".telemetry").write_text("consent: true\n")
    line = [sys.executable, "-m", "acme", f"--conf-source={project / 'conf'}"]
    subprocess.run(line, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert collector.stays_silent()


def test_a_session_after_the_help_of_run_sends_nothing(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    script = (
        "KedroCLI(Path.cwd()).main(['run', '--help'], standalone_mode=False)\n"
        "run_session(Path.cwd())\n"
    )
    assert "Usage:" in python(script, project, env).stdout
    assert collector.stays_silent()


def test_a_run_of_another_project_is_not_counted(
    template: Path,
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    tmp_path: Path,
) -> None:
    other = support.copy_project(template, tmp_path / "other")
    (project / "src" / "acme" / "cli.py").write_text(
        f"import click\n{IMPORTS}{SESSION}"
        "@click.group()\ndef cli():\n    pass\n\n"
        f"@cli.command()\ndef run():\n    run_session(Path({str(other)!r}))\n"
    )
    done = support.kedro("run", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    (event,) = collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro run"]
    assert event["event"] == "CLI command"


MANY = """\
import time, psutil
def count():
    children = psutil.Process().children()
    ended = [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
    return len(children) - len(ended), len(ended)
def command(*name):
    try:
        KedroCLI(Path.cwd())(name)
    except SystemExit as end:
        assert not end.code
most = 0
for number in range(25):
    while count()[0] >= 10:  # as many as two cores can run
        time.sleep(0.01)
    command("info")
    command("registry", "list")
    most = max(most, *count())
assert most > 2, "a command waited for an earlier sender"
while count()[0]:
    time.sleep(0.01)
command("--version")
assert count() == (1, 0)
"""


def test_fifty_commands_in_one_process_are_fifty_events(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """The next command reaps the senders that have ended."""
    python(MANY, project, env)
    collector.wait(51)
    support.wait_for_senders()
    expected = ["kedro info", "kedro registry list"] * 25 + ["kedro --version"]
    assert sorted(collector.commands) == sorted(expected)
    assert len({event["identity"] for event in collector.events}) == 1


def test_ctrl_c_in_a_run_changes_nothing(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """The run has been reported when its pipeline started."""
    module = project / "src" / "acme" / "pipelines" / "ds" / "__init__.py"
    waits = "def one():\n    print('runs', flush=True)\n    import time; time.sleep(60)"
    module.write_text(module.read_text().replace("def one():", waits))
    statuses = []
    for switch in ("1", ""):
        child = subprocess.Popen(
            [*KEDRO, "run", "--pipeline=ds"],
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
        statuses.append(child.returncode)
    assert statuses[0] == statuses[1]
    collector.wait()
    support.wait_for_senders()
    assert collector.commands == ["kedro run --pipeline *****"]


# --- Nothing disturbs the command ---


def test_no_warning_is_shown(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    line = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-m", "kedro"]
    line += ["run", "--pipeline=ds"]
    done = subprocess.run(line, cwd=project, env=env, capture_output=True, check=True)
    assert b"ResourceWarning" not in done.stderr
    assert b"kedro_telemetry" not in done.stderr
    collector.wait()


def as_with_telemetry_off(
    *line: str, cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a command. Its output and exit status must be those with telemetry off."""
    off, on = (
        subprocess.run(
            line,
            cwd=cwd,
            env={**env, "DO_NOT_TRACK": switch},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        for switch in ("1", "")
    )
    assert (on.returncode, on.stdout, on.stderr) == (
        off.returncode,
        off.stdout,
        off.stderr,
    )
    return on


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: POSIX shells")
@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(
    closed: str, project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    line = ["sh", "-c", f'"$@" {closed}', "sh", *KEDRO, "--version"]
    done = as_with_telemetry_off(*line, cwd=project, env=env)
    assert done.returncode == 0
    collector.wait()
    assert collector.commands == ["kedro --version"]


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: Linux's limits")
def test_a_sender_that_cannot_be_started_does_not_matter(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    limited = [*support.unprivileged(project, home), "prlimit", "--nproc=0:0"]
    line = [*limited, *KEDRO, "registry", "list"]
    assert as_with_telemetry_off(*line, cwd=project, env=env).stdout
    assert collector.stays_silent()


# --- Homes ---

COMMANDS = """\
import os, sys
os.umask(0)
for home in sys.argv[1:]:
    os.environ["HOME"] = home
    try:
        KedroCLI(Path.cwd())(["registry", "list"])
    except SystemExit as end:
        assert not end.code
"""


@pytest.mark.parametrize("user", ["root", "unprivileged"])
def test_a_salt_is_only_created_in_the_users_own_home(
    user: str, project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """Elsewhere, nothing is created, and each event has another salt."""
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("NOT TESTED HERE: only root can become another user")
    homes = project.parent / "homes"
    for name in ("own", "foreign", "closed"):
        (homes / name).mkdir(parents=True)
    (homes / "file").touch()
    become = [] if user == "root" else support.unprivileged(homes, project)
    os.chown(homes / "foreign", 12345, 12345)
    (homes / "foreign").chmod(0o777)
    paths = ["", "conf", *(str(homes / name) for name in ("foreign", "file", "no"))]
    if user == "unprivileged":
        (homes / "closed").chmod(0o555)
        paths.append(str(homes / "closed"))
    before = {*project.parent.rglob("*"), *Path("/").iterdir()}
    env |= {"PYTHONDONTWRITEBYTECODE": "1"}
    script = IMPORTS + COMMANDS
    line = [*become, sys.executable, "-c", script, *paths, str(homes / "own")]
    done = subprocess.run(line, cwd=project, env=env, check=True, capture_output=True)
    assert not done.stderr
    after = {*project.parent.rglob("*"), *Path("/").iterdir()}
    config = homes / "own" / ".config"
    salt = config / "kedro" / plugin.salt_name()
    assert after - before == {config, config / "kedro", salt}
    modes = [path.stat().st_mode & 0o777 for path in (config, config / "kedro", salt)]
    assert modes == [0o700, 0o700, 0o600]
    events = collector.wait(len(paths) + 1)
    assert len({event["identity"] for event in events}) == len(events)
