"""The question, on real pseudo-terminals: who is asked, what is asked, what an answer does."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import support
from test_system_calls import strace

from kedro_telemetry import plugin

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals of POSIX")
KEDRO = str(Path(sys.executable).parent / "kedro")
MARK = "[y/N]"
ANSWERS = [
    *((text, True) for text in ("y", "Y", "yes", "YES", "Yes", "yEs")),
    *((text, False) for text in ("", "n", "N", "no", "NO", "nO")),
]
NO_ANSWERS = ["yess", "ye", "maybe", "1", "true", "yy", " y", "y ", "да", "y\ty", "q" * 2000]


@pytest.fixture
def asking(project: Path) -> Path:
    """A project without an answer."""
    (project / ".telemetry").unlink()
    return project


def protect_nothing() -> None:
    os.umask(0)


def start(*line: str, cwd: Path, env: dict[str, str]) -> pexpect.spawn[str]:
    """A command on a terminal of 80 columns, of a user whose umask protects nothing."""
    return pexpect.spawn(
        line[0],
        list(line[1:]),
        cwd=str(cwd),
        env={**env, "TERM": "dumb"},
        timeout=60,
        encoding="utf-8",
        dimensions=(24, 80),
        preexec_fn=protect_nothing,
    )


def finish(child: pexpect.spawn[str]) -> tuple[str, int | None]:
    """What is shown until the command ends, and its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    return child.before or "", child.exitstatus


def unasked(*line: str, cwd: Path, env: dict[str, str]) -> tuple[str, int | None]:
    """A command that must not ask: nobody is there to answer, so it would hang if it did."""
    child = start(*line, cwd=cwd, env=env)
    index = child.expect_exact([MARK, pexpect.EOF])
    shown = child.before or ""
    child.close(force=True)
    assert index == 1, shown
    return shown, child.exitstatus


def test_what_it_says(asking: Path, env: dict[str, str]) -> None:
    """At most six lines of a terminal's width: what, to whom, how to see it and how to change one's mind."""
    variables = {name: value for name, value in env.items() if name != plugin.ENDPOINT}
    child = start(KEDRO, "info", cwd=asking, env=variables)
    child.expect_exact(MARK)
    lines = (child.before or "").splitlines()
    child.sendline("n")
    finish(child)
    assert len(lines) <= 6
    assert max(map(len, [*lines[:-1], f"{lines[-1]}{MARK} "])) <= 80
    text = " ".join(lines)
    for word in ("masked", plugin.COLLECTOR, plugin.PREVIEW, "kedro-telemetry deny"):
        assert word in text


def test_it_leaves_standard_output_alone(asking: Path, env: dict[str, str]) -> None:
    """Both are terminals, and not the same one: all that telemetry says is on standard error, to the last character."""
    master, slave = os.openpty()
    line = f"exec {shlex.quote(KEDRO)} registry list > {os.ttyname(slave)}"
    child = start("sh", "-c", line, cwd=asking, env=env)
    child.expect_exact(f"{MARK} ")
    question = f"{child.before}{child.after}"
    child.sendline("maybe")
    rest, status = finish(child)
    assert status == 0
    assert question == plugin.QUESTION.format(url=env[plugin.ENDPOINT]).replace("\n", "\r\n")
    assert rest == "maybe\r\n\r\nNot an answer: nothing is sent or recorded.\r\n"
    os.close(slave)
    output = os.read(master, 4096).decode()
    os.close(master)
    assert "__default__" in output
    assert "events" not in output
    assert "answer" not in output


