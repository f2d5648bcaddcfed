"""The tools that the documents name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import support

TOOLS = support.ROOT / "tests" / "tools"


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOLS / tool), *arguments],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(
    support.KEDRO_018, reason="the demo has a command that fails: see test_commands.py"
)
def test_demo_shows_the_question_the_events_and_the_state() -> None:
    done = run("demo.py")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = ("Send these events? [y/N] y", "POST /api/track HTTP/1.1", "ms in the")
    for text in (*shown, "Telemetry is on", "All as expected"):
        assert text in done.stdout


def test_benchmark_shows_its_help() -> None:
    done = run("benchmark.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
