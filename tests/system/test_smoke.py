from pathlib import Path
import support


def test_a_command_sends_one_event(
    project: Path, env: dict[str, str], collector: support.Collector
) -> None:
    done = support.kedro("run", "--pipeline=ds", cwd=project, env=env)
    assert done.returncode == 0
    (event,) = collector.wait()
    assert event["properties"]["command"] == "kedro run --pipeline *****"
