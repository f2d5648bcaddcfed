"""Consent: nothing but an explicit yes by a person turns telemetry on."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import ASK, ON, decide, parse_consent, read_own

BOM = b"\xef\xbb\xbf"
MUTATIONS = 3000  # of each seed, per run
SWITCHES = ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY")
CI_VARIABLES = (
    "CI",
    "GITHUB_ACTION",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "JENKINS_URL",
    "TF_BUILD",
    "TRAVIS",
    "CIRCLECI",
    "BUILDKITE",
    "APPVEYOR",
    "TEAMCITY_VERSION",
    "BITBUCKET_BUILD_NUMBER",
    "CODEBUILD_BUILD_ID",
)
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="to give a file away takes the rights of root"
)


def yaml_says_yes(data: bytes) -> bool:
    """Whether YAML's reader loads exactly `{"consent": True}`, with a bool."""
    try:
        found = yaml.safe_load(data)
    except Exception:  # whatever it does not load
        return False
    return isinstance(found, dict) and list(found) == ["consent"] and found["consent"] is True


# --- parse_consent ---
@pytest.mark.parametrize(
    "data",
    [
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
        b"# for the team\n\n  # and more\n\nconsent: true\n# end",
        b"#consent: false\nconsent: true\n",
        b"#\ttabs in a comment\nconsent: true\n",
        b"   \nconsent: true\n   \n",
        "# \u00e4\u00f6\u00fc \u65e5\u672c\nconsent: true\n".encode(),
        b"consent: true\n" + b"#" * 4082,
        b"consent: true" + b" " * 4083,
    ],
)
def test_a_yes(data: bytes) -> None:
    assert len(data) <= 4096
    assert parse_consent(data)
    assert yaml_says_yes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"#\n",
        b"consent: false\n",
        b"consent: False\n",
        b"consent:\n",
        b"consent\n",
        b"true\n",
        b"consent: yes\n",
        b"consent: on\n",
        b"consent: y\n",
        b"consent: 1\n",
        b"consent: tRUE\n",
        b"consent: trues\n",
        b"consent: trueX\n",
        b"consent: true true\n",
        b'consent: "true"\n',
        b"consent: 'true'\n",
        b'"consent": true\n',
        b"consent:true\n",
        b"consent : true\n",
        b"consent:  true\n",
        b"consent:\ttrue\n",
        b"consent: true\t\n",
        b"\tconsent: true\n",
        b" consent: true\n",
        b"\t\nconsent: true\n",
        b"consent: true#\n",
        b"consent: true\t# comment\n",
        b"Consent: true\n",
        b"CONSENT: true\n",
        b"consent=true\n",
        b"{consent: true}\n",
        b"- consent: true\n",
        b"[consent, true]\n",
        b"? consent\n: true\n",
        b"consent: !!bool true\n",
        b"consent: &a true\n",
        b"consent: |\n  true\n",
        b"---\nconsent: true\n",
        b"consent: true\n...\n",
        b"consent: true\n---\n",
        b"%YAML 1.1\n---\nconsent: true\n",
        b"consent: true\nconsent: true\n",
        b"consent: true\nconsent: false\n",
        b"consent: false\nconsent: true\n",
        b"consent: true\nmore: 1\n",
        b"more: 1\nconsent: true\n",
        b"consent: true\n  more\n",
        b"consent: true\n- 1\n",
        b"consent: true\n\x00",
        b"consent: true\x00",
        b"consent: true # \x00\n",
        b"consent: true\x0b\n",
        b"consent: true\x0c\n",
        b"consent: true\x1c\n",
        b"consent: true\x7f\n",
        b"# \x1b[31m\nconsent: true\n",
        b"consent: true\r",
        b"# no\rconsent: true\n",
        b"# no\rconsent: false\nconsent: true\n",
        b"consent: true\r\r\n",
        b"consent: true # \rconsent: false\n",
        *(f"# no{end}consent: false\nconsent: true\n".encode() for end in ("\x85", "\u2028", "\u2029", "\u202e")),
        *(f"consent: true{end}".encode() for end in ("\x85", "\u2028", "\u2029", "\u00a0", "\u3000", "\u200b")),
        "consent:\u00a0true\n".encode(),
        "consent: tru\u0435\n".encode(),
        "consent\uff1a true\n".encode(),
        BOM * 2 + b"consent: true\n",
        b"\n" + BOM + b"consent: true\n",
        b"consent: true\n" + BOM,
        "consent: true\n".encode("utf-16"),
        "consent: true\n".encode("utf-16-le"),
        "consent: true\n".encode("utf-16-be"),
        "consent: true\n".encode("utf-32"),
        b"+/v8-consent: true\n",
        b"# \xff\nconsent: true\n",
        b"# \xc0\xaf\nconsent: true\n",
        b"# \xed\xa0\x80\nconsent: true\n",
        b"# caf\xe9\nconsent: true\n",
        b"consent: true\n" + b"#" * 4083,
        b"consent: true\n" + b"\n" * 4083,
        b"consent: true\n" * 1000,
    ],
)
def test_a_no(data: bytes) -> None:
    assert not parse_consent(data)


