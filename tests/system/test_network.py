"""Bad collectors, names, certificates and proxies: what leaves, and when it ends."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import network
import pytest
import support
import trustme
from network import HOST, MESSAGE, run_sender, side_by_side

from kedro_telemetry import plugin

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")


@pytest.fixture
def authority(tmp_path: Path) -> network.Authority:
    return network.Authority(tmp_path)


# --- Collectors that misbehave ---


def read(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(connection.recv(65536))


def says(answer: bytes) -> support.Answer:
    def answers(connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(support.read_request(connection))
        connection.sendall(answer)

    return answers


def repeats(first: bytes, chunk: bytes, pause: float = 0) -> support.Answer:
    def answers(connection: socket.socket, collector: support.Collector) -> None:
        read(connection, collector)
        connection.sendall(first)
        while not collector.stopping.wait(pause):
            connection.sendall(chunk)

    return answers


def waits(first: bytes, reads: bool = True) -> support.Answer:
    def answers(connection: socket.socket, collector: support.Collector) -> None:
        if reads:
            read(connection, collector)
        connection.sendall(first)
        collector.stopping.wait(8)

    return answers


def resets(connection: socket.socket, collector: support.Collector) -> None:
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


HEAD = b"HTTP/1.1 200 OK\r\n"
FAULTS: dict[str, support.Answer] = {
    "silent": waits(b""),
    "never reads": waits(b"", reads=False),
    "half an answer": waits(HEAD + b"Content-"),
    "a byte every second": repeats(b"", b"H", 1),
    "a slow endless header": repeats(HEAD + b"X: ", b"a", 0.1),
    "an endless 100 Continue": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "resets": resets,
    "closes": lambda connection, collector: None,
    "noise": says(bytes(range(256)) * 8),
    "a huge status line": says(b"HTTP/1.1 200 " + b"O" * 100_000),
    "endless headers": repeats(HEAD, b"X: y\r\n"),
    "an endless body": repeats(HEAD + b"\r\n", b"a" * 65536),
    "a negative length": says(HEAD + b"Content-Length: -1\r\n\r\n"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
}


def test_the_sender_is_gone_in_time_whatever_a_collector_does() -> None:
    def lifetime(name: str) -> float:
        with support.collecting(FAULTS[name]) as collector:
            start = time.monotonic()
            run_sender(MESSAGE, collector.url)
            assert collector.connections == 1, name
            return time.monotonic() - start

    lifetimes = dict(zip(FAULTS, side_by_side(lifetime, FAULTS), strict=True))
    assert max(lifetimes.values()) < support.SENDER_LIFE, lifetimes


def test_a_command_shows_the_same_whatever_a_collector_does(project: Path) -> None:
    env = dict(os.environ)

    def outcome(url: str) -> tuple[int, str, str]:
        variables = {plugin.ENDPOINT_VARIABLE: url} if url else {"DO_NOT_TRACK": "1"}
        done = support.kedro("registry", "list", cwd=project, env=env | variables)
        return done.returncode, done.stdout, done.stderr

    off = outcome("")
    for name in ("silent", "resets"):
        with support.collecting(FAULTS[name]) as collector:
            start = time.monotonic()
            assert outcome(collector.url) == off
            took = time.monotonic() - start
            if name == "silent":
                assert support.senders(), "the command waited for its sender"
                assert took < plugin.LIFETIME
            support.wait_for_senders()
            assert collector.connections == 1


REDIRECTS = (300, 301, 302, 303, 305, 307, 308)
ANSWERS = {
    **{f"{status} Moved": "Location: {other}" for status in REDIRECTS},
    "200 OK": "Refresh: 0; url={other}\r\nSet-Cookie: a=b; Path=/",
    "401 Unauthorized": 'WWW-Authenticate: Basic realm="a"',
    "407 Proxy Authentication Required": 'Proxy-Authenticate: Basic realm="a"',
    "503 Service Unavailable": "Retry-After: 0",
}


def test_no_answer_leads_to_a_second_request(
    home: Path, collector: support.Collector
) -> None:
    netrc = "machine 127.0.0.1\nlogin someone\npassword something\n"
    (home / ".netrc").write_text(netrc)

    def requests(status: str) -> list[bytes]:
        headers = ANSWERS[status].format(other=collector.url)
        answer = f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: 0\r\n\r\n"
        with support.collecting(says(answer.encode())) as first:
            run_sender(MESSAGE, first.url, HOME=str(home))
            assert first.connections == 1
            assert first.requests == [network.request_bytes(first.url)]
            return first.requests

    assert len(side_by_side(requests, ANSWERS)) == len(ANSWERS)
    assert collector.connections == 0


def test_the_body_of_an_answer_is_not_read() -> None:
    closed: list[bytes] = []

    def promises(connection: socket.socket, collector: support.Collector) -> None:
        support.read_request(connection)
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        closed.append(connection.recv(1))  # empty when the sender has closed

    with support.collecting(promises) as collector:
        assert run_sender(MESSAGE, collector.url).returncode == 0
        while not closed:
            time.sleep(0.01)
    assert closed == [b""]


# --- Names and addresses ---


@contextmanager
def silent_port(family: socket.AddressFamily, host: str) -> Iterator[int]:
    """Yield a port that never answers, because its queue of connections is full."""
    with socket.socket(family) as full:
        full.bind((host, 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket(family))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for connection in waiting:
            connection.close()


@linux
def test_a_silent_first_address_does_not_lose_the_event(
    tmp_path: Path, authority: network.Authority
) -> None:
    """As with broken IPv6: the name has two addresses, and only the second answers."""
    if not Path("/proc/net/if_inet6").exists():
        support.missing("IPv6")
    hosts = network.with_files(
        tmp_path,
        hosts=f"::1 {HOST}\n127.0.0.1 {HOST}\n",
        nsswitch_conf="hosts: files\n",
    )
    requests: list[bytes] = []
    with silent_port(socket.AF_INET6, "::1") as port, socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            context = authority.context()
            with context.wrap_socket(connection, server_side=True) as encrypted:
                requests.append(support.read_request(encrypted))
                encrypted.sendall(support.OK)

        threading.Thread(target=serve, daemon=True).start()
        url = f"https://{HOST}:{port}/api/track"
        assert run_sender(MESSAGE, url, hosts, **authority.trust).returncode == 0
    assert requests == [network.request_bytes(url)]


@linux
@pytest.mark.parametrize("resolver", ["never answers", "is absent"])
def test_the_sender_is_gone_in_time_whatever_a_resolver_does(
    resolver: str, tmp_path: Path
) -> None:
    files = network.with_files(
        tmp_path,
        resolv_conf="nameserver 127.0.0.1\n",
        nsswitch_conf="hosts: files dns\n",
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        if resolver == "never answers":
            server.bind(("127.0.0.1", 53))
        start = time.monotonic()
        done = run_sender(MESSAGE, f"https://{HOST}/api/track", files)
        assert done.returncode != 0
        assert time.monotonic() - start < support.SENDER_LIFE
        if resolver == "never answers":
            assert HOST.split(".")[0].encode() in server.recv(4096)


@linux
def test_the_sender_is_gone_in_time_if_an_address_is_silent() -> None:
    with silent_port(socket.AF_INET, "127.0.0.1") as port:
        start = time.monotonic()
        done = run_sender(MESSAGE, f"http://127.0.0.1:{port}/api/track")
        assert done.returncode != 0
        assert time.monotonic() - start < plugin.LIFETIME - 1, "no time limit"


# --- Certificates ---


def dated(start: int, end: int) -> Callable[[network.Authority], ssl.SSLContext]:
    def make(authority: network.Authority) -> ssl.SSLContext:
        now = datetime.now(timezone.utc)
        leaf = authority.authority.issue_cert(
            "localhost",
            not_before=now + timedelta(days=start),
            not_after=now + timedelta(days=end),
        )
        return authority.context(leaf)

    return make


def self_signed(authority: network.Authority) -> ssl.SSLContext:
    other, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = other.private_key_pem.bytes() + other.cert_pem.bytes()
    with trustme.Blob(pem).tempfile() as file:
        context.load_cert_chain(file)
    return context


BAD_CERTIFICATES: dict[str, Callable[[network.Authority], ssl.SSLContext]] = {
    "expired": dated(-9, -1),
    "not valid yet": dated(1, 9),
    "self-signed": self_signed,
    "of an unknown authority": lambda a: a.context(
        trustme.CA().issue_cert("localhost")
    ),
    "of another host": lambda a: a.context(a.authority.issue_cert(HOST)),
}


def test_nothing_is_sent_to_a_collector_with_a_bad_certificate(
    authority: network.Authority,
) -> None:
    def requests(name: str) -> list[bytes]:
        context = BAD_CERTIFICATES[name](authority)
        with support.collecting(network.over_tls(context)) as collector:
            url = network.secure_url(collector)
            assert run_sender(MESSAGE, url, **authority.trust).returncode != 0, name
            assert collector.connections == 1
            return [request for request in collector.requests if request]

    assert side_by_side(requests, BAD_CERTIFICATES) == [[]] * len(BAD_CERTIFICATES)


def test_nothing_is_sent_without_tls_to_an_https_url(
    collector: support.Collector, authority: network.Authority
) -> None:
    url = network.secure_url(collector)
    assert run_sender(MESSAGE, url, **authority.trust).returncode != 0
    assert not any(b"app_id" in request for request in collector.requests)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_relative_paths_of_trusted_authorities_work(
    variable: str,
    authority: network.Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "authority.pem"
    if variable == "SSL_CERT_DIR":
        digest = ["openssl", "x509", "-hash", "-noout", "-in", "authority.pem"]
        name = subprocess.run(digest, capture_output=True, text=True, check=True)
        (tmp_path / "certificates").mkdir()
        (tmp_path / "certificates" / f"{name.stdout.strip()}.0").write_bytes(
            authority.file.read_bytes()
        )
        path = "absent:certificates"
    with support.collecting(network.over_tls(authority.context())) as collector:
        monkeypatch.setenv(plugin.ENDPOINT_VARIABLE, network.secure_url(collector))
        monkeypatch.setenv(variable, path)
        plugin.start_sender(MESSAGE)
        collector.wait()


# --- Proxies ---


class Proxy:
    """An HTTP proxy that tunnels every CONNECT to one collector."""

    def __init__(self, collector: support.Collector) -> None:
        self.collector = collector
        self.heads: list[bytes] = []

    def __call__(self, connection: socket.socket, listener: support.Collector) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = connection.recv(4096)
            if not chunk:
                break
            head += chunk
        self.heads.append(head)
        address = ("127.0.0.1", self.collector.port)
        with socket.create_connection(address) as target:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(target, connection))
            back.start()
            pump(connection, target)
            back.join(10)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def proxied(
    authority: network.Authority,
) -> Iterator[tuple[support.Collector, Proxy, int]]:
    """A collector behind TLS, a proxy to it, and the proxy's port."""
    with support.collecting(network.over_tls(authority.context())) as collector:
        proxy = Proxy(collector)
        with support.collecting(proxy) as listener:
            yield collector, proxy, listener.port


