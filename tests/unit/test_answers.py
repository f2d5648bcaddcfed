"""The answers: when a project's file and the user's own file make telemetry on."""

import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import support
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry import plugin
from kedro_telemetry.plugin import parse_consent

ENDPOINT = plugin.ENDPOINT_VARIABLE
AGREE = plugin.NOT_ANSWERED


def why_off(project: Path | None) -> str | None:
    return plugin.why_off(os.path.realpath(project) if project else "")


def texts(joined: str) -> list[str]:
    return joined.split("|")


YES = texts(
    "consent: true|consent: true\n|consent: True\n|consent: true\r\n|consent: true  \n|"
    "\r\n\r\nconsent: true\r\n\r\n| \nconsent: true\n \n|#consent: false\nconsent: true"
    f"|# us\n\n# and more\n\nconsent: true\n# end|consent: true\n{'#' * 4082}"
)
VALUES = "false yes on y 1 TRUE tRUE trues true:x \"true\" 'true' &a [true] null 0x1 ~"
ENDS = texts(
    "\t\n|#\n| # yes\n| true\n|\n...\n|\n---\n|\nmore: 1\n|\nconsent: true\n|\n more\n"
    "|\nconsent: false\n|\n # more\n|\n\t\n|\r|\r\r\n|\0|\n# \0|\x0b\n|\x0c\n|\x7f\n"
    f"|\x85|\u2028|\u00a0|\u200b|\n\ufeff|{' ' * 4084}|\n#{'#' * 4083}"
)
STARTS = texts(
    " |\t|\t\n|# a\n\t# b\n|- |---\n|%YAML 1.1\n---\n|\ufeff|more: 1\n|consent: false\n"
    "|consent: true\n|# \x1b[31m\n|# \r|# \rconsent: false\n|# \x85\n|# \u00e4\n"
)
OTHERS = texts(
    "|\n|#\n|consent\n|true\n|consent:\n|consent=true\n|consent:true\n|consent : true\n"
    "|consent:  true\n|consent:\ttrue\n|Consent: true\n|'consent': true|{consent: true}"
)
NO = [
    *(f"consent: {value}\n".encode() for value in VALUES.split()),
    *(f"consent: true{end}".encode() for end in ENDS),
    *(f"{start}consent: true\n".encode() for start in STARTS),
    *(text.encode() for text in OTHERS),
    *("consent: true\n".encode(name) for name in ("utf-16", "utf-16-le", "utf-32")),
    *(b"# %b\nconsent: true\n" % byte for byte in (b"\xff", b"\xc0\xaf", b"\xed\xa0")),
]
PIECES = texts("consent: true|consent: false|#|# a| |\n|\n|\r\n|\r|\t|---|consent|:|\0")


def test_only_one_exact_line_is_a_yes() -> None:
    for text in YES:
        assert parse_consent(text.encode()) is True, text
    for data in NO:
        assert parse_consent(data) is False, data