def test_the_limit_is_four_kib_with_the_bom() -> None:
    fits = BOM + b"consent: true\n" + b"#" * (4096 - 3 - 14)
    assert len(fits) == 4096
    assert parse_consent(fits)
    assert not parse_consent(fits + b"#")


PIECES = [
    *(b"consent: true", b"consent: True", b"consent: false", b"consent", b":", b" ", b"true", b"TRUE", b"yes", b"on"),
    *(b"\n", b"\r\n", b"\r", b"\t", b"#", b" #", b"# ", b"---", b"...", b"- ", b"? ", b"'", b'"', b"|", b">", b"&a "),
    *(b"!!bool ", b"{", b"}", b",", b"\x00", b"\x0b", b"\x0c", BOM, b"\xff\xfe", b"\xc2\x85", b"\xc2\xa0", b"\\"),
    *(b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"%YAML 1.1\n", b"*a", b"<<: "),
]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)), max_size=12).map(b"".join))
@example(b"consent: true\n\t")
@example(b"#\rconsent: true")
def test_never_yes_where_yaml_loads_anything_else(data: bytes) -> None:
    assert not parse_consent(data) or yaml_says_yes(data)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([b"", b"#", b" # a", b"   ", b"# \tb:", "# \u65e5".encode()])),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_comments_and_blank_lines_are_free(lines: list[bytes], end: bytes) -> None:
    half = len(lines) // 2
    data = end.join([*lines[:half], b"consent: true", *lines[half:]])
    assert parse_consent(data) == (len(data) <= 4096)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """These bytes after one to four small changes."""
    for _ in range(chance.randint(1, 4)):
        at, until = sorted(chance.choices(range(len(data) + 1), k=2))
        piece = chance.choice([*PIECES, bytes([chance.randrange(256)]), data[at:until]])
        data = data[:at] + piece + data[chance.choice([at, at + 1, until]) :]
    return data


@pytest.mark.parametrize("mutations", [MUTATIONS])
@pytest.mark.parametrize("seed", [b"consent: true\n", BOM + b"# a\r\nconsent: TRUE # b\r\n", b"consent: false\n"])
def test_no_mutation_of_a_file_makes_a_false_yes(seed: bytes, mutations: int) -> None:
    """Seeded: the same mutations in each run."""
    chance = random.Random(seed)
    said_yes = 0
    for _ in range(mutations):
        data = mutate(seed, chance)
        if parse_consent(data):
            said_yes += 1
            assert yaml_says_yes(data), data
    assert said_yes or b"false" in seed, "no mutation left a yes: the test shows nothing"


