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

import psutil
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
    senders_to,
    side_by_side,
    with_files,
    with_hosts,
)
from support import MESSAGE

from kedro_telemetry import plugin

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
HANGS: dict[str, support.Answer] = {
    "silent": says_and_waits(b""),
    "half an answer": says_and_waits(HEAD + b"Content-"),
    "never reads": never_reads,
    "a byte every second": repeats(b"", b"H", 1),
    "100 Continue for ever": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
}
FAILS: dict[str, support.Answer] = {
    "closes": says(b""),
    "resets": resets,
    "noise": says(bytes(range(256)) * 8),
    "TLS": says(b"\x16\x03\x03\x00\x7a" + bytes(122)),
    "a huge status line": says(b"HTTP/1.1 200 " + b"O" * 100_000),
    "endless headers": repeats(HEAD, b"X: y\r\n"),
    "an endless body": repeats(HEAD + b"\r\n", b"a" * 65536),
    "a negative length": says(HEAD + b"Content-Length: -1\r\n\r\n"),
}


FAULTS = HANGS | FAILS


def test_a_command_shows_the_same_whatever_a_collector_does(project: Path) -> None:
    def outcome(**variables: str) -> tuple[int, str, str]:
        env = {**os.environ, **variables}
        done = support.kedro("registry", "list", cwd=project, env=env)
        return done.returncode, done.stdout, done.stderr

    off = outcome(DO_NOT_TRACK="1")

    def check(name: str) -> None:
        with support.collecting(FAULTS[name]) as collector:
            assert outcome(**{ENDPOINT: collector.url}) == off, name
            psutil.wait_procs(senders_to(collector.url), support.SENDER_LIFE)
            assert collector.connections == 1, name

    side_by_side(check, ["silent", "resets", "endless headers", "noise"])


def test_the_sender_is_gone_in_time_whatever_a_collector_does() -> None:
    def send_to(answer: support.Answer) -> None:
        with support.collecting(answer) as collector:
            run_sender(MESSAGE, collector.url)
            assert collector.connections == 1
            assert collector.requests in ([], [request_bytes(collector.url)])

    assert end_in_time(*(partial(send_to, answer) for answer in FAULTS.values()))


REDIRECTS = ("301 Moved", "302 Found", "303 See Other", "307 Moved", "308 Moved")
ANSWERS = {
    **dict.fromkeys(REDIRECTS, "Location: {other}"),
    "200 OK": "Refresh: 0; url={other}\r\nSet-Cookie: a=b; Path=/",
    "401 Unauthorized": 'WWW-Authenticate: Basic realm="a"',
    "407 Proxy Authentication Required": 'Proxy-Authenticate: Basic realm="a"',
    "503 Service Unavailable": "Retry-After: 0",
}


def test_redirects_and_requests_to_log_in_are_not_followed(
    home: Path, collector: support.Collector
) -> None:
    netrc = "machine 127.0.0.1\nlogin someone\npassword something\n"
    (home / ".netrc").write_text(netrc)

    def check(status: str) -> None:
        headers = ANSWERS[status].format(other=collector.url)
        answer = f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: 0\r\n\r\n"
        with support.collecting(says(answer.encode())) as first:
            run_sender(MESSAGE, first.url, HOME=str(home))
            assert first.requests == [request_bytes(first.url)]
            assert first.connections == 1

    side_by_side(check, ANSWERS)
    assert collector.connections == 0


def test_the_body_of_an_answer_is_not_read() -> None:
    promise = says_and_waits(HEAD + b"Content-Length: 1000000\r\n\r\n")
    with support.collecting(promise) as collector:
        assert run_sender(MESSAGE, collector.url).returncode == 0


# --- Names and addresses ---


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


def with_a_resolver_here(folder: Path) -> list[str]:
    """Return a wrapper that makes a process ask 127.0.0.1 for each name."""
    resolver = "nameserver 127.0.0.1\n"
    return with_files(folder, resolv_conf=resolver, nsswitch_conf="hosts: dns\n")


