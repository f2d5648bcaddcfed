"""Show the plugin at work in a new Kedro project, with a collector on this machine.

Run it as README.md says. It removes what it made. The exit status is 0 if all is right.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import network
import support

PROMPT = "[y/N] "
PROBE = str(Path(__file__).with_name("benchmark_probe.py"))


def title(text: str) -> None:
    print(f"\n--- {text}\n", flush=True)


def run_on_a_terminal(arguments: str, project: Path, env: dict[str, str]) -> int:
    """Run a `kedro` command on a terminal, and answer its question with y."""
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "kedro", *arguments.split()],
        cwd=str(project),
        env={**env, "TERM": "dumb"},
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 80),
    )
    terminal.expect_exact(PROMPT)
    question = str(terminal.before).replace("\r", "")
    terminal.sendline("y")
    terminal.expect(pexpect.EOF)
    terminal.close()
    print(f"$ kedro {arguments}\n{question}{PROMPT}y")
    print(f"(exit status {terminal.exitstatus})")
    return int(terminal.exitstatus or 0)


def run(program: str, arguments: str, project: Path, env: dict[str, str]) -> int:
    """Run a program of this environment and show what it prints on standard output."""
    path = Path(sys.executable).parent / program
    done = subprocess.run(
        [path, *arguments.split()], cwd=project, env=env, capture_output=True, text=True
    )
    print(f"$ {program} {arguments}\n{done.stdout}(exit status {done.returncode})")
    return done.returncode


def cost(project: Path, env: dict[str, str]) -> float:
    """Return the median time of the plugin in a `kedro` process, in milliseconds."""
    probe = [sys.executable, PROBE, "command"]
    times: list[float] = []
    for _ in range(5):
        output = subprocess.check_output(probe, cwd=project, env=env)
        times.append(json.loads(output.splitlines()[-1])["all"])
    return statistics.median(times)


def main() -> int:
    network.adopt_orphans()  # so that it can wait for the senders
    with tempfile.TemporaryDirectory() as name, support.collecting() as collector:
        folder = Path(name)
        env = support.clean_environment(folder, KEDRO_TELEMETRY_ENDPOINT=collector.url)
        project = support.make_project(folder, folder, "weather")

        title("A command asks, and a person agrees")
        worked = run_on_a_terminal("run --pipeline=ds", project, env)
        title("What the collector received")
        collector.wait(1)
        print(collector.requests[0].decode().replace("\r", ""))
        title("A command that fails, and the event that it sends")
        failed = run("kedro", "run --pipeline=secret-client", project, env)
        collector.wait(2)
        print(collector.requests[1].decode().rpartition("\n")[2])
        title("Whether telemetry is on, and why")
        status = run("kedro-telemetry", "status", project, env)
        title("What it costs")
        print(f"{cost(project, env):.1f} ms in the `kedro` process (median of 5)")
        support.wait_for_senders()

        everything = b"".join(collector.requests)
        is_right = (
            (project / ".telemetry").read_text() == "consent: true\n"
            and (worked, failed, status) == (0, 1, 1)
            and collector.commands[:2] == ["kedro run --pipeline *****"] * 2
            and len(collector.events) == 7
            and not any(word in everything for word in (b"secret", b"weather", b"=ds"))
        )
    title("All as expected" if is_right else "NOT AS EXPECTED")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
