"""The salt: a secret that stays on this machine, for a month. And what it hashes."""

import calendar
import hashlib
import os
import sys
import time
from pathlib import Path

import pytest
import support

from kedro_telemetry.plugin import find_salt, hash_name, login_name

SALT = bytes(range(32))


@pytest.fixture
def path(home: Path) -> Path:
    """The path of the salt, in the own folder, which exists."""
    support.own_folder(home).mkdir(parents=True)
    return support.own_folder(home) / "salt"


def this_month(digits: str = SALT.hex()) -> str:
    return f"{time.strftime('%Y-%m', time.gmtime())} {digits}\n"


def test_a_hash_is_the_start_of_sha_256_of_salt_field_and_name() -> None:
    """The known value is that of python3 -c 'import hashlib; print(hashlib.sha256(
    bytes(range(32)) + b"package_name:acme").hexdigest()[:32])'"""
    assert hash_name("acme", "package_name", SALT) == "0965653f39a44ca7a4c4db486f0c0e12"
    for name in ("", "Acme", "\u00e4", "a\0b", "x" * 100_000):
        digest = hashlib.sha256(bytes(32) + b"username:" + name.encode()).hexdigest()
        assert hash_name(name, "username", bytes(32)) == digest[:32]
    assert len(hash_name("\udcff", "username", SALT)) == 32, "undecodable bytes"


def test_the_login_name_needs_no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user database can be on a network that does not answer."""
    monkeypatch.setitem(sys.modules, "pwd", None)
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    for name in names:
        monkeypatch.setenv(name, f"ada {name}")
    for name in names:
        assert login_name() == f"ada {name}"
        monkeypatch.setenv(name, "")
    if sys.platform != "win32":
        assert login_name() == str(os.getuid())
    monkeypatch.setattr(sys, "platform", "win32")
    assert login_name() == "unknown"


def test_a_new_salt_is_random_for_the_user_only_and_used_again(path: Path) -> None:
    umask = os.umask(0)
    salt = find_salt()
    os.umask(umask)
    assert path.read_bytes().decode() == this_month(salt.hex())
    assert find_salt() == salt
    assert os.listdir(path.parent) == ["salt"]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    assert find_salt() != salt


def test_each_month_has_its_salt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    midnight = calendar.timegm((2031, 1, 1, 0, 0, 0))
    gmtime = time.gmtime
    salts = set()
    for second in (-31 * 86400, -1, 0, 31 * 86400 - 1, 31 * 86400):
        moment = gmtime(midnight + second)
        monkeypatch.setattr(time, "gmtime", lambda moment=moment: moment)
        salts.add(find_salt().hex())
        assert path.read_text() in map(this_month, salts)
        assert os.listdir(path.parent) == ["salt"]
    assert len(salts) == 3


def test_a_damaged_salt_is_overwritten_once(path: Path) -> None:
    path.write_text(this_month())
    assert find_salt() == SALT
    good, zeros = this_month().strip(), "\u0660" * 64  # Arabic
    month, digits = good.split()
    for text in (
        *("", "\n", month, digits, f"{month}\n", good[:-1], good[:-2], f"{good}00"),
        *(f"{month} {'g' * 64}", f"{month}{digits}", f"2020-01 {digits}", "x" * 2**21),
        *(f"{good} more", f"more {good}", f"{month} {zeros}", f"\ufeff{good}"),
    ):
        path.write_bytes(text.encode())
        salt = find_salt()
        assert salt not in (SALT, bytes(32)), text[:100]
        assert path.read_bytes().decode() == this_month(salt.hex())
        assert find_salt() == salt


def test_a_salt_that_cannot_be_stored_is_used_once(
    path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    assert len({find_salt(), find_salt()}) == 2
    path.rmdir()
    if sys.platform != "win32":
        (home / "other").write_text(this_month())
        path.symlink_to(home / "other")
        assert len({find_salt(), find_salt(), SALT}) == 3
        assert (home / "other").read_text() == this_month(), "not through a link"
        path.unlink()
        os.mkfifo(path)
        assert len({find_salt(), find_salt()}) == 2
    monkeypatch.delenv(support.HOME)
    assert len({find_salt(), find_salt()}) == 2


def test_a_preview_stores_no_salt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_TELEMETRY_PREVIEW", "1")
    assert len({find_salt(), find_salt()}) == 2
    assert not path.exists()
    path.write_text(f"2020-01 {SALT.hex()}\n")
    assert find_salt() != SALT
    assert path.read_text().startswith("2020-01")
    path.write_text(this_month())
    assert find_salt() == SALT
