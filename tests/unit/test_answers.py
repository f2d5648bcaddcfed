"""The answers: when a project's file and the user's own file make telemetry on."""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry import plugin
from kedro_telemetry.plugin import parse_consent

ENDPOINT = plugin.ENDPOINT_VARIABLE
AGREE = plugin.NOT_ANSWERED
on_unix = pytest.mark.skipif(
    sys.platform == "win32", reason="only on Unix: owners, modes, links, FIFOs"
)


def why_off(project: Path | None) -> str | None:
    return plugin.why_off(os.path.realpath(project) if project else None)


# --- The content of `.telemetry` ---

YES = [
    b"consent: true",
    b"consent: true\n",
    b"consent: True\n",
    b"consent: true\r\n",
    b"\r\n\r\nconsent: true\r\n\r\n",
    b"consent: true   \n",
    b"   \nconsent: true\n   \n",
    b"# for the team\n\n# and more\n\nconsent: true\n# end",
    b"#consent: false\nconsent: true\n",
    b"consent: true\n" + b"#" * 4082,
    b"consent: true" + b" " * 4083,
]
VALUES = "false yes on y 1 TRUE tRUE trues true:x \"true\" 'true' &a [true] null 0x1 ~"
ENDS = [
    *("\t\n", "#\n", " # yes\n", "\t# comment\n", " true\n", "\n...\n", "\n---\n"),
    *("\nconsent: true\n", "\nconsent: false\n", "\nmore: 1\n", "\n  more\n", "\n- 1"),
    *("\n # indented\n", "\n\t\n", "\r", "\r\r\n", "\0", "\n\0", "\n# \0", "\x0b\n"),
    *("\x0c\n", "\x1c\n", "\x7f\n", "\x85", "\u2028", "\u2029", "\u00a0", "\u3000"),
    *("\u200b", "\n\ufeff", "\n" * 4084, "\n#" + "#" * 4083),
]
STARTS = [
    *(" ", "\t", "\t\n", "# a\n\t# b\n", "- ", "---\n", "%YAML 1.1\n---\n", "\ufeff"),
    *("more: 1\n", "consent: false\n", "consent: true\n", "\n\ufeff", "# \x1b[31m\n"),
    *("# \r", "# \rconsent: false\n", "# \x85consent: false\n", "# \u202e\n"),
    *("# \u00e4\n", "\u2028\n", "# \t\n"),
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
PIECES = [
    *(b"consent: true", b"consent: True", b"consent: false", b"#", b"# a", b" ", b"  "),
    *(
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\t",
        b"---",
        b"consent",
        b":",
        b"\0",
        b"\xc3\xa9",
    ),
]


def test_only_one_exact_line_is_a_yes() -> None:
    for data in YES:
        assert parse_consent(data) is True, data
    for data in NO:
        assert parse_consent(data) is False, data


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.sampled_from(YES), st.lists(st.sampled_from(PIECES)).map(b"".join)))
def test_yaml_loads_exactly_consent_true_from_each_yes(data: bytes) -> None:
    if parse_consent(data):
        loaded = yaml.safe_load(data)
        assert loaded == {"consent": True}
        assert loaded["consent"] is True


# --- The table of decisions ---


