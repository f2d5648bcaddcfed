"""Show the plugin at work in a new Kedro project, with a collector on this machine.

Run it as README.md says. It removes what it made. The exit status is 0 if all is right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import support

PROMPT = "[y/N] "


def title(text: str) -> None:
    print(f"\n--- {text}\n")


def run_on_a_terminal(arguments: list[str], project: Path, env: dict[str, str]) -> None:
    """Run a `kedro` command on a terminal, and answer its question with y."""
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "kedro", *arguments],
        cwd=str(project),
        env=env,
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 80),
    )
    terminal.expect_exact(PROMPT)
    print(f"$ kedro {' '.join(arguments)}\n{terminal.before}{PROMPT}y")
    terminal.sendline("y")
    terminal.expect(pexpect.EOF)
    terminal.close()
    print(f"(exit status {terminal.exitstatus})")


def show_request(request: bytes) -> None:
    print(request.decode().replace("\r", ""))


def main() -> int:
    with tempfile.TemporaryDirectory() as name, support.collecting() as collector:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        env = support.clean_environment(
            home, KEDRO_TELEMETRY_ENDPOINT=collector.url, TERM="dumb"
        )
        project = support.make_project(folder, home, "weather")
        (project / ".telemetry").unlink(missing_ok=True)

        title("A command asks, and you agree")
        run_on_a_terminal(["run", "--pipeline=ds"], project, env)
        collector.wait(1)
        title("What the collector received")
        show_request(collector.requests[0])

        title("A command that fails: its values are masked")
        failed = support.kedro("run", "--pipeline=secret-client", cwd=project, env=env)
        print(
            f"$ kedro run --pipeline=secret-client\n(exit status {failed.returncode})"
        )
        collector.wait(2)
        print(collector.commands[1])

        title("Why it is on")
        command = [str(Path(sys.executable).parent / "kedro-telemetry"), "status"]
        status = subprocess.run(
            command, cwd=project, env=env, capture_output=True, text=True, check=False
        )
        print(f"$ kedro-telemetry status\n{status.stdout.strip()}")
        print(f"(exit status {status.returncode})")
        support.wait_for_senders()

        everything = b"".join(collector.requests)
        is_right = (
            (project / ".telemetry").read_text() == "consent: true\n"
            and collector.commands == ["kedro run --pipeline *****"] * 2
            and b"secret" not in everything
            and b"weather" not in everything
            and failed.returncode != 0
            and status.returncode == 1
        )
        print("\nAll as expected." if is_right else "\nNot as expected.")
        return 0 if is_right else 1


if __name__ == "__main__":
    for variable in ("CI", "DO_NOT_TRACK"):
        os.environ.pop(variable, None)
    sys.exit(main())
