"""Windows and macOS: the branches that this system does not take, with what they lack taken away."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support

from kedro_telemetry import plugin
from kedro_telemetry.plugin import ASK, ON, at_terminal, build, decide, read_own, salt_path, start_sender

SALT = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".telemetry").write_text("consent: true\n")
    return tmp_path


@pytest.fixture
def like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what Windows lacks."""
    for name in ("geteuid", "getuid", "O_NOFOLLOW", "O_NONBLOCK", "tcgetpgrp", "getpgrp", "nice"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)


# --- Files ---
def test_windows_has_no_owners_and_no_modes(folder: Path, like_windows: None) -> None:
    (folder / ".telemetry").chmod(0o666)
    assert decide(str(folder))[0] == ON


@pytest.mark.parametrize("target", ["yes", "absent", "."])
def test_windows_follows_no_link(target: str, folder: Path, like_windows: None) -> None:
    """Nor does it take one to nothing for an absent file, which would be asked about."""
    (folder / ".telemetry").rename(folder / "yes")
    (folder / ".telemetry").symlink_to(target)
    assert decide(str(folder))[0] == 5


def test_windows_takes_no_folder(folder: Path, like_windows: None) -> None:
    (folder / ".telemetry").unlink()
    (folder / ".telemetry").mkdir()
    assert decide(str(folder))[0] == 5


def test_without_one_flag_the_other_checks_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_NOFOLLOW", raising=False)
    (folder / "link").symlink_to(".telemetry")
    with pytest.raises(PermissionError):
        read_own(str(folder / "link"), 10, 0)
    assert read_own(str(folder / ".telemetry"), 7, 0) == b"consent"


