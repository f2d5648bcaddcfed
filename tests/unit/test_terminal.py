"""The terminal: who can be asked, and how a line is read, on POSIX and on Windows.

Windows is simulated: the file is loaded once more with its `sys.platform`, its console
modules as fakes, and without what it lacks.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import support

from kedro_telemetry import plugin

CLOSED = io.StringIO()
CLOSED.close()


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A descriptor that types into a real terminal, which is standard input."""
    master, slave = os.openpty()
    stdin = os.fdopen(slave)
    monkeypatch.setattr(sys, "stdin", stdin)
    yield master
    stdin.close()
    os.close(master)


def type_keys(keyboard: int, keys: bytes) -> None:
    os.write(keyboard, keys)
    time.sleep(0.02)  # a terminal passes on what is typed in its own time


def read_keys_at_once(keyboard: int) -> None:
    """Let the terminal pass on each key, without Enter."""
    termios = pytest.importorskip("termios")
    settings = termios.tcgetattr(sys.stdin)
    settings[3] &= ~termios.ICANON
    termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)


# --- Whom to ask ---


def can_ask(monkeypatch: pytest.MonkeyPatch, **streams: Any) -> bool:
    """Return whether these streams can be asked; the others are `sys.stdin`."""
    terminal = sys.stdin
    with monkeypatch.context() as changed:
        for name in ("stdin", "stdout", "stderr"):
            changed.setattr(sys, name, streams.get(name, terminal))
        return plugin.can_ask()


