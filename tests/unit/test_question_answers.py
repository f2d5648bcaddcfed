"""The question, in a real terminal: what is shown, and what each answer saves."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import support

from kedro_telemetry import plugin

on_unix = pytest.mark.skipif(
    sys.platform == "win32", reason="only on Unix: pseudo terminals, time limits"
)


class Terminal:
    """A terminal that is standard input, and a project without answers."""

    def __init__(self, project: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.path, self.project = project, os.path.realpath(project)
        self.answer, self.own = project / ".telemetry", support.own_file(project, home)
        self.patch = patch
        self.shown = io.StringIO()
        self.stdin: TextIO = io.StringIO()
        if sys.platform != "win32":
            self.keyboard, terminal = os.openpty()
            self.stdin = os.fdopen(terminal)

    def type(self, keys: bytes, times: int = 1) -> None:
        if sys.platform != "win32":
            for _ in range(times):
                os.write(self.keyboard, keys)
                time.sleep(0.02)  # a terminal passes on what is typed in its own time

    def ask(self, keys: bytes, do: Callable[[], object] = bool) -> str | None:
        """Type this when the prompt is shown. Return why telemetry is off then."""

        def answer() -> None:
            prompt = "[y/N] "
            support.wait_until(lambda: self.shown.getvalue().endswith(prompt), 5)
            do()
            self.type(keys)

        self.shown = io.StringIO()
        if sys.platform == "win32":
            self.stdin = io.StringIO(keys.decode("latin-1"))
        self.patch.setattr(sys, "stdin", self.stdin)
        self.patch.setattr(sys, "stderr", self.shown)
        typist = threading.Thread(target=answer)
        typist.start()
        try:
            plugin.ask(self.project)
        finally:
            typist.join()
        return plugin.why_off(self.project)

    def saved(self) -> tuple[bytes | None, bytes | None]:
        """Return what `.telemetry` and the own answer say, and delete them."""
        found = []
        for path in (self.answer, self.own):
            found.append(path.read_bytes() if path.is_file() else None)
            path.unlink(missing_ok=True)
        return found[0], found[1]


@pytest.fixture
def terminal(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    found = Terminal(tmp_path, home, monkeypatch)
    yield found
    if sys.platform != "win32":
        found.stdin.close()
        os.close(found.keyboard)


YES = [b"y\n", b"Y\n", b"yes\n", b"YES\n", b" Y \n", b"\ty\n"]
NO = [b"n\n", b"no\n", b" n\n", b"\n", b" \n", b"maybe\n", b"yy\n", b"y y\n", b"\xff\n"]
NO += [b"yes " + b"x" * 3000 + b"\n", b"y" * 3000 + b"\n"]
NOTHING = [b"\x04", b"y\x04\x04"] if sys.platform != "win32" else [b"", b"y"]


def test_a_line_with_yes_is_a_yes_another_a_no_and_the_end_of_input_neither(
    terminal: Terminal,
) -> None:
    for keys in YES:
        assert terminal.ask(keys) is None, keys
        assert terminal.saved() == (b"consent: true\n", plugin.own_yes()), keys
    for keys in NO:
        assert "says no" in str(terminal.ask(keys)), keys
        assert terminal.saved() == (b"consent: false\n", b"no\n"), keys
    for keys in NOTHING:
        assert terminal.ask(keys) == plugin.NOT_ANSWERED, keys
        assert terminal.saved() == (None, None), keys


def test_a_file_of_the_project_is_said_to_be_there_and_not_changed(
    terminal: Terminal,
) -> None:
    text = b"# for the team\nconsent: true\n"
    for keys, own in ((b"y\n", plugin.own_yes()), (b"n\n", b"no\n")):
        terminal.answer.write_bytes(text)
        assert (terminal.ask(keys) is None) == (keys == b"y\n")
        assert "come with the project" in terminal.shown.getvalue().splitlines()[0]
        assert terminal.saved() == (text, own)


@on_unix
def test_what_was_typed_before_is_discarded_and_a_long_line_is_read_whole(
    terminal: Terminal,
) -> None:
    for keys in (b"yes\n", b"y", b"y\ny\ny"):
        terminal.type(keys)
        assert terminal.ask(b"\n") is not None, keys
    terminal.saved()
    terminal.ask(b"x" * 3000 + b"\n")
    assert select.select([terminal.stdin], [], [], 0)[0] == [], "nothing for the shell"


@on_unix
@pytest.mark.parametrize("keys", [b"", b"y"])
def test_no_answer_in_time_is_saved_as_the_users_own_no(
    keys: bytes, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugin.ANSWER_SECONDS == 30
    monkeypatch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    assert "own answer is no" in str(terminal.ask(keys))
    assert terminal.saved() == (None, b"no\n")
    assert "kedro-telemetry allow" in terminal.shown.getvalue().splitlines()[-1]
    terminal.type(b"\n")
    assert os.read(terminal.stdin.fileno(), 100) == b"\n", "the part of a line is gone"


@on_unix
def test_a_complete_line_is_waited_for_where_keys_are_passed_on_at_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `stty -icanon` and `stty raw`. Each key does not extend the time."""
    import termios
    import tty

    tty.setcbreak(terminal.stdin)
    for keys, is_yes in ((b"ikes\n", False), (b"es\n", True)):
        reason = terminal.ask(keys, lambda: terminal.type(b"y"))
        assert (reason is None) == is_yes
        terminal.saved()
    tty.setraw(terminal.stdin, termios.TCSANOW)
    assert terminal.ask(b"y\r") is None
    terminal.saved()
    monkeypatch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    start = time.monotonic()
    terminal.ask(b"", lambda: terminal.type(b"y", 20))
    assert 0.2 <= time.monotonic() - start < 2
    assert terminal.saved() == (None, b"no\n")


