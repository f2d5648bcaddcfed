"""The salt: a secret that stays on this machine, for a month."""

from __future__ import annotations

import calendar
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import support

from kedro_telemetry.plugin import (
    hash_name,
    login_name,
    prepare_salt,
    read_salt,
    salt_folder,
    salt_name,
    store_salt,
)

SALT = bytes(range(32))


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder of the salt, which exists."""
    path = home / ".config" / "kedro"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def path(folder: Path) -> Path:
    """The path of this month's salt, which does not exist."""
    return folder / salt_name()


@pytest.fixture
def _umask_000() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# --- Hashes ---


def test_hashes_are_keyed_blake2b() -> None:
    """The value is that of python3 -c 'import hashlib; print(hashlib.blake2b(b"acme",
    digest_size=16, key=bytes(range(32)), person=b"package_name").hexdigest())'"""
    known = "ce2f5a3af4a24120067d664f460ec44f"
    assert hash_name("acme", "package_name", SALT) == known


def test_a_hash_differs_by_name_field_and_salt() -> None:
    hashes = {
        hash_name(name, field, salt)
        for name in ("acme", "Acme", "", "\udcff", "\u00e4", "a\0b")
        for field in ("username", "package_name")
        for salt in (SALT, bytes(32))
    }
    assert len(hashes) == 6 * 2 * 2
    assert all(len(found) == 32 for found in hashes)


def test_the_login_name_is_the_first_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    for name in names:
        monkeypatch.setenv(name, f"ada {name}")
    for name in names:
        assert login_name() == f"ada {name}"
        monkeypatch.setenv(name, "")
    assert login_name() == str(os.getuid())


