"""Windows: off, allow, one event, a sender that is gone in time, deny."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import support

pytestmark = pytest.mark.skipif(
    sys.platform != "win32", reason="NOT TESTED HERE: Windows only"
)


def never_answers(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(support.read_request(connection))
    collector.stopping.wait(10)


def test_a_user_is_off_allows_sends_one_event_and_denies(
    tmp_path: Path, home: Path
) -> None:
    project = tmp_path / "bare"
    project.mkdir()
    support.make_bare_project(project)

    def control(action: str) -> int:
        script = "import sys; from kedro_telemetry.plugin import main; sys.exit(main())"
        line = [sys.executable, "-c", script, action]
        done = subprocess.run(line, cwd=project, env=env, timeout=60, check=False)
        return done.returncode

    def run_a_command() -> None:
        done = support.kedro("--version", cwd=project, env=env)
        assert (done.returncode, done.stderr) == (0, "")

    with support.collecting(never_answers) as collector:
        env = {**os.environ, "KEDRO_TELEMETRY_ENDPOINT": collector.url}
        assert control("status") == 0
        run_a_command()
        assert [control(action) for action in ("allow", "status")] == [0, 1]
        assert support.own_file(project, home).read_bytes().startswith(b"yes ")
        run_a_command()
        (event,) = collector.wait()
        assert event["properties"]["os"] == "win32"
        support.wait_for_senders(5)  # although it gets no answer
        assert [control(action) for action in ("deny", "status")] == [0, 0]
        assert (project / ".telemetry").read_bytes() == b"consent: false\n"
        run_a_command()
        support.wait_for_senders()
        assert collector.connections == 1
