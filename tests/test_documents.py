"""README.md and SECURITY.md say what the code does."""

from __future__ import annotations

import ast
import hashlib
import json
import re

import environment
import pytest

from kedro_telemetry import plugin

README = (environment.ROOT / "README.md").read_text(encoding="utf-8")
SECURITY = (environment.ROOT / "SECURITY.md").read_text(encoding="utf-8")
SOURCE = (environment.ROOT / "kedro_telemetry" / "plugin.py").read_bytes()


def section(text: str, title: str) -> str:
    """What stands between this heading and the next of its level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def functions() -> set[str]:
    """`file::test` for each test of the suite."""
    found = set()
    for path in (environment.ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.name}::{node.name}")
    return found


def test_the_readme_lists_the_fields_that_can_leave() -> None:
    """The table is FIELDS: same names, same order."""
    assert re.findall(r"^\| `(\w+)` \|", section(README, "What can leave"), re.M) == list(plugin.FIELDS)


def test_the_readme_shows_a_sealed_event() -> None:
    """The event in the README is one that a sender would accept, with the headers that it would have."""
    request = section(README, "An event, as it is sent").split("```")[1]
    head, _, body = request.removeprefix("http\n").rstrip("\n").partition("\n\n")
    event = body.encode()
    assert plugin.seal(json.loads(event)["properties"]) == event
    assert head == "POST /api/track HTTP/1.1\n" + plugin.headers(plugin.COLLECTOR, event)


def test_the_figures_are_those_of_the_benchmark() -> None:
    rows = re.findall(r"^\|.*\|$", section(README, "Speed"), re.M)
    measured = (environment.ROOT / "tests" / "benchmark.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 10
    assert [row for row in rows if row not in measured] == []


def test_the_readme_is_short() -> None:
    assert README.count("\n") < 200


def test_every_test_that_security_names_exists() -> None:
    """An invariant without its test is a claim."""
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", SECURITY))
    assert len(named) >= 15
    assert named <= functions()


def test_every_invariant_names_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*$", section(SECURITY, "What is guaranteed"), re.M)
    lines = [line for line in section(SECURITY, "What is guaranteed").splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row) for row in rows] == list(range(1, len(rows) + 1))
    assert all("::test_" in line for line in lines)


def test_security_has_the_digest_of_the_file() -> None:
    """A file that was approved once can be recognised anywhere."""
    digest = hashlib.sha256(SOURCE).hexdigest()
    assert digest in SECURITY, f"plugin.py changed: put its new SHA-256 into SECURITY.md: {digest}"


@pytest.mark.parametrize("variable", [plugin.ENDPOINT, plugin.PREVIEW, "DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY"])
def test_the_readme_documents_every_variable(variable: str) -> None:
    assert variable in README


@pytest.mark.parametrize("text", [README, SECURITY], ids=["README", "SECURITY"])
def test_every_code_name_in_the_documents_exists(text: str) -> None:
    """`decide`, `FIELDS` and the like, as named in running text, are names of the file."""
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+|[A-Z]+(?:_[A-Z]+)*)`", text):
        known = hasattr(plugin, name) or name in plugin.FIELDS or name.encode() in SOURCE
        assert known or name in OTHER_NAMES, name


OTHER_NAMES = {
    *(
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SOURCE_DATE_EPOCH",
        "PIP_CONSTRAINT",
        "DISABLE_HOOKS_FOR_PLUGINS",
        "LICENSE",
        "README",
        "WHEEL",
    ),
    *("app_id", "flit_core", "WHEEL", "FILE", "True", "TRUE", "POST"),
}
