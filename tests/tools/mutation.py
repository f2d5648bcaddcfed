"""Mutation testing: change one thing in plugin.py at a time; some test must fail.

Each change (a mutant) meets the unit tests that reach its line, then the system tests,
in copies of the checkout. A mutant that no test notices is printed: exit status 1. It
needs a new test, or an entry with the reason in equivalent_mutants.txt.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import venv
from collections import Counter
from concurrent import futures
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import coverage
import psutil
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import OPERATOR_PROVIDERS, get_operator
from cosmic_ray.tools.filters.git import GitFilter
from cosmic_ray.tools.filters.operators_filter import OperatorsFilter
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome
from parso.python.tree import Keyword

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent.parent
PLUGIN = Path("kedro_telemetry/plugin.py")
SOURCE = (ROOT / PLUGIN).read_text("utf-8")
LINES = SOURCE.split("\n")
WALL = next(n for n, line in enumerate(LINES) if line.startswith("# --- THE WALL"))
UNIT = "tests/unit --ignore=tests/unit/test_documents.py"
PYTEST = "-x -q -n 0 -p no:cacheprovider --timeout=20 --hypothesis-profile=mutation"


class RemoveStatement(Operator):  # type: ignore[misc]
    """Replaces a statement in a function by `pass`. cosmic-ray has no such operator."""

    TYPES = ("atom_expr", "del_stmt", "expr_stmt", "raise_stmt", "return_stmt")

    def mutation_positions(self, node: Any) -> Any:
        is_statement = node.type in self.TYPES and node.parent.type == "simple_stmt"
        if is_statement and node.search_ancestor("funcdef"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    examples = tuple  # there are none


OPERATOR_PROVIDERS["own"] = {"RemoveStatement": RemoveStatement}


def find_mutants(revision: str | None, folder: Path) -> list[MutationSpec]:
    config, text = folder / "config.toml", (TOOLS / "cosmic-ray.toml").read_text()
    config.write_text(f'{text}branch = "{revision}"\n')
    with use_db(":memory:") as database:
        init([PLUGIN], database, {})
        for kind in (OperatorsFilter, *([GitFilter] if revision else [])):
            kind().filter(database, argparse.Namespace(config=str(config)))
        specs = [item.mutations[0] for item in database.pending_work_items]
    return random.sample(specs, len(specs))


def end_children(*signal_received: object) -> None:
    for process in (children := psutil.Process().children(recursive=True)):
        process.kill()
    psutil.wait_procs(children, timeout=5)
    if signal_received:
        os._exit(1)


def enter_copy(folder: Path) -> None:
    """Make a copy of the checkout for this process, with an environment."""
    signal.signal(signal.SIGTERM, end_children)
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG: ends with its parent
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: no test can leave its children
    copy = folder / str(os.getpid())
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".[!c]*", "__pycache__"))
    os.chdir(copy)
    # A file in the place of the folder keeps Python from storing a mutant's byte code.
    PLUGIN.with_name("__pycache__").touch()
    # The environment is this one. But the plugin of the copy is found first.
    venv.create(".venv", symlinks=True)
    (packages,) = Path(".venv").glob("lib/python*/site-packages")
    original = str(sys.prefix / packages.relative_to(".venv"))
    path = f"{copy}\nimport site; site.addsitedir({original!r})\n"
    (packages / "copy.pth").write_text(path)
    for name in ("kedro", "kedro-telemetry"):
        script = Path(shutil.copy(Path(sys.prefix, "bin", name), ".venv/bin"))
        script.write_text(script.read_text().replace(sys.prefix, f"{copy}/.venv"))


def survives(mutants: list[MutationSpec], *stages: str) -> bool:
    """Return whether these tests pass with these mutants, in this process's copy."""
    # cosmic-ray forbids byte code. It is allowed, but not for the plugin.
    python = "env -u PYTHONDONTWRITEBYTECODE .venv/bin/python"
    for tests in stages:
        script = f"ulimit -v 8000000; {python} -m pytest {PYTEST} {tests} 2>&1"
        try:  # tests that take longer than 900 seconds count as failed
            result = mutate_and_test(mutants, f"sh -c {shlex.quote(script)}", 900)
        finally:
            end_children()
        if result.test_outcome == TestOutcome.SURVIVED:
            continue
        is_broken = result.test_outcome == TestOutcome.INCOMPETENT
        if is_broken or not mutants or "ERROR: not found" in result.output:
            raise RuntimeError(f"The tests do not run or pass:\n{result.output}")
        return False
    return True