Proxied = tuple[support.Collector, Proxy, int]


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTPS_PROXY": "http://127.0.0.1:{port}"},
        {"https_proxy": "127.0.0.1:{port}"},
        {"ALL_PROXY": "http://127.0.0.1:{port}/"},
        {"all_proxy": "HTTP://127.0.0.1:{port}"},
        {"HTTPS_PROXY": "http://127.0.0.1:{port}", "ALL_PROXY": "socks5://127.0.0.1:9"},
        {"HTTPS_PROXY": "http://127.0.0.1:{port}", "NO_PROXY": "other.test,tor.test"},
    ],
)
def test_an_http_proxy_is_used_and_sees_only_the_host(
    variables: dict[str, str], proxied: Proxied, authority: network.Authority
) -> None:
    collector, proxy, port = proxied
    url = f"https://{HOST}/api/track"
    filled = {name: value.format(port=port) for name, value in variables.items()}
    assert run_sender(MESSAGE, url, **filled, **authority.trust).returncode == 0
    assert collector.requests == [network.request_bytes(url)]
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {HOST}:443 HTTP/1.".encode())
    assert b"Authorization" not in head


def test_only_the_proxy_sees_its_password(
    proxied: Proxied, authority: network.Authority
) -> None:
    collector, proxy, port = proxied
    url = f"https://{HOST}/api/track"
    value = f"http://someone:s3cr%40t@127.0.0.1:{port}"
    done = run_sender(MESSAGE, url, HTTPS_PROXY=value, **authority.trust)
    assert done.returncode == 0
    basic = base64.b64encode(b"someone:s3cr@t")
    (head,) = proxy.heads
    assert b"Proxy-Authorization: Basic " + basic in head
    assert collector.requests == [network.request_bytes(url)]


