"""The question, in real terminals: who is asked, and what each answer does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pexpect
import psutil
import pytest
import support

from kedro_telemetry import plugin

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: needs terminals of POSIX", allow_module_level=True)

PROMPT = "[y/N] "
KEDRO = f"'{Path(sys.executable).parent / 'kedro'}' registry list"
PIPELINES = "- __default__\r\n- de\r\n- ds\r\n\r\n"  # what that shows in a terminal
CTRL_C, CTRL_D, CTRL_Q, CTRL_S = "\x03", "\x04", "\x11", "\x13"


@pytest.fixture
def asking(project: Path) -> Path:
    """A project without an answer."""
    (project / ".telemetry").unlink()
    return project


def start(
    script: str, cwd: Path, env: dict[str, str], columns: int = 80
) -> pexpect.spawn[str]:
    """Start a shell script in a terminal, with a umask that protects nothing."""
    return pexpect.spawn(
        "/bin/bash",
        ["--norc", "-c", f"umask 0; {script}"],
        cwd=str(cwd),
        env={**env, "TERM": "dumb"},
        timeout=60,
        encoding="utf-8",
        dimensions=(24, columns),
    )


def finish(child: pexpect.spawn[str]) -> str:
    """Return what is still shown until the script ends. It must succeed, not ask."""
    asks = child.expect_exact([PROMPT, pexpect.EOF]) == 0
    shown = child.before or ""
    child.close(force=True)
    assert not asks, shown
    assert child.exitstatus == 0, shown
    return shown


def saved(project: Path) -> str | None:
    path = project / ".telemetry"
    return path.read_text() if os.path.lexists(path) else None


def wait_until_idle(child: pexpect.spawn[str]) -> None:
    """Return when a process has used no time for half a second."""
    process = psutil.Process(child.pid)
    used, before = process.cpu_times(), None
    while used != before:
        time.sleep(0.5)
        used, before = process.cpu_times(), used


# --- What it says ---


def test_the_question_is_on_standard_error_and_complete(
    asking: Path, env: dict[str, str]
) -> None:
    """Also in a narrow terminal, which wraps it."""
    master, slave = os.openpty()  # standard output is another terminal
    script = f"exec {KEDRO} > {os.ttyname(slave)}"
    env[plugin.ENDPOINT_VARIABLE] = plugin.DEFAULT_ENDPOINT
    child = start(script, asking, env, columns=40)
    child.expect_exact(PROMPT)
    lines = (child.before or "").split("\r\n")
    child.sendline("n")
    assert finish(child) == "n\r\n"
    os.close(slave)
    assert os.read(master, 4096).decode() == PIPELINES
    os.close(master)
    question = plugin.QUESTION.format(url=plugin.DEFAULT_ENDPOINT) + plugin.PROMPT
    assert [*lines[:-1], lines[-1] + PROMPT] == question.split("\n")
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 80


# --- Answers ---


@pytest.mark.parametrize(
    ("answer", "said"),
    [("YES", "true"), ("", "false"), ("n", "false")],
)
def test_an_answer_is_saved_and_asked_for_only_once(
    answer: str,
    said: str,
    asking: Path,
    env: dict[str, str],
    collector: support.Collector,
) -> None:
    child = start(f"{KEDRO} && {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    child.sendline(answer)
    assert finish(child) == f"{answer}\r\n{PIPELINES}{PIPELINES}"
    assert saved(asking) == f"consent: {said}\n"
    assert (asking / ".telemetry").stat().st_mode & 0o777 == 0o644
    if said == "true":
        collector.wait(2)
        assert collector.commands == ["kedro registry list"] * 2
    else:
        assert collector.stays_silent()


@pytest.mark.parametrize(
    "keys", ["maybe\n", "y" * 2000 + "\n", CTRL_D, "y" + CTRL_D * 2]
)
def test_another_text_or_the_end_of_input_saves_nothing(
    keys: str, asking: Path, env: dict[str, str], collector: support.Collector
) -> None:
    child = start(KEDRO, asking, env)
    child.expect_exact(PROMPT)
    child.send(keys)
    shown = finish(child)
    assert "\nNeither yes nor no, so nothing is sent" in shown
    assert shown.endswith(PIPELINES)
    assert saved(asking) is None
    assert collector.stays_silent()


def test_ctrl_c_ends_the_command_and_saves_nothing(
    asking: Path, env: dict[str, str], collector: support.Collector
) -> None:
    child = start(KEDRO, asking, env)
    child.expect_exact(PROMPT)
    child.send(CTRL_C)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus != 0
    assert "__default__" not in (child.before or "")
    assert saved(asking) is None
    assert collector.stays_silent()


@pytest.mark.parametrize("keys", ["ye", "stty -icanon; y"])
def test_nobody_answering_is_saved_as_a_no(
    keys: str, asking: Path, env: dict[str, str], collector: support.Collector
) -> None:
    """The 30 seconds are half a second here."""
    settings, _, typed = keys.rpartition("; ")
    assert plugin.ANSWER_SECONDS == 30
    script = (
        "from kedro_telemetry import plugin; plugin.ANSWER_SECONDS = 0.5; "
        "from kedro.framework.cli import main; main()"
    )
    line = f"{settings or ':'}; '{sys.executable}' -c '{script}' registry list"
    child = start(f'{line}; read line; echo "left: $line"', asking, env)
    child.expect_exact(PROMPT)
    begin = time.monotonic()
    child.send(typed)
    child.expect_exact("\r\nNo answer")
    assert time.monotonic() - begin > 0.4
    child.expect_exact(PIPELINES)
    child.send("\n")
    assert "left: \r\n" in finish(child)  # nothing for the next program
    assert saved(asking) == "consent: false\n"
    assert collector.stays_silent()


def test_an_answer_never_replaces_a_file(asking: Path, env: dict[str, str]) -> None:
    child = start(KEDRO, asking, env)
    child.expect_exact(PROMPT)
    (asking / ".telemetry").symlink_to(asking / "target")  # while the question waits
    child.sendline("y")
    finish(child)
    assert (asking / ".telemetry").is_symlink()
    assert not (asking / "target").exists()


def test_an_answer_that_cannot_be_saved_is_for_this_command(
    asking: Path, env: dict[str, str], collector: support.Collector
) -> None:
    user = " ".join(support.unprivileged(asking, Path(env["HOME"])))
    asking.chmod(0o555)
    child = start(f"{user} {KEDRO} && {user} {KEDRO}", asking, env)
    child.expect_exact(PROMPT)
    child.sendline("y")
    child.expect_exact(PROMPT)  # the second command asks again
    assert (child.before or "").startswith(f"y\r\n{PIPELINES}")
    child.sendline("n")
    finish(child)
    asking.chmod(0o755)
    assert saved(asking) is None
    collector.wait(1)


# --- What was typed before ---


@pytest.mark.parametrize(
    ("settings", "early", "late", "said"),
    [
        (":", "y\nyes\n", "\n", "false"),
        (":", "y", "\n", "false"),
        (":", "ye", "s\n", None),
        (":", "n", "y\n", "true"),
        ("stty -icanon", "y", "\n", "false"),
        ("stty -icanon", "y\n", "y\n", "true"),
        ("stty raw -echo", "y\r", "\r", "false"),
        ("stty raw -echo", "", "y\r", "true"),
    ],
)
def test_what_was_typed_before_the_question_is_discarded(
    settings: str, early: str, late: str, said: str | None, asking: Path
) -> None:
    child = start(f"{settings}; echo go; exec {KEDRO}", asking, dict(os.environ))
    child.expect_exact("go")
    child.send(early)
    child.expect_exact(PROMPT)
    child.send(late)
    finish(child)
    assert saved(asking) == (said and f"consent: {said}\n")


def test_what_was_typed_while_the_question_is_printed_is_discarded(
    asking: Path,
) -> None:
    child = start(f"exec {KEDRO}", asking, dict(os.environ))
    child.send(CTRL_S)  # stops the output, so that the question cannot be printed
    wait_until_idle(child)
    child.send("y\n")
    child.send(CTRL_Q)
    child.expect_exact(PROMPT)
    child.send("\n")
    finish(child)
    assert saved(asking) == "consent: false\n"


# --- Who is not asked ---

TRACED = f"'{sys.executable}' -c 'import sys; sys.modules[\"debugpy\"] = sys; "
TRACED += "from kedro.framework.cli import main; main()' registry list"


@pytest.mark.parametrize(
    "command",
    [
        f"{KEDRO} </dev/null",
        f"{KEDRO} | cat",
        f"{KEDRO} 2>/dev/null",
        f"{KEDRO} 2>&-",
        f"set -m; {KEDRO} & wait -f $!",
        f"DO_NOT_TRACK=1 {KEDRO}",
        f"{plugin.ENDPOINT_VARIABLE}=http://collector.example/ {KEDRO}",
        f"{plugin.ENDPOINT_VARIABLE}=https://a.example/ ALL_PROXY=socks5://a {KEDRO}",
        f"{plugin.PREVIEW_VARIABLE}=1 {KEDRO}",
        TRACED,
    ],
)
def test_not_asked_where_nobody_could_agree(
    command: str, asking: Path, env: dict[str, str], collector: support.Collector
) -> None:
    assert "- __default__" in finish(start(command, asking, env))
    assert saved(asking) is None
    assert collector.connections == 0


def test_asked_in_the_foreground_of_a_shell_with_jobs(
    asking: Path, env: dict[str, str]
) -> None:
    child = start(f"set -m; {KEDRO}; true", asking, env)
    child.expect_exact(PROMPT)
    child.sendline("n")
    finish(child)


def test_not_asked_outside_a_project(tmp_path: Path, env: dict[str, str]) -> None:
    finish(start(KEDRO.replace("registry list", "info"), tmp_path, env))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        "touch .telemetry",
        "ln -s nowhere .telemetry",
        "git init -q && touch .telemetry && git add -f .telemetry && rm .telemetry",
    ],
)
def test_not_asked_where_a_file_is_or_where_git_tracks_one(
    make: str, asking: Path, env: dict[str, str]
) -> None:
    look = "stat --format='%F %i %s %Y' .telemetry"
    finish(start(f"{make}; {look} >before; {KEDRO}; {look} >after; true", asking, env))
    assert (asking / "before").read_text() == (asking / "after").read_text()
