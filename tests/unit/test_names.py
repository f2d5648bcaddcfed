"""The names that others rely on, and what the file imports and loads."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
import support
from packaging.requirements import Requirement

import kedro_telemetry
from kedro_telemetry import plugin

TREE = ast.parse(support.PLUGIN.read_text("utf-8"))
(WALL,) = [
    node
    for node in TREE.body
    if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
]
# Where Kedro uses each of them, it takes their absence for "not installed".
ABSENT = (
    *("_get_heap_app_id", "_get_or_create_uuid", "_get_project_properties"),
    *("_send_heap_event", "KedroTelemetryCLIHooks", "cli_hook", "project_hook"),
)


# --- Names ---


def test_the_names_that_others_use_are_there() -> None:
    from kedro.framework.startup import ProjectMetadata

    from kedro_telemetry.plugin import ProjectMetadata as Found

    assert Found is ProjectMetadata
    assert plugin.mask_command(["run"]) == "kedro run"
    assert plugin.parse_consent(b"consent: true") is True
    assert callable(plugin.main)
    assert plugin.telemetry_hook.command is None


@pytest.mark.parametrize("name", ABSENT)
def test_the_names_that_would_turn_on_others_are_absent(name: str) -> None:
    assert not hasattr(plugin, name)
    with pytest.raises(ImportError, match=name):
        exec(f"from kedro_telemetry.plugin import {name}", {})
    assert find_spec("kedro_telemetry.api") is None


def test_the_check_that_kedro_patches_is_a_bool_and_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "can_ask", lambda: True)
    check = plugin._check_for_telemetry_consent
    assert check(None) is False
    assert check(tmp_path) is check(str(tmp_path)) is False
    assert os.listdir(tmp_path) == []
    (tmp_path / ".telemetry").write_text("consent: true\n")
    assert check(tmp_path) is check(str(tmp_path)) is True
    (tmp_path / ".telemetry").write_text("consent: false\n")
    assert check(tmp_path) is False


# --- The distribution ---


def test_there_is_one_version_and_kedro_accepts_it() -> None:
    assert plugin.VERSION == kedro_telemetry.__version__ == "1.1.0+hardened"
    assert distribution("kedro-telemetry").version == plugin.VERSION
    for text in (*(distribution("kedro").requires or []), "kedro-telemetry>=0.5.0"):
        requirement = Requirement(text)
        if requirement.name == "kedro-telemetry":
            assert requirement.specifier.contains(plugin.VERSION)


def test_the_only_dependency_is_kedro() -> None:
    needed = distribution("kedro-telemetry").requires or []
    assert [text for text in needed if "extra ==" not in text] == ["kedro>=0.18.1"]
    files = {path.name for path in support.PLUGIN.parent.glob("[!_]*")}
    assert files == {"plugin.py", "py.typed"}


# --- What the file imports ---


def imports(nodes: list[ast.stmt]) -> set[str]:
    """Return the modules that this code imports."""
    found = set()
    for node in ast.walk(ast.Module(nodes, [])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module))
    return found


def packages(nodes: list[ast.stmt]) -> set[str]:
    return {name.partition(".")[0] for name in imports(nodes)}


def test_only_the_standard_library_kedro_and_pluggy_are_imported() -> None:
    standard = set(sys.stdlib_module_names)
    assert packages(TREE.body) - standard == {"kedro", "pluggy"}
    above = [node for node in TREE.body if node.lineno <= WALL.lineno]
    assert packages(above) <= standard, "the sender ends at the wall"
    below = [node for node in TREE.body if node.lineno > WALL.lineno]
    network = {"ssl", "socket", "http", "urllib", "email", "asyncio", "ftplib"}
    assert packages(below) & network == set()
    assert [ast.unparse(node) for node in WALL.body] == ["send()", "sys.exit()"]


def test_every_import_is_a_statement_and_no_code_is_built() -> None:
    hidden = {"__import__", "import_module", "exec", "eval", "compile", "setattr"}
    names = {node.id for node in ast.walk(TREE) if isinstance(node, ast.Name)}
    attributes = {
        node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)
    }
    assert (names | attributes | imports(TREE.body)) & {*hidden, "importlib"} == set()


def test_no_attribute_of_a_module_is_replaced() -> None:
    changed = {
        ast.unparse(node.value)
        for node in ast.walk(TREE)
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    }
    assert changed <= {"self", "sender"}


# --- What is loaded ---

HEAVY = {
    *("ssl", "socket", "http", "http.client", "urllib.request", "email", "asyncio"),
    *("logging", "requests", "yaml", "kedro.framework.cli", "kedro.framework.project"),
}
# A command with this answer, from its start to its end. Prints what it has loaded.
COMMAND = """
import json, pathlib, sys, types
{before}
known = set(sys.modules)
import kedro_telemetry.plugin
imported = set(sys.modules) - known
hook = kedro_telemetry.plugin.telemetry_hook
metadata = types.SimpleNamespace(project_path=pathlib.Path({project!r}))
hook.before_command_run(metadata, ["info"])
hook.after_command_run()
added = set(sys.modules) - known - imported
senders = len(kedro_telemetry.plugin.sender_ids)
print(json.dumps([sorted(imported), sorted(added), senders]))
"""


def modules_loaded(project: Path, before: str) -> tuple[set[str], set[str], int]:
    """Return what the import of the plugin loads, and what a command then loads.

    And the number of senders that were started.
    """
    script = COMMAND.format(project=str(project), before=before)
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    imported, added, senders = json.loads(done.stdout)
    return set(imported), set(added), senders


@pytest.mark.parametrize(
    "before", ["import kedro, pluggy", "import kedro.framework.cli"]
)
def test_a_command_that_sends_loads_nothing_heavy(before: str, tmp_path: Path) -> None:
    (tmp_path / ".telemetry").write_text("consent: true\n")
    imported, added, senders = modules_loaded(tmp_path, before)
    assert senders == 1
    assert (imported | added) & HEAVY == set()


@pytest.mark.parametrize("consent", ["consent: false\n", None])
def test_off_loads_nothing_more_and_writes_nothing(
    consent: str | None, tmp_path: Path, home: Path
) -> None:
    if consent:
        (tmp_path / ".telemetry").write_text(consent)
    imported, added, senders = modules_loaded(tmp_path, "import kedro, pluggy")
    assert senders == 0
    assert imported - {"select"} == {"kedro_telemetry", "kedro_telemetry.plugin"}
    assert added == set()
    assert os.listdir(tmp_path) == ([".telemetry"] if consent else [])
    assert os.listdir(home) == []


def test_a_session_does_not_load_kedros_command_line() -> None:
    """In a worker process or a service."""
    script = (
        "import sys; from kedro.framework.hooks import manager;"
        "made = manager._create_hook_manager();"
        "manager._register_hooks_entry_points(made, []);"
        "print('kedro_telemetry.plugin' in sys.modules,"
        " 'kedro.framework.cli' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
