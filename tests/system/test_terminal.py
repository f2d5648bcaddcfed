"""The question, in real terminals: who is asked, and what each answer does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest
import support
from network import ENDPOINT

from kedro_telemetry.plugin import DEFAULT_ENDPOINT

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
    child = pexpect.spawn(
        "/bin/bash",
        ["--norc", "-c", f"set -m; {script}"],
        cwd=str(cwd),
        env={**env, "TERM": "dumb"},
        timeout=60,
        encoding="utf-8",
        dimensions=(24, 80),
    )
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


def said(project: Path) -> str | None:
    path = project / ".telemetry"
    return path.read_text() if os.path.lexists(path) else None


def own_answer(project: Path, home: Path) -> str | None:
    path = support.own_file(project, home)
    return path.read_text().split()[0] if path.exists() else None


@pytest.fixture
def asking(project: Path, home: Path) -> Path:
    """A project without an answer."""
    (project / ".telemetry").unlink()
    support.own_file(project, home).unlink()
    return project


# --- Answers ---


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
    "n, Backspace, y": Case("n\x7fy\n", "yes"),
    "a long line": Case("y" * 3000 + "\n", "no"),
    "the end of input": Case(CTRL_D, None),
    "y and the end of input": Case("y" + CTRL_D * 2, None),
    "y typed before": Case("\n", "no", early="y\ny\n"),
    "half a word typed before": Case("s\n", "no", early="ye"),
    "n typed before": Case("y\n", "yes", early="n\n"),
    "each key is read": Case("yikes\n", "no", settings="-icanon"),
    "y typed before, each key is read": Case("\n", "no", "y\n", settings="-icanon"),
    "a raw terminal": Case("y\r", "yes", settings="raw -echo"),
    "y typed before in a raw terminal": Case("\r", "no", "y\r", "raw -echo"),
    "a yes from a clone, y": Case("y\n", "yes", telemetry="# ours\n" + YES),
    "a yes from a clone, n": Case("n\n", "no", telemetry=YES),
    "a yes from a clone, y typed before": Case("\n", "no", "y\n", telemetry=YES),
}


def test_each_answer_is_saved_as_it_was_meant(
    env: dict[str, str], home: Path, collector: support.Collector, tmp_path: Path
) -> None:
    """A file that came with the project is not changed by an answer."""
    projects = {name: tmp_path / name for name in CASES}
    for name, project in projects.items():
        project.mkdir()
        support.make_bare_project(project)
        if text := CASES[name].telemetry:
            (project / ".telemetry").write_text(text)
    folders = {str(project): CASES[name].settings for name, project in projects.items()}
    argument = tmp_path / "folders.json"
    argument.write_text(json.dumps(folders))
    script = tmp_path / "commands.py"
    script.write_text(COMMANDS)
    child = start(f"'{sys.executable}' {script} \"$(cat {argument})\"", tmp_path, env)

    for name, case in CASES.items():
        child.expect_exact("ready")
        child.send(case.early)
        (projects[name] / "typed").touch()
        child.expect_exact(PROMPT)
        assert (CAUTION in (child.before or "")) == bool(case.telemetry), name
        child.send(case.answer)
        child.expect_exact("status 0, 0 left")
        assert own_answer(projects[name], home) == case.own, name
        written = {"yes": YES, "no": NO, None: None}[case.own]
        assert said(projects[name]) == (case.telemetry or written), name
    finish(child)
    agreed = [name for name in CASES if CASES[name].own == "yes"]
    collector.wait(len(agreed))
    support.wait_for_senders()
    assert collector.commands == ["kedro --version"] * len(agreed)


@pytest.mark.parametrize(("answer", "count"), [("y", 2), ("", 0)])
def test_the_question_is_asked_once_and_on_standard_error(
    answer: str,
    count: int,
    asking: Path,
    env: dict[str, str],
    home: Path,
    collector: support.Collector,
) -> None:
    master, slave = os.openpty()  # standard output is another terminal
    child = start(f"{KEDRO} >{os.ttyname(slave)}; exec {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    lines = (child.before or "").split("\r\n")
    shown = [line for line in lines if str(home) not in line]  # a long path
    assert len(lines) <= 8
    assert [line for line in shown if len(line) > 80] == []
    for text in (collector.url, "IP address", "KEDRO_TELEMETRY_PREVIEW=1", "deny"):
        assert text in "".join(shown)
    child.sendline(answer)
    assert finish(child) == f"{answer}\r\n{PIPELINES}"
    os.close(slave)
    assert os.read(master, 4096).decode() == PIPELINES
    os.close(master)
    support.wait_for_senders()
    assert collector.commands == ["kedro registry list"] * count


def test_ctrl_c_ends_the_command_quietly_and_saves_nothing(
    asking: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    child = start(f"exec {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    child.send(CTRL_C)
    assert finish(child, status=130) == "^C\r\n"
    assert said(asking) is own_answer(asking, home) is None
    assert collector.stays_silent()


def test_the_later_of_two_answers_counts(
    asking: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    one, other = start(f"exec {KEDRO}", asking, env), start(KEDRO, asking, env)
    for child in (one, other):
        child.expect_exact(PROMPT)
    one.sendline("y")
    finish(one)
    other.sendline("n")
    finish(other)
    assert own_answer(asking, home) == "no"
    collector.wait()


def test_another_address_is_asked_for_again(
    project: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    env[ENDPOINT] = DEFAULT_ENDPOINT
    child = start(f"exec {KEDRO}", project, env)
    child.expect_exact(PROMPT)
    shown = child.before or ""
    assert shown.index(CAUTION) < shown.index(f"usage data to {DEFAULT_ENDPOINT}?")
    child.sendline("n")
    finish(child)
    assert own_answer(project, home) == "no"
    assert said(project) == YES


# --- Answers that cannot be saved, and who is not asked ---


def test_one_line_says_that_an_answer_could_not_be_saved(
    asking: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    child = start(f"ulimit -f 0; exec {KEDRO}", asking, env)  # as on a full disk
    child.expect_exact(PROMPT)
    child.sendline("y")
    why = "Your answer could not be saved: [Errno 27] File too large"
    assert finish(child) == f"y\r\n{why}\r\n{PIPELINES}"
    assert collector.stays_silent()


@pytest.mark.parametrize("closed", ["the project", "the own folder"])
def test_not_asked_where_an_answer_could_not_be_saved(
    closed: str, asking: Path, env: dict[str, str], home: Path
) -> None:
    user = " ".join(support.as_owner())
    folder = asking if closed == "the project" else support.own_folder(home)
    folder.chmod(0o555)
    assert finish(start(f"exec {user} {KEDRO}", asking, env)) == PIPELINES
    folder.chmod(0o755)
    assert said(asking) is own_answer(asking, home) is None


def test_not_asked_where_nobody_could_agree(
    asking: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    commands = [
        f"{KEDRO} </dev/null",
        f"{KEDRO} | cat",
        f"{KEDRO} 2>/dev/null",
        f"{KEDRO} & wait -f $!",  # a background job
        f"KEDRO_TELEMETRY_PREVIEW=1 {KEDRO} 2>&1 | grep -v Preview",
    ]
    for command in commands:
        shown = finish(start(command, asking, env))
        assert PIPELINES in shown, command
        assert said(asking) is own_answer(asking, home) is None, command
    assert collector.stays_silent()