def test_it_names_the_collector_in_use(asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """The question names the address that the event will go to."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    assert collector.url in (child.before or "")
    child.sendline("n")
    finish(child)


@pytest.mark.parametrize(("text", "consent"), ANSWERS)
def test_an_answer(text: str, consent: bool, asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """An answer is recorded in a new file; a yes sends the event of this very command, a no nothing."""
    child = start(KEDRO, "registry", "list", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.sendline(text)
    shown, status = finish(child)
    assert status == 0, shown
    assert MARK not in shown
    assert "__default__" in shown
    assert (asking / ".telemetry").read_text() == f"consent: {str(consent).lower()}\n"
    assert (asking / ".telemetry").stat().st_mode & 0o777 == 0o644
    if consent:
        (event,) = collector.wait()
        assert event["properties"]["command"] == "kedro registry list"
    else:
        assert support.senders(collector.url) == []
        assert collector.connections == 0


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_no_answer(text: str, asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """Anything else is a no for this command, said to be none, and not recorded: the next command asks again."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.sendline(text)
    shown, status = finish(child)
    assert status == 0, shown
    assert MARK not in shown
    assert "Not an answer" in shown
    assert not (asking / ".telemetry").exists()
    assert support.senders(collector.url) == []
    assert collector.connections == 0


def test_ctrl_c_records_nothing(asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """Ctrl-C at the question ends the command, as Ctrl-C does everywhere; nothing is recorded or sent."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.sendintr()
    _, status = finish(child)
    assert status != 0
    assert list(asking.glob(".telemetry*")) == []
    assert support.senders(collector.url) == []
    assert collector.connections == 0


@pytest.mark.parametrize("before", ["", "ye"])
def test_ctrl_d_records_nothing(before: str, asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """End of input is a no for this command, also in the middle of a line."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.send(before)
    for _ in range(2 if before else 1):
        child.sendeof()
    shown, status = finish(child)
    assert status == 0, shown
    assert list(asking.glob(".telemetry*")) == []
    assert support.senders(collector.url) == []
    assert collector.connections == 0


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
def test_nobody_answers(asking: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path) -> None:
    """A terminal that nobody looks at does not hold a machine up: the wait ends (strace shortens it), as no answer."""
    no_time = f"inject=pselect6:poke_enter=@arg5={'00' * 16}:when=1+"
    child = start(strace(), "-o", str(tmp_path / "trace"), "-e", no_time, KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    shown, status = finish(child)
    assert status == 0, shown
    assert "(INJECTED: args)" in (tmp_path / "trace").read_text()
    assert "Not an answer" in shown
    assert not (asking / ".telemetry").exists()
    assert support.senders(collector.url) == []


@pytest.mark.parametrize("url", ["", "http://collector.example/", "ftp://127.0.0.1/"])
def test_not_asked_where_nothing_could_be_sent(url: str, asking: Path, env: dict[str, str]) -> None:
    """An address that is not allowed means that nothing is sent, so there is nothing to ask."""
    assert unasked(KEDRO, "info", cwd=asking, env=env | {plugin.ENDPOINT: url})[1] == 0
    assert not (asking / ".telemetry").exists()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_not_asked_twice(answer: str, asking: Path, env: dict[str, str]) -> None:
    """An answer holds: neither this command nor the next asks again."""
    child = start(KEDRO, "run", "--pipeline=ds", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.sendline(answer)
    shown, status = finish(child)
    assert (status, MARK in shown) == (0, False), shown
    assert unasked(KEDRO, "info", cwd=asking, env=env)[1] == 0


@pytest.mark.parametrize(
    "redirection", ["</dev/null", "< <(sleep 0)", "| cat", ">file", "2>file", "2>&1 | cat", "2>&-", "<&-"]
)
def test_not_asked_without_three_terminals(redirection: str, asking: Path, env: dict[str, str]) -> None:
    """A pipe, a file or nothing in the place of any of the three: nobody is asked, nothing is recorded."""
    line = f"{shlex.quote(KEDRO)} registry list {redirection}"
    unasked("/bin/bash", "--norc", "-c", line, cwd=asking, env=env)
    assert not (asking / ".telemetry").exists()
    if (asking / "file").exists():
        assert MARK not in (asking / "file").read_text()


def test_not_asked_in_the_background(asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """A job in the background of a shell ends by itself: to read its terminal would stop it for good."""
    line = f"set -m; {shlex.quote(KEDRO)} registry list & wait -f $!; echo ended: $?; jobs"
    shown, _ = unasked("/bin/bash", "--norc", "-c", line, cwd=asking, env=env)
    assert "ended: 0" in shown
    assert "Stopped" not in shown
    assert not (asking / ".telemetry").exists()
    assert collector.connections == 0


def test_asked_in_the_foreground_of_a_shell(asking: Path, env: dict[str, str]) -> None:
    """The same shell, the same job control, in the foreground: asked."""
    child = start(
        "/bin/bash", "--norc", "-c", f"set -m; {shlex.quote(KEDRO)} info; echo ended: $?", cwd=asking, env=env
    )
    child.expect_exact(MARK)
    child.sendline("n")
    assert "ended: 0" in finish(child)[0]


@pytest.mark.parametrize(
    "variables",
    [
        {"DO_NOT_TRACK": "1"},
        {"KEDRO_DISABLE_TELEMETRY": "0"},
        {"CI": "true"},
        {"GITLAB_CI": "true"},
        {"JENKINS_URL": "http://127.0.0.1"},
        {"_KEDRO_COMPLETE": "bash_source"},
        {plugin.PREVIEW: "1"},
    ],
)
def test_not_asked_by_variable(variables: dict[str, str], asking: Path, env: dict[str, str]) -> None:
    """A switch, a CI system, shell completion, a preview: not asked, even on a terminal."""
    assert unasked(KEDRO, "info", cwd=asking, env=env | variables)[1] == 0
    assert not (asking / ".telemetry").exists()


def test_what_was_typed_before_is_no_answer(asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """A line typed while Kedro still loads was meant for something else: nothing is asked, recorded or sent."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.sendline("y")
    assert child.expect_exact([MARK, pexpect.EOF]) == 1
    child.close()
    assert child.exitstatus == 0
    assert not (asking / ".telemetry").exists()
    assert collector.stays_silent()


def test_not_asked_outside_a_project(tmp_path: Path, env: dict[str, str]) -> None:
    """Row 3."""
    assert unasked(KEDRO, "info", cwd=tmp_path, env=env)[1] == 0
    assert list(tmp_path.iterdir()) == []


def noise(path: Path) -> None:
    path.write_bytes(b"\xff\x00 what?")


def link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("make", [noise, link, Path.touch, Path.mkdir, os.mkfifo])
def test_not_asked_where_a_file_is(make: Callable[[Path], None], asking: Path, env: dict[str, str]) -> None:
    """Whatever is there was put there by someone: never asked, never followed, never rewritten."""
    make(asking / ".telemetry")
    before = (asking / ".telemetry").lstat()
    assert unasked(KEDRO, "info", cwd=asking, env=env)[1] == 0
    after = (asking / ".telemetry").lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert not (asking / "target").exists()


def test_an_answer_never_replaces_a_file(asking: Path, env: dict[str, str]) -> None:
    """A file, or a broken link, that came while the question stood is neither overwritten nor followed."""
    child = start(KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    (asking / ".telemetry").symlink_to(asking / "target")
    child.sendline("y")
    shown, status = finish(child)
    assert status == 0, shown
    assert (asking / ".telemetry").is_symlink()
    assert not (asking / "target").exists()


def test_an_answer_that_cannot_be_written(asking: Path, env: dict[str, str], collector: support.Collector) -> None:
    """In a read-only project the answer holds for this command only: its event goes, the next one asks."""
    line = unprivileged(asking, Path(env["HOME"]))
    asking.chmod(0o555)
    for count in (1, 2):
        child = start(*line, KEDRO, "info", cwd=asking, env=env)
        child.expect_exact(MARK)
        child.sendline("y")
        shown, status = finish(child)
        assert status == 0, shown
        assert re.search(r"[Ee]rror|Traceback", shown) is None
        collector.wait(count)
    child = start(*line, KEDRO, "info", cwd=asking, env=env)
    child.expect_exact(MARK)
    child.sendline("n")
    assert finish(child)[1] == 0
    asking.chmod(0o755)
    assert not (asking / ".telemetry").exists()
    assert len(collector.requests) == 2


def unprivileged(*folders: Path) -> list[str]:
    """What to put before a command so that permissions hold for it; the folders become its own. For root alone."""
    if os.geteuid() != 0:
        return []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 54321, 54321, follow_symlinks=False)
    # It may read what root may, so that it finds the interpreter, and write what is its own.
    capability = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return ["/usr/bin/setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *capability]
