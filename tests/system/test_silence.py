"""Off is silent, and on leaves the network to the sender: what the kernel sees."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import strace
import support
from network import ENDPOINT
from support import Collector

from kedro_telemetry.plugin import SENDER_VARIABLES

if sys.platform != "linux":
    pytest.skip("NOT TESTED HERE: strace exists only on Linux", allow_module_level=True)

KEDRO = [sys.executable, "-m", "kedro"]
SCRIPT = str(Path(sys.executable).with_name("kedro-telemetry"))


@pytest.fixture(autouse=True)
def _without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts lines would start, open and write something itself."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def traced(
    folder: Path, *line: str, cwd: Path, env: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], list[strace.Process]]:
    """Run a command to the end of its last process. Python writes no bytecode."""
    done = subprocess.run(
        strace.command(folder, *line),
        cwd=cwd,
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, strace.processes(folder)


# --- Off ---

# What is done, in a shell, to a project in which telemetry is on. $OWN is the file with
# the user's own answer, and $FOLDER its folder.
WAYS_TO_BE_OFF = {
    "DO_NOT_TRACK": "export DO_NOT_TRACK=0",
    "KEDRO_DISABLE_TELEMETRY": "export KEDRO_DISABLE_TELEMETRY=1",
    "CI": "export CI=false",
    "shell completion": "export _KD_COMPLETE=bash_complete",
    "a preloaded library": "export LD_PRELOAD=/usr/lib/libtorsocks.so",
    "a relative path of authorities": "export SSL_CERT_FILE=authority.pem",
    "an address of another kind": f"export {ENDPOINT}=http://collector.example/",
    "an address that was not agreed to": f"export {ENDPOINT}=http://127.0.0.1:1/",
    "a proxy of another kind": "export ALL_PROXY=socks5://127.0.0.1:9",
    "no home": "export HOME=",
    "not a project": "rm pyproject.toml",
    "no answer": "rm .telemetry",
    "a no": "echo consent: false >.telemetry; rm $OWN",
    "more than a yes": "echo except: never >>.telemetry",
    "a link": "mv .telemetry yes; ln -s yes .telemetry",
    "a FIFO": "rm .telemetry; mkfifo .telemetry",
    "a folder": "rm .telemetry; mkdir .telemetry",
    "only the yes of the project": "rm $OWN",
    "the own answer is no": "echo no >$OWN",
    "an own yes to another address": "sed -i 's/track/other/' $OWN",
    "an own yes to another version": "sed -i 's/version 2/version 1/' $OWN",
    "an own yes that is a link": "mv $OWN yes; ln -s $PWD/yes $OWN",
    "an own folder for the group": "chmod g+w $FOLDER",
    "an own folder in the project": "mv $FOLDER .; export XDG_STATE_HOME=$PWD",
    "a home that is the project": "mv $HOME/.local .; export HOME=$PWD",
    "a link into the project": "mv $FOLDER own; ln -s $PWD/own $FOLDER",
}
AS_ROOT = {"an own folder of another user": "chown 12345 $FOLDER"}
COMMANDS = """\
import json, os, sys
from pathlib import Path
from kedro.framework.cli.cli import KedroCLI
for folder, variables in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    try:
        KedroCLI(Path.cwd()).main(["--version"])
    except SystemExit as end:
        assert not end.code