def test_the_user_database_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be on a network that does not answer."""
    monkeypatch.delenv("LOGNAME")
    monkeypatch.delenv("HOME")
    script = (
        "import sys; from kedro_telemetry import plugin; sys.modules['pwd'] = None;"
        "print(plugin.login_name(), len(plugin.prepare_salt()), plugin.salt_folder())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.stdout.decode().split() == [str(os.getuid()), "32", "None"]


# --- The file ---


@pytest.mark.usefixtures("_umask_000")
def test_a_new_salt_and_its_folders_are_the_users_alone(home: Path) -> None:
    assert read_salt() is None
    assert os.listdir(home) == [], "reading makes nothing"
    salt = prepare_salt()
    folder = home / ".config" / "kedro"
    assert os.listdir(folder) == [time.strftime("telemetry.salt.%Y-%m", time.gmtime())]
    assert (folder / salt_name()).read_text() == salt.hex()
    assert len(salt) == 32
    assert (folder / salt_name()).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_stored_salt_is_used_again(path: Path) -> None:
    path.write_text(SALT.hex())
    path.chmod(0o600)
    before = path.stat()
    assert read_salt() == prepare_salt() == SALT
    assert path.stat() == before


def test_a_folder_that_exists_keeps_its_mode(folder: Path) -> None:
    folder.chmod(0o755)
    assert prepare_salt() == read_salt()
    assert folder.stat().st_mode & 0o777 == 0o755


def test_each_month_of_utc_has_its_salt_and_past_ones_are_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = calendar.timegm((2031, 1, 1, 0, 0, 0))
    gmtime = time.gmtime
    salts = set()
    for second, month in ((-1, "2030-12"), (0, "2031-01"), (31 * 86400, "2031-02")):
        moment = gmtime(midnight + second)
        monkeypatch.setattr(time, "gmtime", lambda moment=moment: moment)
        assert read_salt() is None
        salts.add(prepare_salt())
        assert os.listdir(folder) == [f"telemetry.salt.{month}"]
    assert len(salts) == 3


def test_past_salts_and_that_of_version_1_0_0_are_deleted(folder: Path) -> None:
    keep = ["other", "telemetry.conf", salt_name(), "telemetry.salt.9999-12"]
    for name in (*keep, "telemetry.salt", "telemetry.salt.2020-01"):
        (folder / name).write_text(SALT.hex())
        (folder / name).chmod(0o600)
    assert read_salt() == SALT
    assert len(os.listdir(folder)) == 6, "reading deletes nothing"
    assert prepare_salt() == SALT
    assert sorted(os.listdir(folder)) == sorted(keep)


def test_a_past_salt_that_cannot_be_deleted_is_no_obstacle(folder: Path) -> None:
    folders = [f"telemetry.salt.2019-{month:02}" for month in range(1, 13)]
    for name in folders:
        (folder / name).mkdir()
        (folder / name.replace("2019", "2020")).touch()
    assert prepare_salt() == read_salt()
    assert sorted(os.listdir(folder)) == sorted([*folders, salt_name()])


DAMAGED = {
    "empty": b"",
    "too short": SALT.hex()[2:].encode(),
    "an odd number of digits": SALT.hex()[1:].encode(),
    "too long": SALT.hex().encode() * 2,
    "other letters": b"xy" * 32,
    "no text": bytes(range(128, 192)),
    "as of 1.0.0": b"2020-01 " + SALT.hex().encode(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_salt_is_replaced(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_salt() is None
    assert prepare_salt() == read_salt() != SALT
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601, 0o666])
def test_a_salt_that_others_could_know_is_replaced(mode: int, path: Path) -> None:
    path.write_text(SALT.hex())
    path.chmod(mode)
    assert prepare_salt() == read_salt() != SALT
    assert path.stat().st_mode & 0o777 == 0o600


@support.as_root
def test_the_salt_of_another_user_is_replaced(path: Path) -> None:
    path.write_text(SALT.hex())
    path.chmod(0o600)
    os.chown(path, 12345, -1)
    assert prepare_salt() == read_salt() != SALT


@pytest.mark.parametrize("target", ["other", "absent"])
def test_a_link_in_place_of_a_salt_is_replaced_and_not_its_target(
    target: str, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text(SALT.hex())
    (tmp_path / "other").chmod(0o600)
    path.symlink_to(tmp_path / target)
    assert prepare_salt() == read_salt() != SALT
    assert os.listdir(tmp_path) == ["other"]
    assert (tmp_path / "other").read_text() == SALT.hex()


def test_a_fifo_in_place_of_a_salt_is_replaced(path: Path) -> None:
    os.mkfifo(path)
    assert prepare_salt() == read_salt()


# --- Where no salt can be stored ---


def check_nothing_is_stored(home: Path) -> None:
    """Each event has a salt of its own, and nothing is created."""
    before = sorted(home.rglob("*"))
    salts = [prepare_salt(), prepare_salt()]
    assert salts[0] != salts[1]
    assert [len(salt) for salt in salts] == [32, 32]
    assert read_salt() is None
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("home", [None, "", "relative", ".", "/proc/absent", "~"])
def test_without_a_home_nothing_is_created(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "relative").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert salt_folder() is None
    check_nothing_is_stored(tmp_path)


def test_only_an_absolute_configuration_folder_is_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("relative", "", "~/x"):
        monkeypatch.setenv("XDG_CONFIG_HOME", other)
        assert salt_folder() == f"{home}/.config/kedro"
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/other")
    assert salt_folder() == f"{tmp_path}/other/kedro"
    assert prepare_salt() == read_salt()
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700


@support.as_root
def test_a_home_of_somebody_else_is_left_alone(home: Path) -> None:
    os.chown(home, 12345, 12345)
    check_nothing_is_stored(home)
    (home / ".config").mkdir()
    assert prepare_salt() == read_salt(), "a folder of the user's own"
    os.chown(home / ".config" / "kedro", 12345, 12345)
    (home / ".config" / "kedro" / salt_name()).unlink()
    check_nothing_is_stored(home)


def test_no_salt_is_stored_where_no_folder_can_be_made(home: Path) -> None:
    (home / ".config").touch()
    check_nothing_is_stored(home)
    (home / ".config").unlink()
    (home / ".config").symlink_to("absent")
    check_nothing_is_stored(home)


@support.as_root
def test_a_read_only_home_gets_no_salt(home: Path) -> None:
    """Root can write everywhere, so another user tries."""
    script = (
        "import os; from kedro_telemetry.plugin import prepare_salt; os.setuid(12345);"
        "print(len({prepare_salt(), prepare_salt()}))"
    )
    home.chmod(0o555)
    os.chown(home, 12345, 12345)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.stdout == b"2\n", done.stderr
    assert os.listdir(home) == []


def test_a_folder_in_place_of_a_salt_is_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()
    check_nothing_is_stored(path.parent)


def test_a_full_disk_leaves_no_file(folder: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert len({prepare_salt(), prepare_salt()}) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(folder) == []


# --- Several commands at once ---

MANY = """
import sys
from kedro_telemetry.plugin import prepare_salt
print("ready", flush=True)
sys.stdin.readline()
print(prepare_salt().hex())
"""


def test_many_first_commands_at_once_settle_on_one_salt(home: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", MANY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(12)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(len(processes)) as pool:
        outputs = set(pool.map(lambda it: it.communicate("\n")[0], processes))
    (path,) = (home / ".config" / "kedro").iterdir()
    assert outputs == {f"{path.read_text()}\n"}


@pytest.mark.parametrize("attempt", range(5))
def test_threads_of_one_process_settle_on_one_salt(attempt: int, home: Path) -> None:
    barrier = threading.Barrier(8)

    def get(_: int) -> bytes:
        barrier.wait(5)
        return prepare_salt()

    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(get, range(8)))
    assert salts == {read_salt()}


def test_a_folder_that_another_command_made_first_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder = os.mkdir

    def come_second(path: str, mode: int) -> None:
        make_folder(path, mode)
        raise FileExistsError(path)

    monkeypatch.setattr(os, "mkdir", come_second)
    assert prepare_salt() == read_salt()


def test_a_salt_that_another_command_stored_first_is_used(path: Path) -> None:
    path.write_text(SALT.hex())
    path.chmod(0o600)
    with pytest.raises(FileExistsError):
        store_salt(str(path.parent), bytes(32))
    assert read_salt() == SALT
    assert os.listdir(path.parent) == [path.name]
