"""The question, in a real terminal: what is shown, and what each answer saves."""

import functools
import io
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
import support

from kedro_telemetry import plugin

on_unix = pytest.mark.skipif(
    sys.platform == "win32", reason="only on Unix: pseudo terminals, time limits"
)
PROMPT = "[y/N] "


class Terminal:
    """A terminal that is standard input, and a project without answers."""

    def __init__(self, project: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.project, self.patch = os.path.realpath(project), patch
        self.answer, self.own = project / ".telemetry", support.own_file(project, home)
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

    def ask(
        self,
        keys: bytes,
        do: Callable[[], object] = bool,
        decide: Callable[[str], object] = plugin.ask,
    ) -> str | None:
        """Type this when the prompt is shown. Return why telemetry is off then."""

        def answer() -> None:
            support.wait_until(lambda: PROMPT in self.shown.getvalue(), 5)
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
            decide(self.project)
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
    found.stdin.close()
    if sys.platform != "win32":
        os.close(found.keyboard)


YES = [b"y\n", b"Y\n", b"yes\n", b"YES\n", b" Y \n", b"\ty\n"]
NO = [b"n\n", b"no\n", b" n\n", b"\n", b" \n", b"maybe\n", b"yy\n", b"y y\n", b"\xff\n"]
NO += [b"yes " + b"x" * 3000 + b"\n", b"y" * 3000 + b"\n"]
NOTHING = [b"\x04", b"y\x04\x04"] if sys.platform != "win32" else [b"", b"y"]


def test_a_line_is_a_yes_or_a_no_and_no_line_is_neither(terminal: Terminal) -> None:
    for keys in YES:
        assert terminal.ask(keys) is None, keys
        assert terminal.saved() == (b"consent: true\n", plugin.own_yes()), keys
    for keys in NO:
        assert terminal.ask(keys) == plugin.PROJECT_SAYS_NO, keys
        assert terminal.saved() == (b"consent: false\n", b"no\n"), keys
        if sys.platform != "win32":  # nothing is left for the shell
            assert select.select([terminal.stdin], [], [], 0)[0] == []
    for keys in NOTHING:
        assert terminal.ask(keys) == plugin.NOT_ANSWERED, keys
        assert terminal.saved() == (None, None), keys


def test_a_file_of_the_project_is_not_changed(terminal: Terminal) -> None:
    text = b"# for the team\nconsent: true\n"
    for keys, own in ((b"y\n", plugin.own_yes()), (b"n\n", b"no\n")):
        terminal.answer.write_bytes(text)
        assert (terminal.ask(keys) is None) == (keys == b"y\n")
        assert "come with the project" in terminal.shown.getvalue().splitlines()[0]
        assert terminal.saved() == (text, own)


def test_what_was_typed_before_is_discarded(terminal: Terminal) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.ungetch(b"y")
        plugin.discard_input()
        assert not msvcrt.kbhit()
        return
    for keys in (b"yes\n", b"y", b"y\ny\ny"):
        terminal.type(keys)
        assert terminal.ask(b"\n") == plugin.PROJECT_SAYS_NO, keys
        terminal.saved()


@on_unix
@pytest.mark.parametrize(("keys", "seconds"), [(b"", 0), (b"y", 0.2)])
def test_no_answer_in_time_is_saved_as_the_users_own_no(
    keys: bytes, seconds: float, terminal: Terminal
) -> None:
    assert plugin.ANSWER_SECONDS == 30
    terminal.patch.setattr(plugin, "ANSWER_SECONDS", seconds)
    assert "own answer is no" in str(terminal.ask(keys))
    assert terminal.saved() == (None, b"no\n")
    assert "kedro-telemetry allow" in terminal.shown.getvalue().splitlines()[-1]
    terminal.type(b"\n")
    assert os.read(terminal.stdin.fileno(), 100) == b"\n", "the part of a line is gone"


@on_unix
def test_a_complete_line_is_needed_if_keys_come_at_once(terminal: Terminal) -> None:
    """As after `stty -icanon`. Each key does not extend the time."""
    import tty

    tty.setcbreak(terminal.stdin)
    for keys, is_yes in ((b"ikes\n", False), (b"es\n", True)):
        reason = terminal.ask(keys, lambda: terminal.type(b"y"))
        assert (reason is None) == is_yes
        terminal.saved()
    terminal.patch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    start = time.monotonic()
    terminal.ask(b"", lambda: terminal.type(b"y", 20))
    assert time.monotonic() - start < 1.2
    assert terminal.saved() == (None, b"no\n")


@on_unix
def test_a_later_answer_counts_but_silence_ends_no_yes(terminal: Terminal) -> None:
    def allow() -> None:
        plugin.allow(terminal.project)

    assert terminal.ask(b"n\n", allow) is not None
    terminal.saved()
    terminal.patch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    assert terminal.ask(b"", allow) is None
    assert terminal.shown.getvalue().endswith(PROMPT), "nothing counts as no"
    terminal.saved()
    terminal.answer.write_bytes(b"consent: true\n")
    terminal.patch.setattr(plugin, "can_ask", bool)  # standard error is no terminal
    ask = functools.partial(plugin.decide, may_ask=True)
    terminal.ask(b"y\n", lambda: plugin.deny(terminal.project), ask)
    assert terminal.saved() == (b"consent: false\n", None), "the file counts"


def test_an_answer_that_cannot_be_saved_does_not_count(terminal: Terminal) -> None:
    def delete_project() -> None:
        terminal.own.rmdir()
        shutil.rmtree(terminal.project)

    terminal.own.mkdir(parents=True)
    # The second one needs a terminal, which waits for what is typed.
    for change in (bool, delete_project)[: 1 if sys.platform == "win32" else 2]:
        Path(terminal.project, ".telemetry").unlink(missing_ok=True)
        assert terminal.ask(b"y\n", change) is not None
        (line,) = terminal.shown.getvalue().split(PROMPT)[1].splitlines()
        assert line.startswith("Your answer could not be saved completely: ")


@on_unix
def test_ctrl_c_saves_nothing_and_ends_the_command(terminal: Terminal) -> None:
    def refuse(text: str) -> int:
        raise OSError("the terminal is gone")

    for change in (lambda: None, lambda: setattr(terminal.shown, "write", refuse)):

        def interrupt(change: Callable[[], None] = change) -> None:
            change()
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(SystemExit, match="130"):
            terminal.ask(b"", interrupt)
        assert terminal.saved() == (None, None)


def test_the_question_names_everything_in_eight_lines(terminal: Terminal) -> None:
    terminal.patch.delenv(plugin.ENDPOINT_VARIABLE)
    terminal.answer.write_bytes(b"consent: true\n")
    terminal.ask(b"n\n")
    text, home = terminal.shown.getvalue(), os.environ[support.HOME]
    assert repr(str(terminal.own.parent)) in text
    lines = text.replace(repr(home)[1:-1], "/home/somebody").splitlines()
    assert len(lines) <= 8
    assert [line for line in lines if len(line) > 80] == []
    for words in (
        *("command with its values masked", "hashes of user and package name"),
        *("versions of Kedro, Python and this plugin", "operating system", "tools"),
        *("example pipeline or not", "of datasets, nodes and pipelines"),
        *(plugin.DEFAULT_ENDPOINT, ".telemetry", "IP address", "Enter means no"),
        *("KEDRO_TELEMETRY_PREVIEW=1", "kedro-telemetry deny", PROMPT.strip()),
    ):
        assert words in " ".join(lines), words


@on_unix
def test_only_the_foreground_of_a_terminal_is_asked(tmp_path: Path) -> None:
    """And only where both answers can be saved."""
    import pty

    project = str(tmp_path)
    child, keyboard = pty.fork()
    if not child:  # in the foreground of a terminal of its own
        keys, nowhere = open(0), open(os.devnull)  # noqa: SIM115
        sys.stdin = sys.stdout = sys.stderr = keys
        found = [plugin.can_ask(project), not plugin.can_ask("/absent")]
        for name in ("stdin", "stdout", "stderr"):
            setattr(sys, name, nowhere)
            with suppress(OSError):
                found.append(not plugin.can_ask(project))
            setattr(sys, name, keys)
        job = os.fork()
        if not job:
            os.setpgid(0, 0)
            os._exit(plugin.can_ask(project))
        os._exit(all(found) and os.waitpid(job, 0)[1] == 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    os.close(keyboard)
