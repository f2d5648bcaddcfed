"""Reading and writing files: nothing waits, nothing is followed or overwritten."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import support

from kedro_telemetry.plugin import (
    ACCESSIBLE_TO_OTHERS,
    WRITABLE_BY_OTHERS,
    describe,
    read_file,
    read_own_file,
    write_new_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"0123456789")
    return tmp_path / "file"


# --- Reading ---


def read_own(path: Path) -> bytes:
    return read_own_file(str(path), 10, WRITABLE_BY_OTHERS)


def test_a_file_up_to_the_limit_is_read(path: Path) -> None:
    assert read_file(str(path), 10) == read_own(path) == b"0123456789"
    with pytest.raises(PermissionError, match="more than 9 bytes"):
        read_file(str(path), 9)
    with pytest.raises(PermissionError, match="more than 9 bytes"):
        read_own_file(str(path), 9, WRITABLE_BY_OTHERS)


def test_a_file_larger_than_memory_is_refused(path: Path) -> None:
    os.truncate(path, 2**40)
    with pytest.raises(PermissionError, match="more than 10 bytes"):
        read_own(path)


def test_an_absent_file_raises_file_not_found(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_own(path.with_name("absent"))


def make_fifo_with_a_writer(path: Path) -> None:
    os.mkfifo(path)
    os.write(os.open(path, os.O_RDWR | os.O_NONBLOCK), b"consent: true\n")


def make_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(folder)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o20644, os.makedev(1, 5))  # like /dev/zero
    except PermissionError:
        support.missing("the right to make devices")


@pytest.mark.parametrize(
    "make", [os.mkfifo, make_fifo_with_a_writer, os.mkdir, make_socket, make_device]
)
def test_only_a_regular_file_is_read(make: Callable[[Path], None], path: Path) -> None:
    path.unlink()
    make(path)
    reason = r"regular file|directory|No such device"
    with pytest.raises(OSError, match=reason):
        read_file(str(path), 10)
    with pytest.raises(OSError, match=reason):
        read_own(path)


@pytest.mark.parametrize("target", ["other", "absent", "file", "."])
def test_a_file_of_the_users_own_is_no_symbolic_link(target: str, path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to(target)
    with pytest.raises(PermissionError, match="it is a symbolic link"):
        read_own(path)


def test_a_link_that_appears_between_two_looks_is_not_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")
    monkeypatch.setattr(os.path, "islink", lambda _: False)
    with pytest.raises(OSError, match="symbolic links"):
        read_own(path)


def test_other_files_may_be_links(path: Path) -> None:
    path.with_name("link").symlink_to(path)
    assert read_file(f"{path.parent}/link", 10) == b"0123456789"


def test_the_users_own_file_must_not_be_writable_by_others(path: Path) -> None:
    for mode in (0o664, 0o646, 0o602, 0o620, 0o666, 0o777):
        path.chmod(mode)
        with pytest.raises(PermissionError, match="others have too much access to it"):
            read_own(path)
        assert read_file(str(path), 10) == b"0123456789"
    for mode in (0o644, 0o600, 0o400, 0o755):
        path.chmod(mode)
        assert read_own(path) == b"0123456789"


def test_a_secret_file_must_not_be_accessible_to_others(path: Path) -> None:
    for mode in (0o640, 0o604, 0o620, 0o602, 0o610, 0o601):
        path.chmod(mode)
        with pytest.raises(PermissionError):
            read_own_file(str(path), 10, ACCESSIBLE_TO_OTHERS)
    path.chmod(0o600)
    assert read_own_file(str(path), 10, ACCESSIBLE_TO_OTHERS) == b"0123456789"


@support.as_root
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    os.chown(path, 12345, -1)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        read_own(path)
    os.chown(path, 0, 12345)
    assert read_own(path) == b"0123456789"


def test_no_descriptor_stays_open(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    before = psutil.Process().num_fds()
    for name in ("file", "fifo", "absent"):
        with suppress(OSError):
            read_own(path.with_name(name))
    assert psutil.Process().num_fds() <= before


# --- Writing ---


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_new_file_has_its_mode(mode: int, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_new_file(str(tmp_path / "new"), "consent: true\n", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"consent: true\n"
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("target", [None, "other", "absent"])
def test_nothing_is_overwritten(target: str | None, path: Path) -> None:
    if target:
        path.rename(path.with_name("other"))
        path.symlink_to(target)
    before = sorted(os.listdir(path.parent))
    with pytest.raises(FileExistsError):
        write_new_file(str(path), "new", 0o600)
    assert sorted(os.listdir(path.parent)) == before
    assert path.with_name(target or "file").exists() == (target != "absent")
    if target != "absent":
        assert path.read_bytes() == b"0123456789"


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    try:
        import resource
    except ImportError:
        support.missing("limits of resources")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_new_file(str(tmp_path / "new"), "consent: true\n", 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_an_error_is_described_without_number_and_path() -> None:
    assert describe(OSError(28, "No space left on device", "/path")) == (
        "No space left on device"
    )
    assert describe(PermissionError("it is a symbolic link")) == "it is a symbolic link"
    assert describe(ValueError("a reason")) == "a reason"
