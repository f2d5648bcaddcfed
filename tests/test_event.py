"""The event: closed forms, one way out, counts that are only observed."""

from __future__ import annotations

import json
import sys
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

from kedro_telemetry import plugin
from kedro_telemetry.plugin import FIELDS, MASK, MAX_COMMAND, MAX_URL, TOOLS, VERSION, build, headers, observe, seal

DIGEST = "0123456789abcdef" * 2
COUNTS = ("number_of_datasets", "number_of_nodes", "number_of_pipelines")
GOOD: dict[str, Any] = {
    "username": DIGEST,
    "package_name": DIGEST[::-1],
    "command": "kedro run --pipeline *****",
    "project_version": "1.7.0",
    "telemetry_version": VERSION,
    "python_version": "3.11",
    "os": "linux",
    "tools": "Linting, Kedro Viz",
    "example_pipeline": "False",
    "number_of_datasets": 12,
    "number_of_nodes": 120,
    "number_of_pipelines": 3,
}
LONGEST: dict[str, Any] = GOOD | {
    "command": f"kedro run -v{f' {MASK}' * ((MAX_COMMAND - 12) // 6)}",
    "project_version": "11.22.33333",
    "python_version": "3.99",
    "tools": ", ".join(TOOLS),
    **dict.fromkeys(COUNTS, 990_000_000),
}
SALT = bytes(range(32))
KEDROS_TOOLS = "Linting, Testing, Custom Logging, Documentation, Data Structure, PySpark, Kedro Viz"


class Text(str):
    """A string whose type is not `str`: it could answer every check with what the check wants."""

    __slots__ = ()


class Number(int):
    pass


def sealed(**properties: Any) -> dict[str, Any]:
    """The properties that `seal` lets out."""
    kept: dict[str, Any] = json.loads(seal(properties))["properties"]
    return kept


# --- seal ---
def test_the_envelope_is_what_the_collector_knows() -> None:
    assert json.loads(seal(GOOD)) == {
        "app_id": "2388822444",
        "event": "Kedro Project Statistics",
        "identity": DIGEST,
        "properties": GOOD,
    }


def test_the_table_names_all_fields() -> None:
    assert list(FIELDS) == list(GOOD)


@pytest.mark.parametrize("name", COUNTS)
def test_an_event_with_any_count_is_of_statistics(name: str) -> None:
    assert json.loads(seal({name: 0}))["event"] == "Kedro Project Statistics"


@pytest.mark.parametrize("properties", [{}, {k: v for k, v in GOOD.items() if k not in COUNTS}, {COUNTS[0]: -1}])
def test_an_event_without_counts_is_of_a_command(properties: dict[str, Any]) -> None:
    assert json.loads(seal(properties))["event"] == "CLI command"


def test_an_identity_that_has_not_its_form_is_left_out_of_the_envelope_too() -> None:
    assert json.loads(seal(GOOD | {"username": "ada"}))["identity"] is None


