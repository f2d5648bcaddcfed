"""The command `kedro-telemetry`, called in this process."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import support

from kedro_telemetry import plugin

ENDPOINT, PREVIEW = plugin.ENDPOINT_VARIABLE, plugin.PREVIEW_VARIABLE
TOML = b"[tool.kedro]\n"


class Control:
    """A project without answers, whose folder or a subfolder is the current one."""

    def __init__(self, folder: Path, home: Path, patch: Any, capsys: Any) -> None:
        self.project, self.patch, self.capsys = folder / "project", patch, capsys
        (self.project / "src").mkdir(parents=True)
        (self.project / "pyproject.toml").write_bytes(TOML)
        patch.chdir(self.project / ("" if support.KEDRO_018 else "src"))
        self.answer = self.project / ".telemetry"
        self.own = support.own_file(self.project, home)

    def show(self, action: str) -> tuple[int, list[str]]:
        """Return the exit status and the lines that this action shows."""
        status = plugin.main([action])
        out, err = self.capsys.readouterr()
        assert ((out == ""), (err == "")) == ((status == 2), (status != 2))
        return status, (out or err).splitlines()


@pytest.fixture
def control(tmp_path: Path, home: Path, monkeypatch: Any, capsys: Any) -> Control:
    return Control(tmp_path, home, monkeypatch, capsys)


def test_status_allow_and_deny(control: Control) -> None:
    answer, own = control.answer, control.own
    off = f"Telemetry is off: {plugin.NOT_ANSWERED}."
    rest = [
        f"address     {os.environ[ENDPOINT]!r}",
        f"own folder  {str(own.parent)!r}",
        f"plugin.py   {str(support.PLUGIN)!r}",
    ]
    assert control.show("status") == (0, [off, *rest])
    assert not answer.exists()
    assert not own.parent.exists()
    assert control.show("allow") == (0, ["Telemetry is on.", *rest])
    assert (answer.read_bytes(), own.read_bytes()) == (
        b"consent: true\n",
        plugin.own_yes(),
    )
    assert control.show("status") == (1, ["Telemetry is on.", *rest])
    control.patch.setenv(PREVIEW, "1")
    assert control.show("status")[0] == 0
    assert PREVIEW in control.show("status")[1][0]
    control.patch.delenv(PREVIEW)
    control.patch.setenv(ENDPOINT, "https://a.example/x")
    assert control.show("status")[1][:2] == [off, "address     'https://a.example/x'"]
    status, lines = control.show("deny")
    assert (status, lines[0]) == (0, f"Telemetry is off: {plugin.PROJECT_SAYS_NO}.")
    assert answer.read_bytes() == b"consent: false\n"
    assert not own.exists(), "so an old file from git or a backup turns nothing on"


def test_allow_keeps_a_yes_and_replaces_the_rest(control: Control) -> None:
    for before in (b"# us\nconsent: True\n", b"consent: false\n", b"x", b"#" * 5000):
        control.answer.write_bytes(before)
        assert control.show("allow")[1][0] == "Telemetry is on."
        after = before if before.startswith(b"# us") else b"consent: true\n"
        assert control.answer.read_bytes() == after
    other = control.project.parent / "other"  # for example a bind mount
    control.patch.chdir(other.parent)
    control.project.rename(other)
    control.patch.chdir(other)
    assert control.show("status")[0] == 0
    assert control.show("allow")[0] == 0
    control.patch.chdir(other.parent)
    other.rename(control.project)
    control.patch.chdir(control.project)
    assert control.show("status")[0] == 1, "the first yes is kept"


def test_allow_says_why_telemetry_stays_off(control: Control) -> None:
    for name, value, status, words in (
        ("DO_NOT_TRACK", "1", 0, "DO_NOT_TRACK"),
        ("ALL_PROXY", "socks5://x:1", 0, "ALL_PROXY"),
        (PREVIEW, "1", 0, PREVIEW),
        (ENDPOINT, "nowhere", 2, ENDPOINT),
        (support.HOME, "absent", 2, "home folder"),
        (support.HOME, str(control.project), 2, "inside the project"),
    ):
        with control.patch.context() as changed:
            changed.setenv(name, value)
            found, lines = control.show("allow")
        assert found == status, name
        assert words.lower() in lines[0].lower(), "names have no case on Windows"
        assert lines[0].startswith("Telemetry is off: ") == (status == 0)
    assert not support.own_folder(control.project).exists()


def test_deny_does_each_half_and_says_what_failed(control: Control) -> None:
    answer, own = control.answer, control.own
    own.mkdir(parents=True)
    status, lines = control.show("deny")
    assert (status, own.name in lines[0]) == (2, True)
    assert answer.read_bytes() == b"consent: false\n"
    answer.unlink()
    answer.mkdir()
    status, lines = control.show("deny")
    assert (status, own.name in lines[0], ".telemetry" in lines[0]) == (2, True, True)
    own.rmdir()
    own.write_bytes(plugin.own_yes())
    assert (control.show("deny")[0], own.exists()) == (2, False)
    answer.rmdir()
    control.patch.delenv(support.HOME)
    assert (control.show("deny")[0], answer.read_bytes()) == (0, b"consent: false\n")


def test_outside_of_a_project_nothing_is_saved(control: Control) -> None:
    folder = control.project.parent / "folder"
    folder.mkdir()
    control.patch.chdir(folder)
    assert control.show("status")[1][0] == "Telemetry is off: not in a Kedro project."
    for action in ("allow", "deny"):
        status, lines = control.show(action)
        assert (status, "not in a Kedro project" in lines[0]) == (2, True)
    assert os.listdir(folder) == []
    if sys.platform != "win32":
        folder.rmdir()
        for action in ("status", "allow", "deny"):
            assert control.show(action)[0] == 2, "in a folder that is gone"
    control.patch.chdir(control.project)


# What `pyproject.toml` can be, and whether Kedro takes it for a project's.
PYPROJECTS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "broken": (True, lambda path: path.write_bytes(b"= = =\n" + TOML + b"[[[")),
    "200 KB": (True, lambda path: path.write_bytes(b"#" * 200_000 + b"\n" + TOML)),
    "a comment": (True, lambda path: path.write_bytes(b"# " + TOML)),
    "not UTF-8": (False, lambda path: path.write_bytes(b"\xff\xfe" + TOML)),
    "another tool": (False, lambda path: path.write_bytes(b"[tool.kedroid]")),
    "a folder": (False, lambda path: path.mkdir()),
    "absent": (False, lambda path: None),
}
if sys.platform != "win32":
    PYPROJECTS |= {
        "a link": (True, lambda path: path.symlink_to("../pyproject.toml")),
        "a broken link": (False, lambda path: path.symlink_to("absent")),
        "a loop": (False, lambda path: path.symlink_to("pyproject.toml")),
        "a FIFO": (False, lambda path: os.mkfifo(path)),
        "a device": (False, lambda path: path.symlink_to("/dev/zero")),
    }


@pytest.mark.parametrize("name", PYPROJECTS)
def test_the_project_is_found_as_kedro_finds_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(TOML)
    inner = tmp_path / "inner"
    inner.mkdir()
    is_project, make = PYPROJECTS[name]
    make(inner / "pyproject.toml")
    expected = inner if is_project else None if support.KEDRO_018 else tmp_path
    kedro = import_module("kedro.utils")
    if hasattr(kedro, "find_kedro_project"):  # since Kedro 0.19
        assert kedro.find_kedro_project(inner) == expected
    monkeypatch.chdir(inner)
    assert plugin.find_project() == (os.path.realpath(expected) if expected else "")
    monkeypatch.setattr(plugin, "kedro_version", "0.18.14")
    only = os.path.realpath(inner) if is_project else ""
    assert plugin.find_project() == only


def test_wrong_usage_is_an_error_and_help_explains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["on"], ["forget"], ["status", "x"], ["--x"], ["STATUS"]):
        with pytest.raises(SystemExit, match="2"):
            plugin.main(arguments)
        out, err = capsys.readouterr()
        assert (out, err.startswith("usage: kedro-telemetry ")) == ("", True)
    monkeypatch.setattr(sys, "argv", ["kedro-telemetry", "--help"])
    with pytest.raises(SystemExit, match="0"):
        plugin.main()
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for words in ("status", "allow", "deny", "exit status", "DO_NOT_TRACK=1", PREVIEW):
        assert words in text
