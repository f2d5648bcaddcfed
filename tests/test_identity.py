"""Who: keyed hashes, and a salt that never leaves and lives for a month."""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import build, make_salt, read_salt, salt_path

SALT = bytes(range(32))
FORM = re.compile(r"\d{4}-\d\d [0-9a-f]{64}\n")
MANY = 40  # first commands at once
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="to become another user takes the rights of root"
)


def month(offset: int = 0) -> str:
    """This UTC month, or one `offset` months away."""
    now = time.gmtime()
    months = now.tm_year * 12 + now.tm_mon - 1 + offset
    return f"{months // 12:04}-{months % 12 + 1:02}"


@pytest.fixture
def path(home: Path) -> Path:
    """Where this user's salt lives; its folder is there, the salt is not."""
    found = Path(salt_path())
    assert found.is_relative_to(home)
    found.parent.mkdir(parents=True)
    return found


def put(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def hashed(package: str = "acme", salt: bytes = SALT) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(build([], SimpleNamespace(package_name=package), {}, salt))["properties"]
    return kept


# --- The hash ---
def blake2b(name: str, field: str, salt: bytes = SALT) -> str:
    """BLAKE2b (RFC 7693), with the salt as its key."""
    return hashlib.blake2b(name.encode(), key=salt, person=field.encode(), digest_size=16).hexdigest()


def test_the_hash_is_a_keyed_blake2b() -> None:
    """`LOGNAME` is `somebody` in each test."""
    assert hashed()["username"] == blake2b("somebody", "username")
    assert hashed()["package_name"] == blake2b("acme", "package_name")


def test_a_known_value() -> None:
    """Made by: python3 -c 'import hashlib; print(hashlib.blake2b(b"acme", digest_size=16,
    key=bytes(range(32)), person=b"package_name").hexdigest())'."""
    assert hashed()["package_name"] == "ce2f5a3af4a24120067d664f460ec44f"


def test_equal_names_in_two_fields_have_two_hashes() -> None:
    """Else a package that is named after its user would show it."""
    properties = hashed("somebody")
    assert properties["username"] != properties["package_name"]


def test_another_salt_is_another_identity() -> None:
    assert set(hashed().values()) & set(hashed(salt=bytes(32)).values()) & {*hashed().values()} == {
        value for name, value in hashed().items() if name not in ("username", "package_name")
    }


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), min_size=1), st.text(st.characters(), min_size=1))
def test_any_two_names_have_two_hashes(one: str, two: str) -> None:
    assert (hashed(one)["package_name"] == hashed(two)["package_name"]) == (one == two)


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_the_login_name_is_that_of_getpass(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGNAME")
    monkeypatch.setenv(variable, "ada")
    assert hashed()["username"] == blake2b("ada", "username")


def test_the_first_variable_that_is_not_empty_names_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of getpass."""
    for variable in ("USERNAME", "LNAME", "USER", "LOGNAME"):
        monkeypatch.setenv(variable, f"ada_{variable}")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        assert hashed()["username"] == blake2b(f"ada_{variable}", "username")
        monkeypatch.setenv(variable, "")


def test_a_login_name_that_is_no_text_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that do not decode, as Python hands them on."""
    monkeypatch.setenv("LOGNAME", "ada\udcff")
    assert re.fullmatch("[0-9a-f]{32}", hashed()["username"])


def test_without_variables_the_user_database_names_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd", reason="Windows has no user database")
    monkeypatch.delenv("LOGNAME")
    assert hashed()["username"] == blake2b(pwd.getpwuid(os.getuid()).pw_name, "username")


@as_root
def test_a_user_without_a_name_is_no_error() -> None:
    """A user id that is in no database, and no variable: as in many containers."""
    script = (
        "import os, json; os.setuid(54321); from kedro_telemetry.plugin import build; "
        "print(build([], None, {}, bytes(range(32))).decode())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LOGNAME"}
    script = script.replace("import os, json;", "import os; import kedro_telemetry.plugin;")
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["identity"] == blake2b("", "username")


# --- The salt's file ---
def test_a_salt_is_made_once(home: Path) -> None:
    assert read_salt() is None
    salt = make_salt()
    assert len(salt) == 32
    assert read_salt() == salt == make_salt()


def test_two_homes_have_two_salts(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    salt = make_salt()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_salt() != salt


def test_the_salts_file(home: Path) -> None:
    """Its form, its mode, the mode of its folder, and nothing beside it."""
    before = os.umask(0)
    try:
        salt = make_salt()
    finally:
        os.umask(before)
    path = home / ".config" / "kedro" / "telemetry.salt"
    assert path.read_bytes().decode("ascii") == f"{month()} {salt.hex()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["telemetry.salt"]


def test_a_folder_that_is_there_keeps_its_mode(path: Path) -> None:
    path.parent.chmod(0o755)
    make_salt()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_read_writes_nothing(home: Path) -> None:
    assert read_salt() is None
    assert not (home / ".config").exists()


@pytest.mark.parametrize("offset", [-1, -12, 1])
def test_the_salt_of_another_month_is_replaced(offset: int, path: Path) -> None:
    """Also one of next month: the clock was wrong, or is."""
    put(path, f"{month(offset)} {'ab' * 32}\n")
    assert read_salt() is None
    salt = make_salt()
    assert salt != b"\xab" * 32
    assert read_salt() == salt
    assert path.read_text() == f"{month()} {salt.hex()}\n"


def test_the_salt_of_this_month_is_used(path: Path) -> None:
    put(path, f"{month()} {'ab' * 32}\n")
    assert read_salt() == make_salt() == b"\xab" * 32


def test_the_month_is_that_of_utc(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last second of a year in UTC, when the year to come has begun here; and a second later."""
    last = calendar.timegm((2030, 12, 31, 23, 59, 59))
    gmtime, localtime = time.gmtime, time.localtime
    salts = []
    for now, named in ((last, "2030-12"), (last + 1, "2031-01"), (last - 3600, "2030-12")):
        monkeypatch.setattr(time, "gmtime", lambda now=now: gmtime(now))
        monkeypatch.setattr(time, "localtime", lambda now=now: localtime(now + 50_000))
        salts.append(make_salt())
        assert read_salt() == salts[-1]
        assert path.read_text() == f"{named} {salts[-1].hex()}\n"
    assert len(set(salts)) == 3, "a salt that was replaced does not come back"


NOISE = {
    "empty": b"",
    "noise": bytes(range(128, 256)),
    "no month": b"ab" * 32 + b"\n",
    "no salt": f"{month()}\n".encode(),
    "a space and no salt": f"{month()} \n".encode(),
    "too short": f"{month()} {'ab' * 31}\n".encode(),
    "one digit short": f"{month()} {'ab' * 31}a\n".encode(),
    "too long": f"{month()} {'ab' * 33}\n".encode(),
    "much too long": f"{month()} {'ab' * 100_000}\n".encode(),
    "two lines": f"{month()} {'ab' * 32}\n{month()} {'ab' * 32}\n".encode(),
    "no digits": f"{month()} {'xy' * 32}\n".encode(),
    "digits and blanks": f"{month()} ab{chr(10) * 63}".encode(),
    "only blanks": f"{month()} {chr(10) * 65}".encode(),
    "two spaces": f"{month()}  {'ab' * 32}\n".encode(),
    "not ASCII": f"{month()} {'ab' * 31}\u0660\n".encode(),
    "a BOM": f"\ufeff{month()} {'ab' * 32}\n".encode(),
}


@pytest.mark.parametrize("content", NOISE.values(), ids=NOISE)
def test_a_salt_that_is_not_one_is_replaced(content: bytes, path: Path) -> None:
    put(path, content)
    salt = make_salt()
    assert FORM.fullmatch(path.read_text())
    assert read_salt() == salt
    assert len(salt) == 32
    assert os.listdir(path.parent) == ["telemetry.salt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows fills a file that is made longer")
def test_a_salt_larger_than_memory_is_replaced(path: Path) -> None:
    put(path, f"{month()} {'ab' * 32}\n")
    os.truncate(path, 2**40)
    assert make_salt() == read_salt() != b"\xab" * 32


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o601, 0o666])
def test_a_salt_that_others_could_know_is_replaced(mode: int, path: Path) -> None:
    put(path, f"{month()} {'ab' * 32}\n", mode)
    salt = make_salt()
    assert salt == read_salt() != b"\xab" * 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@as_root
def test_the_salt_of_another_user_is_replaced(path: Path) -> None:
    put(path, f"{month()} {'ab' * 32}\n")
    os.chown(path, 54321, -1)
    assert make_salt() == read_salt() != b"\xab" * 32


def test_a_salt_behind_a_link_is_not_used_nor_changed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(target, f"{month()} {'ab' * 32}\n")
    path.symlink_to(target)
    assert make_salt() == read_salt() != b"\xab" * 32
    assert target.read_text() == f"{month()} {'ab' * 32}\n"
    assert not path.is_symlink()


def test_a_link_to_nothing_makes_no_file_there(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "target")
    assert make_salt() == read_salt()
    assert not (tmp_path / "target").exists()


def test_a_salt_that_is_a_fifo_does_not_block(path: Path) -> None:
    os.mkfifo(path, 0o600)
    assert read_salt() is None
    assert make_salt() == read_salt()
    assert path.is_file()


def test_a_salt_that_is_a_folder_is_left(path: Path) -> None:
    """It can't be stored: a salt for each event alone; and no file is left, nor is the next command slowed down."""
    path.mkdir()
    (path / "mine").touch()
    salts = {make_salt() for _ in range(3)}
    assert len(salts) == 3
    assert os.listdir(path) == ["mine"]
    assert os.listdir(path.parent) == ["telemetry.salt"]


def test_a_draft_that_was_left_behind_costs_one_command_no_more(path: Path) -> None:
    """A process dies at the moment before its draft takes its place: the next commands have a salt that is stored."""
    script = "import os; from kedro_telemetry.plugin import make_salt; os.replace = lambda *_: os._exit(7); make_salt()"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
    assert len(os.listdir(path.parent)) == 1
    assert not path.exists()
    start = time.monotonic()
    make_salt()
    assert time.monotonic() - start < 10, "it takes 0.1 s: 50 looks whether the draft is gone"
    assert make_salt() == read_salt()
    assert os.listdir(path.parent) == ["telemetry.salt"]


# --- Where a salt cannot be stored: one for the event alone ---
def test_a_full_disk_leaves_no_file(path: Path) -> None:
    """A real one of no size: whatever is written to a file of this process is one byte too many."""
    resource = pytest.importorskip("resource", reason="Windows has no limits of this kind")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        salts = {make_salt(), make_salt()}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(salts) == 2
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/nowhere"])
def test_a_home_that_takes_no_file(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", place)
    assert len({make_salt(), make_salt()}) == 2
    assert read_salt() is None


def run_as_nobody(script: str, **variables: str) -> list[str]:
    """The lines that this script prints as a user who has a name in no database."""
    begin = "import os, kedro_telemetry.plugin as plugin; os.setgid(54321); os.setuid(54321)\n"
    environment = {**os.environ, **variables}
    for name in [name for name, value in variables.items() if value == "absent"]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-c", begin + script], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


TWO_SALTS = "print(plugin.make_salt().hex())\nprint(plugin.make_salt().hex())"


@as_root
def test_no_home_at_all() -> None:
    one, two = run_as_nobody(TWO_SALTS, HOME="absent", LOGNAME="absent")
    assert len(one) == len(two) == 64
    assert one != two


@as_root
def test_a_read_only_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of another user: root may write to any."""
    one, two = run_as_nobody(TWO_SALTS, HOME=str(home))
    assert len(one) == len(two) == 64
    assert one != two
    assert not (home / ".config").exists()


def test_a_relative_folder_makes_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`XDG_CONFIG_HOME` must be absolute, as its specification says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert len(make_salt()) == 32
    assert os.listdir(tmp_path) == []


# --- Many first commands at once ---
MAKE = """
import os, sys
from kedro_telemetry.plugin import make_salt, read_salt
print("ready", flush=True)
sys.stdin.readline()
print((read_salt() or make_salt()).hex(), flush=True)
"""


@pytest.mark.parametrize("before", ["nothing", "the salt of last month", "noise"])
def test_many_first_commands_at_once_settle_on_one_salt(before: str, path: Path) -> None:
    if before != "nothing":
        put(path, f"{month(-1)} {'ab' * 32}\n" if before == "the salt of last month" else "noise")
    processes = [
        subprocess.Popen([sys.executable, "-S", "-c", MAKE], stdin=-1, stdout=-1, text=True, env=importable())
        for _ in range(MANY)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    salts = Counter(process.communicate(timeout=60)[0].strip() for process in processes)
    assert len(salts) == 1, salts
    assert path.read_text() == f"{month()} {next(iter(salts))}\n"
    assert os.listdir(path.parent) == ["telemetry.salt"]


def importable() -> dict[str, str]:
    """An environment in which `python -S`, which starts fast, finds what this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