# --- decide: the table, a row each ---
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder that says yes."""
    (tmp_path / ".telemetry").write_text("consent: true\n")
    return tmp_path


def row(folder: Path | None) -> int:
    return decide(None if folder is None else str(folder))[0]


def test_row_4_a_trusted_yes_is_on(folder: Path) -> None:
    assert decide(str(folder)) == (ON, "on: .telemetry says `consent: true`")
    assert ON == 4


@pytest.mark.parametrize("value", ["1", "0", "false", "no", " "])
@pytest.mark.parametrize("name", SWITCHES)
def test_row_1_a_switch_set_to_anything_is_off(
    name: str, value: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert decide(str(folder)) == (1, f"off: {name} is set")


@pytest.mark.parametrize("name", [*SWITCHES, *CI_VARIABLES, "_KEDRO_COMPLETE"])
def test_an_empty_variable_is_none(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert row(folder) == ON


@pytest.mark.parametrize("value", ["true", "1", "0", "false", "https://ci.example/"])
@pytest.mark.parametrize("name", CI_VARIABLES)
def test_row_2_a_ci_system_is_off(name: str, value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert decide(str(folder)) == (2, f"off: {name} is set")


def test_row_2_shell_completion_is_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_KEDRO_COMPLETE", "bash_complete")
    assert decide(str(folder)) == (2, "off: _KEDRO_COMPLETE is set")


def test_row_3_outside_of_a_project_is_off() -> None:
    assert decide(None) == (3, "off: not in a Kedro project")


def test_row_7_no_file_and_no_terminal_is_off(tmp_path: Path) -> None:
    number, verdict = decide(str(tmp_path))
    assert number == 7
    assert verdict.startswith("off: not answered yet")


def test_row_6_no_file_and_a_person_at_a_terminal_asks(tmp_path: Path) -> None:
    """On a real pseudo-terminal, in the foreground; the same on it in the background is row 7."""
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals of this kind")
    assert ASK == 6
    report = tmp_path / "report"
    script = (
        "import os, sys, pathlib; from kedro_telemetry.plugin import decide; "
        "os.setpgid(0, 0) if sys.argv[2] == 'background' else None; "
        "pathlib.Path(sys.argv[1]).write_text(str(decide(sys.argv[3])[0]))"
    )
    for where, expected in (("foreground", "6"), ("background", "7")):
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover
            if where == "background" and os.fork():
                os.wait()
                os._exit(0)
            os.execv(sys.executable, [sys.executable, "-c", script, str(report), where, str(tmp_path / "none")])
        try:
            while os.read(terminal, 4096):
                pass
        except OSError:  # the terminal is gone: so is the child
            pass
        os.waitpid(child, 0)
        os.close(terminal)
        assert report.read_text() == expected, where


def test_the_first_row_that_applies_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is taken away in turn: the next one then decides."""
    for name in ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "CI", "_KEDRO_COMPLETE"):
        monkeypatch.setenv(name, "1")
    for name, number in (
        ("DO_NOT_TRACK", 1),
        ("KEDRO_DISABLE_TELEMETRY", 1),
        ("CI", 2),
        ("_KEDRO_COMPLETE", 2),
    ):
        for place in (folder, None, folder / "absent"):
            verdict = decide(None if place is None else str(place))
            assert verdict == (number, f"off: {name} is set")
        monkeypatch.delenv(name)
    assert (row(folder), row(None)) == (ON, 3)


# --- decide, row 5: what cannot be trusted ---
@contextmanager
def at_once() -> Iterator[None]:
    """A read that blocks fails the test, and does not hold it up."""
    if not hasattr(signal, "alarm"):  # Windows, which has no FIFOs either
        yield
        return

    def blocked(*_: object) -> None:
        raise AssertionError("the read blocks")

    before = signal.signal(signal.SIGALRM, blocked)
    signal.alarm(5)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def said_no(folder: Path) -> str:
    """Row 5, its reason, at once; and the file is left as it is."""
    path = folder / ".telemetry"
    before = path.lstat()
    with at_once():
        number, verdict = decide(str(folder))
    after = path.lstat()
    assert number == 5
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns)
    assert verdict.startswith("off: .telemetry ")
    return verdict


@pytest.mark.parametrize("content", [b"", b"consent: false\n", b"\xff\xfe", b"{", b"\x00" * 100_000])
def test_row_5_a_file_that_says_anything_else(content: bytes, folder: Path) -> None:
    (folder / ".telemetry").write_bytes(content)
    assert said_no(folder) == "off: .telemetry does not say `consent: true`"


@pytest.mark.parametrize("size", [4097, 4098, 5000, 50_000_000])
def test_row_5_a_file_above_the_limit_is_not_cut_to_it(size: int, folder: Path) -> None:
    """A yes at the beginning of a file of any size; it is not read as a whole either."""
    with (folder / ".telemetry").open("r+b") as file:
        file.seek(size - 1)
        file.write(b"#")
    assert "does not say" in said_no(folder)
    (folder / ".telemetry").write_bytes(b"consent: true\n" + b"#" * (size - 14))
    assert "does not say" in said_no(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows fills a file that is made longer")
def test_row_5_a_file_larger_than_memory(folder: Path) -> None:
    os.truncate(folder / ".telemetry", 2**40)
    assert "does not say" in said_no(folder)


def test_a_file_of_exactly_the_limit_is_read(folder: Path) -> None:
    (folder / ".telemetry").write_bytes(b"consent: true\n" + b"#" * 4082)
    assert row(folder) == ON


@pytest.mark.parametrize("target", ["yes", "absent", "/dev/zero", ".telemetry", "."])
def test_row_5_a_symbolic_link(target: str, folder: Path) -> None:
    (folder / ".telemetry").rename(folder / "yes")
    (folder / ".telemetry").symlink_to(target)
    assert said_no(folder) == "off: .telemetry cannot be trusted: it is a link"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="Windows has no O_NOFOLLOW")
