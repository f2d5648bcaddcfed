"""`kedro-telemetry status | allow | deny | forget`, as the installed console script."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import support

from kedro_telemetry import plugin

SCRIPT = str(Path(sys.executable).parent / "kedro-telemetry")
pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="NOT TESTED HERE: needs FIFOs and links of POSIX"
)


def run(*line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line, which must end in time and without a traceback."""
    done = subprocess.run(
        line,
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=20,
        umask=0,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def command(
    *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return run(SCRIPT, *arguments, cwd=cwd, **variables)


def state(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first line of a `status` that ended without an error."""
    assert done.stderr == ""
    assert done.returncode == done.stdout.startswith("Telemetry is on")
    return done.stdout.partition("\n")[0]


# --- status ---


def says(text: str, mode: int = 0o644) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(mode)

    return write


def link(path: Path) -> None:
    path.with_name("yes").write_text("consent: true\n")
    path.symlink_to("yes")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path) -> None: ...


YES = says("consent: true\n")
STATES: list[tuple[str, dict[str, str], Callable[[Path], None]]] = [
    ("on: .telemetry says", {}, YES),
    ("on: .telemetry says", {"DO_NOT_TRACK": "", "CI": ""}, YES),
    ("off: the environment variable DO_NOT_TRACK", {"DO_NOT_TRACK": "0"}, YES),
    ("off: the environment variable CI", {"CI": "true"}, YES),
    ("off: shell completion", {"_KD_COMPLETE": "zsh_source"}, YES),
    ("off: .telemetry does not say", {}, says("consent: false\n")),
    ("off: .telemetry is ignored", {}, says("consent: true\n", 0o664)),
    ("off: .telemetry is ignored", {}, Path.mkdir),
    ("off: no answer is saved", {}, nothing),
    ("off: KEDRO_TELEMETRY_ENDPOINT", {plugin.ENDPOINT: "http://collector.a/"}, YES),
    (
        "off: HTTPS_PROXY",
        {plugin.ENDPOINT: "https://collector.a/", "HTTPS_PROXY": "socks5://a"},
        YES,
    ),
    (
        "off: the environment variable KEDRO_TELEMETRY_PREVIEW",
        {plugin.PREVIEW: "1"},
        YES,
    ),
    ("off: .telemetry is ignored", {}, link),
    ("off: .telemetry is ignored", {}, fifo),
]


@pytest.mark.parametrize(
    ("expected", "variables", "prepare"),
    STATES,
)
def test_status_says_whether_an_event_would_be_sent_and_why(
    expected: str,
    variables: dict[str, str],
    prepare: Callable[[Path], None],
    project: Path,
) -> None:
    (project / ".telemetry").unlink()
    prepare(project / ".telemetry")
    done = command("status", cwd=project, **variables)
    assert state(done).startswith(f"Telemetry is {expected}")


def test_status_in_a_subfolder_finds_the_project_as_kedro_does(project: Path) -> None:
    """Kedro 0.18 looks for the project only in the current folder."""
    (project / "src" / "pyproject.toml").write_text("[project]\n")  # not Kedro's
    shown = state(command("status", cwd=project / "src" / "acme"))
    found = "off: not in a Kedro project" if support.KEDRO_018 else "on: "
    assert shown.startswith(f"Telemetry is {found}")


def test_status_outside_a_project(tmp_path: Path) -> None:
    (tmp_path / ".telemetry").write_text("consent: true\n")
    assert "off: not in a Kedro project" in state(command("status", cwd=tmp_path))


def test_status_shows_what_a_reviewer_compares(project: Path, home: Path) -> None:
    salt = home / ".config" / "kedro" / plugin.salt_name()
    url = "https://collector.example/x"
    lines = command("status", cwd=project, **{plugin.ENDPOINT: url}).stdout.split("\n")
    assert lines[1].split() == ["endpoint", url]
    assert lines[2].split()[:2] == ["salt", str(salt)]
    assert "first event" in lines[2]
    assert lines[3].split() == ["plugin.py", str(support.PLUGIN)]
    digest = hashlib.sha256(support.PLUGIN.read_bytes()).hexdigest()
    assert lines[4].split() == ["SHA-256", digest]
    salt.parent.mkdir(parents=True)
    plugin.get_salt()
    assert "first event" not in command("status", cwd=project).stdout


def test_status_shows_the_default_endpoint(project: Path) -> None:
    line = ["env", "-u", plugin.ENDPOINT, SCRIPT, "status"]
    assert "https://heapanalytics.com/api/track\n" in run(*line, cwd=project).stdout


def test_status_does_not_show_a_refused_endpoint(project: Path) -> None:
    url = "https://user:s3cret@collector.example/"
    done = command("status", cwd=project, **{plugin.ENDPOINT: url})
    assert re.search(r"(?m)^endpoint +none: KEDRO_TELEMETRY_ENDPOINT ", done.stdout)
    assert "s3cret" not in done.stdout


def test_status_without_a_home_says_so(project: Path) -> None:
    assert re.search(
        r"(?m)^salt +none: ", command("status", cwd=project, HOME="").stdout
    )


def test_status_on_a_terminal_does_not_ask(project: Path) -> None:
    (project / ".telemetry").unlink()
    child = pexpect.spawn(SCRIPT, ["status"], cwd=str(project), encoding="utf-8")
    child.expect(pexpect.EOF)
    child.close()
    assert "off: no answer is saved" in (child.before or "")
    assert "not an interactive terminal" not in (child.before or "")
    assert "[y/N]" not in (child.before or "")
    assert not (project / ".telemetry").exists()
    assert child.exitstatus == 0


# --- Projects of all kinds ---


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, endless, Path.mkdir])
def test_no_kind_of_pyproject_makes_it_wait(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "pyproject.toml")
    (tmp_path / "sub").mkdir()
    line = ["prlimit", f"--as={2**30}", SCRIPT, "status"]
    done = run(*line, cwd=tmp_path / "sub")
    assert "off: not in a Kedro project" in state(done)


@pytest.mark.parametrize(
    "content", [b"", b"[tool.kedro]\n\xff", b"[tool.kedro]\n" + b"#" * 2**20]
)
def test_an_empty_unreadable_or_huge_pyproject_is_no_project(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(
        content + b"[tool.kedro]\n"[: len(content)]
    )
    if content:
        assert "not in a Kedro project" in state(command("status", cwd=tmp_path))
    assert command("allow", cwd=tmp_path).returncode == 2
    assert not (tmp_path / ".telemetry").exists()


def test_a_project_that_does_not_parse_can_be_turned_off(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.kedro]\npackage_name = 'é\n[[[\n")
    assert command("status", cwd=project, LC_ALL="C", PYTHONUTF8="0").returncode == 1
    assert command("deny", cwd=project).returncode == 0
    assert command("status", cwd=project).returncode == 0


@pytest.mark.parametrize(
    ("action", "status"), [("status", 2), ("allow", 2), ("forget", 0)]
)
def test_a_folder_that_is_gone(action: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = f'rmdir ../gone && exec "{SCRIPT}" {action}'
    assert run("sh", "-c", line, cwd=tmp_path / "gone").returncode == status


# --- allow and deny ---


@pytest.mark.parametrize("before", [nothing, YES, says("noise\n", 0o666), fifo])
@pytest.mark.parametrize(("action", "said"), [("allow", "true"), ("deny", "false")])
def test_an_answer_replaces_what_was_there(
    action: str, said: str, before: Callable[[Path], None], project: Path
) -> None:
    (project / ".telemetry").unlink()
    before(project / ".telemetry")
    others = set(project.rglob("*")) - {project / ".telemetry"}
    done = command(action, cwd=project)
    first, second = done.stdout.splitlines()
    assert first == f"Saved `consent: {said}` in {project / '.telemetry'}."
    assert second.startswith(
        f"Telemetry is {'on' if action == 'allow' else 'off'} here"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (project / ".telemetry").read_text() == f"consent: {said}\n"
    assert (project / ".telemetry").stat().st_mode & 0o7777 == 0o644
    assert set(project.rglob("*")) - {project / ".telemetry"} == others


def test_an_answer_replaces_a_link_and_not_its_target(project: Path) -> None:
    (project / ".telemetry").unlink()
    link(project / ".telemetry")
    assert command("deny", cwd=project).returncode == 0
    assert not (project / ".telemetry").is_symlink()
    assert (project / "yes").read_text() == "consent: true\n"


def test_allow_says_if_telemetry_stays_off(project: Path) -> None:
    done = command("allow", cwd=project, DO_NOT_TRACK="1")
    assert "Telemetry is off here: the environment variable DO_NOT_TRACK" in done.stdout
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    subprocess.run(["git", "add", "--force", ".telemetry"], cwd=project, check=True)
    assert re.search(r"off here: .*git", command("allow", cwd=project).stdout)


def test_an_answer_that_cannot_be_written_is_an_error(project: Path) -> None:
    (project / ".telemetry").unlink()
    (project / ".telemetry").mkdir()
    folder = command("allow", cwd=project)
    (project / ".telemetry").rmdir()
    user = support.unprivileged()
    project.chmod(0o555)
    closed = run(*user, SCRIPT, "allow", cwd=project)
    project.chmod(0o755)
    for done in (folder, closed):
        error = f"kedro-telemetry: cannot write {project / '.telemetry'}: "
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(error)
        assert "usage" not in done.stderr
    assert not (project / ".telemetry").exists()


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_no_answer_is_saved_outside_a_project(action: str, tmp_path: Path) -> None:
    done = command(action, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kedro-telemetry: not in a Kedro project")
    assert "usage" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- forget ---


def test_forget_deletes_every_salt_and_nothing_else(tmp_path: Path, home: Path) -> None:
    folder = home / ".config" / "kedro"
    folder.mkdir(parents=True)
    salts = ["telemetry.salt", "telemetry.salt.2026-01", "telemetry.salt.2026-01.77"]
    for name in [*salts, "telemetry.toml", "telemetry.salty"]:
        (folder / name).touch()
    done = command("forget", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    deleted = sorted(re.findall(r"(?m)^Deleted (.*)\.$", done.stdout))
    assert deleted == [str(folder / name) for name in salts]
    assert sorted(os.listdir(folder)) == ["telemetry.salty", "telemetry.toml"]
    assert command("forget", cwd=tmp_path).stdout == "There is no salt to delete.\n"


def test_forget_without_a_home(tmp_path: Path) -> None:
    done = command("forget", cwd=tmp_path, HOME="relative")
    assert (done.returncode, done.stdout) == (0, "There is no salt to delete.\n")


def test_forget_names_what_it_cannot_delete(tmp_path: Path, home: Path) -> None:
    (home / ".config" / "kedro" / "telemetry.salt").mkdir(parents=True)
    done = command("forget", cwd=tmp_path)
    assert done.returncode == 2
    assert "telemetry.salt" in done.stderr


# --- Any locale, output and installation ---


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_path_that_cannot_be_encoded_is_escaped(
    locale: dict[str, str], project: Path, tmp_path: Path
) -> None:
    named = project.rename(tmp_path / "\u0141 \x1b[31m\udcff")
    home = named / "home"
    (home / ".config" / "kedro").mkdir(parents=True)
    (home / ".config" / "kedro" / "telemetry.salt").touch()
    variables = {**locale, "HOME": str(home)}
    status = command("status", cwd=named, **variables)
    assert status.returncode == 1
    assert len(status.stdout.splitlines()) == 5
    saved = command("deny", cwd=named, **variables)
    assert (saved.returncode, saved.stderr) == (0, "")
    forgotten = command("forget", cwd=named, **variables)
    assert (forgotten.returncode, forgotten.stderr) == (0, "")
    assert not (home / ".config" / "kedro" / "telemetry.salt").exists()
    (named / ".telemetry").unlink()
    (named / ".telemetry").mkdir()
    failed = command("deny", cwd=named, **variables)
    assert failed.returncode == 2
    for text in (status.stdout, saved.stdout, forgotten.stdout, failed.stderr):
        assert re.search(r"\\u0141|\\xc5\\x81|\\udcc5", text)
        assert "\x1b" not in text


def test_output_that_nobody_reads_is_no_traceback(project: Path) -> None:
    run("sh", "-c", f'"{SCRIPT}" deny | true', cwd=project)
    assert (project / ".telemetry").read_text() == "consent: false\n"
    run("sh", "-c", f'"{SCRIPT}" allow >&-', cwd=project)
    assert run("sh", "-c", f'"{SCRIPT}" status >&- 2>&-', cwd=project).returncode == 1


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("columns", ["80", "40"])
def test_help_explains_each_action(option: str, columns: str, tmp_path: Path) -> None:
    line = [sys.executable, "-OO", SCRIPT, option]  # without docstrings
    done = run(*line, cwd=tmp_path, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    for action in ("status show ", "allow turn ", "deny turn ", "forget delete "):
        assert action in words
    assert "exit status: 0 off, 1 on, 2 error" in words
    assert "DO_NOT_TRACK=1" in words
    assert plugin.PREVIEW in words
    if columns == "80":
        assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [[], ["on"], ["status", "more"], ["allow", "-y"]])
def test_wrong_usage_changes_nothing(arguments: list[str], project: Path) -> None:
    (project / ".telemetry").write_text("consent: false\n")
    done = command(*arguments, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: kedro-telemetry ")
    assert (project / ".telemetry").read_text() == "consent: false\n"


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """The package in a zip file, to be put on PYTHONPATH."""
    path = tmp_path / "plugin.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("__init__.py", "plugin.py"):
            file.write(support.PLUGIN.with_name(name), f"kedro_telemetry/{name}")
    return os.pathsep.join([str(path), os.environ["PYTHONPATH"]])


def test_a_package_in_an_archive_is_off(
    archive: str, project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    status = command("status", cwd=project, PYTHONPATH=archive)
    assert "off: plugin.py is in an archive" in state(status)
    assert "plugin.zip" in status.stdout
    assert re.search(r"(?m)^SHA-256 +cannot be read$", status.stdout)
    done = support.kedro(
        "registry", "list", cwd=project, env={**env, "PYTHONPATH": archive}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.stays_silent()


@pytest.mark.parametrize("action", ["status", "deny", "forget"])
def test_only_the_standard_library_is_loaded(action: str, project: Path) -> None:
    script = (
        "import sys, kedro, pluggy\n"
        "before = set(sys.modules)\n"
        "from kedro_telemetry.plugin import main\n"
        f"main(['{action}'])\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "loaded -= {*sys.stdlib_module_names, 'kedro_telemetry'}\n"
        "network = {'socket', 'ssl', 'http'} & set(sys.modules) - before\n"
        "sys.exit(f'{loaded} {network}' if loaded or network else 0)\n"
    )
    done = run(sys.executable, "-c", script, cwd=project, PYTHONPATH="")
    assert (done.returncode, done.stderr) == (0, "")