@linux
def test_the_sender_is_gone_in_time_whatever_the_network_does(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    names = with_a_resolver_here(tmp_path_factory.mktemp("names"))
    many = [f"127.0.0.{number}" for number in range(1, 10)]
    hosts = with_hosts(tmp_path_factory.mktemp("hosts"), *many)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        silent_port(socket.AF_INET) as port,
    ):
        resolver.bind(("127.0.0.1", 53))  # it never answers
        resolver.settimeout(5)
        assert end_in_time(
            lambda: run_sender(MESSAGE, None, names),
            lambda: run_sender(MESSAGE, f"http://127.0.0.1:{port}/"),
            lambda: run_sender(MESSAGE, f"https://{HOST}:{port}/", hosts),
        )
        # Without an endpoint, this is the only name that the sender looks up.
        assert b"\x0dheapanalytics\x03com\x00" in resolver.recv(4096)


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


def self_signed(authority: Authority) -> ssl.SSLContext:
    other, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = other.private_key_pem.bytes() + other.cert_pem.bytes()
    with trustme.Blob(pem).tempfile() as file:
        context.load_cert_chain(file)
    return context


def of_an_unknown_authority(authority: Authority) -> ssl.SSLContext:
    return authority.context(trustme.CA().issue_cert("localhost"))


def of_another_host(authority: Authority) -> ssl.SSLContext:
    return authority.context(authority.authority.issue_cert(HOST))


BAD_CERTIFICATES = [
    dated(-9, -1),
    dated(1, 9),
    self_signed,
    of_an_unknown_authority,
    of_another_host,
]