@pytest.fixture
def _foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal of a test does not control its process, so this is simulated."""
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())


@pytest.mark.usefixtures("keyboard", "_foreground")
@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_all_three_streams_must_be_terminals(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert can_ask(monkeypatch)
    with (tmp_path / "file").open("w") as file, open(os.devnull) as null:
        for stream in (file, null, CLOSED, io.StringIO(), None, object()):
            assert not can_ask(monkeypatch, **{name: stream})


@pytest.mark.usefixtures("keyboard")
def test_only_the_foreground_of_a_controlling_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not can_ask(monkeypatch), "it does not control this process"
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    assert not can_ask(monkeypatch), "a background job"


# --- Reading a line ---


def test_one_line_is_read_and_no_more(keyboard: int) -> None:
    type_keys(keyboard, b"yes\nnext\n")
    assert plugin.read_line(5) == "yes\n"
    assert os.read(sys.stdin.fileno(), 100) == b"next\n"


@pytest.mark.parametrize(("keys", "line"), [(b"\x04", ""), (b"y\x04\x04", "y")])
def test_the_end_of_input_ends_a_line(keys: bytes, line: str, keyboard: int) -> None:
    type_keys(keyboard, keys)
    assert plugin.read_line(5) == line


def test_bytes_that_are_no_text_are_read(keyboard: int) -> None:
    type_keys(keyboard, b"\xff\xc3\n")
    assert plugin.read_line(5) == "\xff\xc3\n"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("keys", [b"", b"y"])
def test_an_unfinished_line_times_out(
    keys: bytes, at_once: bool, keyboard: int
) -> None:
    """`stty -icanon` passes on each key."""
    if at_once:
        read_keys_at_once(keyboard)
    type_keys(keyboard, keys)
    start = time.monotonic()
    assert plugin.read_line(0.1) is None
    assert 0.1 <= time.monotonic() - start < 1


def test_no_line_is_read_if_no_time_is_left(keyboard: int) -> None:
    assert plugin.read_line(0) is None


def test_slow_typing_does_not_extend_the_time(keyboard: int) -> None:
    read_keys_at_once(keyboard)
    stopping = threading.Event()

    def type_slowly() -> None:
        for _ in range(60):
            if not stopping.wait(0.05):
                os.write(keyboard, b"y")

    typist = threading.Thread(target=type_slowly)
    typist.start()
    start = time.monotonic()
    line = plugin.read_line(0.3)
    elapsed = time.monotonic() - start
    stopping.set()
    typist.join()
    assert line is None
    assert elapsed < 2


def test_enter_is_understood_in_raw_mode(keyboard: int) -> None:
    tty = pytest.importorskip("tty")
    tty.setraw(sys.stdin)
    type_keys(keyboard, b"y\r")
    assert plugin.read_line(5) == "y\n"


@pytest.mark.parametrize("keys", [b"y\n", b"y", b"y\ny\ny", b"yes\n\n"])
def test_what_was_typed_before_is_discarded(keys: bytes, keyboard: int) -> None:
    type_keys(keyboard, keys)
    plugin.discard_input(sys.stdin.fileno())
    type_keys(keyboard, b"\n")
    assert plugin.read_line(5) == "\n"


# --- The question ---


class Asked:
    """A question that was asked: what was shown, returned and saved."""

    def __init__(self, project: Path, keyboard: int, keys: bytes) -> None:
        self.shown = sys.stderr = io.StringIO()
        typist = threading.Thread(target=self.type_after_prompt, args=(keyboard, keys))
        typist.start()
        self.agreed = plugin.ask(str(project))
        typist.join()
        path = project / ".telemetry"
        self.saved = path.read_text() if path.is_file() else None

    def type_after_prompt(self, keyboard: int, keys: bytes) -> None:
        while not self.shown.getvalue().endswith(plugin.PROMPT):
            time.sleep(0.01)
        os.write(keyboard, keys)


@pytest.fixture
def _stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # to be restored


pytestmark = pytest.mark.usefixtures("_stderr")


@pytest.mark.parametrize("keys", [b"y", b"Y", b"yes", b"YES", b"n", b"No", b"NO", b""])
def test_an_answer_is_saved(keys: bytes, keyboard: int, tmp_path: Path) -> None:
    yes = keys.lower() in (b"y", b"yes")
    type_keys(keyboard, b"n\nyes\ny")  # before the question is there
    asked = Asked(tmp_path, keyboard, keys + b"\n")
    assert asked.agreed == yes
    assert asked.saved == ("consent: true\n" if yes else "consent: false\n")
    assert asked.shown.getvalue().endswith(plugin.PROMPT)


@pytest.mark.parametrize(
    "keys", [b"maybe\n", b"yy\n", b" y\n", b"y \n", b"ye\n", b"\x04", b"y\x04\x04"]
)
def test_any_other_text_is_not_an_answer(
    keys: bytes, keyboard: int, tmp_path: Path
) -> None:
    asked = Asked(tmp_path, keyboard, keys)
    assert not asked.agreed
    assert asked.saved is None
    newline = "" if keys.endswith(b"\n") else "\n"  # the terminal shows the other one
    shown = asked.shown.getvalue().partition(plugin.PROMPT)[2]
    assert shown.startswith(f"{newline}Neither yes nor no")


@pytest.mark.parametrize("keys", [b"", b"y"])
def test_nobody_answering_is_saved_as_a_no(
    keys: bytes, keyboard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugin.ANSWER_SECONDS == 30
    monkeypatch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    asked = Asked(tmp_path, keyboard, keys)
    assert not asked.agreed
    assert asked.saved == "consent: false\n"
    assert "seconds: taken as no." in asked.shown.getvalue()
    type_keys(keyboard, b"\n")
    assert os.read(sys.stdin.fileno(), 100) == b"\n", "the part of a line is gone"


def test_an_answer_that_cannot_be_saved_counts_for_this_command(
    keyboard: int, tmp_path: Path
) -> None:
    (tmp_path / ".telemetry").mkdir()
    asked = Asked(tmp_path, keyboard, b"y\n")
    assert asked.agreed
    assert asked.saved is None


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugin, "read_key", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plugin.ask(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_question_names_everything_in_eight_lines(
    keyboard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(plugin.ENDPOINT_VARIABLE)
    lines = Asked(tmp_path, keyboard, b"\n").shown.getvalue().splitlines()
    assert len(lines) <= 8 + 1, "and the prompt"
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for words in (
        *("command with every value masked", "hashes", "user name", "package name"),
        *("versions of Kedro, Python and this plugin", "operating system", "tools"),
        *("example pipeline", "counts of datasets, nodes and pipelines"),
        *(plugin.DEFAULT_ENDPOINT, ".telemetry", "Enter means no"),
        *("KEDRO_TELEMETRY_PREVIEW=1 kedro info", "kedro-telemetry deny", "[y/N]"),
    ):
        assert words in text


# --- Windows ---


class Console:
    """Windows' module for its console, as far as it is used."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.echo = ""

    def kbhit(self) -> bool:
        return bool(self.keys)

    def getwch(self) -> str:
        return self.keys.pop(0)

    def getwche(self) -> str:
        self.echo += self.keys[0]
        return self.getwch()

    def putwch(self, key: str) -> None:
        self.echo += key

    def get_osfhandle(self, descriptor: int) -> int:
        return descriptor + 1000


