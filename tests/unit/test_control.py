"""The command `kedro-telemetry`, called in this process."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import support

from kedro_telemetry import plugin

ENDPOINT, PREVIEW = plugin.ENDPOINT_VARIABLE, plugin.PREVIEW_VARIABLE
Show = Callable[[str], tuple[int, list[str]]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without answers. A subfolder of it is the current folder."""
    support.make_bare_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project" / ("" if support.KEDRO_018 else "src"))
    return tmp_path / "project"


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Return the exit status and the lines that this action shows."""

    def run(action: str) -> tuple[int, list[str]]:
        status = plugin.main([action])
        out, err = capsys.readouterr()
        assert (err == "") == (status != 2)
        assert (out == "") == (status == 2)
        assert out.isascii()
        return status, (out or err).splitlines()

    return run


def test_status_allow_and_deny(
    project: Path, home: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, own = project / ".telemetry", support.own_file(project, home)
    rest = [
        f"address     {os.environ[ENDPOINT]!r}",
        f"own folder  {str(own.parent)!r}",
        f"plugin.py   {str(support.PLUGIN)!r}",
    ]
    off = f"Telemetry is off: {plugin.NOT_ANSWERED}."
    assert show("status") == (0, [off, *rest])
    assert not answer.exists()
    assert not own.parent.exists()
    assert show("allow") == (0, ["Telemetry is on.", *rest])
    assert answer.read_bytes() == b"consent: true\n"
    assert own.read_bytes() == plugin.own_yes()
    assert show("status") == (1, ["Telemetry is on.", *rest])
    monkeypatch.setenv(PREVIEW, "1")
    assert PREVIEW in show("status")[1][0]
    assert show("status")[0] == 0
    monkeypatch.delenv(PREVIEW)
    monkeypatch.setenv(ENDPOINT, "https://collector.example/x")
    assert show("status")[1][:2] == [off, "address     'https://collector.example/x'"]
    assert show("deny") == (0, [show("status")[1][0], *show("status")[1][1:]])
    assert answer.read_bytes() == b"consent: false\n"
    assert not own.exists(), "a yes for another address, too"
    answer.write_bytes(b"consent: true\n")  # by git, or from a backup
    assert show("status")[0] == 0


def test_allow_keeps_a_file_that_says_yes_and_replaces_another(
    project: Path, show: Show
) -> None:
    answer = project / ".telemetry"
    for before in (
        b"# us\nconsent: True\n",
        b"consent: false\n",
        b"x",
        b"",
        b"#" * 5000,
    ):
        answer.write_bytes(before)
        assert show("allow")[1][0] == "Telemetry is on."
        is_kept = before.startswith(b"# us")
        assert answer.read_bytes() == (before if is_kept else b"consent: true\n")


def test_allow_in_a_bind_mount_or_another_folder_ends_no_other_yes(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    show("allow")
    other = project.parent / "other"
    support.make_bare_project(other)
    monkeypatch.chdir(other)
    show("allow")
    assert show("status")[0] == 1
    monkeypatch.chdir(project)
    assert show("status")[0] == 1


def test_allow_says_why_telemetry_stays_off_or_why_nothing_can_be_saved(
    project: Path, home: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, status in (
        ("DO_NOT_TRACK", "1", 0),
        ("LD_PRELOAD", "x.so", 0),
        ("ALL_PROXY", "socks5://x:1", 0),
        (PREVIEW, "1", 0),
        (ENDPOINT, "nowhere", 2),
        (support.HOME, str(home / "absent"), 2),
        (support.HOME, str(project), 2),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            found, lines = show("allow")
        assert found == status, name
        words = {support.HOME: "home folder" if "absent" in value else "inside the"}
        assert words.get(name, name) in lines[0]
        assert len(lines) == (4 if status == 0 else 2)
        assert lines[0].startswith("Telemetry is off: ") == (status == 0)
    assert not support.own_folder(project).exists()


def test_deny_does_each_half_even_if_the_other_fails_and_says_what_failed(
    project: Path, home: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, own = project / ".telemetry", support.own_file(project, home)
    show("allow")
    own.unlink()
    own.mkdir()
    status, lines = show("deny")
    assert (status, own.name in lines[0]) == (2, True)
    assert answer.read_bytes() == b"consent: false\n"
    answer.unlink()
    answer.mkdir()
    status, lines = show("deny")
    assert (status, own.name in lines[0], ".telemetry" in lines[0]) == (2, True, True)
    assert "again" in lines[1]
    own.rmdir()
    own.write_bytes(plugin.own_yes())
    status, lines = show("deny")
    assert (status, own.exists()) == (2, False)
    answer.rmdir()
    monkeypatch.delenv(support.HOME)
    assert show("deny")[0] == 0, "without a home"
    assert answer.read_bytes() == b"consent: false\n"


def test_outside_of_a_project_nothing_is_saved(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert show("status")[1][0] == "Telemetry is off: not in a Kedro project."
    for action in ("allow", "deny"):
        status, lines = show(action)
        assert (status, len(lines)) == (2, 2)
        assert "not in a Kedro project" in lines[0]
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_is_an_error(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("only on Unix: a current folder can be deleted")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert [show(action)[0] for action in ("status", "allow", "deny")] == [2, 2, 2]
    monkeypatch.chdir(tmp_path)


TOML = b"[tool.kedro]\n"
PYPROJECTS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "short": (True, lambda path: path.write_bytes(TOML)),
    "broken": (True, lambda path: path.write_bytes(b"= = =\n" + TOML + b"[[[")),
    "200 KB": (True, lambda path: path.write_bytes(b"#" * 200_000 + b"\n" + TOML)),
    "in a comment": (True, lambda path: path.write_bytes(b"# " + TOML)),
    "not UTF-8": (False, lambda path: path.write_bytes(b"\xff\xfe" + TOML)),
    "another tool": (False, lambda path: path.write_bytes(b"[tool.kedroid]")),
    "empty": (False, lambda path: path.touch()),
    "a folder": (False, lambda path: path.mkdir()),
    "absent": (False, lambda path: None),
}
if sys.platform != "win32":
    PYPROJECTS |= {
        "a link": (True, lambda path: path.symlink_to(path.parent.parent / "link")),
        "a broken link": (False, lambda path: path.symlink_to("absent")),
        "a loop": (False, lambda path: path.symlink_to("pyproject.toml")),
        "a FIFO": (False, lambda path: os.mkfifo(path)),
        "a device": (False, lambda path: path.symlink_to("/dev/zero")),
    }


@pytest.mark.parametrize("name", PYPROJECTS)
def test_the_project_is_found_as_kedro_finds_it(
    name: str, tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(TOML)
    (tmp_path / "link").write_bytes(TOML)
    inner = tmp_path / "inner"
    inner.mkdir()
    is_project, make = PYPROJECTS[name]
    make(inner / "pyproject.toml")
    expected = inner if is_project else None if support.KEDRO_018 else tmp_path
    kedro = import_module("kedro.utils")
    if hasattr(kedro, "find_kedro_project"):  # since Kedro 0.19
        assert kedro.find_kedro_project(inner) == expected
    monkeypatch.chdir(inner)
    assert plugin.find_project() == (expected and os.path.realpath(expected))
    monkeypatch.setattr(plugin, "kedro_version", "0.18.14")
    assert (plugin.find_project() is not None) == is_project, "of the folder only"


def test_an_odd_path_is_shown_escaped_on_any_output(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\u0141" if sys.platform == "win32" else "\u0141\x1b[31m'\udcff"
    folder = tmp_path / name
    folder.mkdir()
    support.make_bare_project(folder / "project")
    monkeypatch.chdir(folder / "project")
    monkeypatch.setenv(support.HOME, str(folder))
    assert show("allow")[0] == 0
    assert r"\u0141" in show("status")[1][2]
    (folder / "project" / ".telemetry").unlink()
    (folder / "project" / ".telemetry").mkdir()
    with monkeypatch.context() as changed:
        errors = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
        changed.setattr(sys, "stderr", errors)
        assert plugin.main(["deny"]) == 2


def test_a_closed_pipe_does_not_change_the_exit_status(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout, monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", stdout)
        assert [plugin.main([action]) for action in ("allow", "status")] == [0, 1]


def test_wrong_usage_and_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["on"], ["forget"], ["status", "x"], ["--x"], ["STATUS"]):
        with pytest.raises(SystemExit) as ended:
            plugin.main(arguments)
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert (out, err.startswith("usage: kedro-telemetry ")) == ("", True)
    monkeypatch.setattr(sys, "argv", ["kedro-telemetry", "--help"])
    with pytest.raises(SystemExit) as ended:
        plugin.main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for words in ("status", "allow", "deny", "exit status", "DO_NOT_TRACK=1", PREVIEW):
        assert words in text
