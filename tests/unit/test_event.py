"""The event: only the fields of the table are sent, each in its fixed format."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import coverage
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import FIELDS, build_event

HASH = "0123456789abcdef" * 2
GOOD = support.PROPERTIES
COUNTS = [name for name in FIELDS if name.startswith("number_of_")]
TOOLS = "Linting, Testing, Custom Logging, Documentation, Data Structure, PySpark"
VALID: dict[str, list[Any]] = {
    "username": ["0" * 32],
    "package_name": ["f" * 32],
    "command": ["kedro", "kedro *****", "kedro viz run", "kedro run" + " --async" * 30],
    "project_version": ["0.18.14", "1.7", "100.200.300"],
    "telemetry_version": ["2.0.0+hardened"],
    "python_version": ["3.9", "3.14"],
    "os": ["linux", "darwin", "win32", "other"],
    "tools": [*TOOLS.split(", "), "Kedro Viz", f"{TOOLS}, Kedro Viz"],
    "example_pipeline": ["True", "False"],
    **{name: [0, 9, 10, 99, 100, 990, 1200, 990_000_000] for name in COUNTS},
}
NO_HASH = ["", "ada", HASH[1:], HASH + "0", HASH.upper(), HASH[1:] + "g", HASH + "\n"]
INVALID: dict[str, list[Any]] = {
    "command": [
        *("", "run", "kedro ", "kedro  run", "kedro run\n", "kedro\trun", "Kedro run"),
        *("kedro acme", "kedro run *****s3cret", "kedro ****", "kedro run --env=x"),
        *("kedro run --secret", "kedro runx", "kedro kedro", "kedro run --ENV"),
        "kedro run" + " --async" * 31,
    ],
    "package_name": [*NO_HASH, "\u0660" * 32],  # Arabic zeros
    "project_version": ["", "2", "1.0.0.0", "1.2024", "1.0\n", "\u0661.0", "1.0.0rc1"],
    "telemetry_version": ["2.0.1+hardened", "2.0.0+hardened ", "2x0x0+hardened"],
    "python_version": ["3.11.7", "3.123", "3.", "2.7", "3.11\n", "3.\u0661"],
    "os": ["Linux", "linux2", "cygwin", ""],
    "tools": ["", "linting", "Linting,PySpark", "Linting, ", f"{TOOLS}, {TOOLS}", "[]"],
    "example_pipeline": ["true", "None", "", "Truex"],
    **{name: [-1, 101, 123, 1001, 10_001, 10**9, 10**1000] for name in COUNTS},
}


def build(values: Any) -> dict[str, Any]:
    """Return the event that is sent for a message with these values."""
    event: dict[str, Any] = json.loads(build_event(json.dumps(values).encode()))
    support.check_event(event)
    return event


def test_the_event_has_the_form_that_the_collector_knows() -> None:
    message = {"number_of_nodes": 1, "command": "kedro run", "username": HASH}
    event = {"app_id": "2388822444", "event": "CLI command", "identity": HASH}
    assert build(message) == {**event, "properties": message}
    assert build(GOOD) == {
        **event,
        "event": "Kedro Project Statistics",  # it has counts
        "properties": GOOD,
    }


def test_a_value_is_sent_only_in_its_format_and_type() -> None:
    described = support.SCHEMA["properties"]["properties"]["properties"]
    assert list(described) == list(FIELDS) == list(GOOD) == list(VALID)
    assert {"username", *INVALID} == set(FIELDS)
    for name, values in VALID.items():
        for value in values:
            assert build(GOOD | {name: value})["properties"] == GOOD | {name: value}
    for name, values in INVALID.items():
        good = GOOD[name]
        other = str(good) if name in COUNTS else 12
        types = [None, True, 1.0, 12.0, [good], {"value": good}, other]
        rest = {key: GOOD[key] for key in GOOD if key != name}
        for value in [*values, *types]:
            assert build(GOOD | {name: value})["properties"] == rest, (name, value)


def test_an_event_needs_a_user() -> None:
    for username in (None, 12, [HASH], *NO_HASH):
        with pytest.raises(KeyError):
            build(GOOD | {"username": username})


MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def test_a_malformed_message_is_an_error() -> None:
    for message in (
        *(b"", b"kedro", b"null", b"[]", b'"command"', b"12", b"{}", b"[" * 4000),
        *(b'[["command", "kedro"]]', b'{"command": "kedro"', b"9" * 4096),
        *(support.MESSAGE + end for end in (b" {}", b"\0", b"\xff")),
    ):
        with pytest.raises(MALFORMED):
            print(f"accepted: {message!r}: {build_event(message)!r}")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([*GOOD.values(), *NO_HASH, "1.7", "other", "True", 1200]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
NAME = st.sampled_from(list(FIELDS)) | st.text(max_size=8)


@settings(max_examples=support.examples(40), deadline=None)
@given(st.dictionaries(NAME, ANYTHING, max_size=12), st.booleans())
def test_only_good_values_are_ever_sent(values: dict[str, Any], is_good: bool) -> None:
    if is_good:
        values |= {name: GOOD[name] for name in ("username", "command")}
    try:
        properties = build(values)["properties"]
    except (ValueError, KeyError, AttributeError):
        assert not is_good
        return
    for name, value in properties.items():
        assert type(value) is type(GOOD[name])
        assert value == values[name]


def test_the_sender_posts_one_event_or_nothing(
    collector: support.Collector, home: Path, tmp_path: Path
) -> None:
    """`coverage run` starts it, because `python -I -S` would count no lines."""
    suite = coverage.Coverage.current()
    data_file = suite.config.data_file if suite else tmp_path / ".coverage"
    command = [sys.executable, "-m", "coverage", "run", "--parallel-mode"]
    environment = support.clean_environment(home)
    environment["KEDRO_TELEMETRY_ENDPOINT"] = collector.url
    for message, status in ((support.MESSAGE, 0), (b"{}", 1)):
        done = subprocess.run(
            [*command, f"--data-file={data_file}", str(support.PLUGIN)],
            input=message,
            capture_output=True,
            env=environment,
            cwd=support.ROOT,
        )
        assert done.returncode == status, done.stderr
    assert [event["properties"] for event in collector.wait()] == [GOOD]
