"""The message: the values of an event's fields, taken from the project and the run."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro import __version__ as kedro_version

from kedro_telemetry import plugin
from kedro_telemetry.plugin import count_objects, hash_name


def build(counts: dict[str, int] | None = None, **metadata: Any) -> dict[str, Any]:
    """Return what is sent of `kedro run` in a project with these metadata."""
    message = plugin.build_message(
        "kedro run", SimpleNamespace(**metadata), counts or {}
    )
    assert len(message) <= plugin.MAX_MESSAGE
    event = json.loads(plugin.build_event(message))
    support.check_event(event)
    properties: dict[str, Any] = event["properties"]
    return properties


def test_the_fields_of_a_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support.own_folder(home).mkdir(parents=True)
    salt = plugin.find_salt()
    found = build({"number_of_nodes": 7}, package_name="acme", tools="['Linting', 'x']")
    assert found == {
        "username": hash_name("somebody", "username", salt),
        "package_name": hash_name("acme", "package_name", salt),
        "command": "kedro run",
        "project_version": kedro_version,
        "telemetry_version": "2.0.0+hardened",
        "python_version": f"3.{sys.version_info[1]}",
        "os": sys.platform,
        "tools": "Linting",
        "number_of_nodes": 7,
    }
    if sys.platform == "win32":  # its files cannot be opened as on other systems
        return
    monkeypatch.setattr(sys, "platform", "freebsd13")
    outside = plugin.build_message("kedro info", None, {})
    properties = json.loads(plugin.build_event(outside))["properties"]
    assert {"package_name", "tools", "example_pipeline"} & set(properties) == set()
    assert properties["os"] == "other"


LONG = "x" * 200_000
TOOLS: list[tuple[Any, str | None]] = [
    *(("['Testing', 'Linting', 'Testing', 'acme']", "Linting, Testing"),),
    *((["Linting", "Testing"], "Linting, Testing"), (("Kedro Viz",), "Kedro Viz")),
    *((f"['{LONG}', 'PySpark']", "PySpark"), ("['None']", None), ("Linting", None)),
    *(("['acme Linting']", None), (LONG, None), ([], None), (None, None), (12, None)),
]
EXAMPLES: list[tuple[Any, str | None]] = [
    *(("True", "True"), ("False", "False"), (True, "True"), (False, "False")),
    *(("", None), (None, None), ("yes", None), (1, None), ("True" + LONG, None)),
    *((LONG, None), ("Falsehood", None)),
]


def test_only_tools_of_kedro_and_true_or_false_are_sent() -> None:
    for tools, expected in TOOLS:
        assert build(tools=tools).get("tools") == expected
    for example, expected in EXAMPLES:
        assert build(example_pipeline=example).get("example_pipeline") == expected


@settings(max_examples=support.examples(50), deadline=None)
@given(st.text(st.characters()))
def test_whatever_a_project_says_none_of_it_is_sent(text: str) -> None:
    name = f"acme {text}"
    properties = build(package_name=name, tools=name, example_pipeline=name)
    assert len(properties["package_name"]) == 32
    assert not {"tools", "example_pipeline"} & set(properties)
    assert "acme" not in str(properties)


def test_no_algorithm_but_sha_256_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a Python for FIPS 140, which has neither BLAKE2 nor MD5."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ValueError("disabled for FIPS")

    for name in {*hashlib.algorithms_guaranteed, "new"} - {"sha256"}:
        monkeypatch.setattr(hashlib, name, refuse)
    assert build(package_name="acme")["package_name"]


def test_counts_have_two_significant_digits_and_no_parameters() -> None:
    same = [(n, n) for n in (0, 1, 9, 10, 42, 99, 100, 110, 990)]
    rounded = [(101, 100), (106, 110), (123, 120), (994, 990), (999, 1000)]
    for count, expected in [*same, *rounded, (1234, 1200), (123_456, 120_000)]:
        names = ["params_x", *[f"parameters_{n}" for n in range(count)]][:count]
        names += ["parameters", "params:a", "params:a.b"]
        # Before Kedro 1.0, a catalog has `list`.
        for method in ("keys", "list"):
            catalog = SimpleNamespace(**{method: lambda names=names: names})
            found = count_objects({"pipeline_names": ["ds"]}, catalog)
            assert found == {"number_of_datasets": expected}
        assert build(found)["number_of_datasets"] == expected


REGISTRY = """
from kedro.pipeline import node, pipeline

def one():
    return 1

def register_pipelines():
    ds = pipeline([node(one, None, "a"), node(one, None, "b")])
    return {"__default__": ds + pipeline([node(one, None, "c")]), "ds": ds}
"""
SETTINGS = """
import json
from kedro.framework.hooks import hook_impl
from kedro_telemetry.plugin import count_objects

class Counter:
    @hook_impl
    def before_pipeline_run(self, run_params, catalog):
        print(json.dumps(count_objects(run_params, catalog)))

HOOKS = (Counter(),)
"""
RUNS = """
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

bootstrap_project(Path.cwd())
for arguments in ({}, {"pipeline_name": "ds"}):
    with KedroSession.create(project_path=Path.cwd()) as session:
        session.run(**arguments)
"""


def test_only_a_run_of_all_pipelines_counts_them(tmp_path: Path) -> None:
    support.make_bare_project(tmp_path, SETTINGS, REGISTRY)
    dataset = "MemoryDataSet" if support.KEDRO_018 else "MemoryDataset"
    catalog = "".join(
        f"{name}: {{type: {dataset}}}\n" for name in ("a", "parameters_b")
    )
    (tmp_path / "conf" / "base" / "catalog.yml").write_text(catalog)
    (tmp_path / "conf" / "base" / "parameters.yml").write_text("secret: 1\n")
    command = [sys.executable, "-W", "ignore", "-c", RUNS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    part = {"number_of_datasets": 2}
    assert counts == [part | {"number_of_nodes": 3, "number_of_pipelines": 2}, part]