def test_the_first_row_of_the_table_that_applies_decides(
    agreed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, answer = support.own_file(agreed, home), agreed / ".telemetry"
    yes = own.read_bytes()
    own.write_bytes(b"no\n")
    answer.write_bytes(b"consent: false\n")
    variables = {  # rows a, b and d, in their order
        "DO_NOT_TRACK": "the environment variable DO_NOT_TRACK is set",
        "KEDRO_DISABLE_TELEMETRY": "variable KEDRO_DISABLE_TELEMETRY is set",
        "CI": "the environment variable CI is set",
        "_KD_COMPLETE": "shell completion is running",
        "LD_PRELOAD": "LD_PRELOAD is not given to the sender",
    }
    for name in variables:
        monkeypatch.setenv(name, "0")
    for name, reason in variables.items():
        assert reason in str(why_off(agreed))
        if name != "LD_PRELOAD":
            assert reason in str(why_off(None))
        else:
            assert why_off(None) == "not in a Kedro project"  # c
        monkeypatch.setenv(name, "")
    assert why_off(agreed) == "`.telemetry` says no"  # e
    answer.write_bytes(b"consent: yes\n")
    assert "not understood: write exactly `consent: true`" in str(why_off(agreed))
    answer.write_bytes(b"consent: true\n")
    assert "your own answer is no" in str(why_off(agreed))  # f
    own.write_bytes(yes)
    assert why_off(agreed) is None  # g
    answer.unlink()
    assert why_off(agreed) == AGREE  # h, i
    own.unlink()
    assert why_off(agreed) == AGREE


def test_shell_completion_is_off_whatever_the_command_is_called(
    agreed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, is_completing in {
        "_KEDRO_TELEMETRY_COMPLETE": True,
        "_MY_KEDRO_3_COMPLETE": True,
        "KEDRO_COMPLETE": False,
        "_KEDRO_COMPLETED": False,
    }.items():
        monkeypatch.setenv(name, "zsh_source")
        assert (why_off(agreed) is not None) == is_completing, name
        monkeypatch.delenv(name)


ELSEWHERE = os.path.abspath(os.sep)
OBSTACLES: list[tuple[dict[str, Any], str | None]] = [
    ({"sys.executable": None}, "no Python interpreter"),
    ({"sys.executable": ""}, "no Python interpreter"),
    ({"sys.frozen": True}, "no Python interpreter"),
    ({"plugin.__file__": "/absent.zip/plugin.py"}, "no plugin.py"),
    *(
        ({f"module.{name}": 1}, f"{name} would run in the sender")
        for name in ("debugpy", "pydevd", "_pydevd_bundle", "viztracer", "scalene")
    ),
    ({"LD_PRELOAD": "libtorsocks.so"}, "LD_PRELOAD"),
    ({"DYLD_INSERT_LIBRARIES": "x.dylib"}, "DYLD_INSERT_LIBRARIES"),
    ({"SSL_CERT_FILE": "ca.pem"}, "SSL_CERT_FILE is not an absolute path"),
    ({"SSL_CERT_DIR": f"{ELSEWHERE}{os.pathsep}certs"}, "SSL_CERT_DIR is not an abs"),
    ({"SSL_CERT_FILE": os.path.join(ELSEWHERE, "ca.pem")}, None),
    ({"SSL_CERT_DIR": os.pathsep.join([ELSEWHERE, ELSEWHERE])}, None),
    ({ENDPOINT: ""}, f"{ENDPOINT} is not"),
    ({ENDPOINT: "https://collector.example:99999/"}, f"{ENDPOINT} is not"),
    ({"HTTPS_PROXY": "proxy.example:3128/"}, "HTTPS_PROXY is not"),
    ({"ALL_PROXY": "socks5://proxy.example:1080"}, "ALL_PROXY is not"),
    ({"ALL_PROXY": "http://proxy.example:1080"}, None),
]


def test_off_where_the_sender_could_not_run_as_promised(
    agreed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes, reason in OBSTACLES:
        with monkeypatch.context() as changed:
            for name, value in changes.items():
                holder, _, attribute = name.rpartition(".")
                if holder == "module":
                    module = types.ModuleType(attribute)
                    changed.setitem(sys.modules, attribute, module)
                elif holder:
                    target = sys if holder == "sys" else plugin
                    changed.setattr(target, attribute, value, raising=False)
                else:
                    changed.setenv(name, value)
            found = why_off(agreed)
        assert (found is None) == (reason is None), (changes, found)
        assert (reason or "") in (found or ""), changes


# --- Whether a yes is the user's own ---


class Case:
    """A project with both yeses, for the rows below to change."""

    def __init__(self, project: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.project, self.home, self.patch = project, home, patch
        self.other = project.parent / "other"
        self.other.mkdir()
        self.answer = project / ".telemetry"
        self.own, self.folder = (
            support.own_file(project, home),
            support.own_folder(home),
        )
        self.yes = self.own.read_bytes()

    def put(self, path: Path, what: bytes | str) -> None:
        """Put this content, or something that is not a file, in place of a file."""
        path.unlink()
        if isinstance(what, bytes):
            path.write_bytes(what)
        elif what == "folder":
            path.mkdir()
        elif what == "huge":
            path.touch()
            os.truncate(path, 10**10)
        elif what == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(what)

    def move(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    def link(self, path: Path, target: Path) -> None:
        """Put a link in its place, to where it has been moved."""
        self.move(path, target)
        path.symlink_to(target, target.is_dir())

    def visit_by_link(self) -> None:
        (self.other / "link").symlink_to(self.project, True)
        self.project = self.other / "link"

    def set_state(self, state: Path) -> None:
        self.patch.setenv("XDG_STATE_HOME", str(state))
        self.move(self.folder, state / "kedro-telemetry")

    def set_home(self, home: str | Path) -> None:
        self.patch.setenv(support.HOME, str(home))

    def live_in_project(self) -> None:
        self.set_home(self.project)
        self.move(self.folder, support.own_folder(self.project))


NO_HOME, INSIDE, SHARED = "no home folder", "inside the project", "others can write"
Row = tuple[str, str | None, Callable[[Case], None]]
# What is done, why telemetry is then off (None: it is on), and how it is done.
ROWS: list[Row] = [
    ("nothing", None, lambda c: None),
    ("comments", None, lambda c: c.put(c.answer, b"# us\r\nconsent: True\r\n")),
    ("relative XDG", None, lambda c: c.patch.setenv("XDG_STATE_HOME", ".state")),
    ("own no", "own answer is no", lambda c: c.put(c.own, b"no\n")),
    ("no own answer", AGREE, lambda c: c.own.unlink()),
    ("no own folder", AGREE, lambda c: c.move(c.folder, c.other / "own")),
    ("another project's", AGREE, lambda c: c.move(c.own, c.folder / ("0" * 64))),
    ("another address", AGREE, lambda c: c.patch.setenv(ENDPOINT, "https://a.example")),
    ("own version 1", AGREE, lambda c: c.put(c.own, c.yes.replace(b" 2 ", b" 1 "))),
    ("own version 20", AGREE, lambda c: c.put(c.own, c.yes.replace(b" 2 ", b" 20 "))),
    ("own address", AGREE, lambda c: c.put(c.own, c.yes.replace(b":9/", b":8/"))),
    ("own text after", AGREE, lambda c: c.put(c.own, c.yes + b"more\n")),
    ("own text before", AGREE, lambda c: c.put(c.own, b"\n" + c.yes)),
    ("own CRLF", AGREE, lambda c: c.put(c.own, c.yes.replace(b"\n", b"\r\n"))),
    ("own half", AGREE, lambda c: c.put(c.own, c.yes[:-1])),
    ("own yes only", AGREE, lambda c: c.put(c.own, b"yes\n")),
    ("own consent: true", AGREE, lambda c: c.put(c.own, b"consent: true\n")),
    ("own empty", AGREE, lambda c: c.put(c.own, b"")),
    ("own a folder", "", lambda c: c.put(c.own, "folder")),
    ("own huge", "too large", lambda c: c.put(c.own, "huge")),
    ("no .telemetry", AGREE, lambda c: c.answer.unlink()),
    ("a no", "says no", lambda c: c.put(c.answer, b"consent: False")),
    ("empty", "not understood", lambda c: c.put(c.answer, b"")),
    ("folder", "", lambda c: c.put(c.answer, "folder")),
    ("huge", "too large", lambda c: c.put(c.answer, "huge")),
    ("no home", NO_HOME, lambda c: c.patch.delenv(support.HOME)),
    ("relative home", NO_HOME, lambda c: c.set_home(".")),
    ("absent home", NO_HOME, lambda c: c.set_home(c.other / "absent")),
    ("home is a file", NO_HOME, lambda c: c.set_home(c.answer)),
    ("home is the project", INSIDE, Case.live_in_project),
]
# Only on Unix: modes, links, FIFOs, and XDG_STATE_HOME.
UNIX_ROWS: list[Row] = [
    ("a file for all", None, lambda c: c.answer.chmod(0o666)),
    ("readable folder", None, lambda c: c.folder.chmod(0o755)),
    ("a group above", None, lambda c: c.folder.parent.chmod(0o775)),
    ("home is a link", None, lambda c: c.link(c.home, c.other / "home")),
    ("own folder is a link", None, lambda c: c.link(c.folder, c.other / "own")),
    ("moved project", AGREE, lambda c: c.link(c.project, c.other / "moved")),
    ("visited by a link", None, Case.visit_by_link),
    ("group's folder", SHARED, lambda c: c.folder.chmod(0o720)),
    ("everybody's folder", SHARED, lambda c: c.folder.chmod(0o702)),
    ("link inside", INSIDE, lambda c: c.link(c.folder, c.project / "own")),
    ("own link", "", lambda c: c.link(c.own, c.other / "own")),
    ("own FIFO", "", lambda c: c.put(c.own, "fifo")),
    ("own device", "", lambda c: c.put(c.own, "/dev/zero")),
    ("link", "", lambda c: c.link(c.answer, c.other / "yes")),
    ("broken link", "", lambda c: c.put(c.answer, "absent")),
    ("FIFO", "", lambda c: c.put(c.answer, "fifo")),
    ("device", "", lambda c: c.put(c.answer, "/dev/zero")),
]
if sys.platform == "linux":
    UNIX_ROWS += [
        ("XDG", None, lambda c: c.set_state(c.other / "state")),
        ("XDG inside", INSIDE, lambda c: c.set_state(c.project / ".state")),
    ]
ROWS += UNIX_ROWS if sys.platform != "win32" else []


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_yes_counts_only_if_it_is_the_users_own_for_this_project(
    row: Row, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is read here, a FIFO or a device, blocks or takes memory."""
    project = tmp_path / "project"
    project.mkdir()
    support.agree(project, home, os.environ[ENDPOINT])
    _, reason, change = row
    case = Case(project, home, monkeypatch)
    change(case)
    before = sorted([*tmp_path.rglob("*"), *home.rglob("*")])
    found = why_off(case.project)
    assert sorted([*tmp_path.rglob("*"), *home.rglob("*")]) == before
    assert (found is None) == (reason is None), found
    assert (reason or "") in (found or "")


def test_a_project_that_came_with_an_answer_turns_nothing_on(
    agreed: Path, tmp_path: Path
) -> None:
    """A clone, a copy, a moved project: the file says yes, but the folder is new."""
    copy = support.copy_project(agreed, tmp_path / "copy")
    (copy / ".telemetry").write_bytes(b"consent: true\n")
    assert why_off(copy) == AGREE
    assert why_off(agreed) is None


@support.as_root
@pytest.mark.parametrize("which", ["own", "parent"])
def test_a_folder_of_somebody_else_is_not_trusted_and_nothing_is_made_in_it(
    which: str, agreed: Path, home: Path
) -> None:
    folder = support.own_folder(home)
    if which == "parent":
        shutil.rmtree(folder)
        folder = folder.parent
    os.chown(folder, support.UNPRIVILEGED, -1)
    assert "belongs to another user" in str(why_off(agreed))
    with pytest.raises(OSError, match="belongs to another user"):
        plugin.write_own_answer(os.path.realpath(agreed), b"no\n")
    assert (os.listdir(folder) == []) == (which == "parent")


# --- Writing ---


def test_new_folders_and_answers_are_for_the_user_only(
    tmp_path: Path, home: Path
) -> None:
    umask = os.umask(0)
    plugin.write_own_answer(os.path.realpath(tmp_path), plugin.own_yes())
    os.umask(umask)
    path = support.own_file(tmp_path, home)
    assert path.read_bytes() == f"yes to version 2 at {os.environ[ENDPOINT]}\n".encode()
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
        for folder in list(path.parents)[: -len(home.parents) - 1]:
            assert folder.stat().st_mode & 0o777 == 0o700, folder


@on_unix
def test_an_answer_is_written_through_no_link_and_read_back(tmp_path: Path) -> None:
    target, link = tmp_path / "target", str(tmp_path / "link")
    target.write_bytes(b"before")
    os.symlink(target, link)
    for flag in (os.O_TRUNC, os.O_EXCL):
        with pytest.raises(OSError, match="link"):
            plugin.write_file(link, b"after", 0o600, flag)
    assert target.read_bytes() == b"before"
    with pytest.raises(OSError, match="null"):  # it takes all, and keeps nothing
        plugin.write_file(os.devnull, b"after", 0o600)


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", "home/.local/state/kedro-telemetry"),
        ("freebsd13", "home/.local/state/kedro-telemetry"),
        ("darwin", "home/Library/Application Support/kedro-telemetry"),
        ("win32", "data/kedro-telemetry"),
    ],
)
def test_the_own_folder_is_where_each_system_keeps_what_does_not_travel(
    platform: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, variable in (("home", "HOME"), ("data", "LOCALAPPDATA")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(sys, "platform", platform)
    assert Path(plugin.own_folder()) == tmp_path / folder
    if platform != "win32":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        is_used = platform != "darwin"
        assert (
            plugin.own_folder() == str(tmp_path / "state/kedro-telemetry")
        ) == is_used