def test_the_input_is_left_as_it_is() -> None:
    properties = GOOD | {"secret": 1}
    seal(properties)
    assert properties == GOOD | {"secret": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("username", "0" * 32),
        ("command", "kedro"),
        ("command", "kedro *****"),
        ("command", LONGEST["command"]),
        ("project_version", "0.18.14"),
        ("project_version", "2"),
        ("project_version", "11.22.33333"),
        ("python_version", "3.9"),
        ("python_version", "3.14"),
        *(("os", system) for system in ("linux", "darwin", "win32", "other")),
        *(("tools", tool) for tool in TOOLS),
        ("tools", ", ".join(TOOLS)),
        ("example_pipeline", "True"),
        ("example_pipeline", "False"),
        *((COUNTS[0], count) for count in (0, 1, 9, 10, 99, 100, 110, 990, 1000, 12_000, 990_000_000)),
    ],
)
def test_a_value_that_has_its_form_leaves(name: str, value: Any) -> None:
    assert sealed(**{name: value}) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("username", "package_name")
            for value in ("", "ada", DIGEST[1:], DIGEST + "0", DIGEST.upper(), DIGEST[1:] + "g", DIGEST[1:] + "\n")
        ),
        ("username", "\u0660" * 32),  # Arabic zeros
        ("command", ""),
        ("command", " kedro"),
        ("command", "kedro "),
        ("command", "kedro  run"),
        ("command", "kedro run\n"),
        ("command", "python run"),
        ("command", "kedro ds"),
        ("command", "kedro run --env test"),
        ("command", "kedro run --env=*****"),
        ("command", "kedro run --pipeline ***** run"),
        ("command", "kedro run --secret"),
        ("command", "kedro run ****"),
        ("command", f"{LONGEST['command']} {MASK}"),
        ("command", "kedro run" + " -v" * 10_000),
        ("project_version", ""),
        ("project_version", "."),
        ("project_version", "1."),
        ("project_version", "1.0.0rc1"),
        ("project_version", "1.0.0+acme"),
        ("project_version", "1.0.0\n"),
        ("project_version", "-1.0"),
        ("project_version", "111.222.3333"),
        ("project_version", "\u0661.0"),
        ("project_version", "\u00b2.0"),
        ("telemetry_version", "1.0.0"),
        ("telemetry_version", VERSION + " "),
        ("python_version", "3.11.7"),
        ("python_version", "3."),
        ("python_version", "2.7"),
        ("python_version", "3.123"),
        ("python_version", "3.1a"),
        ("python_version", "3.-1"),
        ("python_version", "3.\u0661"),
        ("python_version", "3.11\n"),
        ("os", "Linux"),
        ("os", "linux2"),
        ("os", ""),
        ("os", "l"),
        ("tools", ""),
        ("tools", "Linting,Testing"),
        ("tools", "Linting, Linting"),
        ("tools", "Testing, Linting"),
        ("tools", "Linting, acme"),
        ("tools", "Linting, "),
        ("tools", "linting"),
        ("tools", "None"),
        ("tools", "['Linting']"),
        ("example_pipeline", "true"),
        ("example_pipeline", "None"),
        ("example_pipeline", ""),
        ("example_pipeline", "Tru"),
        *(
            (name, value)
            for name in COUNTS
            for value in (-1, -10, 101, 111, 123, 999, 1001, 10_001, 123_000, 10**9, 10**12)
        ),
    ],
)
def test_a_value_that_has_not_its_form_is_left_out(name: str, value: Any) -> None:
    assert sealed(**GOOD | {name: value}) == {k: v for k, v in GOOD.items() if k != name}


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_of_another_type_is_left_out(name: str) -> None:
    good = GOOD[name]
    wrong: list[Any] = [None, True, False, 1.0, 12.0, float("nan"), float("inf"), b"x", [good], (good,), {good: good}]
    wrong += [object(), type, 0j, {}, []]
    wrong += [Text(good), 12, b"12"] if isinstance(good, str) else [Number(good), str(good)]
    for value in wrong:
        assert name not in sealed(**{name: value}), repr(value)


def test_the_tools_are_those_that_kedro_names() -> None:
    """Each passes, Kedro Viz of older releases among them."""
    assert json.loads(seal({"tools": KEDROS_TOOLS}))["properties"] == {"tools": KEDROS_TOOLS}
    starters = pytest.importorskip("kedro.framework.cli.starters")
    named = getattr(starters, "NUMBER_TO_TOOLS_NAME", {})  # from Kedro 0.19 on
    assert set(named.values()) <= set(KEDROS_TOOLS.split(", "))


@pytest.mark.parametrize("name", ["secret", "Username", "app_id", "identity", "event", "properties", "", "path"])
def test_a_field_that_nobody_knows_never_appears(name: str) -> None:
    for value in (DIGEST, 1, "kedro"):
        assert seal(GOOD | {name: value}) == seal(GOOD)


def test_a_count_of_more_digits_than_python_prints_is_left_out() -> None:
    assert sealed(number_of_nodes=10**5000) == {}


def test_the_order_of_the_input_does_not_show() -> None:
    assert seal(dict(reversed(GOOD.items()))) == seal(GOOD)


HOSTILE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(), max_size=40),
        st.binary(max_size=40),
        st.sampled_from([*GOOD.values(), *LONGEST.values()]),
        st.sampled_from([Text("True"), Number(1), object(), float("nan")]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.one_of(st.sampled_from(list(FIELDS)), st.text(max_size=10)), HOSTILE, max_size=14))
def test_what_is_sealed_seals_to_the_same_bytes(properties: dict[str, Any]) -> None:
    """Idempotent; nothing but the fields; each a value of the input that has the exact type of its field."""
    event = seal(properties)
    decoded = json.loads(event)
    assert seal(decoded["properties"]) == event
    assert list(decoded) == ["app_id", "event", "identity", "properties"]
    for name, value in decoded["properties"].items():
        assert value == properties[name]
        assert type(value) is type(properties[name]) is type(GOOD[name])
    assert decoded["identity"] == decoded["properties"].get("username")
    event.decode("ascii")


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in GOOD.items()}))
def test_every_subset_of_good_values_leaves_whole(properties: dict[str, Any]) -> None:
    assert sealed(**properties) == properties


@pytest.mark.parametrize("properties", [None, [], [["username", DIGEST]], "username", 1])
def test_what_is_no_mapping_is_an_error(properties: Any) -> None:
    """For the sender that is: an error ends it. Never a sealed event."""
    with pytest.raises(AttributeError):
        seal(properties)