def load_as(platform: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the plugin as it is on another platform."""
    monkeypatch.setattr(sys, "platform", platform)
    specification = importlib.util.spec_from_file_location(
        plugin.__name__, support.PLUGIN
    )
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Windows:
    """The plugin on a simulated Windows, with a console that has these keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.console = Console()
        monkeypatch.setitem(sys.modules, "msvcrt", self.console)
        for name in ("geteuid", "getuid", "O_NONBLOCK", "O_NOFOLLOW", "tcgetpgrp"):
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.setitem(sys.modules, "termios", None)
        self.consoles = {1000, 1001, 1002}
        kernel32 = SimpleNamespace(GetConsoleMode=self.get_console_mode)
        libraries = SimpleNamespace(kernel32=kernel32)
        monkeypatch.setattr(ctypes, "windll", libraries, raising=False)
        stdin = SimpleNamespace(fileno=lambda: 0)
        monkeypatch.setattr(sys, "stdin", stdin)
        self.plugin = load_as("win32", monkeypatch)

    def get_console_mode(self, handle: Any, mode: Any) -> int:
        return int(handle.value in self.consoles)


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(monkeypatch)


def test_windows_asks_where_all_streams_are_consoles(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        monkeypatch.setattr(sys, name, SimpleNamespace(fileno=partial(int, number)))
    assert windows.plugin.can_ask()
    for handle in (1000, 1001, 1002):  # for example NUL, whose `isatty` is true
        windows.consoles.remove(handle)
        assert not windows.plugin.can_ask()
        windows.consoles.add(handle)


@pytest.mark.parametrize(
    ("keys", "line"),
    [("y\r", "y\n"), ("no\rx", "no\n"), ("\x1a", ""), ("y\x1a", "y"), ("y", None)],
)
def test_windows_reads_a_line(keys: str, line: str | None, windows: Windows) -> None:
    windows.console.keys = list(keys)
    start = time.monotonic()
    assert windows.plugin.read_line(0.2) == line
    assert (time.monotonic() - start >= 0.2) == (line is None)
    assert windows.console.echo.endswith("\r\n" if "\n" in str(line) else keys[-1])


def test_windows_passes_ctrl_c(windows: Windows) -> None:
    windows.console.keys = ["y", "\x03"]
    with pytest.raises(KeyboardInterrupt):
        windows.plugin.read_line(5)


def test_windows_discards_what_was_typed_before(windows: Windows) -> None:
    windows.console.keys = list("y\ry")
    windows.plugin.discard_input(0)
    assert windows.console.keys == []


def test_windows_trusts_files_without_owner_and_mode_but_no_links(
    windows: Windows, tmp_path: Path
) -> None:
    path = tmp_path / ".telemetry"
    path.write_text("consent: true\n")
    path.chmod(0o666)
    assert windows.plugin.decide(str(tmp_path)).state == "on"
    path.rename(tmp_path / "yes")
    path.symlink_to("yes")
    assert windows.plugin.decide(str(tmp_path)).reason.endswith("symbolic link")


def test_windows_stores_its_salt_in_the_users_folder(
    windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert windows.plugin.salt_folder() is None
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "absent"))
    assert windows.plugin.salt_folder() is None
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert windows.plugin.salt_folder() == str(tmp_path / "kedro" / "kedro")
    assert windows.plugin.prepare_salt() == windows.plugin.prepare_salt()
    assert len(os.listdir(tmp_path / "kedro" / "kedro")) == 1


def test_windows_names_its_user(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOGNAME")
    assert windows.plugin.login_name() == ""
    monkeypatch.setenv("USERNAME", "ada")
    assert windows.plugin.login_name() == "ada"


def test_windows_starts_the_sender_without_a_window_and_with_a_low_priority(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []

    def start(command: list[str], **options: Any) -> SimpleNamespace:
        started.append(options)
        return SimpleNamespace(stdin=io.BytesIO(), pid=0)

    flags = {"CREATE_NO_WINDOW": 0x08000000, "BELOW_NORMAL_PRIORITY_CLASS": 0x4000}
    for name, value in flags.items():
        monkeypatch.setattr(subprocess, name, value, raising=False)
    monkeypatch.setattr(subprocess, "Popen", start)
    windows.plugin.start_sender(b"message")
    windows.plugin.start_sender(b"message")
    assert [options["creationflags"] for options in started] == [0x08004000] * 2


# --- macOS and other systems ---


def test_macos_stores_its_salt_where_its_applications_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    macos = load_as("darwin", monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = home / "Library" / "Application Support" / "kedro"
    assert macos.salt_folder() == str(folder)
    assert macos.prepare_salt() == macos.prepare_salt()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("linux", "linux"),
        ("darwin", "darwin"),
        ("win32", "win32"),
        ("cygwin", "other"),
        ("freebsd14", "other"),
        ("", "other"),
    ],
)
def test_only_common_systems_are_named(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    message = plugin.build_message([], None, {}, bytes(32))
    assert f'"os": "{name}"'.encode() in message