"""


def test_off_starts_no_process_opens_no_socket_writes_no_file_and_prints_nothing(
    env: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    """One process runs a command for each way. Without a way, the command sends."""
    ways = WAYS_TO_BE_OFF | {"(on)": "true"} | (AS_ROOT if os.geteuid() == 0 else {})
    projects = {}
    for name, script in ways.items():
        folder = tmp_path / name.replace(" ", "-")
        project, home = folder / "project", folder / "home"
        project.mkdir(parents=True)
        support.make_bare_project(project)
        own = support.agree(project, home, collector.url)
        own_env = {"HOME": str(home), "OWN": str(own), "FOLDER": str(own.parent)}
        line = ["sh", "-c", f"exec 2>&-; set -e; {script}; env --null"]
        output = subprocess.check_output(line, cwd=project, env=env | own_env)
        variables = os.fsdecode(output).strip("\0").split("\0")
        projects[str(project)] = dict(v.split("=", 1) for v in variables)

    line = [sys.executable, "-c", COMMANDS, json.dumps(projects)]
    done, found = traced(tmp_path / "trace", *line, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("\n"), done.stderr) == (len(ways), ""), done.stdout
    bad: dict[str, list[str]] = {}
    (kedro, *_), name = found, ""  # the others are the sender that is on
    for call in kedro.calls:
        if call.startswith(f'chdir("{tmp_path}'):
            name = Path(call.split('"')[1]).parent.name
        visible = call.startswith(("clone", "fork", "vfork", "socket"))
        if name and (visible or strace.Process([call]).changes):
            bad.setdefault(name, []).append(call)
    assert bad.pop("(on)"), "what shows that each way makes the difference"
    assert bad == {}
    assert collector.connections == 1


def test_preview_and_status_change_nothing(
    project: Path, env: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Without the user's own answer, a preview only writes to standard error."""
    status, (process,) = traced(tmp_path / "1", SCRIPT, "status", cwd=project, env=env)
    assert status.returncode == 1, "on"
    assert process.internet == process.changes == []

    support.own_file(project, home).unlink()
    env["KEDRO_TELEMETRY_PREVIEW"] = "1"
    line = [*KEDRO, "registry", "list"]
    done, (process,) = traced(tmp_path / "2", *line, cwd=project, env=env)
    assert (done.returncode, done.stdout) == (0, "- __default__\n- de\n- ds\n\n")
    assert '"command": "kedro registry list"' in done.stderr
    assert "Telemetry is off: " in done.stderr
    assert process.internet == process.changes == []


# --- On ---


def test_after_a_yes_only_the_sender_uses_the_network_and_few_files_are_made(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """With a umask that protects nothing, a secret file and secret variables."""
    seen: dict[str, object] = {}
    files: dict[int, str] = {}

    def look(connection: socket.socket, collector: Collector) -> None:
        collector.requests.append(support.read_request(connection))
        (sender,) = support.senders()
        seen.update(sender.as_dict(["cmdline", "cwd", "environ", "num_threads"]))
        for file in Path(f"/proc/{sender.pid}/fd").iterdir():
            files[int(file.name)] = os.readlink(file).partition(":")[0]
        connection.sendall(support.OK)

    (project / ".telemetry").unlink()
    home = tmp_path / "home"
    home.mkdir()
    del env["LOGNAME"]  # the user database is not asked instead
    env |= {"HTTP_PROXY": "x", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONWARNINGS": "all"}
    allowed = dict.fromkeys(SENDER_VARIABLES, "127.0.0.1:9")
    allowed |= {"SSL_CERT_FILE": "/authority.pem", "SSL_CERT_DIR": "/authorities"}
    env |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    line = strace.command(tmp_path / "trace", *KEDRO, "registry", "list")
    script = 'umask 0; exec 9<pyproject.toml; exec "$@"'
    with support.collecting(look) as collector:
        allowed[ENDPOINT] = collector.url
        child = pexpect.spawn(
            "sh", ["-c", script, "sh", *line], 60, cwd=str(project), env=env | allowed
        )
        child.expect_exact("[y/N]")
        child.sendline("y")
        child.expect(pexpect.EOF)
        child.close()
        assert len(collector.wait()) == 1
        support.wait_for_senders()

    found = strace.processes(tmp_path / "trace")
    (sender,) = [process for process in found if process.is_sender]
    assert [process for process in found if process.internet] == [sender]
    assert len(sender.internet) == 1
    # Its second thread is the timer.
    expected = {"cmdline": support.SENDER, "cwd": "/", "num_threads": 2}
    assert seen == expected | {"environ": allowed}
    assert [files.pop(number) for number in range(3)] == ["pipe", *["/dev/null"] * 2]
    assert list(files.values()) == ["socket"]
    assert sender.changes == []
    assert [path for path in sender.opened if path.startswith(str(tmp_path))] == []
    # Signals of the terminal never reach it: it has its own session from its start.
    calls = [call.partition("(")[0] for call in sender.calls]
    assert "setsid" in calls[: calls.index("execve")]

    folder, answer = support.own_folder(home), support.own_file(project, home)
    made = dict.fromkeys((home / ".local", home / ".local" / "state", folder), 0o700)
    made |= {answer: 0o600, folder / "salt": 0o600}
    assert sorted(home.rglob("*")) == sorted(made)
    made |= {project / ".telemetry": 0o644}
    assert {path: path.stat().st_mode & 0o777 for path in made} == made
    changes = [call for process in found for call in process.changes]
    names = [f'"{path}"' for path in made]
    assert [call for call in changes if not any(name in call for name in names)] == []
    opened = [path for process in found for path in process.opened]
    assert str(project / ".telemetry") in opened
    assert [path for path in opened if "passwd" in path or "libnss" in path] == []
