"""`kedro-telemetry` as the installed console script: what only a process shows."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import support
from support import Collector

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: needs FIFOs and shells", allow_module_level=True)

SCRIPT = str(Path(sys.executable).with_name("kedro-telemetry"))


def run(line: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, which must end in time and without a traceback."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_exit_status_is_0_for_off_1_for_on_2_for_an_error(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    def status(action: str, cwd: Path = project, **variables: str) -> int:
        return run(f"{SCRIPT} {action}", cwd, env | variables).returncode

    assert status("status") == 1
    assert status("status", DO_NOT_TRACK="1") == 0
    assert status("status", KEDRO_TELEMETRY_PREVIEW="1") == 0
    assert [status(action) for action in ("deny", "status")] == [0, 0]
    assert [status(action) for action in ("allow", "status")] == [0, 1]
    assert [status(action) for action in ("", "on")] == [2, 2]
    outside = [status(action, tmp_path) for action in ("status", "allow", "deny")]
    assert outside == [0, 2, 2]
    gone = run(f"mkdir gone; cd gone; rmdir ../gone; {SCRIPT} status", tmp_path, env)
    assert gone.returncode == 2


@pytest.mark.parametrize("redirection", ["2>&1 | true", ">/dev/full 2>&1", ">&- 2>&-"])
def test_a_broken_output_does_not_change_the_exit_status(
    project: Path, env: dict[str, str], tmp_path: Path, redirection: str
) -> None:
    def status(action: str, folder: Path) -> int:
        line = f"{SCRIPT} {action} {redirection}; exit ${{PIPESTATUS[0]}}"
        return run(line, folder, env).returncode

    assert status("status", project) == 1
    assert status("deny", project) == 0
    assert (project / ".telemetry").read_text("utf-8") == "consent: false\n"
    # An error, because this is not a project. It is 120 if Python cannot say it.
    assert status("deny", tmp_path) in (2, 120)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: needs prlimit")
@pytest.mark.parametrize("make", ["mkfifo {}", "ln -s /dev/zero {}"])
def test_a_fifo_or_endless_pyproject_does_not_block_status(
    make: str, project: Path, env: dict[str, str]
) -> None:
    replace = f"rm pyproject.toml; {make.format('pyproject.toml')}"
    done = run(f"{replace}; prlimit --as={2**30} {SCRIPT} status", project, env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "off: not in a Kedro project" in done.stdout


def test_a_package_in_an_archive_is_off(
    project: Path, env: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "plugin.zip", "w") as archive:
        for name in ("__init__.py", "plugin.py"):
            archive.write(support.PLUGIN.with_name(name), f"kedro_telemetry/{name}")
    env["PYTHONPATH"] = f"{tmp_path / 'plugin.zip'}{os.pathsep}{env['PYTHONPATH']}"
    status = run(f"{SCRIPT} status", project, env)
    assert (status.returncode, "plugin.zip" in status.stdout) == (0, True)
    done = support.kedro("--version", cwd=project, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.stays_silent()


def test_after_allow_in_a_subfolder_a_command_sends_from_there(
    project: Path, env: dict[str, str], collector: Collector
) -> None:
    run(f"{SCRIPT} deny", project, env)
    # Kedro 0.18 looks for the project only in the current folder.
    folder = project if support.KEDRO_018 else project / "src" / "acme"
    assert run(f"{SCRIPT} allow", folder, env).returncode == 0
    support.kedro("--version", cwd=folder, env=env)
    collector.wait()


@pytest.mark.parametrize(
    "locale", ["PYTHONIOENCODING=cp1252", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"]
)
def test_every_action_works_in_any_locale_with_any_path(
    locale: str, env: dict[str, str], project: Path, tmp_path: Path
) -> None:
    home = tmp_path / "\u0141ukasz \x1b[31m\udcff"
    home.mkdir()
    named = project.rename(home / "a \x1b[31m\udcff\u0142")
    env["HOME"] = str(home)
    shown = ""
    for action, status in (("allow", 0), ("status", 1), ("deny", 0), ("status", 0)):
        done = run(f"{locale} {SCRIPT} {action}", named, env)
        assert (done.returncode, done.stderr) == (status, "")
        shown += done.stdout
    failed = run(f"rm .telemetry; mkdir .telemetry; {SCRIPT} deny", named, env)
    assert failed.returncode == 2
    assert shown.count("ukasz") == 4
    assert "\x1b" not in shown + failed.stderr
