"""Windows: off, allow, one event, a sender that is gone in time, deny."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import support

pytestmark = pytest.mark.skipif(
    sys.platform != "win32", reason="NOT TESTED HERE: Windows only"
)


def control(action: str, cwd: Path, env: dict[str, str]) -> int:
    line = [
        sys.executable,
        "-c",
        "from kedro_telemetry.plugin import main; exit(main())",
    ]
    return subprocess.run([*line, action], cwd=cwd, env=env, timeout=60).returncode


def run(cwd: Path, env: dict[str, str]) -> None:
    done = support.kedro("registry", "list", cwd=cwd, env=env)
    assert (done.returncode, done.stdout.split()) == (0, ["-", "__default__"])
    assert done.stderr == ""


def test_a_user_is_off_allows_sends_one_event_and_denies(
    tmp_path: Path, env: dict[str, str], home: Path, collector: support.Collector
) -> None:
    project = tmp_path / "bare"
    project.mkdir()
    registry = "def register_pipelines():\n    from kedro.pipeline import Pipeline\n"
    registry += "    return {'__default__': Pipeline([])}\n"
    support.make_bare_project(project, registry=registry)
    assert control("status", project, env) == 0
    run(project, env)
    assert collector.stays_silent()

    assert control("allow", project, env) == 0
    assert control("status", project, env) == 1
    assert support.own_file(project, home).read_bytes().startswith(b"yes to version 2")
    run(project, env)
    (event,) = collector.wait()
    assert event["properties"]["os"] == "win32"
    support.wait_for_senders(5)

    assert control("deny", project, env) == 0
    assert (project / ".telemetry").read_bytes() == b"consent: false\n"
    run(project, env)
    support.wait_for_senders()
    assert collector.connections == 1
