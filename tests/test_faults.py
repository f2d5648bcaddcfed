"""Rule 6 of plugin.py under attack: whatever a network does, a command shows what it shows with telemetry off.

For each fault a real `kedro` command, a real sender; 6 seconds after the command no sender is left, at most one request
was made, and nothing was followed.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path

import pytest
import support
import trustme
from network import Authority, absent, gone, over_tls, request, secure

from kedro_telemetry import plugin

RUNS = [
    ["run"],
    ["run", "--pipeline=ds", "--env=base"],
    support.FAILING_RUN,
    ["info"],
    ["no-such-command"],
    ["registry", "describe", "--verbose"],
]
Outcome = tuple[int, str, str]


class User:
    """A person at work in a project, who compares."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.off: dict[tuple[str, ...], Outcome] = {}

    def command(self, *arguments: str, **variables: str) -> Outcome:
        done = support.kedro(*arguments, cwd=self.project, env={**os.environ, **variables})
        return done.returncode, done.stdout, done.stderr

    def without(self, *arguments: str) -> Outcome:
        """What the command shows with telemetry off."""
        if arguments not in self.off:
            self.off[arguments] = self.command(*arguments, DO_NOT_TRACK="1")
        return self.off[arguments]

    def notices_nothing(
        self, url: str, *arguments: str, hangs: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        """The same with telemetry on. If the sender hangs, the command ends before it all the same."""
        arguments = arguments or ("registry", "list")
        off = self.without(*arguments)
        on = self.command(*arguments, **{plugin.ENDPOINT: url, **(env or {})})
        assert support.senders(url) or not hangs
        assert on == off
        assert gone(url)


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(support.copy_project(template, tmp_path_factory.mktemp("faults") / "acme"))


@pytest.fixture
def user(shared: User) -> User:
    return shared


# --- Collectors ---
def read(connection: socket.socket, collector: support.Collector) -> None:
    """Take the request, if one comes; of TLS or noise, the first bytes."""
    connection.settimeout(6)
    data = connection.recv(65536)
    if data[:4] == b"POST":
        while len(data.partition(b"\r\n\r\n")[2]) < int(data.partition(b"Content-Length: ")[2].split(b"\r")[0] or b"0"):
            data += connection.recv(65536)
    collector.requests.append(data)


def hold(connection: socket.socket) -> None:
    """Keep the connection until the other side gives up."""
    while connection.recv(65536):
        pass


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    connection.close()


def says(answer: bytes) -> support.Answer:
    """A collector that reads a request, answers with these bytes and closes."""

    def one(connection: socket.socket, collector: support.Collector) -> None:
        read(connection, collector)
        connection.sendall(answer)

    return one


def repeats(first: bytes, chunk: bytes, pause: float = 0) -> support.Answer:
    """A collector that answers with this, then with the chunk again and again."""

    def one(connection: socket.socket, collector: support.Collector) -> None:
        read(connection, collector)
        connection.sendall(first)
        while not collector.stopping.wait(pause):
            connection.sendall(chunk)

    return one


def never_reads(connection: socket.socket, collector: support.Collector) -> None:
    collector.stopping.wait(8)


def silent(connection: socket.socket, collector: support.Collector) -> None:
    read(connection, collector)
    hold(connection)


def promises(connection: socket.socket, collector: support.Collector) -> None:
    read(connection, collector)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-")
    hold(connection)


def resets_at_once(connection: socket.socket, collector: support.Collector) -> None:
    reset(connection)


def resets_after(connection: socket.socket, collector: support.Collector) -> None:
    read(connection, collector)
    reset(connection)


def resets_within(connection: socket.socket, collector: support.Collector) -> None:
    read(connection, collector)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConte")
    reset(connection)


def trickles(connection: socket.socket, collector: support.Collector) -> None:
    """An answer of a byte a second: no single wait is long."""
    read(connection, collector)
    for byte in b"HTTP/1.1 200 OK\r\n\r\n":
        connection.sendall(bytes([byte]))
        if collector.stopping.wait(1):
            return


def closes(connection: socket.socket, collector: support.Collector) -> None:
    """Closed before anything is read."""


HANGS: dict[str, support.Answer] = {
    "silent": silent,
    "never reads": never_reads,
    "a byte a second": trickles,
    "endless 100 Continue": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "an endless slow status": repeats(b"HTTP/1.1 200 ", b"O", 0.2),
}
HEAD = b"HTTP/1.1 200 OK\r\n"
FAILS: dict[str, support.Answer] = {
    "resets at once": resets_at_once,
    "resets after the request": resets_after,
    "resets within the answer": resets_within,
    "closes at once": closes,
    "no answer": says(b""),
    "noise": says(bytes(range(256)) * 8),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "half a status line": says(b"HTTP/1.1 20"),
    "half the headers": says(HEAD + b"Content-Le"),
    "half the headers, for ever": promises,
    "an endless slow header": repeats(HEAD + b"X: ", b"a", 0.2),
    "half a body": says(HEAD + b"Content-Length: 1000\r\n\r\nhalf"),
    "a body longer than promised": says(HEAD + b"Content-Length: 1\r\n\r\n" + b"a" * 100_000),
    "a negative length": says(HEAD + b"Content-Length: -1\r\n\r\n"),
    "a huge length": says(HEAD + b"Content-Length: 1" + b"0" * 40 + b"\r\n\r\n"),
    "chunks that are none": says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a status that is none": says(b"HTTP/1.1 abc OK\r\n\r\n"),
    "status 999": says(b"HTTP/1.1 999 Odd\r\n\r\n"),
    "a status of 5,000 digits": says(b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n"),
    "HTTP/9.9": says(b"HTTP/9.9 200 OK\r\n\r\n"),
    "HTTP/0.9": says(b"OK"),
    "a header that is none": says(HEAD + b"\x00\xff\r\n: \r\n\r\n"),
    "headers that fold": says(HEAD + b"A: b\r\n c\r\n\td\r\n\r\n"),
    "101": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    "103": says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
    "204": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "401": says(b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="a"\r\nContent-Length: 0\r\n\r\n'),
    "407": says(b'HTTP/1.1 407 Proxy\r\nProxy-Authenticate: Basic realm="a"\r\nContent-Length: 0\r\n\r\n'),
    "413": says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
    "500": says(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops"),
    "503": says(b"HTTP/1.1 503 Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"),
    "terminal codes": says(b"HTTP/1.1 500 \x1b[2J\x1b]0;acme\x07\r\n\r\n\x1b[31m"),
    "noise said to be packed": says(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot-gzip!"),
    "endless headers": repeats(HEAD, b"X: y\r\n"),
    "an endless header": repeats(HEAD + b"X: ", b"a" * 4096),
    "an endless status": repeats(b"HTTP/1.1 200 ", b"O" * 4096),
    "an endless body": repeats(HEAD + b"\r\n", b"a" * 65536),
    "endless chunks": repeats(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n"),
    "endless noise": repeats(b"", bytes(range(256)) * 16),
}


@pytest.mark.parametrize("fault", [*HANGS, *FAILS])
def test_collector(fault: str, user: User) -> None:
    with support.collecting((HANGS | FAILS)[fault]) as collector:
        user.notices_nothing(collector.url, hangs=fault in HANGS)
        assert collector.connections == 1
        assert len(collector.requests) <= 1
        assert all(found.startswith(b"POST /api/track HTTP/1.1\r\n") for found in collector.requests)


@pytest.mark.parametrize(
    ("fault", "run"),
    [*product(["resets at once", "noise"], RUNS), *product(["silent"], RUNS[:3])],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_other_commands(fault: str, run: list[str], user: User) -> None:
    with support.collecting((HANGS | FAILS)[fault]) as collector:
        user.notices_nothing(collector.url, *run, hangs=fault in HANGS)
        assert collector.connections == 1


def test_with_every_warning_shown(user: User) -> None:
    """Python's development mode would show what is left open, or running, when the command ends."""
    with support.collecting(silent) as collector:
        off = user.command("registry", "list", DO_NOT_TRACK="1", PYTHONDEVMODE="1")
        on = user.command("registry", "list", **{plugin.ENDPOINT: collector.url, "PYTHONDEVMODE": "1"})
        assert gone(collector.url)
        assert on == off
        assert collector.connections == 1


@pytest.mark.parametrize(
    ("status", "scheme"),
    [*product([300, 301, 302, 303, 305, 307, 308], ["http"]), *product([302, 308], ["file", "ftp", "data"])],
)
def test_redirect(status: int, scheme: str, user: User, collector: support.Collector, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)  # whoever opened it would hang
    target = {
        "http": collector.url,
        "file": pipe.as_uri(),
        "ftp": f"ftp://127.0.0.1:{collector.port}/a",
        "data": "data:text/plain,a",
    }[scheme]
    with support.collecting(
        says(f"HTTP/1.1 {status} R\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    ) as first:
        user.notices_nothing(first.url)
        assert len(first.requests) == first.connections == 1
    assert collector.connections == 0


# --- TLS ---
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def valid(days_from: int, days_to: int) -> Callable[[Authority], ssl.SSLContext]:
    """A server whose certificate is good, but for its dates."""
    now = datetime.now(timezone.utc)

    def make(authority: Authority) -> ssl.SSLContext:
        start, end = now + timedelta(days=days_from), now + timedelta(days=days_to)
        leaf = authority.authority.issue_cert("localhost", "127.0.0.1", not_before=start, not_after=end)
        return authority.context(leaf)

    return make


def named(*names: str) -> Callable[[Authority], ssl.SSLContext]:
    """A server whose certificate is good, but for its name."""
    return lambda authority: authority.context(authority.authority.issue_cert(*names))


def untrusted(authority: Authority) -> ssl.SSLContext:
    """The same name, from somebody else's authority."""
    return authority.context(trustme.CA().issue_cert("localhost", "127.0.0.1"))


def self_signed(authority: Authority) -> ssl.SSLContext:
    """An authority's own certificate as the server's."""
    other, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with trustme.Blob(other.private_key_pem.bytes() + other.cert_pem.bytes()).tempfile() as file:
        context.load_cert_chain(file)
    return context


def outdated(authority: Authority) -> ssl.SSLContext:
    """TLS 1.1 and nothing newer."""
    context = authority.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def wants_certificate(authority: Authority) -> ssl.SSLContext:
    """A server that wants to know who the client is."""
    context = authority.context()
    context.verify_mode = ssl.CERT_REQUIRED
    authority.authority.configure_trust(context)
    return context


CERTIFICATES: dict[str, Callable[[Authority], ssl.SSLContext]] = {
    "expired": valid(-9, -1),
    "not valid yet": valid(1, 9),
    "untrusted": untrusted,
    "self-signed": self_signed,
    "of another host": named("collector.example"),
    "of a host below": named("*.localhost", "a.localhost"),
    "of another address": named("127.0.0.2"),
    "TLS 1.1": outdated,
    "wants a certificate": wants_certificate,
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("fault", CERTIFICATES)
def test_certificate(fault: str, user: User, authority: Authority) -> None:
    """No event goes to a collector that cannot prove that it is the one."""
    with support.collecting(over_tls(CERTIFICATES[fault](authority))) as collector:
        user.notices_nothing(secure(collector), env=authority.trust)
        assert collector.connections == 1
        assert collector.requests in ([], [b""])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_good_certificate(host: str, user: User, authority: Authority) -> None:
    with support.collecting(over_tls(authority.context())) as collector:
        user.notices_nothing(secure(collector, host), env=authority.trust)
        (event,) = collector.wait()
        assert collector.requests == [
            request(secure(collector, host), json.dumps(event, separators=(",", ":")).encode())
        ]


def test_good_certificate_that_nothing_makes_good(user: User, authority: Authority) -> None:
    """The same certificate, without the variable that names its authority."""
    with support.collecting(over_tls(authority.context())) as collector:
        user.notices_nothing(secure(collector))
        assert collector.connections == 1
        assert collector.requests == []


TLS_FAULTS = [
    "silent",
    "a byte a second",
    "no answer",
    "endless headers",
    "an endless body",
    "500",
    "resets within the answer",
]
NO_TLS = ["silent", "a byte a second", "noise", "500", "resets at once", "no answer", "endless noise"]
NO_PROXY = ["silent", "resets at once", "noise", "407", "500", "endless headers", "a byte a second"]
NOWHERE = ["http://127.0.0.1:9", "127.0.0.1:9", "http://", "socks5://127.0.0.1:9", "file:///etc", "http://127.0.0.1:x"]


@pytest.mark.parametrize("fault", TLS_FAULTS)
def test_collector_behind_tls(fault: str, user: User, authority: Authority) -> None:
    with support.collecting(over_tls(authority.context(), (HANGS | FAILS)[fault])) as collector:
        user.notices_nothing(secure(collector), hangs=fault in HANGS, env=authority.trust)
        assert len(collector.requests) == collector.connections == 1


@pytest.mark.parametrize("fault", NO_TLS)
def test_no_tls_on_a_tls_port(fault: str, user: User, authority: Authority) -> None:
    """Plain HTTP, noise or nothing where TLS should be: no event in the clear."""
    with support.collecting((HANGS | FAILS)[fault]) as collector:
        user.notices_nothing(
            secure(collector), hangs=fault in HANGS and fault != "a byte a second", env=authority.trust
        )
        assert collector.connections == 1
        assert not any(b"app_id" in found or b"POST" in found for found in collector.requests)


def test_tls_on_a_plain_port(user: User, authority: Authority) -> None:
    with support.collecting(over_tls(authority.context())) as collector:
        user.notices_nothing(collector.url)
        assert collector.connections == 1
        assert collector.requests == []


def test_redirect_out_of_tls(user: User, authority: Authority, collector: support.Collector) -> None:
    answer = says(f"HTTP/1.1 302 Found\r\nLocation: {collector.url}\r\nContent-Length: 0\r\n\r\n".encode())
    with support.collecting(over_tls(authority.context(), answer)) as first:
        user.notices_nothing(secure(first), env=authority.trust)
        assert len(first.requests) == first.connections == 1
    assert collector.connections == 0


@pytest.mark.parametrize("trust", ["absent.pem", "folder", "empty.pem", "noise.pem"])
def test_trust_that_is_none(trust: str, user: User, authority: Authority, tmp_path: Path) -> None:
    """An SSL_CERT_FILE that trusts nobody: nobody is trusted."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pem").touch()
    (tmp_path / "noise.pem").write_bytes(bytes(range(256)))
    with support.collecting(over_tls(authority.context())) as collector:
        user.notices_nothing(secure(collector), env={"SSL_CERT_FILE": str(tmp_path / trust)})
        assert collector.requests == []


# --- Proxies that do not help ---
@pytest.mark.parametrize("fault", NO_PROXY)
def test_proxy(fault: str, user: User, authority: Authority) -> None:
    """The event does not go around a proxy that fails, nor to it."""
    with (
        support.collecting(over_tls(authority.context())) as collector,
        support.collecting((HANGS | FAILS)[fault]) as proxy,
    ):
        variables = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", **authority.trust}
        user.notices_nothing(secure(collector), hangs=fault in HANGS, env=variables)
        assert collector.connections == 0
        assert proxy.connections == 1
        assert not any(b"app_id" in found for found in proxy.requests)


@pytest.mark.parametrize("proxy", NOWHERE)
def test_proxy_that_is_none(proxy: str, user: User, authority: Authority) -> None:
    with support.collecting(over_tls(authority.context())) as collector:
        user.notices_nothing(secure(collector, "127.0.0.1"), env={"HTTPS_PROXY": proxy, **authority.trust})
        assert collector.requests == []


# --- Addresses ---
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closed_port(scheme: str, user: User) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can open it
        bound.bind(("127.0.0.1", 0))
        user.notices_nothing(f"{scheme}://127.0.0.1:{bound.getsockname()[1]}/api/track")


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port where nothing answers, not even the system: its queue is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for connection in waiting:
            connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: how Linux treats a full queue")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_black_hole(scheme: str, user: User, black_hole: int) -> None:
    user.notices_nothing(f"{scheme}://127.0.0.1:{black_hole}/api/track", hangs=True)


# --- Names: in network namespaces of the test's own, so that no look-up leaves the machine ---
INSIDE = """\
import json, os, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
import support
mode, folder, url, *command = sys.argv[2:]
if mode != "no network":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for name in ("resolv.conf", "nsswitch.conf"):
    subprocess.run(["mount", "--bind", os.path.join(folder, name), os.path.join("/etc", name)], check=True)
queries = []
def answer(server):
    while True:
        data, peer = server.recvfrom(4096)
        queries.append(data)
        if mode == "failing":
            server.sendto(data[:2] + bytes([0x81, 0x82]) + data[4:], peer)
        if mode == "noise":
            server.sendto(bytes(range(200)), peer)
if mode in ("silent", "failing", "noise"):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=answer, args=(server,), daemon=True).start()
done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
outlived = bool(support.senders(url))
import network
print(json.dumps([[done.returncode, done.stdout, done.stderr], outlived, network.gone(url), len(queries)]))
"""
UNSHARE = [
    "unshare",
    "--net",
    "--mount",
    *([] if os.name == "nt" or os.geteuid() == 0 else ["--user", "--map-root-user"]),
]


@pytest.fixture(scope="module")
def _namespaces() -> None:
    """Whether this machine can make them."""
    probe = "ip link set lo up && mount --bind /dev/null /etc/resolv.conf"
    try:
        subprocess.run([*UNSHARE, "sh", "-c", probe], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        absent(f"network namespaces (unshare, ip, mount; root, or user namespaces): {error}")


SEEN = """\
import sys
sys.path.insert(0, sys.argv[1])
import network, outside
outside.close()
before = outside.attempts()
network.run_sender(sys.stdin.buffer.read(), sys.argv[2])
print(outside.attempts() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: namespaces are Linux's")
@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://192.0.2.1/x", True),
        ("https://[2001:db8::1]/x", True),
        ("https://127.0.0.1:9/x", False),
        ("http://[::1]:9/x", False),
    ],
)
def test_the_suite_sees_a_sender_that_tries_to_leave(url: str, seen: bool) -> None:
    """What `conftest.py` does before the first test, and asks after each."""
    if "[" in url and not Path("/proc/net/if_inet6").exists():
        absent("IPv6")
    line = [*UNSHARE, sys.executable, "-c", SEEN, str(Path(__file__).parent), url]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(line, input=plugin.seal({}), env=env, capture_output=True, timeout=60, check=True)
    assert (int(done.stdout) > 0) == seen


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: namespaces are Linux's")
@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize(
    ("mode", "url"),
    [
        *product(["silent", "noise", "failing", "dead", "no network"], ["https://collector.example/api/track"]),
        *product(["silent", "no network"], [plugin.COLLECTOR]),
    ],
)
def test_names(mode: str, url: str, user: User, tmp_path: Path) -> None:
    """A resolver that never answers, answers noise, fails, is not there; a machine without any network."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "nsswitch.conf").write_text("passwd: files\nhosts: files dns\n")
    inside = [sys.executable, "-c", INSIDE, str(Path(__file__).parent), mode, str(tmp_path), url]
    command = [*UNSHARE, *inside, sys.executable, "-m", "kedro", "registry", "list"]
    env = {**os.environ, plugin.ENDPOINT: url, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, cwd=user.project, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outcome, outlived, all_gone, queries = json.loads(done.stdout)
    assert tuple(outcome) == user.without("registry", "list")
    assert all_gone
    assert outlived or mode not in ("silent", "noise")
    assert (queries > 0) == (mode in ("silent", "noise", "failing"))