@on_unix
def test_two_questions_at_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later answer counts, but silence ends no yes."""
    allow = lambda: plugin.allow(terminal.project)  # noqa: E731
    assert terminal.ask(b"n\n", allow) is not None
    terminal.saved()
    monkeypatch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    assert terminal.ask(b"", allow) is None
    assert terminal.saved() == (b"consent: true\n", plugin.own_yes())


def test_an_answer_that_cannot_be_saved_does_not_count_and_one_line_says_so(
    terminal: Terminal,
) -> None:
    terminal.own.mkdir(parents=True)
    assert terminal.ask(b"y\n") is not None
    (line,) = terminal.shown.getvalue().split("[y/N] ")[1].splitlines()
    assert line.startswith("Your answer could not be saved: ")


@on_unix
def test_ctrl_c_saves_nothing_and_ends_the_command(terminal: Terminal) -> None:
    with pytest.raises(SystemExit) as ended:
        terminal.ask(b"", lambda: os.kill(os.getpid(), signal.SIGINT))
    assert ended.value.code == 130
    assert terminal.saved() == (None, None)


def test_the_question_names_everything_in_eight_lines_of_80_columns(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(plugin.ENDPOINT_VARIABLE)
    terminal.answer.write_bytes(b"consent: true\n")
    terminal.ask(b"n\n")
    own = os.path.dirname(terminal.own)
    short = own.replace(os.environ[support.HOME], "/home/somebody")
    text = terminal.shown.getvalue().replace(repr(own), repr(short))
    lines = text.splitlines()
    assert repr(short) in text
    assert len(lines) <= 8
    assert [line for line in lines if len(line) > 80] == []
    for words in (
        *("command with its values masked", "hashes of user and package name"),
        *("versions of Kedro, Python and this plugin", "operating system", "tools"),
        *("example pipeline or not", "of datasets, nodes and pipelines"),
        *(plugin.DEFAULT_ENDPOINT, ".telemetry", "IP address", "Enter means no"),
        *("KEDRO_TELEMETRY_PREVIEW=1", "kedro-telemetry deny", "[y/N]"),
    ):
        assert words in " ".join(lines), words


def test_only_terminals_are_asked(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        for other in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(
                sys, other, sys.stdin if other != name else io.StringIO()
            )
        assert not plugin.can_ask(terminal.project)


@on_unix
def test_only_the_foreground_of_the_terminal_is_asked(tmp_path: Path) -> None:
    """And only where both answers can be saved."""
    import pty

    absent = str(tmp_path / "absent")
    child, keyboard = pty.fork()
    if not child:  # in the foreground of a terminal of its own
        sys.stdin = sys.stdout = sys.stderr = open(0)  # noqa: SIM115
        found = [plugin.can_ask(str(tmp_path)), not plugin.can_ask(absent)]
        job = os.fork()
        if not job:
            os.setpgid(0, 0)
            os._exit(plugin.can_ask(str(tmp_path)))
        os._exit(all(found) and os.waitpid(job, 0)[1] == 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    os.close(keyboard)
