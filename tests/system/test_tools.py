"""The tools that the documents name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import support

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: a terminal of Unix", allow_module_level=True)


@pytest.mark.skipif(support.KEDRO_018, reason="the demo shows a command that fails")
def test_demo_shows_the_question_the_events_and_the_state() -> None:
    line = [sys.executable, str(support.ROOT / "tests" / "tools" / "demo.py")]
    output = subprocess.check_output(line, text=True, timeout=100)
    shown = ("[y/N] y", "POST /api/track HTTP", "Telemetry is on", "All as expected")
    assert [text for text in shown if text not in output] == []
