"""`kedro-telemetry status | allow | deny | forget`, as the installed console script."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import support

from kedro_telemetry import plugin

SCRIPT = Path(sys.executable).parent / "kedro-telemetry"


def command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The console script; whatever happens, no traceback."""
    done = subprocess.run(
        [SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        umask=0,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def first(done: subprocess.CompletedProcess[str]) -> str:
    """The verdict."""
    assert done.stderr == ""
    return done.stdout.partition("\n")[0]


def says(text: str, mode: int = 0o644) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(mode)

    return write


def link(path: Path) -> None:
    path.with_name("yes").write_text("consent: true\n")
    path.symlink_to("yes")


def nothing(path: Path) -> None: ...


YES = says("consent: true\n")
ROWS: list[tuple[int, str, dict[str, str], Callable[[Path], None]]] = [
    (1, "off: DO_NOT_TRACK is set", {"DO_NOT_TRACK": "1"}, YES),
    (1, "off: DO_NOT_TRACK is set", {"DO_NOT_TRACK": "0", "CI": "1"}, YES),
    (1, "off: KEDRO_DISABLE_TELEMETRY is set", {"KEDRO_DISABLE_TELEMETRY": "no"}, YES),
    (4, "on: ", {"DO_NOT_TRACK": ""}, YES),
    (2, "off: CI is set", {"CI": "true"}, YES),
    *((2, f"off: {name} is set", {name: "1"}, YES) for name in plugin.CI_SIGNS),
    (2, "off: _KEDRO_COMPLETE is set", {"_KEDRO_COMPLETE": "zsh_source"}, YES),
    (4, "on: .telemetry says `consent: true`", {}, YES),
    (4, "on: .telemetry says `consent: true`", {}, says("\ufeff# yes\r\n\r\nconsent: TRUE\r\n")),
    (5, "off: .telemetry does not say `consent: true`", {}, says("consent: false\n")),
    (5, "off: .telemetry does not say `consent: true`", {}, says("")),
    (5, "off: .telemetry cannot be trusted", {}, says("consent: true\n", 0o666)),
    (5, "off: .telemetry cannot be trusted", {}, link),
    (5, "off: .telemetry cannot be trusted", {}, Path.mkdir),
    (5, "off: .telemetry cannot be trusted", {}, os.mkfifo),
    (7, "off: not answered yet", {}, nothing),
]


@pytest.mark.parametrize(("row", "verdict", "variables", "prepare"), ROWS)
@pytest.mark.parametrize("subfolder", ["", "conf/base"])
def test_status_names_the_row(
    row: int, verdict: str, variables: dict[str, str], prepare: Callable[[Path], None], subfolder: str, project: Path
) -> None:
    """On or off, the row of the table and why, in the project and in a folder of it; 0 off, 1 on."""
    (project / ".telemetry").unlink()
    prepare(project / ".telemetry")
    done = command("status", cwd=project / subfolder, **variables)
    assert first(done).startswith(f"Telemetry is {verdict}")
    assert f"row {row} " in first(done)
    assert done.returncode == int(row == 4)


def test_status_outside_a_project(tmp_path: Path) -> None:
    """Row 3; the rows above it come first."""
    (tmp_path / ".telemetry").write_text("consent: true\n")
    assert "row 3 " in first(command("status", cwd=tmp_path))
    assert "not in a Kedro project" in first(command("status", cwd=tmp_path))
    assert "row 1 " in first(command("status", cwd=tmp_path, DO_NOT_TRACK="1"))
    assert command("status", cwd=tmp_path).returncode == 0


def test_status_where_files_are_not_read_as_utf_8(project: Path) -> None:
    """TOML is UTF-8, whatever the locale."""
    with (project / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# \u00e9\n")
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert command("status", cwd=project, **plain).returncode == 1


def test_status_on_a_terminal_does_not_ask(project: Path) -> None:
    """Status itself does not ask."""
    (project / ".telemetry").unlink()
    child = pexpect.spawn(str(SCRIPT), ["status"], cwd=str(project), env=dict(os.environ), encoding="utf-8")
    child.expect(pexpect.EOF)
    child.close()
    text = child.before or ""
    assert "off: not answered yet (row 6 " in text
    assert "[y/N]" not in text
    assert child.exitstatus == 0
    assert not (project / ".telemetry").exists()


@pytest.mark.parametrize(
    "damage",
    ["[tool.kedro]\n= = =\n", "[tool.kedro]\npackage_name = 'acme\n", "[tool.kedro]\nproject_name = 1\n[[[\n"],
)
def test_a_project_that_does_not_parse(damage: str, project: Path) -> None:
    """The command works where the project itself is broken."""
    (project / "pyproject.toml").write_text(damage)
    assert command("status", cwd=project).returncode == 1
    assert command("deny", cwd=project / "src").returncode == 0
    assert (project / ".telemetry").read_text() == "consent: false\n"
    assert command("status", cwd=project).returncode == 0


@pytest.mark.parametrize("damage", [b"\xff\xfe[\x00t\x00", b""])
def test_a_file_that_names_no_project(damage: bytes, tmp_path: Path) -> None:
    """A `pyproject.toml` that is empty or no text makes no project, and no traceback."""
    (tmp_path / "pyproject.toml").write_bytes(damage)
    assert "row 3 " in first(command("status", cwd=tmp_path))
    assert command("allow", cwd=tmp_path).returncode == 2


def test_status_shows_what_a_reviewer_compares(project: Path, home: Path) -> None:
    """The collector, the salt's path and whether it exists, the file that runs and its SHA-256."""
    salt = home / ".config" / "kedro" / "telemetry.salt"
    lines = command("status", cwd=project, KEDRO_TELEMETRY_ENDPOINT="https://collector.example/x").stdout.splitlines()
    assert "https://collector.example/x" in lines[1]
    assert str(salt) in lines[2]
    assert lines[2].endswith(" (does not exist)")
    assert str(support.PLUGIN) in lines[3]
    assert lines[4].split() == ["SHA-256", hashlib.sha256(support.PLUGIN.read_bytes()).hexdigest()]
    salt.parent.mkdir(parents=True)
    salt.touch()
    assert "(exists)" in command("status", cwd=project).stdout
    assert "https://heapanalytics.com/api/track" in without_endpoint("status", cwd=project).stdout


def run(line: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_relative_folder_for_configuration_is_none(project: Path, home: Path) -> None:
    """`XDG_CONFIG_HOME` counts where it is absolute, as its specification says."""
    default = command("status", cwd=project, XDG_CONFIG_HOME="relative").stdout
    assert f"{home}/.config/kedro/telemetry.salt " in default
    assert (
        f"{home}/other/kedro/telemetry.salt " in command("status", cwd=project, XDG_CONFIG_HOME=f"{home}/other").stdout
    )


def without_endpoint(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != plugin.ENDPOINT}
    return run([str(SCRIPT), *arguments], cwd, environment)


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/", "http://collector.example/", "https://a:b@collector.example/"])
def test_status_says_that_nothing_can_be_sent(url: str, project: Path) -> None:
    """An endpoint that is not allowed means none, and status says whose fault it is."""
    done = command("status", cwd=project, KEDRO_TELEMETRY_ENDPOINT=url)
    assert re.search(r"^collector +none: .*KEDRO_TELEMETRY_ENDPOINT", done.stdout, re.MULTILINE)
    assert "a:b" not in done.stdout


@pytest.mark.parametrize(("action", "text", "status"), [("allow", "true", 1), ("deny", "false", 0)])
@pytest.mark.parametrize("before", [nothing, YES, says("consent: false\n"), says("noise\n", 0o666), os.mkfifo])
@pytest.mark.parametrize("subfolder", ["", "src"])
def test_an_answer_replaces_what_was_there(
    action: str, text: str, status: int, before: Callable[[Path], None], subfolder: str, project: Path
) -> None:
    """Allow and deny write the project's `.telemetry`, in a subfolder as well, and leave nothing beside."""
    (project / ".telemetry").unlink()
    before(project / ".telemetry")
    others = set(project.rglob("*")) - {project / ".telemetry"}
    done = command(action, cwd=project / subfolder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Telemetry is on: " if status else "Telemetry is off: ")
    assert (project / ".telemetry").read_text() == f"consent: {text}\n"
    assert (project / ".telemetry").stat().st_mode & 0o7777 == 0o644
    assert set(project.rglob("*")) - {project / ".telemetry"} == others
    assert command("status", cwd=project).returncode == status


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_an_answer_replaces_a_link_and_not_its_target(target: str, project: Path, tmp_path: Path) -> None:
    """The link goes, what it pointed to stays as it was."""
    (tmp_path / "elsewhere").write_text("precious\n")
    (project / ".telemetry").unlink()
    (project / ".telemetry").symlink_to(tmp_path / target)
    assert command("allow", cwd=project).returncode == 0
    assert not (project / ".telemetry").is_symlink()
    assert (project / ".telemetry").read_text() == "consent: true\n"
    assert (tmp_path / "elsewhere").read_text() == "precious\n"
    assert not (tmp_path / "missing").exists()


def test_an_answer_is_not_left_half_written(project: Path) -> None:
    """Over a folder there is a clear error, status 2, and nothing is left behind."""
    (project / ".telemetry").unlink()
    (project / ".telemetry").mkdir()
    before = set(project.rglob("*"))
    done = command("allow", cwd=project)
    assert done.returncode == 2
    assert ".telemetry" in done.stderr
    assert set(project.rglob("*")) == before


def test_a_reader_never_sees_half_an_answer(project: Path) -> None:
    """A file that was open keeps its old words: it is replaced, not written over."""
    with (project / ".telemetry").open() as before:
        assert command("deny", cwd=project).returncode == 0
        assert before.read() == "consent: true\n"


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_no_answer_outside_a_project(action: str, tmp_path: Path) -> None:
    """A clear error, status 2, nothing written."""
    done = command(action, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("error: this is not a Kedro project: go to the folder with its pyproject.toml\n")
    assert list(tmp_path.iterdir()) == []


def test_forget_gives_a_new_identity(
    project: Path, env: dict[str, str], collector: support.Collector, home: Path
) -> None:
    """The salt goes, the next event has another identity; before, it keeps the same."""
    salt = home / ".config" / "kedro" / "telemetry.salt"
    for count in (1, 2):
        support.kedro("info", cwd=project, env=env)
        collector.wait(count)
    assert command("forget", cwd=project).returncode == 0
    assert not salt.exists()
    support.kedro("info", cwd=project, env=env)
    one, same, other = (event["identity"] for event in collector.wait(3))
    assert one == same != other


def test_forget_without_a_salt_and_outside_a_project(tmp_path: Path) -> None:
    """Nothing to forget is no error."""
    done = command("forget", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"No salt is left at {plugin.salt_path()}: the next event has a new identity.\n"


def test_forget_what_cannot_be_deleted(tmp_path: Path, home: Path) -> None:
    """An error names the file, with status 2."""
    (home / ".config" / "kedro" / "telemetry.salt").mkdir(parents=True)
    done = command("forget", cwd=tmp_path)
    assert done.returncode == 2
    assert "telemetry.salt" in done.stderr


def test_status_that_cannot_be_written(tmp_path: Path) -> None:
    """An error is no yes, whose exit status is 1."""
    done = command("status", cwd=tmp_path, PYTHONIOENCODING="ascii", XDG_CONFIG_HOME=str(tmp_path / "é"))
    assert done.returncode == 2
    assert "error: 'ascii' codec" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["on"], ["status", "more"], ["--force"], ["allow", "--yes"], ["STATUS"]])
def test_wrong_usage(arguments: list[str], project: Path) -> None:
    """What is possible instead, and status 2; nothing changes."""
    done = command(*arguments, cwd=project)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: kedro-telemetry [-h] {status,allow,deny,forget}\nkedro-telemetry: error: ")
    assert (project / ".telemetry").read_text() == "consent: true\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str, tmp_path: Path) -> None:
    """Each action and each exit status is explained, in lines of a terminal's width."""
    done = command(option, cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0
    for word in ("status", "allow", "deny", "forget", "salt", "exit status"):
        assert word in re.sub(r"\s+", " ", done.stdout.lower())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\nallow, deny: answer for this project\n" in done.stdout, "a line each"


@pytest.mark.parametrize("action", ["status", "allow", "forget"])
def test_a_folder_that_is_gone(action: str, tmp_path: Path) -> None:
    """Even from a deleted folder the command ends with words, not with a traceback."""
    if os.name == "nt":
        pytest.skip("Windows keeps the folder")
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'rmdir "{gone}" && exec "{SCRIPT}" {action}'
    done = run(["sh", "-c", line], gone, dict(os.environ))
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if action == "forget" else 2)


@pytest.mark.parametrize("action", ["status", "deny", "forget"])
def test_without_network_or_kedro_cli(
    action: str, project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """No connection is made, and nothing of Kedro's command line is loaded."""
    line = (
        "import sys, kedro, pluggy; before = set(sys.modules); "  # pluggy 1.2 loads `email`, and that `socket`
        "from kedro_telemetry.plugin import main; status = main(sys.argv[1:]); loaded = set(sys.modules) - before; "
        "loaded &= {'kedro.framework.cli', 'kedro.framework.project', 'socket', 'ssl', 'http'}; "
        "sys.exit(f'loaded {loaded}' if loaded else status)"
    )
    done = run([sys.executable, "-c", line, action], project, {**env, "PYTHONPATH": ""})
    assert done.stderr == ""
    assert collector.connections == 0
