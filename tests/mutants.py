"""Mutation testing of the plugin: `python3 tests/mutants.py [function ...]`. For each mutant, a test has to fail.

mutmut makes them; the tests run in copies of the repository, as `guards.py` runs them, since a mutant must also
be what the sender process runs. Survivors must be in `equivalent.txt`, with the reason why no test can tell them apart.
It takes more than an hour on two cores: CI runs `guards.py`, the part of it that removes each line that says no.
"""

from __future__ import annotations

import difflib
import os
import queue
import re
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import environment
from guards import PLUGIN, Copy

ROOT = environment.ROOT
WORKERS = 2
# The test files that prove a function, those that fail soonest first; what stands outside of functions: POLICY.
POLICY = "event names hooks masking identity consent documents platforms command_line sender question"
TESTS = {
    "mask_command": "masking event",
    "mask_option": "masking event",
    "seal": "event sender",
    "collector": "sender event hooks question",
    "headers": "event documents sender",
    "send": "sender platforms servers",
    "read_own": "consent identity platforms",
    "write_new": "identity command_line platforms",
    "salt_path": "platforms identity",
    "at_terminal": "platforms consent",
    "decide": "consent hooks names command_line",
    "parse_consent": "consent",
    "ask": "coverage question platforms",
    "read_salt": "identity platforms",
    "make_salt": "identity platforms",
    "build": "event identity masking hooks platforms",
    "observe": "event hooks commands",
    "preview": "hooks event commands",
    "start_sender": "platforms hooks sender",
    "before_command_run": "hooks question commands",
    "before_pipeline_run": "hooks commands",
    "finish": "hooks commands",
    "__getattr__": "names",
    "_check_for_telemetry_consent": "names",
    "find_project": "command_line coverage",
    "status": "command_line coverage platforms",
    "main": "command_line coverage",
}
# A mutant has another text, which is no reason to call it dead.
BLIND = ["--deselect=tests/test_documents.py::test_security_has_the_digest_of_the_file"]


class Mutant(NamedTuple):
    """A change: the function it is in, the whole changed source, and its lines as a diff without context."""

    function: str
    source: str
    change: str


def mutants(source: str) -> list[Mutant]:
    """What mutmut changes, at any place of the file, each change once."""
    import libcst as cst
    from mutmut.mutation.file_mutation import create_mutations

    module, mutations, _, _ = create_mutations(str(PLUGIN), source)
    found = {}
    for mutation in mutations:
        changed = cst.ensure_type(module.deep_replace(mutation.original_node, mutation.mutated_node), cst.Module)
        place = getattr(mutation.contained_by_top_level_function, "name", None)
        lines = difflib.unified_diff(source.splitlines(), changed.code.splitlines(), n=0, lineterm="")
        change = "\n".join(f"{line[0]} {line[1:].strip()}" for line in list(lines)[2:] if line[0] in "+-")
        found[changed.code] = Mutant(place.value if place else "", changed.code, change)
    return list(found.values())


def equivalent() -> dict[str, str]:
    """The reason for each change that no test can notice: `equivalent.txt`, a reason, then its changes as diffs."""
    reasons = {}
    for block in (ROOT / "tests" / "equivalent.txt").read_text(encoding="utf-8").split("\n\n"):
        title, *lines = block.strip().split("\n")
        for change in re.findall(r"(?:^-.*\n)+(?:^\+.*\n?)*", "\n".join([*lines, ""]), re.MULTILINE):
            reasons[change.strip()] = title
    return reasons


class Red:
    """By file, the tests that fail although nothing is changed: these prove nothing, and are left out."""

    def __init__(self, names: set[str]) -> None:
        self.found: dict[str, list[str]] = {}
        self.locks = {name: threading.Lock() for name in names}

    def options(self, name: str, source: str, copy: Copy) -> list[str]:
        with self.locks[name]:
            if name not in self.found:
                copy.write(source)
                copy.options = BLIND
                status, output = copy.test(name, "")
                self.found[name] = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
                assert status == 0 or self.found[name], output
                print("".join(f"red before: {test}\n" for test in self.found[name]), end="", flush=True)
        return [*BLIND, *(f"--deselect={test}" for test in self.found[name])]


def killed_by(mutant: Mutant, source: str, copy: Copy, red: Red) -> str:
    """The test file that notices, or nothing."""
    for name in TESTS.get(mutant.function, POLICY).split():
        options = red.options(name, source, copy)
        copy.write(mutant.source)
        copy.options = ["-x", *options]
        status, output = copy.test(name, "")
        if status == -signal.SIGALRM or (status in (1, 2, 3) and re.search(r"^(FAILED|ERROR) ", output, re.MULTILINE)):
            return name
        if output.startswith("ImportError while loading conftest"):  # the plugin itself cannot be imported
            return "conftest"
        assert status == 0, f"pytest ended with {status}: {output[-2000:]}"
    return ""


def work(folder: Path, source: str, todo: queue.SimpleQueue[Mutant], red: Red, results: dict[Mutant, str]) -> None:
    copy = Copy(folder)
    copy.seconds = 240
    with suppress(queue.Empty):
        while mutant := todo.get_nowait():
            results[mutant] = killed_by(mutant, source, copy, red)
            print(results[mutant] or f"SURVIVED in {mutant.function or 'the policy'}:\n{mutant.change}", flush=True)
    copy.close()


def main(*functions: str) -> int:
    """Try the mutants of these functions alone (an empty name: of what stands outside of functions), or all."""
    os.chdir(ROOT)  # where mutmut finds its settings
    source = (ROOT / PLUGIN).read_text(encoding="utf-8")
    chosen = [mutant for mutant in mutants(source) if mutant.function in (functions or [mutant.function])]
    known, results, todo = equivalent(), dict[Mutant, str](), queue.SimpleQueue[Mutant]()
    for mutant in sorted(chosen, key=lambda mutant: mutant.function in ("", "ask", "send")):  # the longest come last
        if mutant.change not in known:
            todo.put(mutant)
    names = {name for mutant in chosen for name in TESTS.get(mutant.function, POLICY).split()}
    with tempfile.TemporaryDirectory() as name:
        shared = (source, todo, Red(names), results)
        workers = [threading.Thread(target=work, args=(Path(name) / str(number), *shared)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    survived = [mutant for mutant, test in results.items() if not test]
    kept = len(chosen) - len(results)
    print(f"{len(chosen)} mutants: {len(results) - len(survived)} killed, {kept} equivalent, {len(survived)} survived")
    stale = set(known) - {mutant.change for mutant in chosen} if not functions else set()
    print("".join(f"no mutant any more, delete it from equivalent.txt:\n{change}\n" for change in stale), end="")
    return int(bool(survived or stale or not chosen or len(results) + kept != len(chosen)))


if __name__ == "__main__":
    environment.enter("test,mutation")
    sys.exit(main(*sys.argv[1:]))
