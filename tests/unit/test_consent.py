"""Consent: nothing is sent unless the user said yes in this project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry import plugin
from kedro_telemetry.plugin import (
    ASK,
    CI_VARIABLES,
    OFF,
    ON,
    SWITCHES,
    consent_text,
    decide,
    parse_consent,
)

BOM = b"\xef\xbb\xbf"
# What CI systems set that do not set CI, and some that set both.
KNOWN_CI_VARIABLES = """\
    APPVEYOR BITBUCKET_BUILD_NUMBER BUILDKITE BUILD_ID CI CIRCLECI CODEBUILD_BUILD_ID
    DRONE GITHUB_ACTION GITHUB_ACTIONS GITLAB_CI GO_PIPELINE_LABEL GO_PIPELINE_NAME
    JENKINS_URL SYSTEM_TEAMFOUNDATIONCOLLECTIONURI TASKCLUSTER_ROOT_URL
    TEAMCITY_VERSION TF_BUILD TRAVIS bamboo_buildKey bamboo_planKey
"""


def yaml_says_yes(data: bytes) -> bool:
    """Return whether YAML's reader loads exactly {"consent": True}."""
    try:
        found = yaml.safe_load(data)
    except Exception:  # nothing is loaded
        return False
    return bool(found == {"consent": True} and found["consent"] is True)


# --- parse_consent ---

YES = [
    b"consent: true",
    b"consent: true\n",
    b"consent: True\n",
    b"consent: TRUE\n",
    b"consent: true\r\n",
    b"\r\n\r\nconsent: true\r\n\r\n",
    BOM + b"consent: true\n",
    BOM + b"# comment\r\nconsent: true\r\n",
    b"consent: true   \n",
    b"consent: true # yes\n",
    b"consent: true  #\n",
    b"consent: true #\ttab in a comment\n",
    b"# for the team\n\n  # and more\n\nconsent: true\n# end",
    b"#consent: false\nconsent: true\n",
    b"   \nconsent: true\n   \n",
    "# \u00e4\u00f6\u00fc \u65e5\u672c\nconsent: true\n".encode(),
    b"consent: true\n" + b"#" * 4082,
    b"consent: true" + b" " * 4083,
    BOM + b"consent: true\n" + b"#" * 4079,
]
VALUES = "false yes on y 1 tRUE trues true:x \"true\" 'true' &a [true] null 0x1 ~"
ENDS = [
    *("\t\n", "#\n", "\t# comment\n", " true\n", "\n...\n", "\nconsent: true\n"),
    *("\nconsent: false\n", "\nmore: 1\n", "\n  more\n", "\n- 1\n", "\n\t\n", "\r"),
    *("\r\r\n", "\0", "\n\0", " # \0\n", "\x0b\n", "\x0c\n", "\x1c\n", "\x7f\n"),
    *("\x85", "\u2028", "\u2029", "\u00a0", "\u3000", "\u200b", "\n\ufeff"),
    *("\n" * 4084, "\n#" + "#" * 4083),
]
STARTS = [
    *(" ", "\t", "\t\n", "# a\n\t# b\n", "- ", "---\n", "%YAML 1.1\n---\n"),
    *("more: 1\n", "consent: false\n", "consent: true\n", "\ufeff\ufeff"),
    *("\n\ufeff", "# \x1b[31m\n", "# \r", "# \rconsent: false\n"),
    *("# \x85consent: false\n", "# \u202e\n", "\u2028\n"),
]
OTHERS = [
    *("", "\n", "#\n", "consent\n", "true\n", "consent:\n", "consent=true\n", "{}\n"),
    *("consent:true\n", "consent : true\n", "consent:  true\n", "consent:\ttrue\n"),
    *("Consent: true\n", "CONSENT: true\n", '"consent": true\n', "{consent: true}\n"),
    *("[consent, true]\n", "? consent\n: true\n", "consent:\u00a0true\n", "x" * 5000),
    *("consent: !!bool true\n", "consent: tru\u0435\n", "consent\uff1a true\n"),
]
NO = [
    *(f"consent: {value}\n".encode() for value in VALUES.split()),
    *(f"consent: true{end}".encode() for end in ENDS),
    *(f"{start}consent: true\n".encode() for start in STARTS),
    *(text.encode() for text in OTHERS),
    *("consent: true\n".encode(name) for name in ("utf-16", "utf-16-le", "utf-32")),
    *(b"# %b\nconsent: true\n" % byte for byte in (b"\xff", b"\xc0\xaf", b"\xed\xa0")),
]


def test_a_yes_is_understood() -> None:
    for data in YES:
        assert parse_consent(data), data
        assert yaml_says_yes(data), data
    assert parse_consent(consent_text(True).encode())


def test_anything_else_is_a_no() -> None:
    for data in NO:
        assert not parse_consent(data), data
    assert not parse_consent(consent_text(False).encode())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([b"", b"#", b" # a", b"   ", b"# \tb:", b"# \xc3\xa9"])),
    st.sampled_from([b"\n", b"\r\n"]),
    st.integers(0, 20),
)
def test_comments_and_blank_lines_do_not_matter(
    lines: list[bytes], end: bytes, position: int
) -> None:
    data = end.join([*lines[:position], b"consent: true", *lines[position:]])
    assert parse_consent(data) == (len(data) <= 4096)