def find_unit_tests() -> dict[int, set[str]]:
    """Run the unit tests. Return for each line of plugin.py the tests that reach it."""
    survives([], f"--cov=kedro_telemetry --cov-context=test --cov-report= {UNIT}")
    (data := coverage.CoverageData()).read()
    contexts = data.contexts_by_lineno(str(PLUGIN.resolve()))
    return {n: {re.split(r"[\[|]", c)[0] for c in contexts[n]} for n in contexts}


def unit_tests(spec: MutationSpec, by_line: dict[int, set[str]]) -> str:
    """Return the tests that reach the lines. Those that reach few others come first."""
    lines = range(spec.start_pos[0], spec.end_pos[0] + 1)
    tests = set[str]().union(*(by_line.get(line, set()) for line in lines))
    tests.discard("")  # when the module is imported, and other processes
    reach = Counter(test for tests in by_line.values() for test in tests)
    return shlex.join(sorted(tests, key=lambda test: reach[test])) or UNIT


def system_tests(spec: MutationSpec | None = None) -> str:
    """Return the system tests. Those of this side of THE WALL come first."""
    files = map(str, Path("tests/system").glob("test_*.py"))
    names = sorted(name for name in files if not re.search("release|tools", name))
    is_below = spec is None or spec.start_pos[0] > WALL
    names.sort(key=lambda n: bool(re.search("send|server", n)) == is_below)
    return shlex.join(names)


def describe(spec: MutationSpec) -> str:
    """Return a change as the list shows it: its first line as it was and as it is."""
    mutant = mutate_code(SOURCE, get_operator(spec.operator_name)(), spec.occurrence)
    diff = list(difflib.unified_diff(LINES, mutant.split("\n"), n=0))[3:]
    change = f"@ {spec.definition_name or 'top level'}"
    for sign in "-+":
        line = next((x for x in diff if x[0] == sign and x[1:].strip()), sign)
        change += f"\n{sign} {line[1:].partition('  #')[0].strip()}".rstrip()
    return change


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--since", metavar="REVISION", help="only what changed since")
    parser.add_argument("--minutes", type=float, default=600, help="stop after these")
    options = parser.parse_args()
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.chdir(ROOT)
    text = (TOOLS / "equivalent_mutants.txt").read_text("utf-8")
    text = "\n".join(re.findall(r"(?m)^[^@\n](?:.+\n)+", text))  # with a reason
    listed = set(re.findall(r"(?m)^@ .+\n-.*\n\+.*", text))

    workers = os.cpu_count(), get_context("fork"), enter_copy
    with tempfile.TemporaryDirectory() as name:
        pool = futures.ProcessPoolExecutor(*workers, (Path(name).resolve(),))
        specs = find_mutants(options.since, Path(name))
        changes = [describe(spec) for spec in specs]
        todo = [n for n, change in enumerate(changes) if change not in listed]
        runs, outcomes = dict[futures.Future[bool], str](), Counter[bool]()
        try:
            # The system tests, too, must pass without a mutant.
            check = [] if options.since else [pool.submit(survives, [], system_tests())]
            by_line = pool.submit(find_unit_tests).result(60 * options.minutes)
            [run.result() for run in check]
            left = 60 * options.minutes - (time.monotonic() - start)
            for number in todo:
                tests = unit_tests(specs[number], by_line), system_tests(specs[number])
                runs[pool.submit(survives, [specs[number]], *tests)] = changes[number]
            for run in futures.as_completed(runs, max(0, left)):
                outcomes[run.result()] += 1
                if run.result():
                    print(f"Survived:\n{runs[run]}\n", flush=True)
        except (futures.TimeoutError, KeyboardInterrupt):
            print("Stopped.")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in psutil.Process().children():
                process.terminate()
            pool.shutdown()
    unused = set() if options.since else listed - set(changes)
    for change in sorted(unused):
        print(f"Listed, but not made any more:\n{change}\n")
    print(
        f"{len(specs)} mutants: {outcomes[False]} killed, {len(specs) - len(todo)}"
        f" equivalent, {outcomes[True]} UNEXPLAINED, {len(todo) - outcomes.total()}"
        f" not run, in {(time.monotonic() - start) / 60:.0f} minutes"
    )
    return 1 if outcomes[True] or unused else 0


if __name__ == "__main__":
    sys.exit(main())