@settings(max_examples=support.examples(100), deadline=None)
@given(st.sampled_from(YES) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_yaml_loads_exactly_consent_true_from_each_yes(text: str) -> None:
    if parse_consent(text.encode()):
        loaded = yaml.safe_load(text)
        assert loaded == {"consent": True}
        assert loaded["consent"] is True


def test_the_first_row_of_the_table_that_applies_decides(
    agreed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, answer = support.own_file(agreed, home), agreed / ".telemetry"
    yes = own.read_bytes()
    own.write_bytes(b"no\n")
    answer.write_bytes(b"consent: false\n")
    switches = ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "CI")
    for name in (*switches, "_KD_COMPLETE", "LD_PRELOAD"):
        monkeypatch.setenv(name, "0")
    for name in switches:  # a
        for project in (agreed, None):
            assert why_off(project) == f"the environment variable {name} is set"
        monkeypatch.setenv(name, "")
    assert why_off(None) == why_off(agreed) == "shell completion is running"  # b
    monkeypatch.delenv("_KD_COMPLETE")
    assert why_off(None) == "not in a Kedro project"  # c
    assert "LD_PRELOAD" in str(why_off(agreed))  # d
    monkeypatch.delenv("LD_PRELOAD")
    assert why_off(agreed) == plugin.PROJECT_SAYS_NO  # e
    answer.write_bytes(b"consent: yes\n")
    assert "write exactly `consent: true`" in str(why_off(agreed))
    answer.write_bytes(b"consent: true\n")
    assert "your own answer is no" in str(why_off(agreed))  # f
    own.write_bytes(yes)
    assert why_off(agreed) is None  # g
    answer.unlink()
    assert why_off(agreed) == AGREE  # h, i


# A variable, a value with which telemetry is off, and one with which it is on.
ROOT = os.path.abspath(os.sep)
VARIABLES = [
    *(("LD_PRELOAD", "libtorsocks.so", ""), ("DYLD_INSERT_LIBRARIES", "x", "")),
    ("SSL_CERT_FILE", "ca.pem", os.path.join(ROOT, "ca.pem")),
    ("SSL_CERT_DIR", f"{ROOT}{os.pathsep}certs", f"{ROOT}{os.pathsep}{ROOT}"),
    (ENDPOINT, "", "http://127.0.0.1:9/nobody-listens"),
    ("ALL_PROXY", "socks5://proxy.example:1080", "http://proxy.example:1080"),
    ("HTTPS_PROXY", "proxy.example:3128/", "proxy.example:3128"),
]


def test_off_where_the_sender_could_not_run_as_promised(
    agreed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, refused, accepted in VARIABLES:
        monkeypatch.setenv(name, refused)
        assert name.lower() in str(why_off(agreed)).lower()
        monkeypatch.setenv(name, accepted)
        assert why_off(agreed) is None, name
    for name in ("debugpy", "pydevd", "_pydevd_bundle", "viztracer", "scalene"):
        with monkeypatch.context() as changed:
            changed.setitem(sys.modules, name, types.ModuleType(name))
            assert name in str(why_off(agreed))
    for holder, name, broken in (
        *((sys, "executable", None), (sys, "executable", ""), (sys, "frozen", True)),
        (plugin, "__file__", "/absent.zip/plugin.py"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(holder, name, broken, raising=False)
            assert "no Python interpreter, or no plugin.py" in str(why_off(agreed))
    monkeypatch.setenv("KEDRO_COMPLETE", "1")
    assert why_off(agreed) is None
    monkeypatch.setenv("_MY_KEDRO_3_COMPLETE", "zsh_source")
    assert why_off(agreed) == "shell completion is running", "under another name"


class Case:
    """A project with both yeses, for the rows below to change."""

    def __init__(self, project: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.project, self.home, self.patch = project, home, patch
        self.other = project.parent / "other"
        self.answer, self.own = project / ".telemetry", support.own_file(project, home)
        self.folder, self.yes = self.own.parent, self.own.read_bytes()

    def put(self, path: Path, what: bytes | str) -> None:
        """Put this content, a folder, a FIFO or a link in place of a file."""
        path.unlink()
        if isinstance(what, bytes):
            path.write_bytes(what)
        elif what in ("folder", "fifo"):
            path.mkdir() if what == "folder" else os.mkfifo(path)
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
        self.other.symlink_to(self.project, True)
        self.project = self.other

    def set_state(self, state: Path) -> None:
        self.patch.setenv("XDG_STATE_HOME", str(state))
        self.move(self.folder, state / "kedro-telemetry")

    def set_home(self, home: str | Path) -> None:
        self.patch.setenv(support.HOME, str(home))

    def replace_state(self, by_link: bool) -> None:
        """Put a file, or a broken link, in the place of the folder of all states."""
        state = self.folder.parent
        self.move(state, self.other)
        state.symlink_to("absent") if by_link else state.touch()

    def live_in_project(self) -> None:
        self.set_home(self.project)
        self.move(self.folder, support.own_folder(self.project))


NO_HOME, INSIDE, SHARED = "no home folder", "inside the project", "others can"
NO_FOLDER = "you cannot write to"
UNCLEAR = "write exactly"
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
    ("own text after", AGREE, lambda c: c.put(c.own, c.yes + b"more\n")),
    ("own CRLF", AGREE, lambda c: c.put(c.own, c.yes.replace(b"\n", b"\r\n"))),
    ("own half", AGREE, lambda c: c.put(c.own, c.yes[:-1])),
    ("own consent: true", AGREE, lambda c: c.put(c.own, b"consent: true\n")),
    ("own a folder", "", lambda c: c.put(c.own, "folder")),
    ("own huge", "too large", lambda c: os.truncate(c.own, 1_000_001)),
    ("no .telemetry", AGREE, lambda c: c.answer.unlink()),
    ("a no", "says no", lambda c: c.put(c.answer, b"consent: False")),
    ("empty", UNCLEAR, lambda c: c.put(c.answer, b"")),
    ("folder", "", lambda c: c.put(c.answer, "folder")),
    ("large", UNCLEAR, lambda c: os.truncate(c.answer, 1_000_000)),
    ("huge", "too large", lambda c: os.truncate(c.answer, 1_000_001)),
    ("no home", NO_HOME, lambda c: c.patch.delenv(support.HOME)),
    ("relative home", NO_HOME, lambda c: c.set_home(".")),
    ("absent home", NO_HOME, lambda c: c.set_home(c.other)),
    ("home is a file", NO_HOME, lambda c: c.set_home(c.answer)),
    ("home is the project", INSIDE, Case.live_in_project),
]
UNIX_ROWS: list[Row] = [
    ("everybody may write .telemetry", None, lambda c: c.answer.chmod(0o666)),
    ("readable own folder", None, lambda c: c.folder.chmod(0o755)),
    ("a group may write above", None, lambda c: c.folder.parent.chmod(0o775)),
    ("home is a link", None, lambda c: c.link(c.home, c.other / "home")),
    ("own folder is a link", None, lambda c: c.link(c.folder, c.other / "own")),
    ("moved project", AGREE, lambda c: c.link(c.project, c.other / "moved")),
    ("visited by a link", None, Case.visit_by_link),
    ("a group's own folder", SHARED, lambda c: c.folder.chmod(0o720)),
    ("everybody's own folder", SHARED, lambda c: c.folder.chmod(0o702)),
    ("link inside", INSIDE, lambda c: c.link(c.folder, c.project / "own")),
    ("file as state", NO_FOLDER, lambda c: c.replace_state(by_link=False)),
    ("broken state", NO_FOLDER, lambda c: c.replace_state(by_link=True)),
    ("own link", "link", lambda c: c.link(c.own, c.other / "own")),
    ("own FIFO", "is not a file", lambda c: c.put(c.own, "fifo")),
    ("own device", "link", lambda c: c.put(c.own, "/dev/zero")),
    ("link", "link", lambda c: c.link(c.answer, c.other / "yes")),
    ("broken link", "link", lambda c: c.put(c.answer, "absent")),
    ("FIFO", "is not a file", lambda c: c.put(c.answer, "fifo")),
    ("device", "link", lambda c: c.put(c.answer, "/dev/zero")),
]
if sys.platform == "linux":
    UNIX_ROWS += [
        ("XDG", None, lambda c: c.set_state(c.other / "state")),
        ("XDG inside", INSIDE, lambda c: c.set_state(c.project / ".state")),
    ]
ROWS += UNIX_ROWS if sys.platform != "win32" else []


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_yes_counts_only_if_it_is_the_users_own(
    row: Row, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read, a FIFO or a device, does not block. Looking writes nothing."""
    project = tmp_path / "project"
    project.mkdir()
    support.agree(project, home, os.environ[ENDPOINT])
    _, expected, change = row
    case = Case(project, home, monkeypatch)
    change(case)
    before = sorted([*tmp_path.rglob("*"), *home.rglob("*")])
    reason = why_off(case.project)
    assert (reason is None) == (expected is None), reason
    assert (expected or "") in (reason or "")
    assert sorted([*tmp_path.rglob("*"), *home.rglob("*")]) == before


@support.as_root
@pytest.mark.parametrize("which", ["own", "parent"])
def test_a_folder_of_another_user_is_not_used(
    which: str, agreed: Path, home: Path
) -> None:
    folder = support.own_folder(home)
    if which == "parent":
        shutil.rmtree(folder)
        folder = folder.parent
    before = os.listdir(folder)
    os.chown(folder, support.OTHER_USER, -1)
    assert "somebody else" in str(why_off(agreed))
    with pytest.raises(OSError, match="somebody else"):
        plugin.allow(os.path.realpath(agreed))
    assert os.listdir(folder) == before


def test_what_is_made_is_for_the_user_only(tmp_path: Path, home: Path) -> None:
    answer, umask = tmp_path / ".telemetry", os.umask(0)
    plugin.deny(os.path.realpath(tmp_path))
    if sys.platform != "win32":
        assert answer.stat().st_mode & 0o777 == 0o644
    answer.unlink()
    plugin.allow(os.path.realpath(tmp_path))
    os.umask(umask)
    path = support.own_file(tmp_path, home)
    assert path.read_bytes() == f"yes to version 2 at {os.environ[ENDPOINT]}\n".encode()
    if sys.platform != "win32":
        made = [path, *path.parents][: -len(home.parents) - 1]
        assert [p.stat().st_mode & 0o777 for p in made] == [0o600, *[0o700] * 3]
        assert answer.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: links, devices")
def test_a_file_is_written_through_no_link_and_to_no_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"before")
    for make in (os.symlink, os.link):
        make(target, link)
        with pytest.raises(OSError, match="link"):
            plugin.write_file(str(link), b"after", 0o600)
        assert target.read_bytes() == b"before"
        link.unlink()
    with pytest.raises(OSError, match=r"Invalid|not"):
        plugin.write_file(os.devnull, b"after", 0o600)
    if sys.platform == "linux":  # the name of this process: a file without a size
        name = Path("/proc/self/comm")
        with pytest.raises(OSError, match="reads back differently"):
            plugin.write_file(str(name), name.read_bytes(), 0o600)


def test_each_system_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "LOCALAPPDATA", "XDG_STATE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for platform, folder in {
        "darwin": "HOME/Library/Application Support",
        "win32": "LOCALAPPDATA",
        "linux": "XDG_STATE_HOME",
    }.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert Path(plugin.own_folder()) == tmp_path / folder / "kedro-telemetry"
    monkeypatch.delenv("XDG_STATE_HOME")
    folder = "HOME/.local/state"
    assert Path(plugin.own_folder()) == tmp_path / folder / "kedro-telemetry"
