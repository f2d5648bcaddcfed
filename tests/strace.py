"""The system calls of a command and of all processes that it starts (Linux)."""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import support

# The calls that start a process, use the network, or open or change a file.
TRACED = (
    "trace=%process,%network,setsid,chdir,"
    "/^(open|creat|mk|rename|link|symlink|unlink|rmdir|truncate|f?chmod|[fl]?chown)"
)
CHANGES = re.compile(
    r"open(at2?)?\(.*\bO_(WRONLY|RDWR|CREAT)\b"
    r"|(creat|mk|rename|link|symlink|unlink|rmdir|truncate|f?chmod|[fl]?chown)"
)


@dataclass
class Process:
    """A process or thread, with its system calls that succeeded."""

    calls: list[str]

    @property
    def programs(self) -> list[tuple[list[str], list[str]]]:
        """The arguments and the environment of each program that it ran."""
        pattern = r'^execve\(".*?", (\[.*?\]), (\[.*\])\) = 0$'
        found = re.findall(pattern, "\n".join(self.calls), re.MULTILINE)
        return [(ast.literal_eval(line), ast.literal_eval(env)) for line, env in found]

    @property
    def is_sender(self) -> bool:
        return [line[1:] for line, _ in self.programs] == [support.SENDER[1:]]

    @property
    def internet(self) -> list[str]:
        """The calls that make an internet socket."""
        return [call for call in self.calls if call.startswith("socket(AF_INET")]

    @property
    def changes(self) -> list[str]:
        """The calls that create, change or delete a file."""
        found = [call for call in self.calls if CHANGES.match(call)]
        return [call for call in found if '"/dev/null"' not in call]

    @property
    def opened(self) -> list[str]:
        """The paths that it opened."""
        return re.findall(r'^open(?:at)?\(.*?"(.*?)"', "\n".join(self.calls), re.M)


def command(folder: Path, *line: str) -> list[str]:
    """Return the command line that traces a command into this new folder."""
    program = shutil.which("strace") or support.missing("strace")
    folder.mkdir()
    options = ["-f", "--seccomp-bpf", "-ff", "-qq", "-v", "-s", "9999"]
    options += ["-e", TRACED, "-e", "signal=none", "-o", str(folder / "process")]
    return [program, *options, *line]


def processes(folder: Path) -> list[Process]:
    """Return the processes that were traced into this folder."""
    texts = [file.read_text(errors="replace") for file in sorted(folder.iterdir())]
    return [Process([c for c in t.splitlines() if " = -1 E" not in c]) for t in texts]
