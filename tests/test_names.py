"""The names that others rely on, and the limits of the file itself."""

from __future__ import annotations

import ast
import importlib
import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import support

import kedro_telemetry
from kedro_telemetry import plugin

SOURCE = support.PLUGIN.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
(GATE,) = [n for n in TREE.body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"]


def imported(tree: ast.AST) -> set[str]:
    """The top-level packages that this code imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_module", "__import__"):
            found.add(ast.literal_eval(node.args[0]).split(".")[0])
    return found


# --- Names ---
def test_project_metadata_is_kedros_own() -> None:
    from kedro.framework.startup import ProjectMetadata

    assert plugin.ProjectMetadata is ProjectMetadata
    assert importlib.import_module("kedro_telemetry.plugin").ProjectMetadata is ProjectMetadata


@pytest.mark.parametrize(
    "name",
    [
        "_get_heap_app_id",
        "_get_or_create_uuid",
        "_get_project_properties",
        "_send_heap_event",
        "_is_valid_syntax",
        "KedroTelemetryCLIHooks",
        "KedroTelemetryProjectHooks",
        "cli_hook",
        "project_hook",
    ],
)
def test_a_name_that_must_be_absent(name: str) -> None:
    """Kedro-Viz takes its absence as "not installed"."""
    with pytest.raises(ImportError, match=name):
        exec(f"from kedro_telemetry.plugin import {name}", {})
    with pytest.raises(AttributeError, match=name):
        getattr(plugin, name)


@pytest.mark.parametrize("name", ["telemetry_hook", "main", "parse_consent", "mask_command", "ProjectMetadata"])
def test_a_name_that_others_rely_on(name: str) -> None:
    assert getattr(plugin, name) is not None


@pytest.mark.parametrize(
    ("consent", "expected"),
    [("consent: true\n", True), ("consent: false\n", False), ("", False), ("noise: [", False), (None, False)],
)
def test_the_check_for_consent_is_a_bool(consent: str | None, expected: bool, tmp_path: Path) -> None:
    if consent is not None:
        (tmp_path / ".telemetry").write_text(consent)
    for project in (tmp_path, str(tmp_path)):
        assert plugin._check_for_telemetry_consent(project) is expected
    assert plugin._check_for_telemetry_consent(None) is False
    assert sorted(os.listdir(tmp_path)) == ([] if consent is None else [".telemetry"])


def test_the_check_for_consent_never_asks(tmp_path: Path) -> None:
    """At a terminal, with no answer yet: it prints nothing, reads nothing, and writes nothing."""
    pty = pytest.importorskip("pty")
    script = "import sys; from kedro_telemetry.plugin import _check_for_telemetry_consent as check; print(check({!r}))"
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.execv(sys.executable, [sys.executable, "-c", script.format(str(tmp_path))])
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # the terminal is gone: so is the child
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert shown.split() == [b"False"]
    assert os.listdir(tmp_path) == []


# --- Version ---
def test_the_version_is_one() -> None:
    assert plugin.VERSION == kedro_telemetry.__version__ == distribution("kedro-telemetry").version == "1.0.0+hardened"


def test_the_version_satisfies_kedros_requirement() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    needed = [requirements.Requirement(text) for text in distribution("kedro").requires or []]
    for requirement in needed:
        if requirement.name == "kedro-telemetry":
            assert requirement.specifier.contains(plugin.VERSION)
    assert requirements.Requirement("kedro-telemetry>=0.5.0").specifier.contains(plugin.VERSION)


def test_the_only_dependency_is_kedro() -> None:
    needed = [text for text in distribution("kedro-telemetry").requires or [] if "extra ==" not in text]
    assert needed == ["kedro>=0.18.1"]


def test_the_package_holds_three_files() -> None:
    files = {path.name for path in support.PLUGIN.parent.iterdir() if path.name != "__pycache__"}
    assert files == {"__init__.py", "plugin.py", "py.typed"}


# --- What is imported ---
def test_the_file_imports_the_standard_library_kedro_and_pluggy() -> None:
    assert imported(TREE) - set(sys.stdlib_module_names) == {"kedro", "pluggy"}


def test_the_senders_part_imports_the_standard_library_alone() -> None:
    """Down to the wall, beyond which the sender process never gets."""
    above = ast.Module([node for node in TREE.body if node.lineno <= GATE.lineno], [])
    assert imported(above) <= set(sys.stdlib_module_names)
    assert GATE.lineno < SOURCE.split("--- THE WALL")[0].count("\n") + 1
    network = {"ssl", "socket", "http", "urllib", "email", "faulthandler"}
    below = ast.Module([node for node in TREE.body if node.lineno > GATE.lineno], [])
    assert imported(below) & network == set()


def test_no_file_is_opened_and_no_code_is_run_above_the_wall() -> None:
    above = [node for node in TREE.body if node.lineno <= GATE.lineno]
    called = {ast.unparse(call.func) for node in above for call in ast.walk(node) if isinstance(call, ast.Call)}
    assert not called & {"open", "os.open", "exec", "eval", "compile", "__import__", "subprocess.run", "os.system"}


def loaded_by(script: str) -> set[str]:
    """The modules that a fresh process has loaded at the end of this script, but for those that it calls `known`."""
    script = f"known = set()\n{script}\nloaded = set(__import__('sys').modules) - known\n"
    script += "import json; print(json.dumps(sorted(loaded)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"ssl", "socket", "http", "http.client", "urllib.request", "email", "asyncio", "logging", "requests", "yaml"}
# A whole command that is on, with a sender that is started: what it loads beyond what `before` has loaded.
COMMAND = """
import os, pathlib, tempfile, types
folder = pathlib.Path(tempfile.mkdtemp())
(folder / ".telemetry").write_text("consent: true")
known = set(__import__("sys").modules)
from kedro_telemetry.plugin import STARTED, telemetry_hook as hook
hook.before_command_run(types.SimpleNamespace(project_path=folder, package_name="acme"), ["info"])
hook.after_command_run()
(sender,) = STARTED
sender.wait()
"""


@pytest.mark.parametrize(
    "before", ["import kedro, pluggy", "import kedro.framework.session", "import kedro.framework.cli.cli"]
)
def test_a_command_loads_nothing_heavy(before: str) -> None:
    """From whatever Kedro has loaded already, the plugin adds none of these."""
    added = loaded_by(f"{before}\n{COMMAND}")
    assert "kedro_telemetry.plugin" in added
    assert added & HEAVY == set()
    assert not {name for name in added if name.startswith("kedro.framework")}


def test_a_session_does_not_load_kedros_command_line() -> None:
    """A worker process or a service loads the plugin as a hook: not the command line with it."""
    script = (
        "import kedro.framework.session; from kedro.framework.hooks.manager import _create_hook_manager as make, "
        "_register_hooks_entry_points as register; register(make(), [])"
    )
    loaded = loaded_by(script)
    assert "kedro_telemetry.plugin" in loaded
    assert not {name for name in loaded if name.startswith("kedro.framework.cli")}


def test_import_prints_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", "import kedro_telemetry.plugin"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert os.listdir(tmp_path) == os.listdir(home) == []


# --- Size ---
def functions() -> list[ast.FunctionDef]:
    return [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]


def lines(function: ast.FunctionDef) -> int:
    """Docstring, comments and decorators included."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or 0) - first + 1


def test_the_file_is_at_most_450_lines() -> None:
    assert SOURCE.count("\n") <= 450
    assert max(len(line) for line in SOURCE.splitlines()) <= 120


def test_the_sender_has_a_second_to_start() -> None:
    """Gone within 5 seconds; its own clock starts when the interpreter has."""
    assert plugin.DEADLINE + 1 <= 5


def test_the_sender_imports_at_the_priority_of_its_command() -> None:
    """At the lowest one, a machine that is busy does not end the imports before the deadline: the event is lost."""
    (send,) = (function for function in functions() if function.name == "send")
    imports = [line.lineno for line in ast.walk(send) if isinstance(line, ast.Import | ast.ImportFrom)]
    (nice,) = (line.lineno for line in ast.walk(send) if isinstance(line, ast.Constant) and line.value == "nice")
    assert max(imports) < nice


def test_functions_are_short() -> None:
    sizes = {function.name: lines(function) for function in functions()}
    assert {name: size for name, size in sizes.items() if size > 25} == {}
    assert statistics.median(lines(function) for function in functions()) <= 10


@pytest.mark.parametrize(
    ("call", "times"),
    [
        ("json.dumps", 1),  # in `seal`
        ("seal", 2),  # an event that is built, an event that is checked
        ("start_sender", 1),
        ("subprocess.Popen", 1),
        ("ask", 1),
        ("make_salt", 1),
        ("os.urandom", 2),  # the salt, and that of a preview
        ("os.open", 2),  # `read_own`, `write_new`
        ("os.makedirs", 1),
        ("opener.open", 1),
    ],
)
def test_what_a_reader_looks_for_is_in_one_place(call: str, times: int) -> None:
    calls = [node for node in ast.walk(TREE) if isinstance(node, ast.Call) and ast.unparse(node.func) == call]
    assert len(calls) == times


def test_the_file_says_where_the_wall_is() -> None:
    body: list[Any] = TREE.body
    assert [ast.unparse(line) for line in GATE.body] == ["sys.exit(send())"]
    assert SOURCE.count("THE WALL") == 2, "the docstring, and the wall"
    assert body.index(GATE) > 0
