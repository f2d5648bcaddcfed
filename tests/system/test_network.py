"""Bad collectors, names, certificates and proxies: what leaves, and what it costs."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
import support
import trustme
from network import (
    ENDPOINT,
    HOST,
    Authority,
    end_in_time,
    over_tls,
    request_bytes,
    run_sender,
    secure_url,
    side_by_side,
    with_files,
    with_hosts,
)
from support import MESSAGE

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT TESTED HERE: namespaces, and full queues"
)
URL = f"https://{HOST}/api/track"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# --- Collectors that misbehave ---


def says(answer: bytes) -> support.Answer:
    def answers(connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(support.read_request(connection))
        connection.sendall(answer)

    return answers


def repeats(first: bytes, chunk: bytes, pause: float = 0) -> support.Answer:
    def answers(connection: socket.socket, collector: support.Collector) -> None:
        says(first)(connection, collector)
        while not collector.stopping.wait(pause):
            connection.sendall(chunk)

    return answers


def says_and_waits(first: bytes) -> support.Answer:
    return repeats(first, b"", 8)


def never_reads(connection: socket.socket, collector: support.Collector) -> None:
    collector.stopping.wait(8)


def resets(connection: socket.socket, collector: support.Collector) -> None:
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS: dict[str, support.Answer] = {
    "silent": says_and_waits(b""),
    "half an answer": says_and_waits(HEAD + b"Content-"),
    "never reads": never_reads,
    "a byte every second": repeats(b"", b"H", 1),
    "100 Continue for ever": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "closes": says(b""),
    "resets": resets,
    "noise": says(bytes(range(256)) * 8),
    "TLS": says(b"\x16\x03\x03\x00\x7a" + bytes(122)),
    "a huge status line": says(b"HTTP/1.1 200 " + b"O" * 100_000),
    "endless headers": repeats(HEAD, b"X: y\r\n"),
    "an endless body": repeats(HEAD + b"\r\n", b"a" * 65536),
}


def test_a_command_shows_the_same_and_does_not_wait_whatever_a_collector_does(
    project: Path, env: dict[str, str], home: Path
) -> None:
    def outcome(name: str) -> tuple[int, str, str]:
        if not name:
            done = support.kedro("info", cwd=project, env=env | {"DO_NOT_TRACK": "1"})
            return done.returncode, done.stdout, done.stderr
        copy = support.copy_project(project, project.parent / name)
        with support.collecting(FAULTS[name]) as collector:
            support.agree(copy, home, collector.url)
            done = support.kedro("info", cwd=copy, env=env | {ENDPOINT: collector.url})
            if name == "silent":
                assert support.senders(), "the command waited for its sender"
            support.wait_until(lambda: collector.connections == 1)
        return done.returncode, done.stdout, done.stderr

    off, *on = side_by_side(outcome, ["", "silent", "resets", "endless headers"])
    assert on == [off] * 3
    assert off[0] == 0


@contextmanager
def silent_port(family: socket.AddressFamily, port: int = 0) -> Iterator[int]:
    """Open a port that never answers, because its queue of connections is full."""
    with socket.create_server(("", port), family=family, backlog=0) as full:
        address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        waiting = [socket.socket(family) for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex((address, full.getsockname()[1]))
        yield full.getsockname()[1]
        for connection in waiting:
            connection.close()


@linux
def test_the_sender_is_gone_in_5_seconds_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def send_to(answer: support.Answer) -> None:
        with support.collecting(answer) as collector:
            run_sender(MESSAGE, collector.url)
            assert collector.connections == 1
            assert collector.requests in ([], [request_bytes(collector.url)])

    def keep_input_open(data: bytes) -> None:
        with subprocess.Popen(
            support.SENDER, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
        ) as process:
            assert process.stdin
            process.stdin.write(data)
            process.stdin.flush()
            process.wait(20)

    # Each name is asked of 127.0.0.1, where nobody answers; or has many addresses.
    files = {"resolv_conf": "nameserver 127.0.0.1\n", "nsswitch_conf": "hosts: dns\n"}
    names = with_files(tmp_path_factory.mktemp("names"), **files)
    many = [f"127.0.0.{number}" for number in range(1, 10)]
    hosts = with_hosts(tmp_path_factory.mktemp("hosts"), *many)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        silent_port(socket.AF_INET) as port,
    ):
        resolver.bind(("127.0.0.1", 53))
        resolver.settimeout(5)
        assert end_in_time(
            lambda: run_sender(MESSAGE, None, names),
            lambda: run_sender(MESSAGE, f"http://127.0.0.1:{port}/"),
            lambda: run_sender(MESSAGE, f"https://{HOST}:{port}/", hosts),
            *(partial(send_to, answer) for answer in FAULTS.values()),
            *(partial(keep_input_open, data) for data in (b"", MESSAGE[:99], MESSAGE)),
        )
        # Without an endpoint, this is the only name that the sender looks up.
        assert b"\x0dheapanalytics\x03com\x00" in resolver.recv(4096)


ANSWERS = {
    "301 Moved": "Location: {other}",
    "302 Found": "Location: {other}",
    "307 Moved": "Location: {other}",
    "308 Moved": "Location: {other}",
    "200 OK": "Refresh: 0; url={other}\r\nSet-Cookie: a=b; Path=/",
    "401 Unauthorized": 'WWW-Authenticate: Basic realm="a"',
    "407 Proxy Authentication Required": 'Proxy-Authenticate: Basic realm="a"',
    "503 Service Unavailable": "Retry-After: 0",
}


def test_redirects_and_requests_to_log_in_are_not_followed(
    home: Path, collector: support.Collector
) -> None:
    """Nor is the body of an answer read: this one never arrives."""
    netrc = "machine 127.0.0.1\nlogin someone\npassword something\n"
    (home / ".netrc").write_text(netrc)

    def check(status: str) -> None:
        headers = ANSWERS[status].format(other=collector.url)
        answer = f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: 1000000\r\n\r\n"
        with support.collecting(says_and_waits(answer.encode())) as first:
            assert run_sender(MESSAGE, first.url, HOME=str(home)).returncode == 0
            assert first.requests == [request_bytes(first.url)]
            assert first.connections == 1

    side_by_side(check, ANSWERS)
    assert collector.connections == 0


@linux
def test_a_silent_first_address_does_not_lose_the_event(
    tmp_path: Path, authority: Authority
) -> None:
    """As with broken IPv6: the name has two addresses, and only the second answers."""
    if not Path("/proc/net/if_inet6").exists():
        support.missing("IPv6")
    hosts = with_hosts(tmp_path, "::1", "127.0.0.1")
    with (
        support.collecting(over_tls(authority.context())) as collector,
        silent_port(socket.AF_INET6, collector.port),
    ):
        url = secure_url(collector, HOST)
        assert run_sender(MESSAGE, url, hosts, **authority.trust).returncode == 0
        assert collector.requests == [request_bytes(url)]


# --- Certificates ---


def dated(start: int, end: int) -> Callable[[Authority], ssl.SSLContext]:
    def make(authority: Authority) -> ssl.SSLContext:
        now = datetime.now(timezone.utc)
        leaf = authority.authority.issue_cert(
            "localhost",
            not_before=now + timedelta(days=start),
            not_after=now + timedelta(days=end),
        )
        return authority.context(leaf)

    return make


def of_an_unknown_authority(authority: Authority) -> ssl.SSLContext:
    return authority.context(trustme.CA().issue_cert("localhost"))


def of_another_host(authority: Authority) -> ssl.SSLContext:
    return authority.context(authority.authority.issue_cert(HOST))


def test_nothing_is_sent_to_a_collector_with_a_bad_certificate(
    authority: Authority,
) -> None:
    def check(make: Callable[[Authority], ssl.SSLContext]) -> None:
        with support.collecting(over_tls(make(authority))) as collector:
            url = secure_url(collector)
            assert run_sender(MESSAGE, url, **authority.trust).returncode == 1, make
            assert collector.connections == 1
            assert collector.requests in ([], [b""])

    bad = [dated(-9, -1), dated(1, 9), of_an_unknown_authority, of_another_host]
    side_by_side(check, bad)


def test_nothing_is_sent_to_an_https_url_without_tls() -> None:
    def read_and_close(connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(connection.recv(65536))

    with support.collecting(read_and_close) as collector:
        assert run_sender(MESSAGE, secure_url(collector)).returncode == 1
        (hello,) = collector.requests
    assert hello.startswith(b"\x16\x03"), "the start of a TLS handshake"
    assert b"POST" not in hello


def test_a_slow_collector_gets_its_event(authority: Authority) -> None:
    def answer(connection: socket.socket, collector: support.Collector) -> None:
        time.sleep(1)
        over_tls(authority.context())(connection, collector)

    with support.collecting(answer) as collector:
        url = secure_url(collector)
        assert run_sender(MESSAGE, url, **authority.trust).returncode == 0
        assert len(collector.events) == 1


# --- Proxies ---


def proxy_to(context: ssl.SSLContext) -> support.Answer:
    """Return an HTTP proxy with a collector behind it. It keeps two requests."""

    def tunnel(connection: socket.socket, collector: support.Collector) -> None:
        says(b"HTTP/1.1 200 Connection established\r\n\r\n")(connection, collector)
        over_tls(context)(connection, collector)

    return tunnel


# Newer versions of Python send Host as well, after the password.
CONNECT = rf"CONNECT {HOST}:443 HTTP/1\.[01]\r\n(Host: {HOST}:443\r\n)?"
PASSWORD = base64.b64encode(b"someone:s3cr@t").decode()
PROXIES = {
    "HTTPS_PROXY": "http://PROXY",
    "https_proxy": "PROXY",
    "ALL_PROXY": "http://PROXY",
    "all_proxy": "someone:s3cr%40t@PROXY",
}


def test_a_proxy_sees_only_the_host_and_its_own_password(authority: Authority) -> None:
    """NO_PROXY names other hosts here."""

    def check(name: str) -> None:
        with support.collecting(proxy_to(authority.context())) as proxy:
            place = PROXIES[name].replace("PROXY", f"127.0.0.1:{proxy.port}")
            variables = {name: place, "NO_PROXY": "a.test,tor.test", **authority.trust}
            assert run_sender(MESSAGE, URL, **variables).returncode == 0
            connect, post = proxy.requests
        password = f"Proxy-Authorization: Basic {PASSWORD}\r\n" if "@" in place else ""
        form = rf"{CONNECT}{re.escape(password)}(Host: {HOST}:443\r\n)?\r\n"
        assert re.fullmatch(form, connect.decode())
        assert post == request_bytes(URL)

    side_by_side(check, PROXIES)


def test_a_proxy_of_another_kind_gets_nothing_not_even_its_password(
    collector: support.Collector,
) -> None:
    place = f"someone:s3cret@127.0.0.1:{collector.port}"
    kinds = ["https://", "socks4://", "socks5://", "socks5h://", "ftp://", "HTTP:"]

    def send(kind: str) -> int:
        return run_sender(MESSAGE, URL, HTTPS_PROXY=kind + place).returncode

    assert side_by_side(send, kinds) == [1] * len(kinds)
    assert collector.connections == 0


@linux
def test_no_proxy_is_used_for_hosts_in_no_proxy_and_for_plain_loopback(
    tmp_path: Path, authority: Authority, collector: support.Collector
) -> None:
    hosts = with_hosts(tmp_path, "127.0.0.1")
    proxy = f"127.0.0.1:{collector.port}"
    env = {"ALL_PROXY": proxy, "http_proxy": f"http://{proxy}", **authority.trust}
    with (
        support.collecting(over_tls(authority.context())) as secure,
        support.collecting() as plain,
    ):
        url = secure_url(secure, HOST)

        def send(case: tuple[str, str, str]) -> int:
            name, value, url = case
            variables = {name: value, **env}
            return run_sender(MESSAGE, url, hosts, **variables).returncode

        cases = [
            ("NO_PROXY", "*", url),
            ("no_proxy", "a.test, test", url),
            ("NO_PROXY", f".{HOST.upper()}", url),
            ("NO_PROXY", "", plain.url),
        ]
        assert side_by_side(send, cases) == [0] * 4
        assert (secure.connections, plain.connections) == (3, 1)
    assert collector.connections == 0


def test_the_event_does_not_go_around_a_proxy_that_fails() -> None:
    """Nor does any of it go to the proxy."""
    bad = FAULTS | {"407": says(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")}

    def check(name: str) -> None:
        with support.collecting(bad[name]) as proxy:
            place = f"127.0.0.1:{proxy.port}"
            assert run_sender(MESSAGE, URL, HTTPS_PROXY=place).returncode == 1, name
            assert proxy.connections == 1
            for request in proxy.requests:
                assert request.startswith(f"CONNECT {HOST}:443".encode())

    side_by_side(check, ["silent", "resets", "noise", "407"])


# --- The suite itself ---

SEND_IN_A_NAMESPACE = """\
import subprocess, sys
import network
network.enter_loopback()
before = network.attempts()
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
print(network.attempts() - before)
"""


@linux
def test_the_suite_sees_a_sender_that_tries_to_leave() -> None:
    """This is what `conftest.py` checks after each test."""

    def attempts(url: str) -> int:
        output = subprocess.check_output(
            [sys.executable, "-c", SEND_IN_A_NAMESPACE, *support.SENDER],
            input=MESSAGE,
            env=os.environ | {"PYTHONPATH": str(support.ROOT / "tests"), ENDPOINT: url},
        )
        return int(output)

    inside, outside = side_by_side(
        attempts, ["https://127.0.0.1:9", "https://192.0.2.1"]
    )
    assert inside == 0
    assert outside > 0
