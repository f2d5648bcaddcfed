"""The lines that the other tests run in processes of their own, run where coverage counts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import coverage
import environment
import pexpect
import pytest
import support

from kedro_telemetry import plugin


@pytest.mark.skipif(sys.platform == "win32", reason="pexpect has no terminals there")
@pytest.mark.parametrize(("answer", "recorded"), [("y", "consent: true\n"), ("n", "consent: false\n"), ("maybe", None)])
def test_the_question_under_coverage(
    template: Path, tmp_path: Path, env: dict[str, str], answer: str, recorded: str | None
) -> None:
    """A real command at a real terminal; `ask` and the hook that puts the question are counted in its process."""
    project = support.copy_project(template, tmp_path / "acme", None)
    suite = coverage.Coverage.current()
    data_file = environment.ROOT / str(suite.config.data_file) if suite else tmp_path / ".coverage"
    options = ["--parallel-mode", "--branch", "--source=kedro_telemetry", f"--data-file={data_file}"]
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "coverage", "run", *options, "-m", "kedro", "info"],
        cwd=str(project),
        env=env,
        timeout=60,
    )
    terminal.expect_exact("[y/N] ")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    file = project / ".telemetry"
    assert (file.read_text() if file.exists() else None) == recorded


def test_the_command_answers_for_a_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    """status, deny, allow, forget in a subfolder of a project."""
    monkeypatch.chdir(project / "src")
    assert plugin.main(["status"]) == 1
    assert plugin.main(["deny"]) == 0
    assert (project / ".telemetry").read_text() == "consent: false\n"
    assert plugin.main(["status"]) == 0
    assert plugin.main(["allow"]) == 0
    assert (project / ".telemetry").read_text() == "consent: true\n"
    plugin.make_salt()
    assert Path(plugin.salt_path()).is_relative_to(home)
    assert plugin.main(["forget"]) == 0
    assert not os.path.exists(plugin.salt_path())
    shown = capsys.readouterr().out
    assert shown.count("Telemetry is on") == 2
    assert shown.count("Telemetry is off") == 2


def test_the_command_says_what_is_wrong(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside of a project, and where the answer cannot be written: exit status 2, and nothing left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as outside:
        plugin.main(["allow"])
    (project / ".telemetry").unlink()
    (project / ".telemetry").mkdir()
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as folder:
        plugin.main(["allow"])
    assert (outside.value.code, folder.value.code) == (2, 2)
    shown = capsys.readouterr().err
    assert shown.startswith("usage: kedro-telemetry "), "whatever started it"
    assert "not a Kedro project" in shown
    assert [path.name for path in project.glob(".telemetry*")] == [".telemetry"]