def test_the_headers() -> None:
    """Names, values and order, as any collector may rely on them."""
    assert headers("https://collector.example:8443/track", b"{}") == (
        "Host: collector.example:8443\nUser-Agent: kedro-telemetry/1.0.0+hardened\nContent-Type: application/json\n"
        "Content-Length: 2\nAccept-Encoding: identity\nConnection: close"
    )


def test_the_largest_request_is_below_one_and_a_half_kib() -> None:
    """The longest of each field to the longest endpoint, with all headers."""
    assert len(LONGEST["command"]) == MAX_COMMAND
    assert sealed(**LONGEST) == LONGEST
    for prefix in ("https://", "http://[::1]:65535/"):
        url = (prefix + "h" * MAX_URL)[:MAX_URL]
        event = seal(LONGEST)
        target = url.partition("://")[2].partition("/")[2]
        lines = [f"POST /{target} HTTP/1.1", *headers(url, event).split("\n"), "", ""]
        assert len("\r\n".join(lines).encode() + event) <= 1536


# --- build ---
def metadata(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(package_name="acme", tools="['None']", example_pipeline="False", **values)


def built(args: list[str], project: Any, counts: dict[str, int] | None = None) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(build(args, project, counts or {}, SALT))["properties"]
    return kept


def test_a_whole_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    project = metadata()
    properties = built(["run", "--env", "test"], project, dict(zip(COUNTS, (5, 7, 2), strict=True)))
    assert properties == {
        "username": properties["username"],
        "package_name": properties["package_name"],
        "command": "kedro run --env *****",
        "project_version": kedro_version,
        "telemetry_version": VERSION,
        "python_version": f"3.{sys.version_info[1]}",
        "os": "linux",
        "example_pipeline": "False",
        "number_of_datasets": 5,
        "number_of_nodes": 7,
        "number_of_pipelines": 2,
    }


def test_outside_of_a_project_there_is_no_package() -> None:
    """As preview shows it."""
    assert set(built(["info"], None)) == {
        "username",
        "command",
        "project_version",
        "telemetry_version",
        "python_version",
        "os",
    }


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("['Linting', 'Testing']", "Linting, Testing"),
        ("['None']", None),
        (["Linting", "Testing"], "Linting, Testing"),
        (["None"], None),
        (("Kedro Viz",), "Kedro Viz"),
        ([], None),
        (None, None),
        ("", None),
        ("['Testing', 'Linting', 'Testing']", "Linting, Testing"),
        ("['Linting', 'acme']", "Linting"),
        ("['acme Linting']", None),
        ("Linting", None),
        (str(list(TOOLS)), ", ".join(TOOLS)),
        ("\udcff['PySpark']", "PySpark"),
        (12, None),
    ],
)
def test_tools_are_of_kedros_own(tools: Any, expected: str | None) -> None:
    assert built(["run"], SimpleNamespace(package_name="acme", tools=tools)).get("tools") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("True", "True"), ("False", "False"), (True, "True"), (False, "False"), (None, None), ("yes", None), (1, None)],
)
def test_the_example_pipeline_is_true_or_false(value: Any, expected: str | None) -> None:
    assert built(["run"], SimpleNamespace(example_pipeline=value)).get("example_pipeline") == expected


@pytest.mark.parametrize("name", ["acme", "\udcff\udc80", "a\x00b", "\u00e4", "x" * 100_000])
def test_a_package_name_leaves_as_a_digest(name: str) -> None:
    digest = built(["run"], SimpleNamespace(package_name=name))["package_name"]
    assert len(digest) == 32
    assert name not in digest


@pytest.mark.parametrize("name", [None, ""])
def test_no_package_name_leaves_no_digest(name: str | None) -> None:
    assert "package_name" not in built(["run"], SimpleNamespace(package_name=name))


def test_metadata_without_tools_as_old_kedros_make_it() -> None:
    assert set(built(["run"], SimpleNamespace(package_name="acme"))) >= {"package_name", "username"}


@pytest.mark.parametrize("version", ["1.8.0.dev0", "1.7.0+acme.internal"])
def test_a_kedro_of_ones_own_is_not_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "kedro_version", version)
    assert "project_version" not in built(["run"], None)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((n, n) for n in (0, 1, 9, 10, 42, 99, 100, 110)),
        (101, 100),
        (104, 100),
        (106, 110),
        (123, 120),
        (994, 990),
        (999, 1000),
        (1234, 1200),
        (9999, 10_000),
        (123_456_789, 120_000_000),
    ],
)
def test_a_count_above_99_has_two_significant_digits(number: int, shown: int) -> None:
    assert [built(["run"], None, {name: number})[name] for name in COUNTS] == [shown] * 3


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 980_000_000))
def test_a_rounded_count_always_has_its_form(number: int) -> None:
    shown = built(["run"], None, {COUNTS[0]: number})[COUNTS[0]]
    assert abs(shown - number) <= number * 0.05
    assert number > 99 or shown == number


