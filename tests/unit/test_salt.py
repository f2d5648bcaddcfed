"""The salt: a secret that stays on this machine, for a month. And what it hashes."""

from __future__ import annotations

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
    folder = support.own_folder(home)
    folder.mkdir(parents=True)
    return folder / "salt"


def stored(path: Path) -> bytes:
    """Return the salt in this file, which must be this month's."""
    month, digits = path.read_bytes().decode("ascii").removesuffix("\n").split(" ")
    assert month == time.strftime("%Y-%m", time.gmtime())
    assert len(digits) == 64
    return bytes.fromhex(digits)


# --- Hashes ---


def test_a_hash_is_the_start_of_sha_256_of_salt_field_and_name() -> None:
    """The known value is that of python3 -c 'import hashlib; print(hashlib.sha256(
    bytes(range(32)) + b"package_name:acme").hexdigest()[:32])'"""
    assert hash_name("acme", "package_name", SALT) == "0965653f39a44ca7a4c4db486f0c0e12"
    for name in ("", "Acme", "\u00e4", "a\0b", "x" * 100_000):
        for salt in (SALT, bytes(32)):
            digest = hashlib.sha256(salt + b"username:" + name.encode()).hexdigest()
            assert hash_name(name, "username", salt) == digest[:32]
    assert len(hash_name("\udcff", "username", SALT)) == 32, "undecodable bytes"


def test_the_login_name_is_the_first_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    for name in names:
        monkeypatch.setenv(name, f"ada {name}")
    for name in names:
        assert login_name() == f"ada {name}"
        monkeypatch.setenv(name, "")
    number = "unknown" if sys.platform == "win32" else str(os.getuid())
    assert login_name() == number
    monkeypatch.setattr(sys, "platform", "win32")
    assert login_name() == "unknown"


def test_the_user_database_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be on a network that does not answer."""
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.delenv("LOGNAME")
    monkeypatch.delenv(support.HOME)
    assert login_name()
    assert len(find_salt()) == 32


# --- The file ---


def test_a_new_salt_is_random_stored_for_the_user_only_and_used_again(
    path: Path,
) -> None:
    umask = os.umask(0)
    salt = find_salt()
    os.umask(umask)
    assert stored(path) == salt
    assert find_salt() == salt
    assert os.listdir(path.parent) == ["salt"]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    assert find_salt() != salt


def test_the_first_event_of_a_month_of_utc_overwrites_the_salt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = calendar.timegm((2031, 1, 1, 0, 0, 0))
    gmtime = time.gmtime
    salts = set()
    for second in (-31 * 86400, -1, 0, 31 * 86400 - 1, 31 * 86400):
        moment = gmtime(midnight + second)
        monkeypatch.setattr(time, "gmtime", lambda moment=moment: moment)
        salts.add(find_salt())
        assert stored(path) in salts
        assert os.listdir(path.parent) == ["salt"]
    assert len(salts) == 3


def test_a_damaged_salt_is_overwritten_once(path: Path) -> None:
    month, digits = time.strftime("%Y-%m", time.gmtime()), SALT.hex()
    zeros = "\u0660" * 64  # Arabic
    path.write_text(f"{month} {digits}\n")
    assert find_salt() == SALT
    for text in (
        *("", "\n", month, digits, f"{month}\n", f"{month} {digits[:-1]}\n"),
        *(f"{month} {digits}0\n", f"{month} {digits} more\n", f"{month} {'g' * 64}\n"),
        *(f"{month}{digits}\n", f"2020-01 {digits}\n", f"{month} {zeros}\n"),
        *(f"\ufeff{month} {digits}\n", f"{month} {digits[:-2]}\x000\n", "x" * 2**21),
    ):
        path.write_bytes(text.encode())
        salt = find_salt()
        assert salt not in (SALT, bytes(32)), text[:100]
        assert stored(path) == salt == find_salt(), text[:100]


def test_a_salt_that_cannot_be_stored_is_used_once(
    path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    assert len({find_salt(), find_salt()}) == 2
    assert os.listdir(path) == []
    path.rmdir()
    if sys.platform != "win32":
        (home / "other").write_text(f"{time.strftime('%Y-%m')} {SALT.hex()}\n")
        path.symlink_to(home / "other")
        assert len({find_salt(), find_salt(), SALT}) == 3
        assert SALT.hex() in (home / "other").read_text(), "not written through a link"
        path.unlink()
        os.mkfifo(path)
        assert len({find_salt(), find_salt()}) == 2
    monkeypatch.delenv(support.HOME)
    assert len({find_salt(), find_salt()}) == 2


def test_a_preview_stores_no_salt_but_shows_the_stored_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_TELEMETRY_PREVIEW", "1")
    assert len({find_salt(), find_salt()}) == 2
    assert not path.exists()
    path.write_text(f"2020-01 {SALT.hex()}\n")
    assert find_salt() != SALT
    assert path.read_text().startswith("2020-01")
    path.write_text(f"{time.strftime('%Y-%m', time.gmtime())} {SALT.hex()}\n")
    assert find_salt() == SALT
