"""The event: only the fields of the table are sent, each in its fixed format."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import (
    COMMANDS,
    COUNT,
    FIELDS,
    MAX_MESSAGE,
    MAX_WORDS,
    TOOLS,
    VERSION,
    build_event,
    mask_command,
)

HASH = "0123456789abcdef" * 2
COUNTS = ("number_of_datasets", "number_of_nodes", "number_of_pipelines")
GOOD = support.PROPERTIES


def longest_command() -> str:
    """Return the longest text that stands for a command."""
    return max(
        (
            mask_command([*name.split(), *[option] * MAX_WORDS])
            for name, options in COMMANDS.items()
            for option in " ".join(options).split()
        ),
        key=len,
    )


LONGEST_COMMAND = longest_command()


def build(values: Any) -> dict[str, Any]:
    """Return the event that is sent for a message with these values."""
    event: dict[str, Any] = json.loads(build_event(json.dumps(values).encode()))
    return event


def test_the_event_has_the_form_that_the_collector_knows() -> None:
    event = build(GOOD)
    assert event == {
        "app_id": "2388822444",
        "event": "Kedro Project Statistics",
        "identity": HASH,
        "properties": GOOD,
    }
    assert list(event["properties"]) == list(FIELDS)
    support.check_event(event)


def test_the_json_schema_has_the_fields_of_the_table() -> None:
    described = support.SCHEMA["properties"]["properties"]["properties"]
    assert list(described) == list(FIELDS) == list(GOOD)


def test_the_event_is_compact_json() -> None:
    message = {"username": HASH, "command": "kedro run"}
    assert build_event(json.dumps(message).encode()).decode() == (
        f'{{"app_id":"2388822444","event":"CLI command","identity":"{HASH}",'
        f'"properties":{{"username":"{HASH}","command":"kedro run"}}}}'
    )


def test_an_event_with_a_count_is_named_project_statistics() -> None:
    plain = {name: value for name, value in GOOD.items() if name not in COUNTS}
    assert build(plain)["event"] == "CLI command"
    for name in COUNTS:
        assert build(plain | {name: 0})["event"] == "Kedro Project Statistics"
        assert build(plain | {name: -1})["event"] == "CLI command"


VALID: list[tuple[str, list[Any]]] = [
    ("username", ["0" * 32]),
    ("command", ["kedro", "kedro *****", LONGEST_COMMAND]),
    ("command", [f"kedro {name}" for name in COMMANDS]),
    ("project_version", ["0.18.14", "1.7", "100.200.300"]),
    ("python_version", ["3.9", "3.14"]),
    ("os", ["linux", "darwin", "win32", "other"]),
    ("tools", [*TOOLS, ", ".join(TOOLS)]),
    ("example_pipeline", ["True", "False"]),
    *((name, [0, 9, 10, 99, 100, 990, 1200, 990_000_000]) for name in COUNTS),
]


def test_a_value_in_the_right_format_is_sent() -> None:
    for name, values in VALID:
        for value in values:
            event = build(GOOD | {name: value})
            assert event["properties"] == GOOD | {name: value}
            support.check_event(event)


def test_every_public_command_with_any_option_can_be_sent() -> None:
    for name, options in COMMANDS.items():
        for option in " ".join(options).split():
            support.check_event(build(GOOD | {"command": f"kedro {name} {option}"}))


NO_HASH = ["", "ada", HASH[1:], HASH + "0", HASH.upper(), HASH[1:] + "g", HASH + "\n"]
INVALID: list[tuple[str, list[Any]]] = [
    ("package_name", [*NO_HASH, "\u0660" * 32]),  # Arabic zeros
    ("project_version", ["", "2", "1.", "1.0.0.0", "1.2024", "1.0.0\n", "\u0661.0"]),
    ("project_version", ["1.0.0rc1", "1.0.0+acme"]),
    ("telemetry_version", ["1.1.0", VERSION + " ", "1x1x0+hardened"]),
    ("python_version", ["3.11.7", "3.123", "3.", "2.7", "3.11\n", "3.\u0661"]),
    ("os", ["Linux", "linux2", "cygwin", ""]),
    ("tools", ["", "linting", "Linting,Testing", "Linting, acme", "Linting, "]),
    ("tools", ["['Linting']", ", ".join([*TOOLS, TOOLS[0]])]),
    ("example_pipeline", ["true", "None", ""]),
    *((name, [-1, 101, 123, 1001, 10_001, 10**9, 10**1000]) for name in COUNTS),
]


def test_a_value_in_a_wrong_format_is_dropped() -> None:
    for name, values in INVALID:
        rest = {key: GOOD[key] for key in GOOD if key != name}
        for value in values:
            event = build(GOOD | {name: value})
            assert event["properties"] == rest, (name, value)


def test_a_value_of_another_type_is_dropped() -> None:
    for name, (kind, _) in FIELDS.items():
        if name in ("username", "command"):  # see below
            continue
        good = GOOD[name]
        other = str(good) if kind is int else 12
        for value in (None, True, 1.0, 12.0, [good], {"value": good}, other):
            assert name not in build(GOOD | {name: value})["properties"], (name, value)


@pytest.mark.parametrize(
    "command",
    [
        None,
        12,
        ["kedro"],
        "",
        " kedro",
        "kedro ",
        "kedro  run",
        "kedro run\n",
        "python run",
        "kedro ds",
        "kedro acme-report",
        "kedro run --env test",
        "kedro run --env=*****",
        "kedro run --pipeline ***** run",
        "kedro run --secret",
        "kedro run --yes",
        "kedro run ****",
        "kedro run *****s3cret",
        "kedro mycmd --help",
        "kedro -- *****",
        "kedro run" + " --async" * 31,
    ],
)
def test_an_event_without_a_masked_command_is_not_sent(command: Any) -> None:
    with pytest.raises((ValueError, KeyError)):
        build(GOOD | {"command": command})


def test_an_event_without_a_user_is_not_sent() -> None:
    for username in (None, 12, [HASH], *NO_HASH):
        with pytest.raises(KeyError):
            build(GOOD | {"username": username})


def test_a_field_that_is_not_in_the_table_is_never_sent() -> None:
    for name in ("secret", "Username", "app_id", "identity", "event", "properties", ""):
        assert build(GOOD | {name: "kedro"}) == build(GOOD)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"kedro",
        b"null",
        b"[]",
        b'"command"',
        b"12",
        b'[["command", "kedro"]]',
        b"{}",
        b'{"command": "kedro"',
        b'{"command": "kedro"} {}',
        b'{"command": "kedro"}\0',
        b'{"command": "kedro", "username": \xff}',
        b"[" * 4000,
        b"9" * 4096,
    ],
)
def test_a_malformed_message_is_an_error(message: bytes) -> None:
    with pytest.raises((ValueError, KeyError, AttributeError, RecursionError)):
        build_event(message)


def test_a_message_has_at_most_4096_bytes() -> None:
    message = json.dumps(GOOD).encode()
    assert build_event(message.ljust(4096)) == build_event(message)
    with pytest.raises(ValueError, match="too long"):
        build_event(message.ljust(MAX_MESSAGE + 1))


def test_the_longest_event_is_shorter_than_1536_bytes() -> None:
    values = GOOD | {
        "command": LONGEST_COMMAND,
        "project_version": "100.200.300",
        "tools": ", ".join(TOOLS),
        **dict.fromkeys(COUNTS, 990_000_000),
    }
    event = build_event(json.dumps(values).encode())
    assert list(json.loads(event)["properties"]) == list(FIELDS)
    assert len(event) < 1536, "README.md says so"


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(), max_size=20),
        st.sampled_from([*GOOD.values(), *NO_HASH, "1.7", "other", "True", 1200]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=4,
)
NAME = st.one_of(st.sampled_from(list(FIELDS)), st.text(max_size=8))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAME, ANYTHING, max_size=12))
def test_whatever_the_message_only_its_good_values_are_sent(
    values: dict[str, Any],
) -> None:
    values |= {name: GOOD[name] for name in ("username", "command")}
    properties = build(values)["properties"]
    for name, value in properties.items():
        assert value == values[name]
        assert type(value) is type(GOOD[name])
    assert build(properties)["properties"] == properties


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_the_table_and_the_json_schema_agree_on_counts(count: int) -> None:
    schema = {"$ref": "#/$defs/count", "$defs": support.SCHEMA["$defs"]}
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(count)
    sent = build(GOOD | {"number_of_nodes": count})["properties"]
    assert is_valid == (sent.get("number_of_nodes") == count), COUNT


def test_the_tools_are_those_that_kedro_names() -> None:
    starters = pytest.importorskip("kedro.framework.cli.starters")
    named = getattr(starters, "NUMBER_TO_TOOLS_NAME", {})  # since Kedro 0.19
    assert set(named.values()) <= set(TOOLS)