def test_row_5_a_link_that_comes_between_two_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look finds a regular file; when the file is opened, a link is in its place."""
    (folder / "yes").write_text("consent: true\n")
    looked = os.lstat(folder / "yes")
    (folder / ".telemetry").unlink()
    (folder / ".telemetry").symlink_to("yes")
    monkeypatch.setattr(os, "lstat", lambda _: looked)
    assert "cannot be trusted" in said_no(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_row_5_a_fifo_that_comes_between_two_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = os.lstat(folder / ".telemetry")
    (folder / ".telemetry").unlink()
    os.mkfifo(folder / ".telemetry")
    monkeypatch.setattr(os, "lstat", lambda _: looked)
    assert "not a regular file" in said_no(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_row_5_a_fifo_does_not_block(folder: Path) -> None:
    (folder / ".telemetry").unlink()
    os.mkfifo(folder / ".telemetry")
    wrong = "it is not a regular file of your own, closed to others"
    assert said_no(folder) == f"off: .telemetry cannot be trusted: {wrong}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_row_5_a_fifo_that_somebody_writes_a_yes_to(folder: Path) -> None:
    (folder / ".telemetry").unlink()
    os.mkfifo(folder / ".telemetry")
    with open(os.open(folder / ".telemetry", os.O_RDWR | os.O_NONBLOCK), "r+b", buffering=0) as pipe:
        pipe.write(b"consent: true\n")
        assert "not a regular file" in said_no(folder)


def test_row_5_a_folder(folder: Path) -> None:
    (folder / ".telemetry").unlink()
    (folder / ".telemetry").mkdir()
    assert "cannot be trusted" in said_no(folder)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets in the file system")
def test_row_5_a_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".telemetry").unlink()
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".telemetry")
        server.listen()
        assert "cannot be trusted" in said_no(folder)


@as_root
def test_row_5_a_device(folder: Path) -> None:
    (folder / ".telemetry").unlink()
    try:
        os.mknod(folder / ".telemetry", 0o20644, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("this container may not make devices")
    assert "cannot be trusted" in said_no(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o644, ON), (0o600, ON), (0o400, ON), (0o664, ON), (0o646, 5), (0o602, 5), (0o666, 5), (0o777, 5), (0o755, ON)],
)
def test_row_5_a_file_that_everyone_may_write(mode: int, expected: int, folder: Path) -> None:
    (folder / ".telemetry").chmod(mode)
    assert row(folder) == expected


@as_root
@pytest.mark.parametrize(("owner", "expected"), [((12345, -1), 5), ((0, 12345), ON)])
def test_row_5_a_file_of_another_user(owner: tuple[int, int], expected: int, folder: Path) -> None:
    """Whoever else has a file there cannot say yes for this user."""
    os.chown(folder / ".telemetry", *owner)
    assert row(folder) == expected


@as_root
def test_row_5_a_folder_that_cannot_be_read(folder: Path) -> None:
    """As a user without rights there: not to know is a no."""
    folder.chmod(0o700)
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.setuid(12345)
        os._exit(row(folder))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


def test_row_5_a_project_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert row(tmp_path / "file") == 5


def test_row_5_a_path_that_no_file_can_have() -> None:
    assert decide("a\x00b")[0] == 5
    assert decide("a" * 10_000)[0] == 5


def test_a_project_that_is_gone_is_not_on(tmp_path: Path) -> None:
    assert row(tmp_path / "absent") == 7


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link"])
def test_a_look_leaves_no_descriptor_open(kind: str, folder: Path) -> None:
    path = folder / ".telemetry"
    if kind != "file":
        path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("absent")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        decide(str(folder))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limit_of_a_read_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_own(str(tmp_path / "file"), 4, 0) == b"0123"


def test_every_variable_of_the_tables_is_documented_here() -> None:
    """The list of CI systems in the file is the list of this test: a new one comes with its test."""
    source = Path(sys.modules[decide.__module__].__file__ or "").read_text(encoding="utf-8")
    (signs,) = re.findall(r'CI_SIGNS: Final = """(.*?)"""', source, re.DOTALL)
    assert tuple(signs.split()) == CI_VARIABLES
