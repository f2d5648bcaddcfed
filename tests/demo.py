"""The main job on real input: `python3 tests/demo.py`. Makes its own environment first, and cleans up.

A new Kedro project, a collector on loopback, a person who says yes on a terminal, one command that works and one that
fails: what the person sees, what arrives, and what it cost.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

PIPELINE = '''\
from kedro.pipeline import Pipeline, node


def load():
    """Temperatures of a week, in degrees Celsius."""
    return [11.5, 12.0, 14.5, 13.0, 9.5, 8.0, 10.0]


def mean(temperatures):
    return round(sum(temperatures) / len(temperatures), 2)


def create_pipeline(**kwargs):
    return Pipeline([node(load, None, "week"), node(mean, "week", "mean_temperature")])
'''
TIMER = """\
import sys, time
from pathlib import Path
import kedro.framework.cli.cli
from kedro.framework.startup import bootstrap_project
metadata = bootstrap_project(Path.cwd())
start = time.perf_counter()
from kedro_telemetry.plugin import telemetry_hook
telemetry_hook.before_command_run(project_metadata=metadata, command_args=["registry", "list"])
telemetry_hook.after_command_run()
print((time.perf_counter() - start) * 1000)
"""


def make_project(folder: Path, env: dict[str, str]) -> Path:
    new = [sys.executable, "-m", "kedro", "new", "--name=weather", "--tools=lint,test", "--example=no"]
    subprocess.run(new, cwd=folder, env=env, check=True, capture_output=True)
    module = folder / "weather" / "src" / "weather" / "pipelines" / "ds"
    module.mkdir(parents=True)
    (module.parent / "__init__.py").touch()
    (module / "__init__.py").write_text(PIPELINE)
    (folder / "weather" / "conf" / "base" / "catalog.yml").write_text("week:\n  type: MemoryDataset\n")
    return folder / "weather"


def answer_the_question(project: Path, env: dict[str, str]) -> str:
    """`kedro run` on a pseudo terminal, the question answered with y; what the terminal showed."""
    import pexpect

    command = ["-m", "kedro", "run", "--pipeline=ds", "--env=base"]
    terminal = pexpect.spawn(sys.executable, command, cwd=project, env=env, encoding="utf-8", timeout=120)
    terminal.expect_exact("[y/N] ")
    shown = str(terminal.before) + "[y/N] "
    terminal.sendline("y")
    terminal.expect(pexpect.EOF)
    terminal.close()
    print(f"$ kedro run --pipeline=ds --env=base\n{shown.strip()} y\n  (exit status {terminal.exitstatus})\n")
    return shown


def cost(project: Path, env: dict[str, str]) -> float:
    """What the plugin adds to a command in the user's process, in milliseconds: the median of 15 processes."""
    times = [
        float(
            subprocess.run([sys.executable, "-c", TIMER], cwd=project, env=env, check=True, capture_output=True).stdout
        )
        for _ in range(15)
    ]
    return statistics.median(times)


def main() -> int:
    import support

    with tempfile.TemporaryDirectory() as name, support.collecting() as collector:
        folder = Path(name)
        env = support.scrubbed(
            folder / "home", KEDRO_TELEMETRY_ENDPOINT=collector.url, TERM=os.environ.get("TERM", "dumb")
        )
        (folder / "home").mkdir()
        project = make_project(folder, env)
        answer_the_question(project, env)
        print("What arrived:\n")
        collector.wait(1)
        print(collector.requests[0].decode().replace("\r", ""), "\n")
        failed = support.kedro("run", "--pipeline=no-such-client", cwd=project, env=env)
        print(f"$ kedro run --pipeline=no-such-client\n  (exit status {failed.returncode})\n\nWhat arrived:\n")
        collector.wait(2)
        print(collector.requests[1].partition(b"\r\n\r\n")[2].decode(), "\n")
        print(f"What the plugin added to a command in its process: {cost(project, env):.1f} ms (median of 15)")
        support.wait_for_no_sender()
        asked = (project / ".telemetry").read_text() == "consent: true\n"
        return 0 if asked and failed.returncode != 0 and len(collector.requests) == 17 else 1


if __name__ == "__main__":
    environment.enter("test")
    sys.exit(main())
