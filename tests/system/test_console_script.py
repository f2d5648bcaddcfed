"""`kedro-telemetry` as the installed console script: what only a process shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pexpect
import pytest
import support
from network import ENDPOINT
from support import own_file, own_folder

if sys.platform == "win32":
    pytest.skip(
        "NOT TESTED HERE: needs FIFOs and locales of Unix", allow_module_level=True
    )

SCRIPT = str(Path(sys.executable).with_name("kedro-telemetry"))


def run(*line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line, which must end in time and without a traceback."""
    done = subprocess.run(
        line,
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        umask=0,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def command(
    action: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return run(SCRIPT, *action.split(), cwd=cwd, **variables)


# --- Exit statuses ---


def test_the_exit_status_is_0_for_off_1_for_on_2_for_an_error(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    def status(action: str, cwd: Path = project, **variables: str) -> int:
        return command(action, cwd, **env, **variables).returncode

    assert status("status") == 1
    assert status("status", DO_NOT_TRACK="1") == 0
    assert status("status", KEDRO_TELEMETRY_PREVIEW="1") == 0
    assert [status(action) for action in ("deny", "status")] == [0, 0]
    assert [status(action) for action in ("allow", "status")] == [0, 1]
    assert [status(action) for action in ("", "on")] == [2, 2]
    outside = [status(action, tmp_path) for action in ("status", "allow", "deny")]
    assert outside == [0, 2, 2]
    gone = f"mkdir gone; cd gone; rmdir ../gone; exec {SCRIPT} status"
    assert run("sh", "-c", gone, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("redirection", ["2>&1 | true", ">/dev/full 2>&1", ">&- 2>&-"])
def test_a_broken_output_does_not_change_the_exit_status(
    project: Path, env: dict[str, str], tmp_path: Path, redirection: str
) -> None:
    def status(action: str, folder: Path) -> int:
        line = f"{SCRIPT} {action} {redirection}; exit ${{PIPESTATUS[0]}}"
        variables = {ENDPOINT: env[ENDPOINT], "PYTHONUNBUFFERED": ""}
        return run("bash", "-c", line, cwd=folder, **variables).returncode

    assert status("status", project) == 1
    assert status("deny", project) == 0
    assert (project / ".telemetry").read_text("utf-8") == "consent: false\n"
    assert status("deny", tmp_path) == 2  # not a project


# --- What it finds ---


def test_status_in_a_subfolder_finds_the_project_as_kedro_does(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """Kedro 0.18 looks for the project only in the current folder."""
    subfolder = project / "src" / "acme"
    status = command("status", subfolder, **env)
    support.kedro("--version", cwd=subfolder, env=env)
    if support.KEDRO_018:
        assert status.returncode == 0
        assert collector.stays_silent()
    else:
        assert status.returncode == 1
        collector.wait()


def test_status_on_a_terminal_does_not_ask(project: Path) -> None:
    (project / ".telemetry").unlink()
    child = pexpect.spawn(SCRIPT, ["status"], cwd=str(project), encoding="utf-8")
    child.expect(pexpect.EOF)
    child.close()
    assert "kedro-telemetry allow" in (child.before or "")
    assert "[y/N]" not in (child.before or "")
    assert child.exitstatus == 0


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: needs prlimit")
@pytest.mark.parametrize("make", ["mkfifo {}", "ln -s /dev/zero {}"])
def test_a_fifo_or_endless_pyproject_does_not_block_status(
    make: str, project: Path
) -> None:
    file = "pyproject.toml"
    (project / file).unlink()
    line = f"{make.format(file)}; exec prlimit --as={2**30} {SCRIPT} status"
    done = run("sh", "-c", line, cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "off: not in a Kedro project" in done.stdout


def test_the_default_address_is_shown(project: Path) -> None:
    done = run("env", "-u", ENDPOINT, SCRIPT, "status", cwd=project)
    assert "https://heapanalytics.com/api/track" in done.stdout


def test_a_package_in_an_archive_is_off(
    project: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "plugin.zip", "w") as archive:
        for name in ("__init__.py", "plugin.py"):
            archive.write(support.PLUGIN.with_name(name), f"kedro_telemetry/{name}")
    env["PYTHONPATH"] = f"{tmp_path / 'plugin.zip'}{os.pathsep}{env['PYTHONPATH']}"
    status = command("status", project, **env)
    assert status.returncode == 0
    assert "plugin.zip" in status.stdout
    done = support.kedro("--version", cwd=project, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.stays_silent()


@pytest.mark.parametrize("action", ["status", "allow", "deny"])
def test_only_the_standard_library_is_loaded_and_nothing_else_is_shown(
    action: str, project: Path
) -> None:
    script = (
        "import sys, kedro, pluggy\n"
        "before = set(sys.modules)\n"
        "from kedro_telemetry.plugin import main\n"
        f"main(['{action}'])\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "loaded -= sys.stdlib_module_names - {'socket', 'ssl', 'http'}\n"
        "print(*loaded, file=sys.stderr)\n"
    )
    done = run(sys.executable, "-c", script, cwd=project, PYTHONPATH="")
    assert done.stderr == "kedro_telemetry\n"


# --- What it writes ---


def test_allow_makes_files_that_only_the_user_can_read(
    project: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    """With a umask that protects nothing."""
    shutil.rmtree(home / ".local")
    (project / ".telemetry").unlink()
    assert command("allow", project, **env).returncode == 0
    folder, answer = own_folder(home), own_file(project, home)
    made = [*reversed(folder.relative_to(home).parents[:-1]), folder, answer]
    assert sorted(home.rglob("*")) == [home / path for path in made]
    modes = [(home / path).stat().st_mode & 0o777 for path in made]
    assert modes == [0o700] * (len(made) - 1) + [0o600]
    assert (project / ".telemetry").stat().st_mode & 0o777 == 0o644
    support.kedro("--version", cwd=project, env=env)
    collector.wait()


@support.as_root
def test_allow_makes_nothing_in_the_home_of_another_user(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    os.chown(home, support.OTHER_USER, -1)
    done = command("allow", project, **env | {"HOME": str(home)})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{str(home)!r}" in done.stderr
    assert list(home.iterdir()) == []


def test_what_cannot_be_saved_is_an_error_that_says_why(
    project: Path, home: Path
) -> None:
    (project / ".telemetry").unlink()
    user = support.as_owner()
    for action in ("allow", "deny"):
        project.chmod(0o555)
        done = run(*user, SCRIPT, action, cwd=project)
        project.chmod(0o755)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"Permission denied: {str(project / '.telemetry')!r}" in done.stderr
        assert "usage" not in done.stderr
        assert not (project / ".telemetry").exists()


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_every_action_works_in_any_locale_with_any_path(
    locale: dict[str, str], env: dict[str, str], project: Path, tmp_path: Path
) -> None:
    home = tmp_path / "\u0141ukasz \x1b[31m\udcff"
    home.mkdir()
    named = project.rename(home / "a \x1b[31m\udcff\u0142")
    variables = {**env, **locale, "HOME": str(home)}
    for action, status in (("allow", 0), ("status", 1), ("deny", 0), ("status", 0)):
        done = command(action, named, **variables)
        assert (done.returncode, done.stderr) == (status, "")
        assert "ukasz" in done.stdout
        assert "\x1b" not in done.stdout
    (named / ".telemetry").unlink()
    (named / ".telemetry").mkdir()
    failed = command("deny", named, **variables)
    assert failed.returncode == 2
    assert "ukasz" in failed.stderr
    assert "\x1b" not in failed.stderr
