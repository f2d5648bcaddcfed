"""The message: the values of an event's fields, taken from the project and the run."""

from __future__ import annotations

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
    TOOLS,
    VERSION,
    build_event,
    build_message,
    count_objects,
    hash_name,
    round_count,
)

SALT = bytes(range(32))


def build(args: list[str], metadata: Any = None, **counts: int) -> dict[str, Any]:
    """Return what is sent of this command."""
    event = json.loads(build_event(build_message(args, metadata, counts, SALT)))
    support.check_event(event)
    properties: dict[str, Any] = event["properties"]
    return properties


def test_the_event_of_a_command_in_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    metadata = SimpleNamespace(
        package_name="acme", tools="['Linting', 'Testing']", example_pipeline="False"
    )
    assert build(["run", "--env", "test"], metadata, number_of_nodes=7) == {
        "username": hash_name("somebody", "username", SALT),
        "package_name": hash_name("acme", "package_name", SALT),
        "command": "kedro run --env *****",
        "project_version": kedro_version,
        "telemetry_version": VERSION,
        "python_version": f"3.{sys.version_info[1]}",
        "os": "linux",
        "tools": "Linting, Testing",
        "example_pipeline": "False",
        "number_of_nodes": 7,
    }


def test_outside_of_a_project_no_field_of_a_project_is_sent() -> None:
    properties = build(["info"])
    properties.pop("project_version")
    assert list(properties) == [
        *("username", "command", "telemetry_version", "python_version", "os")
    ]


def test_metadata_without_tools_and_name_is_understood() -> None:
    """As Kedro before 0.19 makes it."""
    for name in ("", None):
        assert "package_name" not in build(["run"], SimpleNamespace(package_name=name))
    assert "package_name" in build(["run"], SimpleNamespace(package_name="acme"))


@pytest.mark.parametrize("name", ["acme", "\udcff\udc80", "a\0b", "x" * 100_000])
def test_a_package_name_is_hashed(name: str) -> None:
    message = build_message([], SimpleNamespace(package_name=name), {}, SALT)
    assert json.loads(message)["package_name"] == hash_name(name, "package_name", SALT)
    assert name not in message.decode()


def test_only_tools_of_kedro_are_named() -> None:
    for tools, expected in (
        ("['Linting', 'Testing']", "Linting, Testing"),
        (["Linting", "Testing"], "Linting, Testing"),
        (("Kedro Viz",), "Kedro Viz"),
        ("['Testing', 'Linting', 'Testing', 'acme']", "Linting, Testing"),
        (str(list(TOOLS)), ", ".join(TOOLS)),
        ("['None']", None),
        ("['acme Linting']", None),
        ("Linting", None),
        ([], None),
        (None, None),
        (12, None),
    ):
        found = build(["run"], SimpleNamespace(tools=tools)).get("tools")
        assert found == expected, tools


def test_the_example_pipeline_is_true_or_false() -> None:
    for value, expected in (
        *(("True", "True"), ("False", "False"), (True, "True"), (False, "False")),
        *((None, None), ("yes", None), (1, None)),
    ):
        metadata = SimpleNamespace(example_pipeline=value)
        assert build(["run"], metadata).get("example_pipeline") == expected


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters()), st.lists(st.text(st.characters()), max_size=4))
def test_whatever_a_project_says_its_event_is_valid(text: str, args: list[str]) -> None:
    metadata = SimpleNamespace(package_name=text, tools=text, example_pipeline=text)
    assert build(args, metadata)["username"]


# --- Counts ---


@pytest.mark.parametrize(
    ("count", "rounded"),
    [
        *((n, n) for n in (0, 1, 9, 10, 42, 99, 100, 110, 990)),
        *((101, 100), (104, 100), (106, 110), (123, 120), (994, 990), (999, 1000)),
        *((1234, 1200), (9999, 10_000), (123_456_789, 120_000_000)),
    ],
)
def test_a_count_has_two_significant_digits(count: int, rounded: int) -> None:
    assert round_count(count) == rounded
    assert build(["run"], number_of_nodes=rounded)["number_of_nodes"] == rounded


