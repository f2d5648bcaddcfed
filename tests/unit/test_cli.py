"""The command `kedro-telemetry`, called in this process."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import support

from kedro_telemetry import plugin
from kedro_telemetry.plugin import (
    ENDPOINT_VARIABLE as ENDPOINT,
)
from kedro_telemetry.plugin import (
    PREVIEW_VARIABLE as PREVIEW,
)
from kedro_telemetry.plugin import (
    main,
    prepare_salt,
    salt_name,
)

SCRIPT = "import sys; from kedro_telemetry.plugin import main; sys.exit(main())"
Show = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that said yes. A subfolder of it is the current folder."""
    support.make_bare_project(tmp_path)
    (tmp_path / ".telemetry").write_text("consent: true\n")
    monkeypatch.chdir(tmp_path / "src")
    if support.KEDRO_018:
        monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Return the exit status and the lines that this command shows."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        status = main(arguments)
        shown = capsys.readouterr()
        assert (shown.err == "") == (status != 2)
        assert (shown.out == "") == (status == 2)
        return status, (shown.out or shown.err).splitlines()

    return run


# --- status ---


def test_status_shows_what_a_reviewer_compares(
    project: Path, show: Show, home: Path
) -> None:
    salt = home / ".config" / "kedro" / salt_name()
    digest = hashlib.sha256(support.PLUGIN.read_bytes()).hexdigest()
    lines = [
        "Telemetry is on: .telemetry says `consent: true`.",
        f"endpoint   {os.environ[ENDPOINT]}",
        f"salt       {salt} (created with the first event)",
        f"plugin.py  {support.PLUGIN}",
        f"SHA-256    {digest}",
    ]
    assert show("status") == (1, lines)
    assert os.listdir(home) == []
    prepare_salt()
    lines[2] = f"salt       {salt}"
    assert show("status") == (1, lines)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"DO_NOT_TRACK": "0"}, "DO_NOT_TRACK is set"),
        ({"CI": "1"}, "CI is set"),
        ({"_KD_COMPLETE": "zsh_source"}, "shell completion"),
        ({PREVIEW: "1"}, f"{PREVIEW} is set"),
        ({ENDPOINT: "nowhere"}, f"{ENDPOINT} has an invalid host"),
        (
            {ENDPOINT: "https://192.0.2.1/", "ALL_PROXY": "socks5://x:1"},
            "ALL_PROXY does not",
        ),
    ],
)
def test_status_says_why_nothing_would_be_sent(
    variables: dict[str, str],
    reason: str,
    project: Path,
    show: Show,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, lines = show("status")
    assert status == 0
    assert lines[0].startswith("Telemetry is off: ")
    assert reason in lines[0]
    if "nowhere" in variables.values():
        assert lines[1] == f"endpoint   none: {ENDPOINT} has an invalid host or port"
    (project / ".telemetry").write_text("consent: false\n")
    _, lines = show("status")
    if reason.partition(" ")[0] in (PREVIEW, ENDPOINT, "ALL_PROXY"):
        assert ".telemetry does not say" in lines[0], "which comes first"


def test_status_is_off_where_the_sender_cannot_start(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("debugpy", "viztracer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        assert show("status")[1][0].startswith(f"Telemetry is off: {name} takes over")
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(plugin, "__file__", "/absent.zip/plugin.py")
    lines = show("status")[1]
    assert "plugin.py is in an archive" in lines[0]
    assert lines[3:] == [
        "plugin.py  /absent.zip/plugin.py",
        "SHA-256    cannot be read",
    ]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "no Python interpreter" in show("status")[1][0]


def test_status_does_not_ask(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".telemetry").unlink()
    assert "not an interactive terminal" in show("status")[1][0]
    monkeypatch.setattr(plugin, "can_ask", lambda: True)
    status, lines = show("status")
    assert (status, lines[0]) == (0, "Telemetry is off: no answer is saved yet.")
    assert not (project / ".telemetry").exists()


def test_status_without_a_home_says_so(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    status, lines = show("status")
    assert status == 1
    assert lines[2] == "salt       none: there is no home folder to store it in"
    assert show("forget") == (0, ["There is no salt to delete."])


def test_status_works_in_an_archive(project: Path) -> None:
    package = support.PLUGIN.parent
    archive = shutil.make_archive("archive", "zip", package.parent, package.name)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "status"],
        env={**os.environ, "PYTHONPATH": archive},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "plugin.py is in an archive" in done.stdout


# --- Finding the project ---


def test_a_folder_outside_of_a_project_is_off(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".telemetry").write_text("consent: true\n")
    assert show("status")[1][0] == "Telemetry is off: not in a Kedro project."
    for action in ("allow", "deny"):
        status, lines = show(action)
        assert status == 2
        assert lines[0].startswith("kedro-telemetry: not in a Kedro project. Go to")
        assert len(lines) == 1
    assert (tmp_path / ".telemetry").read_text() == "consent: true\n"


@pytest.mark.skipif(support.KEDRO_018, reason="Kedro 0.18 looks in no other folder")
def test_the_nearest_project_above_is_found(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert show("status")[0] == 1
    monkeypatch.setattr(plugin, "kedro_version", "0.18.14")
    assert "not in a Kedro project" in show("status")[1][0]
    monkeypatch.chdir(project)
    assert show("status")[0] == 1


@pytest.mark.skipif(support.KEDRO_018, reason="Kedro 0.18 looks in no other folder")
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"\xff\xfe[tool.kedro]"),
        lambda path: path.write_text("[project]\n"),
        lambda path: path.write_text("[tool.kedro]".ljust(2**20 + 1, "#")),
    ],
)
def test_a_pyproject_that_kedro_does_not_read_is_passed_over(
    make: Callable[[Path], None], project: Path, show: Show
) -> None:
    make(project / "src" / "pyproject.toml")
    assert show("status")[0] == 1, "of the project above"


@pytest.mark.parametrize("text", ["= = =\n", "[[[\n", "name = 'acme\n", "# \u00e9\n"])
def test_a_broken_or_long_pyproject_is_read(
    text: str, project: Path, show: Show
) -> None:
    path = project / "pyproject.toml"
    data = path.read_bytes() + text.encode()
    path.write_bytes(data.ljust(2**20, b"#"))
    assert show("status")[0] == 1
    assert show("deny")[0] == 0
    assert show("status")[0] == 0


def test_a_folder_that_is_gone_is_an_error(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for action in ("status", "allow"):
        status, lines = show(action)
        assert status == 2
        assert "No such file or directory" in lines[0]
    assert show("forget")[0] == 0
    monkeypatch.chdir(tmp_path)


# --- allow, deny ---


@pytest.mark.parametrize(
    "before", ["", "consent: false\n", None, "fifo", "link", 0o666]
)
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_an_answer_replaces_what_was_there(
    action: str, before: str | int | None, project: Path, show: Show
) -> None:
    path, other = project / ".telemetry", project / "other"
    path.rename(other)
    others = sorted(project.iterdir())
    if before == "fifo":
        os.mkfifo(path)
    elif before == "link":
        path.symlink_to("other")
    elif before is not None:
        path.write_text(str(before))
        path.chmod(before if isinstance(before, int) else 0o644)
    state, answer = ("on", "true") if action == "allow" else ("off", "false")
    umask = os.umask(0)
    status, lines = show(action)
    os.umask(umask)
    assert (status, len(lines)) == (0, 2)
    assert lines[0].startswith(f"Saved `consent: {answer}` in {path}")
    assert lines[1].startswith(f"Telemetry is {state} here: .telemetry ")
    assert path.read_text() == f"consent: {answer}\n"
    assert path.lstat().st_mode & 0o7777 == 0o644
    assert sorted(project.iterdir()) == sorted([*others, path])
    assert other.read_text() == "consent: true\n"


def test_allow_says_if_telemetry_is_still_off(
    project: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DO_NOT_TRACK", PREVIEW):
        monkeypatch.setenv(name, "1")
        status, lines = show("allow")
        assert status == 0
        assert lines[1].startswith("Telemetry is off here: ")
        assert f"{name} is set" in lines[1]
        monkeypatch.delenv(name)


def test_an_answer_that_cannot_be_saved_is_an_error(project: Path, show: Show) -> None:
    path = project / ".telemetry"
    path.unlink()
    path.mkdir()
    before = sorted(project.iterdir())
    for action in ("allow", "deny"):
        status, lines = show(action)
        assert sorted(project.iterdir()) == before
        assert (status, len(lines)) == (2, 1)
        assert lines[0].startswith(f"kedro-telemetry: cannot write {path}: Is a dir")
    assert os.listdir(path) == []


def test_ctrl_c_while_an_answer_is_saved_leaves_no_draft(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: str, target: str) -> None:
        raise KeyboardInterrupt

    before = sorted(project.iterdir())
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["deny"])
    assert sorted(project.iterdir()) == before


# --- forget ---


def test_forget_deletes_every_salt_and_nothing_else(show: Show, home: Path) -> None:
    assert show("forget") == (0, ["There is no salt to delete."])
    prepare_salt()
    folder = home / ".config" / "kedro"
    for name in ("telemetry.salt", "telemetry.salt.2020-01", "telemetry.conf"):
        (folder / name).touch()
    status, lines = show("forget")
    assert status == 0
    assert os.listdir(folder) == ["telemetry.conf"]
    assert len(lines) == 4
    assert f"Deleted {folder / salt_name()}" in lines
    assert lines[-1] == "Later events get new hashes."


def test_a_salt_that_a_command_deletes_first_is_no_error(
    show: Show, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".config" / "kedro").mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", lambda _: ["telemetry.salt.2020-01"])
    assert show("forget")[0] == 0


def test_an_error_while_a_salt_is_deleted_names_its_path(
    show: Show, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root can delete every file, but there can be none below another file."""
    folder = home / ".config" / "kedro"
    folder.mkdir(parents=True)
    (folder / "telemetry.salt").touch()
    monkeypatch.setattr(os, "listdir", lambda _: ["telemetry.salt/x"])
    status, lines = show("forget")
    assert status == 2
    path = folder / "telemetry.salt" / "x"
    assert lines[0].startswith(f"kedro-telemetry: cannot delete {path}: Not a dir")


def test_forget_leaves_a_folder_alone(show: Show, home: Path) -> None:
    (home / ".config" / "kedro" / "telemetry.salt").mkdir(parents=True)
    assert show("forget") == (0, ["There is no salt to delete."])


# --- What is shown ---


def test_an_error_is_escaped_for_standard_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "\u0141ukasz"
    project.mkdir()
    support.make_bare_project(project)
    (project / ".telemetry").mkdir()
    monkeypatch.chdir(project)
    errors = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        changed.setattr(sys, "stderr", errors)
        assert main(["deny"]) == 2
    errors.seek(0)
    assert "\u0141ukasz" in errors.read()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_path_can_be_printed_in_any_encoding(
    encoding: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "\u0141ukasz\x1b[31m\udcff"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    folder = home / ".config" / "kedro"
    prepare_salt()
    output = io.BytesIO()
    with monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", io.TextIOWrapper(output, encoding))
        assert (main(["status"]), main(["forget"])) == (1, 0)
        sys.stdout.flush()
        lines = output.getvalue().decode(encoding).splitlines()
    assert len(lines) == 7
    assert os.listdir(folder) == []
    name = "\u0141ukasz" if encoding == "utf-8" else r"\u0141ukasz"
    for line in (lines[2], lines[5]):
        assert f"/{name}" + r"\x1b[31m\udcff/" in line
    assert "SHA-256" in lines[4]


def test_an_error_is_shown_escaped(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "\u0141\x1b'"
    project.mkdir()
    support.make_bare_project(project)
    (project / ".telemetry").mkdir()
    monkeypatch.chdir(project)
    status, lines = show("allow")
    assert status == 2
    assert "/\u0141\\x1b'/.telemetry: Is a directory. Remove it" in lines[0]


@pytest.mark.parametrize(
    "arguments", [[], ["on"], ["status", "x"], ["--x"], ["STATUS"]]
)
def test_wrong_usage_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: kedro-telemetry ")


def test_help_explains_each_action(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for words in (
        *("status", "allow", "deny", "forget", "exit status: 0 off, 1 on"),
        *("writes .telemetry", "DO_NOT_TRACK=1", f"{PREVIEW}=1 kedro info"),
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    for action in ("status", "allow", "deny", "forget"):
        with pytest.raises(SystemExit):
            main([action, "--help"])
        assert len(capsys.readouterr().out.splitlines()) >= 5, "its help says more"


def test_help_does_not_depend_on_docstrings() -> None:
    """`python -OO` drops them."""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", SCRIPT, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Control whether kedro commands in this project send events." in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: /dev/full")
def test_a_full_disk_does_not_change_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert plugin.main(["status"]) == 0
