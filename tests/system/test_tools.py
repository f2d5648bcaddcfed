"""The tools that the documents name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import support


@pytest.mark.skipif(support.KEDRO_018, reason="the demo shows a command that fails")
def test_demo_shows_the_question_the_events_and_the_state() -> None:
    done = subprocess.run(
        [sys.executable, str(support.ROOT / "tests" / "tools" / "demo.py")],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (
        "[y/N] y",
        "POST /api/track HTTP/1.1",
        "Telemetry is on",
        "All as expected",
    )
    assert [text for text in shown if text not in done.stdout] == []