def test_the_largest_counts_are_left_out() -> None:
    assert COUNTS[0] not in built(["run"], None, {COUNTS[0]: 10**9})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters()), max_size=5), st.text(st.characters()), HOSTILE, HOSTILE)
def test_whatever_the_project_says_the_event_is_sealed(args: list[str], package: str, tools: Any, example: Any) -> None:
    event = build(args, SimpleNamespace(package_name=package, tools=tools, example_pipeline=example), {}, SALT)
    assert seal(json.loads(event)["properties"]) == event
    assert json.loads(event)["identity"]


# --- observe: nothing is loaded for a look ---
REGISTRY = """
from pathlib import Path
from kedro.pipeline import node, pipeline

def one():
    return 1

def same(number):
    return number

def register_pipelines():
    with Path(__file__).with_name("loaded").open("a") as file:
        file.write("x")
    ds = pipeline([node(one, None, "a"), node(same, "a", "b")])
    return {"__default__": ds + pipeline([node(same, "b", "c")]), "ds": ds}
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kedro's own `pipelines`, configured for a registry that notes each time it is loaded."""
    module = f"registry_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path))
    pipelines.configure(module)
    yield tmp_path / "loaded"
    pipelines.configure()


@pytest.fixture
def catalog() -> Any:
    """Kedro's own catalog with three datasets and the parameters."""
    factory = DataCatalog.from_config
    memory = {"type": support.MEMORY_DATASET}
    found = factory({"a": memory, "b": memory, "params_of_mine": memory})
    add_feed = getattr(found, "add_feed_dict", None)
    feed = {"parameters": {"secret": 1}, "params:secret": 1, "params:secret.deep": 2}
    if add_feed:
        add_feed(feed)
    else:
        for name, value in feed.items():
            found[name] = value
    return found


def test_datasets_nodes_and_pipelines_are_counted(registry: Path, catalog: Any) -> None:
    """Parameters are no datasets. Kedro has loaded the pipelines for this run before."""
    assert set(pipelines) == {"__default__", "ds"}
    assert observe({"pipeline_name": None}, catalog) == dict(zip(COUNTS, (3, 3, 2), strict=True))
    assert registry.read_text() == "x", "loaded once, and not for the look"


def test_a_look_loads_no_pipeline(registry: Path, catalog: Any) -> None:
    assert observe({"pipeline_name": None}, catalog) == {"number_of_datasets": 3}
    assert not registry.exists()
    assert not pipelines._is_data_loaded


@pytest.mark.parametrize(
    "run_params", [{"pipeline_name": "ds"}, {"pipeline_names": ["ds"]}, {"pipeline_names": ["ds", "__default__"]}]
)
def test_a_run_that_names_pipelines_reports_no_part_as_the_whole(
    run_params: dict[str, Any], registry: Path, catalog: Any
) -> None:
    assert len(pipelines) == 2
    assert observe(run_params, catalog) == {"number_of_datasets": 3}


@pytest.mark.parametrize(
    "run_params", [{}, {"pipeline_name": None}, {"pipeline_names": None}, {"pipeline_names": []}, {"pipeline_name": ""}]
)
def test_a_run_of_the_default_pipeline_reports_all(run_params: dict[str, Any], registry: Path, catalog: Any) -> None:
    assert len(pipelines) == 2
    assert observe(run_params, catalog)["number_of_pipelines"] == 2


def test_a_look_asks_the_catalog_for_names_alone(registry: Path) -> None:
    """Neither a value nor a dataset: to get one could load it."""

    class Names:
        def keys(self) -> list[str]:
            return ["a", "parameters", "params:b", "params", "parameters_of_mine"]

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"a look at {name}")

    assert observe({}, Names()) == {"number_of_datasets": 3}


def test_the_catalogs_of_old_kedros_list_their_names(registry: Path) -> None:
    assert observe({}, SimpleNamespace(list=lambda: ["a", "parameters", "params:b"])) == {"number_of_datasets": 1}


@pytest.mark.skipif(kedro_version.startswith("0.18"), reason="Kedro 0.18 has one catalog: it makes no dataset lazily")
def test_a_dataset_is_not_made_for_a_look(registry: Path) -> None:
    """The catalog's datasets whose libraries are missing, or whose files are: counted, never touched."""
    catalog_class = getattr(__import__("kedro.io", fromlist=["io"]), "KedroDataCatalog", DataCatalog)
    lazy = catalog_class.from_config({"a": {"type": "kedro.io.MemoryDataset"}, "b": {"type": "kedro.io.MemoryDataset"}})
    before = repr(lazy)
    assert observe({}, lazy) == {"number_of_datasets": 2}
    assert repr(lazy) == before
