"""The message: the values of an event's fields, taken from the project and the run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro import __version__ as kedro_version
from kedro.framework.project import pipelines
from kedro.io import DataCatalog

from kedro_telemetry.plugin import (
    MAX_MESSAGE,
    build_event,
    build_message,
    count_objects,
    find_salt,
    hash_name,
)


def build(metadata: Any = None, counts: dict[str, int] | None = None) -> dict[str, Any]:
    """Return what is sent of `kedro run`."""
    message = build_message("kedro run", metadata, counts or {})
    assert len(message) <= MAX_MESSAGE
    event = json.loads(build_event(message))
    support.check_event(event)
    properties: dict[str, Any] = event["properties"]
    return properties


def test_the_event_of_a_command_in_a_project(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.own_folder(home).mkdir(parents=True)
    salt = find_salt()
    metadata = SimpleNamespace(
        package_name="acme", tools="['Linting', 'Testing']", example_pipeline="False"
    )
    expected = {
        "username": hash_name("somebody", "username", salt),
        "package_name": hash_name("acme", "package_name", salt),
        "command": "kedro run",
        "project_version": kedro_version,
        "telemetry_version": "2.0.0+hardened",
        "python_version": f"3.{sys.version_info[1]}",
        "os": sys.platform,
        "tools": "Linting, Testing",
        "example_pipeline": "False",
        "number_of_nodes": 7,
    }
    assert build(metadata, {"number_of_nodes": 7}) == expected
    monkeypatch.setattr(sys, "platform", "freebsd13")
    assert build()["os"] == "other"


def test_outside_of_a_project_no_field_of_a_project_is_sent() -> None:
    for metadata in (None, SimpleNamespace(), SimpleNamespace(package_name="")):
        properties = build(metadata)
        properties.pop("project_version", None)  # a pre-release of Kedro has none
        names = ["username", "command", "telemetry_version", "python_version", "os"]
        assert list(properties) == names


LONG = "x" * 200_000
TOOLS: list[tuple[Any, str | None]] = [
    ("['Linting', 'Testing']", "Linting, Testing"),
    (["Linting", "Testing"], "Linting, Testing"),
    (("Kedro Viz",), "Kedro Viz"),
    ("['Testing', 'Linting', 'Testing', 'acme']", "Linting, Testing"),
    (f"['{LONG}', 'PySpark']", "PySpark"),
    *(("['None']", None), ("['acme Linting']", None), ("Linting", None)),
    *((LONG, None), ([], None), (None, None), (12, None)),
]
EXAMPLES: list[tuple[Any, str | None]] = [
    *(("True", "True"), ("False", "False"), (True, "True"), (False, "False")),
    *(("", None), (None, None), ("yes", None), (1, None), ("True" + LONG, None)),
    *((LONG, None), ("Falsehood", None)),
]


def test_only_tools_of_kedro_and_true_or_false_are_sent() -> None:
    for tools, expected in TOOLS:
        assert build(SimpleNamespace(tools=tools)).get("tools") == expected
    for example, expected in EXAMPLES:
        metadata = SimpleNamespace(example_pipeline=example)
        assert build(metadata).get("example_pipeline") == expected


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters()))
def test_whatever_a_project_says_none_of_it_is_sent(text: str) -> None:
    name = f"acme {text}"
    metadata = SimpleNamespace(package_name=name, tools=name, example_pipeline=name)
    properties = build(metadata)
    assert len(properties["package_name"]) == 32
    assert not {"tools", "example_pipeline"} & set(properties)
    assert "acme" not in str(properties)


def test_an_event_is_built_where_only_approved_algorithms_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a Python for FIPS 140, which has neither BLAKE2 nor MD5."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ValueError("disabled for FIPS")

    for name in {*hashlib.algorithms_guaranteed, "new"} - {"sha256"}:
        monkeypatch.setattr(hashlib, name, refuse)
    monkeypatch.setitem(sys.modules, "_blake2", None)
    assert build(SimpleNamespace(package_name="acme"))["package_name"]


# --- Counts ---

REGISTRY = """
from kedro.pipeline import node, pipeline

def one():
    return 1

def register_pipelines():
    ds = pipeline([node(one, None, "a"), node(one, None, "b")])
    return {"__default__": ds + pipeline([node(one, None, "c")]), "ds": ds}
"""
PARTS: dict[str, Any] = {"pipeline_names": ["ds"]}
CATALOG = SimpleNamespace(
    keys=lambda: ["a", "parameters", "params:a", "params:a.b", "parameters_x", "params"]
)


def test_counts_have_two_significant_digits() -> None:
    counts = [(n, n) for n in (0, 1, 9, 10, 42, 99, 100, 110, 990)]
    counts += [(101, 100), (106, 110), (123, 120), (994, 990), (999, 1000)]
    for count, rounded in [*counts, (1234, 1200), (9999, 10_000), (123_456, 120_000)]:
        names = [f"dataset {number}" for number in range(count)]
        found = count_objects(PARTS, SimpleNamespace(keys=lambda n=names: n))
        assert found == {"number_of_datasets": rounded}
        assert build(None, found)["number_of_datasets"] == rounded


@pytest.fixture
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kedro's own `pipelines`, of a project with two of them."""
    name = f"registry_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path))
    pipelines.configure(name)
    yield
    pipelines.configure()


@pytest.mark.usefixtures("_registry")
def test_only_a_run_of_the_whole_project_has_the_numbers_of_nodes_and_pipelines() -> (
    None
):
    """Parameters are not datasets. A dataset may have a similar name."""
    part = {"number_of_datasets": 3}
    whole = part | {"number_of_nodes": 3, "number_of_pipelines": 2}
    empty: list[dict[str, Any]] = [
        *({}, {"pipeline_name": None}, {"pipeline_names": None}, {"pipeline_names": []})
    ]
    for run_params in empty:
        assert count_objects(run_params, CATALOG) == whole, run_params
    for run_params in (PARTS, {"pipeline_name": "ds"}):
        assert count_objects(run_params, CATALOG) == part, run_params
    listing = SimpleNamespace(list=CATALOG.keys)  # of Kedro before 1.0
    assert count_objects({}, listing) == whole


def test_the_names_of_kedros_catalog_are_counted_and_nothing_is_loaded() -> None:
    dataset = "MemoryDataSet" if support.KEDRO_018 else "MemoryDataset"
    catalog = DataCatalog.from_config(
        {name: {"type": dataset} for name in ("a", "b", "params_of_mine")}
    )
    feed: dict[str, Any] = {"parameters": {"secret": 1}, "params:secret": 1}
    if hasattr(catalog, "add_feed_dict"):
        catalog.add_feed_dict(feed)
    else:
        for name, value in feed.items():
            catalog[name] = value
    before = repr(catalog)
    assert count_objects(PARTS, catalog) == {"number_of_datasets": 3}
    assert repr(catalog) == before


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


def test_a_session_of_the_installed_kedro_is_counted(tmp_path: Path) -> None:
    support.make_bare_project(tmp_path, SETTINGS, REGISTRY)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    part = {"number_of_datasets": 0}
    whole = part | {"number_of_nodes": 3, "number_of_pipelines": 2}
    assert counts == [whole, part]
