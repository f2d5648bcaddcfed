"""Real `kedro` commands in a real project, and the bytes that arrive."""

from __future__ import annotations

from pathlib import Path

import support


def test_a_run_arrives_masked(project: Path, env: dict[str, str], collector: support.Collector) -> None:
    done = support.kedro("run", "--pipeline=ds", "--env=base", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro run --pipeline ***** --env *****"
