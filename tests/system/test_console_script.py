"""`kedro-telemetry` as the installed console script: what only a process shows."""

from __future__ import annotations

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

if sys.platform == "win32":
    pytest.skip(
        "NOT TESTED HERE: needs FIFOs and locales of POSIX", allow_module_level=True
    )

SCRIPT = str(Path(sys.executable).parent / "kedro-telemetry")


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
    *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return run(SCRIPT, *arguments, cwd=cwd, **variables)


@pytest.mark.parametrize("redirection", ["2>&1 | true", ">/dev/full 2>&1", ">&- 2>&-"])
def test_a_broken_output_does_not_change_the_exit_status(
    project: Path, tmp_path: Path, redirection: str
) -> None:
    def status(action: str, folder: Path) -> int:
        line = f"{SCRIPT} {action} {redirection}; exit ${{PIPESTATUS[0]}}"
        return run("bash", "-c", line, cwd=folder, PYTHONUNBUFFERED="").returncode

    assert status("status", project) == 1
    assert status("deny", project) == 0
    assert (project / ".telemetry").read_text("utf-8") == "consent: false\n"
    assert status("deny", tmp_path) == 2  # not a project


def test_the_exit_status_is_0_for_off_1_for_on_2_for_an_error(
    project: Path, tmp_path: Path
) -> None:
    assert command("status", cwd=project).returncode == 1
    assert command("deny", cwd=project).returncode == 0
    assert command("status", cwd=project).returncode == 0
    assert command("allow", cwd=project).returncode == 0
    assert (project / ".telemetry").stat().st_mode & 0o7777 == 0o644
    assert command("status", cwd=project).returncode == 1
    assert command("status", cwd=project, DO_NOT_TRACK="1").returncode == 0
    assert command("status", cwd=tmp_path).returncode == 0
    assert command("allow", cwd=tmp_path).returncode == 2
    assert command("forget", cwd=tmp_path).returncode == 0
    assert command(cwd=project).returncode == 2
    assert command("on", cwd=project).returncode == 2


def test_status_in_a_subfolder_finds_the_project_as_kedro_does(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """Kedro 0.18 looks for the project only in the current folder."""
    subfolder = project / "src" / "acme"
    status = command("status", cwd=subfolder)
    support.kedro("--version", cwd=subfolder, env=env)
    if support.KEDRO_018:
        assert "off: not in a Kedro project" in status.stdout
        assert collector.stays_silent()
    else:
        assert status.stdout.startswith("Telemetry is on: ")
        collector.wait()


def test_status_on_a_terminal_does_not_ask(project: Path) -> None:
    (project / ".telemetry").unlink()
    child = pexpect.spawn(SCRIPT, ["status"], cwd=str(project), encoding="utf-8")
    child.expect(pexpect.EOF)
    child.close()
    shown = child.before or ""
    assert "off: no answer is saved" in shown
    assert "interactive" not in shown, "it is"
    assert "[y/N]" not in shown
    assert not (project / ".telemetry").exists()
    assert child.exitstatus == 0


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: needs prlimit")
@pytest.mark.parametrize("make", [fifo, endless])
def test_a_fifo_or_endless_pyproject_does_not_block_status(
    make: Callable[[Path], None], project: Path
) -> None:
    (project / "pyproject.toml").unlink()
    make(project / "pyproject.toml")
    line = ["prlimit", f"--as={2**30}", SCRIPT, "status"]
    done = run(*line, cwd=project)
    assert done.stdout.startswith("Telemetry is off: not in a Kedro project")
    assert done.returncode == 0


def test_an_answer_that_cannot_be_saved_is_an_error(project: Path) -> None:
    (project / ".telemetry").unlink()
    user = support.unprivileged()
    project.chmod(0o555)
    done = run(*user, SCRIPT, "allow", cwd=project)
    project.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot write {project / '.telemetry'}: Permission denied" in done.stderr
    assert "usage" not in done.stderr
    assert not (project / ".telemetry").exists()


def test_a_salt_that_cannot_be_deleted_is_an_error(home: Path) -> None:
    salt = home / ".config" / "kedro" / plugin.salt_name()
    salt.parent.mkdir(parents=True)
    salt.touch()
    user = support.unprivileged(home)
    salt.parent.chmod(0o555)
    done = run(*user, SCRIPT, "forget", cwd=home)
    salt.parent.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot delete {salt}: Permission denied. Check" in done.stderr


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_every_action_works_in_any_locale(
    locale: dict[str, str], project: Path, tmp_path: Path
) -> None:
    named = project.rename(tmp_path / "\u0141ukasz \x1b[31m\udcff")
    salt = named / ".config" / "kedro" / "telemetry.salt"
    salt.parent.mkdir(parents=True)
    salt.touch()
    variables = {**locale, "HOME": str(named)}
    status = command("status", cwd=named, **variables)
    assert status.returncode == 1
    assert re.fullmatch(r"SHA-256 +[0-9a-f]{64}", status.stdout.splitlines()[4])
    saved = command("deny", cwd=named, **variables)
    forgotten = command("forget", cwd=named, **variables)
    assert (saved.returncode, saved.stderr) == (0, "")
    assert (forgotten.returncode, forgotten.stderr) == (0, "")
    assert not salt.exists()
    (named / ".telemetry").unlink()
    (named / ".telemetry").mkdir()
    failed = command("deny", cwd=named, **variables)
    assert failed.returncode == 2
    for text in (status.stdout, saved.stdout, forgotten.stdout, failed.stderr):
        assert "ukasz" in text
        assert "\x1b" not in text


def test_a_package_in_an_archive_is_off(
    project: Path, env: dict[str, str], collector: support.Collector, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "plugin.zip", "w") as archive:
        for name in ("__init__.py", "plugin.py"):
            archive.write(support.PLUGIN.with_name(name), f"kedro_telemetry/{name}")
    env["PYTHONPATH"] = f"{tmp_path / 'plugin.zip'}{os.pathsep}{env['PYTHONPATH']}"
    status = command("status", cwd=project, **env)
    assert status.stdout.startswith("Telemetry is off: plugin.py is in an archive")
    assert "plugin.zip" in status.stdout
    done = support.kedro("registry", "list", cwd=project, env=env)
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
        "loaded -= sys.stdlib_module_names - {'socket', 'ssl', 'http'}\n"
        "print(*loaded, file=sys.stderr)\n"
    )
    done = run(sys.executable, "-c", script, cwd=project, PYTHONPATH="")
    assert done.stderr == "kedro_telemetry\n"


def test_the_default_endpoint_is_shown(project: Path) -> None:
    line = ["env", "-u", plugin.ENDPOINT_VARIABLE, SCRIPT, "status"]
    assert "https://heapanalytics.com/api/track\n" in run(*line, cwd=project).stdout
