"""What `kedro` commands ask of the kernel: off is silent, on leaves the network to the sender."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pexpect
import psutil
import pytest
import support

from kedro_telemetry import plugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
IN_CI = bool(os.environ.get("CI"))  # asked here: conftest empties the environment of each test
ALLOWED = {*plugin.SENDER_VARIABLES}
WRITES = re.compile(
    r"^(open|openat|openat2|creat)\(.*\b(O_WRONLY|O_RDWR|O_CREAT)\b"
    r"|^(mkdir|mkdirat|rename|renameat|renameat2|link|linkat|symlink|symlinkat|unlink|unlinkat|rmdir|truncate"
    r"|chmod|fchmodat|chown|fchownat|lchown|mknod|mknodat|utimensat)\("
)
CALLS = "trace=%process,%network,%file"


def strace() -> str:
    """Debian's strace. Without it nothing here is proved: a failure in CI, elsewhere a skip that says so."""
    path = shutil.which("strace", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        (pytest.fail if IN_CI else pytest.skip)("strace is not installed: the system calls are NOT proved")
    return path


@dataclass
class Task:
    """A process or thread, as strace saw it."""

    calls: list[str]

    @property
    def programs(self) -> list[tuple[list[str], list[str]]]:
        """Arguments and environment of each program that it became."""
        found = re.findall(r'^execve\(".*?", (\[.*?\]), (\[.*\])\) = 0$', "\n".join(self.calls), re.MULTILINE)
        return [(ast.literal_eval(arguments), ast.literal_eval(variables)) for arguments, variables in found]

    @property
    def internet(self) -> list[str]:
        return [call for call in self.calls if re.match(r"socket(pair)?\(AF_INET", call)]

    def writes(self, *folders: Path) -> list[str]:
        """Calls that create, write or change something in one of the folders, or name a relative path."""
        done = [call for call in self.calls if WRITES.match(call) and "= -1" not in call]
        named = [(call, re.findall(r'"(.*?)"', call)) for call in done]
        return [call for call, paths in named if any(within(path, folders) or path[:1] != "/" for path in paths)]

    def paths(self, *folders: Path) -> list[str]:
        """Calls that name anything in one of the folders."""
        return [c for c in self.calls if any(within(path, folders) for path in re.findall(r'"(.*?)"', c))]


def within(path: str, folders: tuple[Path, ...]) -> bool:
    return any(path == str(folder) or path.startswith(f"{folder}/") for folder in folders)


def command_line(folder: Path, *arguments: str) -> list[str]:
    """A command under strace that writes a file for each process and thread."""
    folder.mkdir()
    output = str(folder / "task")
    return [
        strace(),
        "-f",
        "--seccomp-bpf",
        "-ff",
        "-qq",
        "-v",
        "-s",
        "100000",
        "-e",
        CALLS,
        "-e",
        "signal=none",
        "-o",
        output,
        *arguments,
    ]


def tasks(folder: Path) -> list[Task]:
    return [Task(file.read_text(errors="replace").splitlines()) for file in sorted(folder.iterdir())]


def traced(
    *arguments: str, cwd: Path, env: dict[str, str], folder: Path, program: str = "kedro"
) -> tuple[subprocess.CompletedProcess[str], list[Task]]:
    """A command's result and its tasks, the sender's with them (strace waits for it)."""
    done = subprocess.run(
        command_line(folder, str(Path(sys.executable).parent / program), *arguments),
        cwd=cwd,
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, tasks(folder)


def sends(task: Task) -> bool:
    return any(arguments[1:3] == ["-I", "-S"] for arguments, _ in task.programs)


def assert_silent(found: list[Task], *folders: Path) -> None:
    """One process, its first program alone, no internet socket, nothing changed in these folders."""
    assert [len(task.programs) for task in found] == [1]
    assert found[0].internet == []
    assert found[0].writes(*folders) == []


def nothing(project: Path) -> None: ...


def no_file(project: Path) -> None:
    (project / ".telemetry").unlink()


def link(project: Path) -> None:
    (project / ".telemetry").rename(project / "yes")
    (project / ".telemetry").symlink_to("yes")


def broken_link(project: Path) -> None:
    no_file(project)
    (project / ".telemetry").symlink_to("nowhere")


def fifo(project: Path) -> None:
    no_file(project)
    os.mkfifo(project / ".telemetry")


def folder(project: Path) -> None:
    no_file(project)
    (project / ".telemetry").mkdir()


def says(text: str, mode: int = 0o644) -> Callable[[Path], None]:
    def write(project: Path) -> None:
        (project / ".telemetry").write_text(text)
        (project / ".telemetry").chmod(mode)

    return write


OFF: dict[str, tuple[dict[str, str], Callable[[Path], None]]] = {
    "row 1, DO_NOT_TRACK": ({"DO_NOT_TRACK": "1"}, nothing),
    "row 1, DO_NOT_TRACK=0": ({"DO_NOT_TRACK": "0"}, nothing),
    "row 1, KEDRO_DISABLE_TELEMETRY": ({"KEDRO_DISABLE_TELEMETRY": "false"}, nothing),
    "row 2, CI": ({"CI": "true"}, nothing),
    "row 2, GITHUB_ACTIONS": ({"GITHUB_ACTIONS": "true"}, nothing),
    "row 2, completion": ({"_KEDRO_COMPLETE": "bash_complete", "COMP_WORDS": "kedro ru", "COMP_CWORD": "1"}, nothing),
    "row 5, no": ({}, says("consent: false\n")),
    "row 5, empty": ({}, says("")),
    "row 5, noise": ({}, says("{" * 3000)),
    "row 5, more than a yes": ({}, says("consent: true\nexcept: never\n")),
    "row 5, writable by everyone": ({}, says("consent: true\n", 0o666)),
    "row 5, symlink": ({}, link),
    "row 5, broken symlink": ({}, broken_link),
    "row 5, FIFO": ({}, fifo),
    "row 5, folder": ({}, folder),
    "row 7, no answer and no terminal": ({}, no_file),
}


@pytest.mark.parametrize("name", OFF)
def test_off_asks_nothing_of_the_kernel(
    name: str, project: Path, env: dict[str, str], collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """In every row that is off, no process, no internet socket, no file, no word."""
    variables, prepare = OFF[name]
    prepare(project)
    done, found = traced("info", cwd=project, env=env | variables, folder=tmp_path / "trace")
    assert done.returncode == 0, done.stderr
    assert "elemetry is" not in done.stdout + done.stderr
    assert "consent" not in done.stdout + done.stderr
    assert_silent(found, project, home)
    assert collector.connections == 0


def test_off_outside_a_project(env: dict[str, str], home: Path, tmp_path: Path) -> None:
    """A `.telemetry` in a folder that is no project says nothing."""
    (tmp_path / ".telemetry").write_text("consent: true\n")
    done, found = traced("info", cwd=tmp_path, env=env, folder=tmp_path / "trace")
    assert done.returncode == 0, done.stderr
    assert_silent(found, tmp_path, home)


@pytest.mark.parametrize("arguments", [["run", "--pipeline=ds"], ["run", "--pipeline=nowhere"], ["registry", "list"]])
def test_off_with_other_commands(
    arguments: list[str], project: Path, env: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """A run that is off starts nothing beyond what Kedro's session starts itself (git)."""
    says("consent: false\n")(project)
    _, found = traced(*arguments, cwd=project, env=env, folder=tmp_path / "trace")
    programs = {Path(program[0][0]).name for task in found for program in task.programs}
    assert programs <= {"kedro", "git"}
    assert [call for task in found for call in task.internet + task.writes(project, home)] == []


@pytest.mark.parametrize(("answer", "text"), [("n", "false"), ("", "false"), ("y", "true")])
def test_the_question_writes_the_answer_alone(
    answer: str, text: str, project: Path, env: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """A no writes one file and starts nothing; a yes adds the salt and the sender."""
    no_file(project)
    line = command_line(tmp_path / "trace", str(Path(sys.executable).parent / "kedro"), "info")
    variables = {**env, "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}
    child = pexpect.spawn(line[0], line[1:], cwd=str(project), env=variables, timeout=60, encoding="utf-8")
    child.expect_exact("[y/N]")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    found = tasks(tmp_path / "trace")
    assert child.exitstatus == 0
    assert (project / ".telemetry").read_text() == f"consent: {text}\n"
    user = [task for task in found if not sends(task)]
    assert [call for task in user for call in task.internet] == []
    assert len(found) - len(user) == (answer == "y")
    (write,) = [call for task in user for call in task.writes(project)]
    assert ".telemetry" in write
    assert "O_EXCL" in write
    written = [call for task in user for call in task.writes(home)]
    assert (written != []) == (answer == "y")


def test_status_asks_nothing_of_the_kernel(project: Path, env: dict[str, str], home: Path, tmp_path: Path) -> None:
    """`kedro-telemetry status` of a project that said yes looks, and does nothing."""
    done, found = traced("status", cwd=project, env=env, folder=tmp_path / "trace", program="kedro-telemetry")
    assert done.returncode == 1, done.stderr
    assert_silent(found, project, home)


@pytest.mark.parametrize("prepare", [nothing, no_file, says("consent: false\n"), fifo])
@pytest.mark.parametrize("arguments", [["info"], ["run", "--pipeline=ds"]])
def test_preview_is_standard_error_alone(
    prepare: Callable[[Path], None],
    arguments: list[str],
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    home: Path,
    tmp_path: Path,
) -> None:
    """A preview shows the request, whatever the consent; it sends, asks, writes and starts nothing."""
    prepare(project)
    off, _ = traced(*arguments, cwd=project, env=env | {"DO_NOT_TRACK": "1"}, folder=tmp_path / "off")
    shown, found = traced(*arguments, cwd=project, env=env | {plugin.PREVIEW: "1"}, folder=tmp_path / "trace")
    assert (shown.returncode, shown.stdout) == (off.returncode, off.stdout)
    assert f"POST {collector.url}\n" in shown.stderr
    assert f'"command":"kedro {arguments[0]}' in shown.stderr
    assert {Path(program[0][0]).name for task in found for program in task.programs} <= {"kedro", "git"}
    assert [call for task in found for call in task.internet + task.writes(project, home)] == []
    assert collector.connections == 0


@pytest.mark.parametrize("arguments", [["info"], ["run", "--pipeline=ds"], support.FAILING_RUN])
def test_only_the_sender_meets_the_network(
    arguments: list[str], project: Path, env: dict[str, str], collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """One sender, the only process with an internet socket; it touches nothing of the user."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "hidden", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}
    _, found = traced(*arguments, cwd=project, env=env | secrets, folder=tmp_path / "trace")
    (event,) = collector.wait()
    assert event["properties"]["command"].startswith(f"kedro {arguments[0]}")
    (sender,) = [task for task in found if sends(task)]
    assert [task for task in found if task.internet] == [sender]
    assert len(sender.internet) == 1
    ((line, variables),) = sender.programs
    assert line[1:] == ["-I", "-S", str(support.PLUGIN)]
    assert {variable.partition("=")[0] for variable in variables} == {plugin.ENDPOINT, "NO_PROXY"} <= ALLOWED
    before, after = split_at_program(sender)
    assert after.paths(project, home) == []
    assert after.writes(Path("/")) == []
    assert [task.writes(project) for task in found] == [[]] * len(found)
    assert 'chdir("/")' in "".join(before.calls)
    # The salt is all that the user's process writes.
    written = [call for task in found for call in task.writes(home)]
    assert written
    assert all(str(home / ".config") in call for call in written)


def split_at_program(task: Task) -> tuple[Task, Task]:
    """What a task did before and after it became its program."""
    (start,) = [number for number, call in enumerate(task.calls) if call.startswith("execve(") and call.endswith("= 0")]
    return Task(task.calls[:start]), Task(task.calls[start + 1 :])


def test_what_the_sender_holds(project: Path, env: dict[str, str], tmp_path: Path, home: Path) -> None:
    """While it posts, the sender has three descriptors and its socket, a session, lowest priority."""
    seen: list[dict[str, object]] = []

    def look(connection: socket.socket, collector: support.Collector) -> None:
        support.read_request(connection)
        (process,) = support.senders(collector.url)
        links = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
        seen.append(
            {
                "links": links,
                "variables": set(process.environ()),
                "cwd": process.cwd(),
                "line": process.cmdline(),
                "session": os.getsid(process.pid) == process.pid,
                "nice": process.nice(),
            }
        )
        connection.sendall(support.OK)

    secret = os.open(project / "pyproject.toml", os.O_RDONLY)
    env_secret = {"SECRET": "x", "PYTHONPATH": env["PYTHONPATH"], "SSL_CERT_FILE": "/nowhere", "https_proxy": "x"}
    with support.collecting(look) as collector:
        variables = env | env_secret | {plugin.ENDPOINT: collector.url}
        done = support.kedro("info", cwd=project, env=variables, pass_fds=(secret,))
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.02)
    os.close(secret)
    assert done.returncode == 0, done.stderr
    (found,) = seen
    links = found["links"]
    assert isinstance(links, dict)
    assert sorted(links)[:3] == [0, 1, 2]
    assert links.pop(0).startswith("pipe:")
    assert (links.pop(1), links.pop(2)) == ("/dev/null", "/dev/null")
    assert [target[:7] for target in links.values()] == ["socket:"]
    assert found["variables"] == {plugin.ENDPOINT, "SSL_CERT_FILE", "https_proxy"}
    assert found["cwd"] == "/"
    assert found["line"] == [sys.executable, "-I", "-S", str(support.PLUGIN)]
    assert found["session"]
    assert found["nice"] == 19


def test_the_command_does_not_wait_for_the_sender(project: Path, env: dict[str, str]) -> None:
    """The command has ended while its sender still waits for a collector that says nothing."""

    def silent(connection: socket.socket, collector: support.Collector) -> None:
        collector.stopping.wait(20)

    with support.collecting(silent) as collector:
        before = psutil.Process().children()
        done = support.kedro("info", cwd=project, env=env | {plugin.ENDPOINT: collector.url})
        assert done.returncode == 0, done.stderr
        end = time.monotonic() + 5
        while not collector.connections and time.monotonic() < end:
            time.sleep(0.02)
        assert len(support.senders(collector.url)) == 1
        support.wait_for_no_sender()
        assert [child for child in psutil.Process().children() if child not in before] == []
