"""Show the plugin at work in a new Kedro project, with a collector on this machine.

Run it as README.md says. It removes what it made. The exit status is 0 if all is right.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pexpect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import network
import support

BINARIES = Path(sys.executable).parent
PROMPT = "[y/N] "


def title(text: str) -> None:
    print(f"\n--- {text}\n", flush=True)


def run_on_a_terminal(line: str, project: Path, env: dict[str, str]) -> int:
    """Run a `kedro` command on a terminal, and answer its question with y."""
    terminal = pexpect.spawn(
        str(BINARIES / "kedro"),
        line.split(),
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
    print(f"$ kedro {line}\n{question}{PROMPT}y\n(exit status {terminal.exitstatus})")
    return int(terminal.exitstatus or 0)


def run(line: str, project: Path, env: dict[str, str]) -> int:
    """Run a program of this environment, and show what it prints on standard output."""
    program, *arguments = line.split()
    done = subprocess.run(
        [BINARIES / program, *arguments],
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    print(f"$ {line}\n{done.stdout}(exit status {done.returncode})")
    return done.returncode


def main() -> int:
    network.adopt_orphans()  # so that it can wait for the senders
    with suppress(OSError, subprocess.SubprocessError):
        network.enter_loopback()  # where this is allowed, nothing can leave the machine
    with tempfile.TemporaryDirectory() as name, support.collecting() as collector:
        folder = Path(name).resolve()
        env = support.clean_environment(folder, KEDRO_TELEMETRY_ENDPOINT=collector.url)
        project = support.make_project(folder, folder, "weather")

        title("A new project: telemetry is off")
        statuses = [run("kedro-telemetry status", project, env)]
        title("A command asks on a terminal, and a person agrees")
        statuses.append(run_on_a_terminal("run --pipeline=ds", project, env))
        collector.wait(1)
        title("What the collector receives")
        print(collector.requests[0].decode().replace("\r", ""))
        title("A command that fails, and what the collector receives")
        statuses.append(run("kedro run --pipeline=secret-client", project, env))
        collector.wait(2)
        print(collector.requests[1].decode().rpartition("\n")[2])
        title("Telemetry is on here, for this user")
        statuses.append(run("kedro-telemetry status", project, env))
        title("A copy of the project has the project's yes, but not the user's own")
        clone = Path(shutil.copytree(project, folder / "clone"))
        statuses.append(run("kedro-telemetry status", clone, env))
        statuses.append(run("kedro run --pipeline=ds", clone, env))
        title("The user changes their mind")
        statuses.append(run("kedro-telemetry deny", project, env))
        statuses.append(run("kedro run --pipeline=ds", project, env))

        support.wait_for_senders()
        everything = b"".join(collector.requests)
        is_right = (
            statuses == [0, 0, 1, 1, 0, 0, 0, 0]
            and collector.commands == ["kedro run --pipeline *****"] * 2
            and (clone / ".telemetry").read_text() == "consent: true\n"
            and (project / ".telemetry").read_text() == "consent: false\n"
            and not any(word in everything for word in (b"secret", b"weather", b"=ds"))
        )
    title("All as expected" if is_right else "NOT AS EXPECTED")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