REGISTRY = """
from kedro.pipeline import node, pipeline

def one():
    return 1

def register_pipelines():
    ds = pipeline([node(one, None, "a"), node(one, None, "b")])
    return {"__default__": ds + pipeline([node(one, None, "c")]), "ds": ds}
"""
WHOLE = {"number_of_datasets": 1, "number_of_nodes": 3, "number_of_pipelines": 2}
PART = {"number_of_datasets": 1}
CATALOG = SimpleNamespace(keys=lambda: ["a", "parameters", "params:a", "params:a.b"])


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Kedro's own `pipelines`, of a project whose pipelines are not loaded yet."""
    name = f"registry_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path))
    pipelines.configure(name)
    yield pipelines
    pipelines.configure()


def test_a_run_of_the_whole_project_is_counted(registry: Any) -> None:
    assert len(registry) == 2
    selections: list[dict[str, Any]] = [
        {},
        {"pipeline_name": None},  # Kedro 0.18 and 0.19
        {"pipeline_names": None},  # KedroSession of Kedro 1
        {"pipeline_names": []},
        {"pipeline_names": ["__default__"]},  # KedroServiceSession
        {"pipeline_name": "__default__"},
    ]
    for run_params in selections:
        assert count_objects(run_params, CATALOG) == WHOLE, run_params


def test_a_run_of_some_pipelines_has_no_counts_of_the_whole(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(registry) == 2
    assert count_objects({"pipeline_name": "ds"}, CATALOG) == PART
    for names in (["ds"], ["__default__", "ds"]):
        assert count_objects({"pipeline_names": names}, CATALOG) == PART
    # All that Kedro has loaded.
    monkeypatch.setattr(registry, "_requested_pipelines", ["ds"], raising=False)
    assert count_objects({}, CATALOG) == PART


def test_counts_are_rounded() -> None:
    catalog = SimpleNamespace(keys=lambda: [f"dataset {n}" for n in range(123)])
    counts = count_objects({"pipeline_name": "ds"}, catalog)
    assert counts == {"number_of_datasets": 120}


def test_counting_loads_no_pipelines(registry: Any) -> None:
    assert count_objects({}, CATALOG) == PART
    assert not registry._is_data_loaded


@pytest.mark.parametrize("name", ["_is_data_loaded", "_nodes_by_name"])
def test_if_kedros_private_attributes_change_only_counts_are_lost(
    name: str, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(registry) == 2
    holder = registry if name == "_is_data_loaded" else registry["__default__"]
    monkeypatch.delattr(holder, name)
    assert count_objects({}, CATALOG) == PART


def test_without_the_list_of_requested_pipelines_the_run_is_counted(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kedro before 1.7 has no such list."""
    assert len(registry) == 2
    monkeypatch.delattr(registry, "_requested_pipelines", raising=False)
    assert count_objects({}, CATALOG) == WHOLE


def test_an_error_in_a_catalog_loses_only_its_count(registry: Any) -> None:
    assert len(registry) == 2
    rest = {name: count for name, count in WHOLE.items() if name not in PART}
    for catalog in (None, SimpleNamespace(keys=lambda: [1]), SimpleNamespace(keys=1)):
        assert count_objects({}, catalog) == rest


def test_the_names_of_kedros_catalogs_are_counted_and_nothing_is_loaded() -> None:
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
    assert count_objects({"pipeline_name": "x"}, catalog) == {"number_of_datasets": 3}
    assert repr(catalog) == before


def test_catalogs_of_old_kedros_list_their_names() -> None:
    catalog = SimpleNamespace(list=lambda: ["a", "parameters", "params:b"])
    assert count_objects({"pipeline_name": "x"}, catalog) == PART


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
from kedro.framework import session as kedro
from kedro.framework.startup import bootstrap_project

bootstrap_project(Path.cwd())
for name in ("KedroSession", "KedroServiceSession"):
    for arguments in ({}, {"pipeline_name": "ds"}):
        if name == "KedroServiceSession" and arguments:
            arguments = {"pipeline_names": ["ds"]}
        if hasattr(kedro, name):
            with getattr(kedro, name).create(project_path=Path.cwd()) as session:
                session.run(**arguments)
"""


def test_the_sessions_of_the_installed_kedro_are_counted(tmp_path: Path) -> None:
    support.make_bare_project(tmp_path, SETTINGS, REGISTRY)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    none = {"number_of_datasets": 0}
    assert len(counts) in (2, 4)
    assert counts == [WHOLE | none, none] * (len(counts) // 2)