def test_nothing_is_sent_to_a_collector_with_a_bad_certificate(
    authority: Authority,
) -> None:
    def check(make: Callable[[Authority], ssl.SSLContext]) -> None:
        with support.collecting(over_tls(make(authority))) as collector:
            url = secure_url(collector)
            assert run_sender(MESSAGE, url, **authority.trust).returncode == 1, make
            assert collector.connections == 1
            assert collector.requests in ([], [b""])

    side_by_side(check, BAD_CERTIFICATES)


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


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_relative_paths_to_trusted_authorities_work(
    variable: str,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = authority.file.name
    if variable == "SSL_CERT_DIR":
        path = "absent::certificates"
        (tmp_path / "certificates").mkdir()
        authority.file.rename(tmp_path / "certificates" / "a.pem")
        try:
            subprocess.run(["openssl", "rehash", "certificates"], check=True)
        except FileNotFoundError:
            support.missing("openssl")
    with support.collecting(over_tls(authority.context())) as collector:
        monkeypatch.setenv(ENDPOINT, secure_url(collector))
        monkeypatch.setenv(variable, path)
        plugin.start_sender(MESSAGE)
        assert len(collector.wait()) == 1


# --- Proxies ---


def proxy_to(context: ssl.SSLContext) -> support.Answer:
    """Return an HTTP proxy with a collector behind it. It keeps two requests."""

    def tunnel(connection: socket.socket, collector: support.Collector) -> None:
        says(b"HTTP/1.1 200 Connection established\r\n\r\n")(connection, collector)
        over_tls(context)(connection, collector)

    return tunnel


def send_through(
    authority: Authority, name: str, value: str, **variables: str
) -> tuple[str, bytes]:
    """Return what the proxy in this variable gets, and what the collector gets."""
    with support.collecting(proxy_to(authority.context())) as proxy:
        variables[name] = value.replace("PROXY", f"127.0.0.1:{proxy.port}")
        assert run_sender(MESSAGE, URL, **variables, **authority.trust).returncode == 0
        connect, post = proxy.requests
    return connect.decode(), post


CONNECT = rf"CONNECT {HOST}:443 HTTP/1\.[01]\r\n(Host: {HOST}:443\r\n)?"


def test_an_http_proxy_is_used_and_sees_only_the_host(authority: Authority) -> None:
    def check(variables: dict[str, str]) -> None:
        connect, post = send_through(authority, **variables)
        assert re.fullmatch(CONNECT + r"\r\n", connect)
        assert post == request_bytes(URL)

    side_by_side(
        check,
        [
            {"name": "HTTPS_PROXY", "value": "http://PROXY"},
            {"name": "https_proxy", "value": "PROXY"},
            {"name": "ALL_PROXY", "value": "http://PROXY/"},
            {
                "name": "all_proxy",
                "value": "HTTP://PROXY",
                "NO_PROXY": "a.test,tor.test",
            },
            {"name": "HTTPS_PROXY", "value": "PROXY", "ALL_PROXY": "socks5://[::1]:9"},
        ],
    )


@pytest.mark.parametrize(
    ("value", "credentials"),
    [("http://someone:s3cr%40t@PROXY", b"someone:s3cr@t"), ("token@PROXY", b"token:")],
)
def test_only_the_proxy_sees_its_password(
    value: str, credentials: bytes, authority: Authority
) -> None:
    connect, post = send_through(authority, "HTTPS_PROXY", value)
    basic = re.escape(base64.b64encode(credentials).decode())
    # Python 3.12 and newer send Host as well, after the password.
    password = rf"Proxy-Authorization: Basic {basic}\r\n"
    form = rf"{CONNECT}{password}(Host: {HOST}:443\r\n)?\r\n"
    assert re.fullmatch(form, connect)
    assert post == request_bytes(URL)


@pytest.mark.parametrize("scheme", ["https", "socks4", "socks5", "socks5h", "ftp"])
def test_a_proxy_of_another_kind_gets_nothing_not_even_its_password(
    scheme: str, collector: support.Collector
) -> None:
    proxy = f"{scheme}://someone:s3cret@127.0.0.1:{collector.port}"
    assert run_sender(MESSAGE, URL, HTTPS_PROXY=proxy).returncode == 1
    assert collector.connections == 0


def test_loopback_never_takes_a_proxy(
    authority: Authority, collector: support.Collector
) -> None:
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy")
    proxy = dict.fromkeys(names, f"http://127.0.0.1:{collector.port}")
    env = {**authority.trust, **proxy}
    with (
        support.collecting() as plain,
        support.collecting(over_tls(authority.context())) as secure,
    ):
        urls = [plain.url, secure_url(secure), secure_url(secure, "127.0.0.1")]
        done = side_by_side(lambda url: run_sender(MESSAGE, url, **env), urls)
        assert [process.returncode for process in done] == [0, 0, 0]
        assert plain.connections + secure.connections == 3
    assert collector.connections == 0


def test_the_variable_no_proxy_bypasses_the_proxy(
    tmp_path: Path, authority: Authority, collector: support.Collector
) -> None:
    hosts = with_hosts(tmp_path, "127.0.0.1")
    env = {"ALL_PROXY": f"http://127.0.0.1:{collector.port}", **authority.trust}
    with support.collecting(over_tls(authority.context())) as target:
        url = secure_url(target, HOST)

        def send(exception: tuple[str, str]) -> int:
            variables = dict([exception]) | env
            return run_sender(MESSAGE, url, hosts, **variables).returncode

        exceptions = [
            ("NO_PROXY", "*"),
            ("no_proxy", "a.test, test"),
            ("NO_PROXY", f".{HOST.upper()}"),
            ("no_proxy", f"{HOST}:{target.port}"),
        ]
        assert side_by_side(send, exceptions) == [0] * 4
        assert target.connections == 4
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
import namespace
namespace.enter()
before = namespace.attempts()
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
print(namespace.attempts() - before)
"""


@linux
def test_the_suite_sees_a_sender_that_tries_to_leave() -> None:
    """This is what `conftest.py` checks after each test."""

    def attempts(url: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", SEND_IN_A_NAMESPACE, *support.SENDER],
            input=MESSAGE,
            env={
                **os.environ,
                "PYTHONPATH": str(support.ROOT / "tests"),
                ENDPOINT: url,
            },
            capture_output=True,
            check=True,
        )
        return int(done.stdout)

    urls = ["https://127.0.0.1:9/", "https://192.0.2.1/", "https://[2001:db8::1]/"]
    inside, version4, version6 = side_by_side(attempts, urls)
    assert inside == 0
    assert version4 > 0
    assert version6 > 0 or not Path("/proc/net/if_inet6").exists()