OTHER_PROXIES = ("https", "socks4", "socks5", "socks5h", "ftp")


def test_nothing_is_sent_to_a_proxy_of_another_kind(
    collector: support.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte, and above all not its password."""
    proxies = [
        {variable: f"{scheme}://someone:s3cret@127.0.0.1:{collector.port}"}
        for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        for scheme in OTHER_PROXIES
    ]
    url = f"https://{HOST}/api/track"
    results = side_by_side(
        lambda proxy: run_sender(MESSAGE, url, **proxy).returncode, proxies
    )
    assert 0 not in results
    assert collector.connections == 0
    monkeypatch.setenv(plugin.ENDPOINT_VARIABLE, url)
    for proxy in proxies:
        ((variable, value),) = proxy.items()
        monkeypatch.setenv(variable, value)
        assert plugin.find_obstacle() == f"{variable} does not name an http:// proxy"
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_never_takes_a_proxy(
    host: str, authority: network.Authority, collector: support.Collector
) -> None:
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY")
    variables = dict.fromkeys(names, f"http://127.0.0.1:{collector.port}")
    with support.collecting(network.over_tls(authority.context())) as target:
        url = network.secure_url(target, host)
        done = run_sender(MESSAGE, url, **variables, **authority.trust)
        assert done.returncode == 0
        assert target.requests == [network.request_bytes(url)]
    with support.collecting() as target:
        assert run_sender(MESSAGE, target.url, **variables).returncode == 0
    assert collector.connections == 0


@linux
def test_no_proxy_leads_past_the_proxy(
    tmp_path: Path, authority: network.Authority, collector: support.Collector
) -> None:
    hosts = network.with_files(
        tmp_path, hosts=f"127.0.0.1 {HOST}\n", nsswitch_conf="hosts: files\n"
    )
    proxy = {"HTTPS_PROXY": f"http://127.0.0.1:{collector.port}", **authority.trust}
    with support.collecting(network.over_tls(authority.context())) as target:
        url = network.secure_url(target, HOST)
        for number, value in enumerate(("*", "a.test, test", HOST.upper()), 1):
            done = run_sender(MESSAGE, url, hosts, NO_PROXY=value, **proxy)
            assert done.returncode == 0
            assert len(target.requests) == number
    assert collector.connections == 0


def test_the_event_does_not_go_around_a_proxy_that_fails(
    authority: network.Authority,
) -> None:
    """Nor does any of it go to the proxy."""

    def check(name: str) -> None:
        with support.collecting(FAULTS[name]) as proxy:
            value = f"http://127.0.0.1:{proxy.port}"
            url = f"https://{HOST}/api/track"
            done = run_sender(MESSAGE, url, HTTPS_PROXY=value, **authority.trust)
            assert done.returncode != 0
            assert proxy.connections == 1
            assert not any(b"app_id" in request for request in proxy.requests)

    side_by_side(check, ["silent", "resets", "noise", "endless headers", "closes"])