# --- The salt's path: as appdirs 1.4.4 names the folder ---
@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.config/kedro/telemetry.salt"),
        ("linux", {"XDG_CONFIG_HOME": "/xdg"}, "/xdg/kedro/telemetry.salt"),
        ("linux", {"XDG_CONFIG_HOME": ""}, "~/.config/kedro/telemetry.salt"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, "~/.config/kedro/telemetry.salt"),
        ("linux", {"LOCALAPPDATA": "/local"}, "~/.config/kedro/telemetry.salt"),
        ("freebsd14", {}, "~/.config/kedro/telemetry.salt"),
        ("darwin", {}, "~/Library/Application Support/kedro/telemetry.salt"),
        ("darwin", {"XDG_CONFIG_HOME": "/xdg"}, "~/Library/Application Support/kedro/telemetry.salt"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/kedro/kedro/telemetry.salt"),
        ("win32", {"LOCALAPPDATA": ""}, "~/AppData/Local/kedro/kedro/telemetry.salt"),
        ("win32", {"LOCALAPPDATA": "/local", "XDG_CONFIG_HOME": "/xdg"}, "/local/kedro/kedro/telemetry.salt"),
        ("win32", {}, "~/AppData/Local/kedro/kedro/telemetry.salt"),
    ],
)
def test_the_salts_path(
    platform: str, variables: dict[str, str], expected: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert salt_path() == expected.replace("~", str(home))


def test_without_a_home_variable_it_is_that_of_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")
    monkeypatch.delenv("HOME")
    assert salt_path() == f"{pwd.getpwuid(os.getuid()).pw_dir}/.config/kedro/telemetry.salt"


@pytest.mark.parametrize("home", ["relative", "", "."])
def test_the_salt_never_depends_on_the_folder_of_the_command(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert os.path.isabs(salt_path())


# --- Terminals ---
CONSOLE, NUL = "<_io._WindowsConsoleIO mode='rb'>", "<_io.FileIO name='nul' mode='rb'>"


class Buffer:
    """Where Python keeps the file itself, whose type tells Windows' consoles apart."""

    def __init__(self, raw: str) -> None:
        self.raw = raw


class Stream(io.StringIO):
    """One of the three."""

    def __init__(self, terminal: bool, raw: str = CONSOLE) -> None:
        super().__init__()
        self.terminal, self.buffer = terminal, Buffer(raw)  # type: ignore[misc, assignment]

    def isatty(self) -> bool:
        return self.terminal


def use_terminals(monkeypatch: pytest.MonkeyPatch, **others: Any) -> None:
    """In the test itself: pytest sets streams of its own when a fixture has ended."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, others.get(name, Stream(True)))


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What types into a real terminal, which is descriptor 0 here and has this process in its foreground."""
    saved, (master, slave) = os.dup(0), os.openpty()
    os.dup2(slave, 0)
    monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: -1 if descriptor else os.getpgrp())
    yield master
    os.dup2(saved, 0)
    for descriptor in (saved, master, slave):
        os.close(descriptor)


def asked_on_windows(monkeypatch: pytest.MonkeyPatch) -> bool:
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        return at_terminal()


def test_windows_has_no_jobs_in_the_background(like_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use_terminals(monkeypatch)
    assert asked_on_windows(monkeypatch)


def test_windows_waits_for_an_answer_by_reading_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There `select` takes sockets alone."""

    def refuses(*_: Any) -> None:
        raise OSError("not a socket")

    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr("select.select", refuses)
        windows.setattr(sys, "stdin", io.StringIO("y\n"))
        assert plugin.ask(str(tmp_path)) == ON
    assert (tmp_path / ".telemetry").read_text() == "consent: true\n"


def test_windows_has_consoles_without_a_buffer(like_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -u` leaves standard output and error."""
    unbuffered = Stream(True)
    unbuffered.buffer = SimpleNamespace(console=CONSOLE)  # type: ignore[misc, assignment]
    use_terminals(monkeypatch, stdout=unbuffered, stderr=unbuffered)
    assert asked_on_windows(monkeypatch)


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_windows_nul_is_no_terminal(name: str, like_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `isatty` is true there: a question would wait for nobody."""
    use_terminals(monkeypatch, **{name: Stream(True, NUL)})
    assert not asked_on_windows(monkeypatch)


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_each_of_the_three_has_to_be_a_terminal(name: str, keyboard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_terminals(monkeypatch, **{name: Stream(False)})
    assert not at_terminal()
    assert not asked_on_windows(monkeypatch)


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("state", ["absent", "closed"])
def test_a_stream_that_is_not_there_is_no_terminal(
    name: str, state: str, keyboard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for `pythonw`, or a command that is started with closed descriptors."""
    stream = io.StringIO()
    stream.close()
    use_terminals(monkeypatch, **{name: stream if state == "closed" else None})
    assert not at_terminal()
    assert not asked_on_windows(monkeypatch)


@pytest.mark.parametrize(("other", "expected"), [(0, True), (1, False)])
def test_a_job_in_the_background_is_not_asked(
    other: int, expected: bool, keyboard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_terminals(monkeypatch)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + other)
    assert at_terminal() == expected
    assert decide(str(tmp_path))[0] == (ASK if expected else 7)


@pytest.mark.parametrize(("typed", "expected"), [(b"", True), (b"y", True), (b"y\n", False), (b"\n", False)])
def test_what_was_typed_before_is_no_answer(
    typed: bytes, expected: bool, keyboard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that waits was meant for another question, which gets it: this one is not put."""
    use_terminals(monkeypatch)
    os.write(keyboard, typed)
    time.sleep(0.05)  # a terminal hands on what is typed in its own time
    assert at_terminal() == expected


def test_a_terminal_that_answers_no_question_is_none(keyboard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(25, "not a terminal")

    use_terminals(monkeypatch)
    monkeypatch.setattr(os, "tcgetpgrp", refuse)
    assert not at_terminal()


# --- The event ---
@pytest.mark.parametrize(
    ("platform", "shown"),
    [
        ("linux", "linux"),
        ("darwin", "darwin"),
        ("win32", "win32"),
        ("cygwin", "other"),
        ("freebsd14", "other"),
        ("emscripten", "other"),
        ("", "other"),
    ],
)
def test_the_system_is_one_of_four(platform: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert json.loads(build([], None, {}, SALT))["properties"]["os"] == shown


def test_windows_names_its_user(like_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERNAME", "somebody")
    by_logname = build([], None, {}, SALT)
    monkeypatch.delenv("LOGNAME")
    assert build([], None, {}, SALT) == by_logname


def test_windows_without_a_user_is_no_error(like_windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGNAME")
    assert json.loads(build([], None, {}, SALT))["identity"]


# --- The sender ---
@pytest.mark.parametrize(("name", "flags"), [("nt", 0x08000000 | 0x00000040), ("posix", 0)])
def test_windows_starts_the_sender_without_a_window_at_the_lowest_priority(
    name: str, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of `subprocess.Popen`; its flags have no effect on another system, and are refused there."""
    asked: dict[str, Any] = {}

    def record(self: Any, command: list[str], **options: Any) -> None:
        asked.update(options, command=command, event=os.read(options["stdin"], 100))
        self.returncode, self._child_created = 0, False

    monkeypatch.setattr(subprocess.Popen, "__init__", record)
    monkeypatch.setattr(plugin, "STARTED", [])
    monkeypatch.setattr(plugin, "os", SimpleNamespace(**{**vars(os), "name": name}))
    start_sender(b"an event")
    assert asked["creationflags"] == flags
    assert asked["command"] == [sys.executable, "-I", "-S", os.path.abspath(plugin.__file__)]
    assert asked["event"] == b"an event"
    assert asked["start_new_session"]
    assert asked["stdout"] == asked["stderr"] == subprocess.DEVNULL
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(asked["stdin"])


def test_a_system_without_nice_sends_all_the_same(collector: support.Collector, env: dict[str, str]) -> None:
    """The sender itself, in a process in which `os.nice` is taken away."""
    script = f"import os, runpy; del os.nice; runpy.run_path({plugin.__file__!r}, run_name='__main__')"
    event = build(["info"], None, {}, SALT)
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, input=event, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert collector.wait() == [json.loads(event)]


def test_the_sender_runs_at_the_lowest_priority(collector: support.Collector, env: dict[str, str]) -> None:
    if not hasattr(os, "nice"):
        pytest.skip("Windows has classes of priority instead")
    script = (
        "import atexit, os, runpy; atexit.register(lambda: print(os.nice(0))); "
        f"runpy.run_path({plugin.__file__!r}, run_name='__main__')"
    )
    event = build(["info"], None, {}, SALT)
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, input=event, env=env, capture_output=True, check=False)
    assert done.stdout.strip() == b"19"


def test_the_loaders_variable_of_windows_reaches_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SYSTEMROOT, Windows makes no socket."""
    assert "SYSTEMROOT" in plugin.SENDER_VARIABLES
