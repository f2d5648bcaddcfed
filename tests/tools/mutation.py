"""Mutation testing: change one thing in plugin.py at a time; some test must fail.

    .venv/bin/python tests/tools/mutation.py              all of plugin.py, an hour
    .venv/bin/python tests/tools/mutation.py --since REV  what changed since REV

cosmic-ray makes the changes (the mutants) and runs the tests, in copies of the
checkout that have their own environments, so that the sender runs the mutant too.
A mutant that survives is printed as equivalent_mutants.txt lists it: write a test, or
add it there with the reason why no test can notice it. The exit status is 1 if there
is such a mutant, or if the list has one that is not made any more.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import OPERATOR_PROVIDERS, get_operator
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome
from parso.python.tree import Keyword

ROOT = Path(__file__).resolve().parent.parent.parent
PLUGIN = Path("kedro_telemetry/plugin.py")
SOURCE = (ROOT / PLUGIN).read_text("utf-8")
LINES = SOURCE.split("\n")
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")

# By the titles in plugin.py: the test files that are tried first. What stands above all
# titles, such as the time limits, has those of the sender.
SECTIONS = {
    "Masking": "unit/test_masking.py",
    "The event": "unit/test_event.py system/test_sender.py",
    "The request": "unit/test_request.py system/test_sender.py system/test_network.py",
    "The sender": "unit/test_sender.py system/test_servers.py system/test_sender.py"
    " system/test_network.py",
    "Files": "unit/test_files.py system/test_silence.py",
    "The terminal": "unit/test_terminal.py system/test_question.py",
    "Git": "unit/test_git.py",
    "Consent": "unit/test_consent.py system/test_question.py",
    "The salt": "unit/test_salt.py system/test_silence.py system/test_commands.py",
    "The message": "unit/test_message.py system/test_commands.py",
    "Starting the sender": "unit/test_hooks.py system/test_sender.py"
    " system/test_commands.py",
    "The hooks": "unit/test_hooks.py system/test_commands.py system/test_silence.py",
    "Names": "unit/test_names.py",
    "The command": "unit/test_cli.py system/test_cli.py",
}
# These follow for every mutant that still survives.
OTHERS = "unit --ignore=tests/unit/test_documents.py"
LIMIT = 120  # seconds for one test command. Then, the mutant counts as killed.

# The others make mutants that crash at once, or that are like those of another one.
OPERATORS = re.compile(
    r"own/RemoveStatement|core/(AddNot|ExceptionReplacer|NumberReplacer"
    r"|RemoveDecorator|ZeroIterationForLoop|ReplaceUnaryOperator_Delete_(Not|USub)"
    r"|Replace(TrueWithFalse|FalseWithTrue|AndWithOr|OrWithAnd)"
    r"|Replace(BreakWithContinue|ContinueWithBreak)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Add|FloorDiv_Mul|LShift_RShift)"
    r"|ReplaceBinaryOperator_(BitOr_BitAnd|BitAnd_BitOr))"
)


class RemoveStatement(Operator):  # type: ignore[misc]
    """Replaces a statement in a function by `pass`. cosmic-ray has no such operator."""

    TYPES = ("atom_expr", "expr_stmt", "raise_stmt", "return_stmt", "yield_expr")

    def mutation_positions(self, node: Any) -> Any:
        is_statement = node.type in self.TYPES and node.parent.type == "simple_stmt"
        if is_statement and node.search_ancestor("funcdef"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


OPERATOR_PROVIDERS["own"] = {"RemoveStatement": RemoveStatement}


def find_mutants() -> list[MutationSpec]:
    with use_db(":memory:") as database:
        init([PLUGIN], database, {})
        specs = [item.mutations[0] for item in database.work_items]
    return [
        spec
        for spec in specs
        if OPERATORS.fullmatch(spec.operator_name)
        # In annotations, `|` is no operator.
        and not (
            "BitOr" in spec.operator_name and "| None" in LINES[spec.start_pos[0] - 1]
        )
    ]


def changed_lines(revision: str) -> set[int]:
    """Return the lines of all functions and other blocks that changed since then."""
    command = ["git", "diff", "--unified=0", revision, "--", str(PLUGIN)]
    diff = subprocess.check_output(command, text=True)
    changed = set[int]()
    for start, count in re.findall(r"^@@.*\+(\d+),?(\d*) @@", diff, re.MULTILINE):
        changed.update(range(int(start), int(start) + int(count or 1) + 1))
    lines = set[int]()
    for node in ast.parse(SOURCE).body:
        block = set(range(node.lineno, (node.end_lineno or 0) + 1))
        lines |= block if block & changed else set()
    return lines


def commands_for(spec: MutationSpec) -> list[str]:
    """Return the commands that test this place, in the order in which they run."""
    above = reversed(LINES[: spec.start_pos[0]])
    titles = [line[6:] for line in above if line.startswith("# --- ")]
    title = titles[0] if titles else "The sender"
    files = next(v for k, v in SECTIONS.items() if title.startswith(k))
    return [
        f"timeout {LIMIT} .venv/bin/python -m pytest -x -q -n 0 -p no:cacheprovider"
        f" --hypothesis-profile=mutation tests/{tests}"
        for tests in (*files.split(), OTHERS)
    ]


def survives(mutants: list[MutationSpec], commands: list[str]) -> bool:
    """Return whether these tests pass with these mutants, in this process's copy."""
    script = f"ulimit -v 8000000; {' && '.join(commands)}"
    limit = LIMIT * len(commands)
    result = mutate_and_test(mutants, f"sh -c {shlex.quote(script)}", limit)
    if result.test_outcome == TestOutcome.INCOMPETENT:
        raise RuntimeError(result.output)
    return bool(result.test_outcome == TestOutcome.SURVIVED)


