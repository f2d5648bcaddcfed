"""Off is silent, and on leaves the network to the sender: what the kernel sees."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import strace
import support
from strace import SCRIPTS
from support import git

from kedro_telemetry import plugin

if sys.platform != "linux":
    pytest.skip("NOT TESTED HERE: strace exists only on Linux", allow_module_level=True)

KEDRO = str(SCRIPTS / "kedro")
PIPELINES = "- __default__\n- de\n- ds\n\n"  # the output of `kedro registry list`


# --- Ways to be off: variables, and what is done to a project that said yes ---


def nothing(project: Path) -> None: ...


def says(text: str, mode: int = 0o644) -> Callable[[Path], None]:
    def write(project: Path) -> None:
        (project / ".telemetry").write_text(text)
        (project / ".telemetry").chmod(mode)

    return write


def no_answer(project: Path) -> None:
    (project / ".telemetry").unlink()


def link(project: Path) -> None:
    (project / ".telemetry").rename(project / "yes")
    (project / ".telemetry").symlink_to("yes")


def fifo(project: Path) -> None:
    no_answer(project)
    os.mkfifo(project / ".telemetry")


def folder(project: Path) -> None:
    no_answer(project)
    (project / ".telemetry").mkdir()


def tracked(project: Path) -> None:
    git("init", "--quiet", cwd=project)
    git("add", "--force", ".telemetry", cwd=project)


OFF: dict[str, tuple[dict[str, str], Callable[[Path], None]]] = {
    "DO_NOT_TRACK": ({"DO_NOT_TRACK": "1"}, nothing),
    "KEDRO_DISABLE_TELEMETRY": ({"KEDRO_DISABLE_TELEMETRY": "0"}, nothing),
    "CI": ({"CI": "true"}, nothing),
    "a CI system without CI": ({"bamboo_buildKey": "X"}, nothing),
    "no": ({}, says("consent: false\n")),
    "more than a yes": ({}, says("consent: true\nexcept: never\n")),
    "writable by everyone": ({}, says("consent: true\n", 0o666)),
    "writable by the group": ({}, says("consent: true\n", 0o664)),
    "a link": ({}, link),
    "a FIFO": ({}, fifo),
    "a folder": ({}, folder),
    "no answer and no terminal": ({}, no_answer),
    "tracked by git": ({}, tracked),
    "endpoint refused": (
        {plugin.ENDPOINT_VARIABLE: "http://collector.example/"},
        nothing,
    ),
    "proxy refused": (
        {
            plugin.ENDPOINT_VARIABLE: "https://collector.example/",
            "ALL_PROXY": "socks5://a",
        },
        nothing,
    ),
}


@pytest.mark.parametrize("name", OFF)
def test_off_starts_no_process_and_opens_no_socket(
    name: str, project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    variables, prepare = OFF[name]
    prepare(project)
    done, found = strace.run(
        tmp_path / "trace", KEDRO, "registry", "list", cwd=project, env=env | variables
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, PIPELINES, "")
    (kedro,) = found  # one process, and it runs one program
    assert [line[-2:] for line, _ in kedro.programs] == [["registry", "list"]]
    assert kedro.internet == kedro.changes == []


@support.as_root
def test_the_answer_of_another_user_is_off(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    os.chown(project / ".telemetry", support.UNPRIVILEGED, -1)
    done = support.kedro("registry", "list", cwd=project, env=env)
    assert done.stdout == PIPELINES
    assert collector.stays_silent()


def test_off_outside_a_project(env: dict[str, str], tmp_path: Path, home: Path) -> None:
    (tmp_path / ".telemetry").write_text("consent: true\n")
    done, found = strace.run(tmp_path / "trace", KEDRO, "info", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (kedro,) = found
    assert kedro.internet == kedro.changes == []


def test_a_run_that_is_off_starts_only_what_kedro_starts(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    says("consent: false\n")(project)
    line = [KEDRO, "run", "--pipeline=ds"]
    done, found = strace.run(tmp_path / "trace", *line, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    programs = {Path(line[0]).name for process in found for line, _ in process.programs}
    assert programs <= {"kedro", "git"}
    assert [call for process in found for call in process.internet] == []
    assert [call for process in found for call in process.changes] == []


def test_shell_completion_is_off_whatever_the_command_is_called(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "kd"
    script.write_text(Path(KEDRO).read_text())
    script.chmod(0o755)
    env |= {"COMP_WORDS": "kd reg", "COMP_CWORD": "1", "_KD_COMPLETE": "bash_complete"}
    done, found = strace.run(tmp_path / "trace", str(script), cwd=project, env=env)
    assert (done.stdout, done.stderr) == ("plain,registry\n", "")
    (kedro,) = found
    assert kedro.internet == kedro.changes == []


def test_the_clone_of_a_tracked_answer_is_off(
    project: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    tracked(project)
    git("add", ".", cwd=project)
    git("commit", "--quiet", "--message=all", cwd=project)
    git("clone", "--quiet", str(project), str(clone), cwd=tmp_path)
    assert (clone / ".telemetry").read_text() == "consent: true\n"
    assert support.kedro("registry", "list", cwd=clone, env=env).stdout == PIPELINES
    assert collector.stays_silent()
    git("rm", "--quiet", "--cached", ".telemetry", cwd=clone)
    support.kedro("registry", "list", cwd=clone, env=env)  # the user's own again
    collector.wait()


@pytest.mark.parametrize("prepare", [nothing, no_answer])
def test_a_preview_only_writes_to_standard_error(
    prepare: Callable[[Path], None],
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    tmp_path: Path,
) -> None:
    prepare(project)
    variables = {**env, plugin.PREVIEW_VARIABLE: "1"}
    done, found = strace.run(
        tmp_path / "trace", KEDRO, "registry", "list", cwd=project, env=variables
    )
    assert (done.returncode, done.stdout) == (0, PIPELINES)
    assert f"POST {collector.url}\n" in done.stderr
    assert '"command":"kedro registry list"' in done.stderr
    (kedro,) = found
    assert kedro.internet == kedro.changes == []


def test_status_changes_nothing(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    line = [str(SCRIPTS / "kedro-telemetry"), "status"]
    done, found = strace.run(tmp_path / "trace", *line, cwd=project, env=env)
    assert done.returncode == 1, "on"
    (status,) = found
    assert status.internet == status.changes == []


# --- On ---


@pytest.mark.parametrize("arguments", [["run", "--pipeline=ds"], ["registry", "list"]])
def test_only_the_sender_uses_the_network(
    arguments: list[str],
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    home: Path,
    tmp_path: Path,
) -> None:
    others = {"AWS_SECRET_ACCESS_KEY": "x", "HTTP_PROXY": "http://127.0.0.1:9"}
    variables = env | others | {"NO_PROXY": "a", "SSL_CERT_FILE": "ca.pem"}
    line = [KEDRO, *arguments]
    done, found = strace.run(tmp_path / "trace", *line, cwd=project, env=variables)
    assert done.returncode == 0, done.stderr
    assert len(collector.wait()) == 1

    (sender,) = [process for process in found if process.is_sender]
    assert [process for process in found if process.internet] == [sender]
    assert len(sender.internet) == 1
    assert [call for call in sender.calls if call.startswith('chdir("/")')]
    assert sender.changes == []
    assert [path for path in sender.opened if path.startswith(str(tmp_path))] == []
    assert [path for path in sender.opened if path.startswith(str(home))] == []
    ((_, environment),) = sender.programs
    assert sorted(environment) == [
        f"{plugin.ENDPOINT_VARIABLE}={collector.url}",
        "NO_PROXY=a",
        f"SSL_CERT_FILE={project / 'ca.pem'}",
    ]

    salt = home / ".config" / "kedro" / plugin.salt_name()
    changes = [call for process in found for call in process.changes]
    assert changes
    assert [call for call in changes if f'"{home / ".config"}' not in call] == []
    assert salt.exists()


def test_the_user_database_is_not_asked(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    del env["LOGNAME"]
    line = [KEDRO, "registry", "list"]
    _, found = strace.run(tmp_path / "trace", *line, cwd=project, env=env)
    assert [process for process in found if process.is_sender]
    opened = [path for process in found for path in process.opened]
    assert str(project / ".telemetry") in opened
    assert [path for path in opened if "passwd" in path or "libnss" in path] == []


def test_the_command_does_not_wait_for_the_sender(
    project: Path, env: dict[str, str]
) -> None:
    def silent(connection: socket.socket, collector: support.Collector) -> None:
        collector.stopping.wait(20)

    with support.collecting(silent) as collector:
        variables = {**env, plugin.ENDPOINT_VARIABLE: collector.url}
        done = support.kedro("info", cwd=project, env=variables)
        assert done.returncode == 0
        (sender,) = support.senders()  # the command has ended
        end = time.monotonic() + 4
        while not collector.connections and time.monotonic() < end:
            time.sleep(0.02)
        assert collector.connections == 1
        assert sender.is_running()


@pytest.mark.parametrize(("answer", "said"), [("n", "false"), ("y", "true")])
def test_in_the_project_an_answer_only_writes_its_file(
    answer: str, said: str, project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    no_answer(project)
    line = strace.command(tmp_path / "trace", KEDRO, "registry", "list")
    child = pexpect.spawn(
        line[0],
        line[1:],
        cwd=str(project),
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    child.expect_exact("[y/N]")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    found = strace.processes(tmp_path / "trace")
    assert (project / ".telemetry").read_text() == f"consent: {said}\n"
    assert len([process for process in found if process.is_sender]) == (answer == "y")
    kedro = found[0]
    assert kedro.internet == []
    written = [call for call in kedro.changes if f'"{project}' in call]
    assert len(written) == 1
    assert "O_EXCL" in written[0]
    if answer == "n":
        assert len(found) == 1
        assert kedro.changes == written