# --- decide, in the order of its rules ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that says yes."""
    (tmp_path / ".telemetry").write_text("consent: true\n")
    return tmp_path


def decision(project: Path | None) -> tuple[str, str]:
    found = decide(None if project is None else str(project))
    return found.state, found.reason


def test_the_first_rule_that_applies_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = ["DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "CI", "_KD_COMPLETE"]
    for name in variables:
        monkeypatch.setenv(name, "1")
    for name in variables:
        reason = f"the environment variable {name} is set"
        if name == "_KD_COMPLETE":
            reason = "shell completion is running"
        for project in (folder, None, folder / "absent"):
            assert decision(project) == (OFF, reason)
        monkeypatch.delenv(name)
    assert decision(None) == (OFF, "not in a Kedro project")
    assert decision(folder) == (ON, ".telemetry says `consent: true`")


def test_a_switch_or_ci_variable_overrides_a_yes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SWITCHES, *CI_VARIABLES):
        for value in ("1", "0", "false", " "):
            monkeypatch.setenv(name, value)
            reason = f"the environment variable {name} is set"
            assert decision(folder) == (OFF, reason)
        monkeypatch.setenv(name, "")
        assert decision(folder)[0] == ON
        monkeypatch.delenv(name)


def test_the_ci_variables_of_known_systems_are_listed_and_sorted() -> None:
    assert SWITCHES == ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")
    assert set(KNOWN_CI_VARIABLES.split()) <= set(CI_VARIABLES)
    assert sorted(set(CI_VARIABLES), key=str.lower) == CI_VARIABLES


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("_KEDRO_COMPLETE", "bash_complete", OFF),
        ("_KD_COMPLETE", "zsh_source", OFF),
        ("_KEDRO_TELEMETRY_COMPLETE", "1", OFF),
        ("_MY_KEDRO_3_COMPLETE", "fish_complete", OFF),
        ("_KEDRO_COMPLETE", "", ON),
        ("KEDRO_COMPLETE", "1", ON),
        ("_KEDRO_COMPLETED", "1", ON),
    ],
)
def test_shell_completion_is_off_whatever_the_command_is_called(
    name: str, value: str, state: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert decision(folder)[0] == state


@pytest.mark.parametrize("can_ask", [True, False])
def test_a_tracked_answer_is_off(
    can_ask: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "can_ask", lambda: can_ask)
    for arguments in (["init", "-q"], ["add", ".telemetry"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    assert "git tracks .telemetry" in decision(folder)[1]
    (folder / ".telemetry").unlink()
    state, reason = decision(folder)
    assert state == OFF, "also if it was deleted: git would bring it back"
    assert ("git tracks" in reason) == can_ask


@pytest.mark.parametrize("can_ask", [True, False])
def test_a_telemetry_file_without_a_trusted_yes_turns_telemetry_off(
    can_ask: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "can_ask", lambda: can_ask)
    path = folder / ".telemetry"
    for content in (b"", b"consent: false\n", b"\xff\xfe", b"{", b"\0" * 4096):
        path.write_bytes(content)
        assert decision(folder) == (OFF, ".telemetry does not say `consent: true`")
        assert path.read_bytes() == content
    path.unlink()
    for target in ("yes", "absent"):
        path.symlink_to(target)
        assert "it is a symbolic link" in decision(folder)[1]
        path.unlink()
        (folder / "yes").write_text("consent: true\n")
    path.mkdir()
    assert "Is a directory" in decision(folder)[1]
    path.rmdir()
    os.mkfifo(path)
    assert "it is not a regular file" in decision(folder)[1]
    path.unlink()
    path.write_text("consent: true\n" + "#" * 4083)
    assert "it has more than 4096 bytes" in decision(folder)[1]


def test_an_answer_that_others_can_write_is_off(folder: Path) -> None:
    for mode in (0o644, 0o600, 0o400, 0o755):
        (folder / ".telemetry").chmod(mode)
        assert decision(folder)[0] == ON
    for mode in (0o664, 0o646, 0o666):
        (folder / ".telemetry").chmod(mode)
        assert "others have too much access to it" in decision(folder)[1]


def test_a_project_folder_that_cannot_be_read_is_off(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for project in (tmp_path / "file", Path("a" * 10_000)):
        assert decision(project)[0] == OFF
        assert decision(project)[1].startswith(".telemetry is not trusted: ")
    assert decide("a\0b").state == OFF


def test_without_an_answer_only_a_terminal_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for project in (tmp_path, tmp_path / "absent"):
        state, reason = decision(project)
        assert (state, "not an interactive terminal" in reason) == (OFF, True)
    monkeypatch.setattr(plugin, "can_ask", lambda: True)
    assert decision(tmp_path) == (ASK, "no answer is saved yet")