def enter_copy(folder: str) -> None:
    """Make a copy of the checkout, with an environment, for this process."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listing, text=True).splitlines():
        if Path(name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, copy / name)
    os.chdir(copy)
    # A file in the place of the folder keeps Python from storing a mutant's byte code.
    PLUGIN.with_name("__pycache__").touch()
    venv.create(".venv", with_pip=True)
    install = [".venv/bin/python", "-m", "pip", "install", "-qq", "-e", ".[test]"]
    subprocess.run(install, check=True)


def describe(spec: MutationSpec) -> str:
    """Return a change as the list shows it: its first line as it was and as it is."""
    mutant = mutate_code(SOURCE, get_operator(spec.operator_name)(), spec.occurrence)
    diff = list(difflib.unified_diff(LINES, mutant.split("\n"), n=0))[3:]
    change = f"@ {spec.definition_name}"
    for sign in "-+":
        lines = [line for line in diff if line.startswith(sign) and line[1:].strip()]
        line = lines[0] if lines else sign  # a decorator that goes leaves no line
        change += f"\n{sign} {line[1:].partition('  #')[0].strip()}"
    return change


def try_mutant(spec: MutationSpec, reasons: dict[str, str]) -> tuple[str, str]:
    """Return what became of a mutant, and the change as the list shows it."""
    change = describe(spec)
    if change in reasons:
        return "equivalent", change
    return "UNEXPLAINED" if survives([spec], commands_for(spec)) else "killed", change


def read_reasons() -> dict[str, str]:
    """Return the reason of each change in the list. It stands above its changes."""
    reasons = dict[str, str]()
    for paragraph in EQUIVALENT.read_text("utf-8").split("\n\n"):
        reason, *changes = re.split(r"^(?=@ )", paragraph, flags=re.MULTILINE)
        reasons.update((change.strip(), reason) for change in changes if reason)
    return reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--since", metavar="REV", help="only what changed since REV")
    parser.add_argument("--minutes", type=float, default=600, help="stop after this")
    options = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)
    specs, reasons, count = find_mutants(), read_reasons(), Counter[str]()
    if options.since:
        lines = changed_lines(options.since)
        specs = [spec for spec in specs if spec.start_pos[0] in lines]
    random.shuffle(specs)
    unused = set(reasons)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(os.cpu_count(), None, enter_copy, (folder,)) as pool,
    ):
        tests = sorted({command for spec in specs for command in commands_for(spec)})
        passed = pool.map(survives, [[]] * len(tests), [[test] for test in tests])
        if failed := [test for test, ok in zip(tests, passed, strict=True) if not ok]:
            sys.exit("\n".join(["These tests fail without a mutant:", *failed]))
        futures = [pool.submit(try_mutant, spec, reasons) for spec in specs]
        for future in as_completed(futures):
            outcome, change = future.result()
            count[outcome] += 1
            unused.discard(change)
            if outcome == "UNEXPLAINED":
                print(f"Survived:\n{change}", flush=True)
            if time.monotonic() > start + 60 * options.minutes:
                pool.shutdown(cancel_futures=True)
                break
    count["not run"] = len(specs) - count.total()
    if options.since or count["not run"]:
        unused.clear()
    for change in sorted(unused):
        print(f"Listed, but not made any more:\n{change}")
    parts = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
    minutes = (time.monotonic() - start) / 60
    print(f"{len(specs)} mutants: {parts}, in {minutes:.0f} minutes")
    return 1 if count["UNEXPLAINED"] or unused else 0


if __name__ == "__main__":
    sys.exit(main())
