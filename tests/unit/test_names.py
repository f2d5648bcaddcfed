"""The names that others rely on, and what the file imports and loads."""

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
    if isinstance(node, ast.If)
    and ast.unparse(node.test) == "__name__ == '__main__'"
    and ast.unparse(node.body[-1]) == "sys.exit()"
]


def test_the_names_that_others_use_are_there_and_some_are_absent() -> None:
    from kedro.framework.startup import ProjectMetadata

    from kedro_telemetry.plugin import ProjectMetadata as Found

    assert Found is ProjectMetadata
    assert callable(plugin.main)
    # Where Kedro's tools use these, they take their absence for "not installed".
    for name in (
        *("_get_heap_app_id", "_get_or_create_uuid", "_get_project_properties"),
        *("_send_heap_event", "KedroTelemetryCLIHooks", "cli_hook", "project_hook"),
    ):
        with pytest.raises(ImportError, match=name):
            exec(f"from kedro_telemetry.plugin import {name}", {})
    assert find_spec("kedro_telemetry.api") is None


def test_the_check_that_kedro_patches_is_a_bool_of_both_yeses(agreed: Path) -> None:
    check = plugin._check_for_telemetry_consent
    assert check(agreed) is check(str(agreed)) is True
    (agreed / "other").mkdir()
    (agreed / "other" / ".telemetry").write_bytes(b"consent: true\n")
    assert check(agreed / "other") is check(str(agreed / "other")) is False


def test_kedro_accepts_the_version_and_is_the_only_dependency() -> None:
    assert plugin.VERSION == kedro_telemetry.__version__ == "2.0.0+hardened"
    assert distribution("kedro-telemetry").version == plugin.VERSION
    for text in (*(distribution("kedro").requires or []), "kedro-telemetry>=0.5.0"):
        requirement = Requirement(text)
        if requirement.name == "kedro-telemetry":
            assert requirement.specifier.contains(plugin.VERSION)
    needed = distribution("kedro-telemetry").requires or []
    assert [text for text in needed if "extra ==" not in text] == ["kedro>=0.18.1"]
    files = {path.name for path in support.PLUGIN.parent.glob("[!_]*")}
    assert files == {"plugin.py", "py.typed"}


def imports(nodes: list[ast.stmt]) -> set[str]:
    """Return the packages that this code imports."""
    found = set()
    for node in ast.walk(ast.Module(nodes, [])):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).partition(".")[0])
    return found


def test_only_the_standard_library_kedro_and_pluggy_are_imported() -> None:
    standard = set(sys.stdlib_module_names)
    assert imports(TREE.body) - standard == {"kedro", "pluggy"}
    above = [node for node in TREE.body if node.lineno <= WALL.lineno]
    assert imports(above) <= standard, "the sender ends at the wall"
    below = [node for node in TREE.body if node.lineno > WALL.lineno]
    network = {"ssl", "socket", "http", "urllib", "email", "asyncio", "ftplib"}
    assert imports(below) & network == set()
    names = {node.id for node in ast.walk(TREE) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}
    hidden = {"__import__", "import_module", "exec", "eval", "compile", "setattr"}
    assert names & hidden == set()
    assert imports(TREE.body) & {"importlib", "ctypes"} == set()
    attributes = [node for node in ast.walk(TREE) if isinstance(node, ast.Attribute)]
    changed = [node.value for node in attributes if not isinstance(node.ctx, ast.Load)]
    assert {ast.unparse(value) for value in changed} <= {"self", "parser", "sender"}


HEAVY = {
    *("ssl", "socket", "http", "http.client", "urllib.request", "email", "asyncio"),
    *("argparse", "logging", "requests", "yaml"),
    *("kedro.framework.cli", "kedro.framework.project"),
}
# A command, from its start to its end. Prints what it has loaded.
COMMAND = """
import json, sys, types
import kedro, pluggy
known = set(sys.modules)
import kedro_telemetry.plugin
imported = set(sys.modules) - known
hook = kedro_telemetry.plugin.telemetry_hook
hook.before_command_run(types.SimpleNamespace(project_path=sys.argv[1]), ["info"])
hook.after_command_run()
added = set(sys.modules) - known - imported
senders = len(kedro_telemetry.plugin.senders)
print(json.dumps([sorted(imported), sorted(added), senders]))
"""


def test_a_command_loads_nothing_heavy_and_off_loads_nothing(
    agreed: Path, home: Path
) -> None:
    off = agreed / "off"
    off.mkdir()
    for project, count in ((agreed, 1), (off, 0)):
        command = [sys.executable, "-W", "ignore", "-c", COMMAND, str(project)]
        done = subprocess.run(command, cwd=agreed, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        imported, added, senders = json.loads(done.stdout)
        assert senders == count
        assert {*imported, *added} & HEAVY == set()
    assert added == []
    assert os.listdir(off) == []
