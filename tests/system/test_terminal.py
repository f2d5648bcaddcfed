"""The question, in real terminals: who is asked, and what each answer does."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest
import support
from support import Collector

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: needs terminals of Unix", allow_module_level=True)

PROMPT = "[y/N] "
CAUTION = "may have come with the project"
KEDRO = f"'{sys.executable}' -m kedro registry list"
PIPELINES = "- __default__\r\n- de\r\n- ds\r\n\r\n"  # what that shows in a terminal
CTRL_C, CTRL_D = "\x03", "\x04"
YES, NO = "consent: true\n", "consent: false\n"
# One process runs a command in each folder once the file `typed` is there.
COMMANDS = """\
import json, os, select, sys, time
from pathlib import Path
from kedro.framework.cli.cli import KedroCLI
for folder, settings in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    os.system(f"stty {settings}")
    print("ready", flush=True)
    while not os.path.exists("typed"):
        time.sleep(0.01)
    time.sleep(0.1)  # the terminal has what was typed
    try:
        KedroCLI(Path.cwd()).main(["--version"])
    except SystemExit as end:
        left = select.select([0], [], [], 0.02)[0]
        print(f"status {end.code}, {len(left)} left", flush=True)
"""


def start(script: str, cwd: Path, env: dict[str, str]) -> pexpect.spawn[str]:
    """Start a shell script in a terminal with job control."""
    line, env = ["--norc", "-c", f"set -m; {script}"], {**env, "TERM": "dumb"}
    child = pexpect.spawn("bash", line, 60, cwd=str(cwd), env=env, encoding="utf-8")
    child.delaybeforesend = None
    return child


def finish(child: pexpect.spawn[str], status: int = 0) -> str:
    """Return what is still shown until the script ends with this status."""
    asks = child.expect_exact([PROMPT, pexpect.EOF]) == 0
    shown = child.before or ""
    child.close(force=True)
    assert not asks, shown
    assert child.exitstatus == status, shown
    return shown


def saved(project: Path, home: Path) -> tuple[str | None, str | None]:
    """Return the user's own answer, and the text of `.telemetry`."""
    own, text = support.own_file(project, home), project / ".telemetry"
    return (
        own.read_text().split()[0] if own.exists() else None,
        text.read_text() if text.exists() else None,
    )


@pytest.fixture
def asking(project: Path, home: Path) -> Path:
    """A project without an answer."""
    (project / ".telemetry").unlink()
    support.own_file(project, home).unlink()
    return project


class Case(NamedTuple):
    answer: str
    own: str | None  # what is saved as the user's own answer
    early: str = ""  # typed before the question
    settings: str = "sane"  # of the terminal
    telemetry: str | None = None  # what the project came with


CASES = {
    "y": Case("y\n", "yes"),
    "YES": Case(" YES \n", "yes"),
    "n": Case(" n \n", "no"),
    "Enter": Case("\n", "no"),
    "another text": Case("maybe\n", "no"),
    "a long line": Case("y" * 3000 + "\n", "no"),
    "the end of input": Case(CTRL_D, None),
    "y typed before": Case("\n", "no", early="y\ny\n"),
    "each key is read": Case("yikes\n", "no", settings="-icanon"),
    "a yes from a clone, y": Case("y\n", "yes", telemetry="# ours\n" + YES),
    "a yes from a clone, n": Case("n\n", "no", telemetry=YES),
    "a yes from a clone, y typed before": Case("\n", "no", "y\n", telemetry=YES),
}


def test_each_answer_is_saved_as_it_was_meant(
    env: dict[str, str], home: Path, collector: Collector, tmp_path: Path
) -> None:
    """A file that came with the project is not changed by an answer."""
    projects = {name: tmp_path / name for name in CASES}
    for name, project in projects.items():
        project.mkdir()
        support.make_bare_project(project)
        if text := CASES[name].telemetry:
            (project / ".telemetry").write_text(text)
    folders = {str(project): CASES[name].settings for name, project in projects.items()}
    (tmp_path / "folders").write_text(json.dumps(folders))
    (tmp_path / "commands.py").write_text(COMMANDS)
    child = start(f"'{sys.executable}' commands.py \"$(cat folders)\"", tmp_path, env)

    for name, case in CASES.items():
        child.expect_exact("ready")
        child.send(case.early)
        (projects[name] / "typed").touch()
        child.expect_exact(PROMPT)
        assert (CAUTION in (child.before or "")) == bool(case.telemetry), name
        child.send(case.answer)
        child.expect_exact("status 0, 0 left")
        written = case.telemetry or {"yes": YES, "no": NO, None: None}[case.own]
        assert saved(projects[name], home) == (case.own, written), name
    finish(child)
    support.wait_for_senders()
    agreed = [name for name in CASES if CASES[name].own == "yes"]
    assert collector.commands == ["kedro --version"] * len(agreed)


@pytest.mark.parametrize(("answer", "count"), [("y", 2), ("", 0)])
def test_the_question_is_asked_once_and_on_standard_error(
    answer: str, count: int, asking: Path, env: dict[str, str], collector: Collector
) -> None:
    master, slave = os.openpty()  # standard output is another terminal
    child = start(f"{KEDRO} >{os.ttyname(slave)}; exec {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    assert f"data to {collector.url}?" in (child.before or "")
    child.sendline(answer)
    assert finish(child) == f"{answer}\r\n{PIPELINES}"
    os.close(slave)
    assert os.read(master, 4096).decode() == PIPELINES
    os.close(master)
    support.wait_for_senders()
    assert collector.commands == ["kedro registry list"] * count


def test_ctrl_c_ends_the_command_quietly_and_saves_nothing(
    asking: Path, env: dict[str, str], home: Path, collector: Collector
) -> None:
    child = start(f"exec {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    time.sleep(0.3)  # Python has reached `select`: a person is not quicker
    child.send(CTRL_C)
    assert finish(child, status=130) == "^C\r\n"
    assert saved(asking, home) == (None, None)
    assert collector.stays_silent()


def test_not_asked_where_nobody_could_agree_or_no_answer_could_be_saved(
    asking: Path, env: dict[str, str], home: Path, collector: Collector
) -> None:
    owner, own = " ".join(support.as_owner()), support.own_folder(home)
    commands = [
        f"{KEDRO} </dev/null",
        f"{KEDRO} | cat",
        f"{KEDRO} 2>/dev/null",
        f"{KEDRO} & wait -f $!",  # a background job
        f"KEDRO_TELEMETRY_PREVIEW=1 {KEDRO}",
        f"chmod 555 .; {owner} {KEDRO}; chmod 755 .",
        f"chmod 555 {own}; {owner} {KEDRO}; chmod 755 {own}",
    ]
    for command in commands:
        shown = finish(start(command, asking, env))
        assert PIPELINES in shown, command
        assert saved(asking, home) == (None, None), command
    assert collector.stays_silent()
