"""The sender: what it accepts and posts, and what it does on a bad network."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import support
import trustme
from network import (
    ENDPOINT,
    HOST,
    Authority,
    end_in_time,
    event_bytes,
    over_tls,
    request_bytes,
    run_sender,
    secure_url,
    side_by_side,
    with_files,
    with_hosts,
)
from support import MESSAGE, PROPERTIES, Collector

if sys.platform == "win32":
    pytest.skip("NOT TESTED HERE: resolvers and paths of Unix", allow_module_level=True)

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT TESTED HERE: namespaces, and full queues"
)
URL = f"https://{HOST}/api/track"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def changed(**values: Any) -> bytes:
    return json.dumps(PROPERTIES | values).encode()


# --- One request, one event, or nothing ---


def test_the_sender_posts_once_byte_for_byte(
    collector: Collector, authority: Authority
) -> None:
    with support.collecting(over_tls(authority.context())) as secure:
        place = f"http://127.0.0.1:{collector.port}"
        urls = [secure_url(secure), secure_url(secure, "127.0.0.1")]
        urls += [place, f"{place}/api/track", f"{place}/a-b/c_d/~e.f/"]

        def send(url: str) -> tuple[int, bytes, bytes]:
            done = run_sender(MESSAGE, url, **authority.trust)
            return done.returncode, done.stdout, done.stderr

        assert side_by_side(send, urls) == [(0, b"", b"")] * len(urls)
        expected = sorted(request_bytes(url) for url in urls)
        assert sorted(collector.requests + secure.requests) == expected
        assert (collector.connections, secure.connections) == (3, 2)


def test_the_sender_sends_only_the_good_values_of_a_message(
    collector: Collector,
) -> None:
    names = ("host", "os", "package_name", "app_id", "event", "identity", "tools")
    bad = dict.fromkeys(names, "acme") | {"project_version": "\u0661.\u0662"}
    kept = {name: PROPERTIES[name] for name in PROPERTIES if name not in bad}
    del kept["number_of_nodes"]  # has more than two digits
    del kept["command"]  # has a word that is not public
    message = changed(command="kedro run --pipeline acme", number_of_nodes=123, **bad)
    assert run_sender(message, collector.url).returncode == 0
    assert collector.requests == [request_bytes(collector.url, event_bytes(kept))]
    assert len(collector.events) == 1  # the JSON Schema agrees


NOT_UTF_8 = MESSAGE.replace(b"linux", b"\xff")
NOTHING = [b"", b"[1]", MESSAGE[:-1], MESSAGE + MESSAGE, b" " * 4096 + MESSAGE]
NOTHING += [NOT_UTF_8, b"[" * 4096, changed(username=None)]


def test_the_sender_sends_nothing_for_any_other_input(collector: Collector) -> None:
    done = side_by_side(lambda data: run_sender(data, collector.url), NOTHING)
    sent = [data for data, d in zip(NOTHING, done, strict=True) if not d.returncode]
    assert (sent, collector.connections) == ([], 0)


def test_the_sender_posts_nowhere_else_and_shows_no_password_to_other_proxies(
    collector: Collector,
) -> None:
    """Most of these would reach this collector if they were not refused."""
    place = f"127.0.0.1:{collector.port}"
    urls = ["", f"http:{place}/", f"http://localhost:{collector.port}/"]
    urls += [f"http://a:b@{place}/", f"http://{place}/?a", f"http://0.0.0.0:{place}/"]
    urls += [f"http://{place}/{'a' * 200}"]
    kinds = ["https://", "socks4://", "socks5h://", "ftp://", "HTTP:"]
    cases = [(url, "") for url in urls]
    cases += [(URL, f"{kind}someone:s3cret@{place}") for kind in kinds]

    def send(case: tuple[str, str]) -> int:
        return run_sender(MESSAGE, case[0], HTTPS_PROXY=case[1]).returncode

    assert side_by_side(send, cases) == [1] * len(cases)
    assert collector.connections == 0


# --- What it costs ---


def test_the_sender_pauses_before_it_loads_anything(collector: Collector) -> None:
    # With this option, Python names each module when it has been loaded.
    line = [sys.executable, "-X", "importtime", *support.SENDER[1:]]
    loaded = {}
    with subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={ENDPOINT: collector.url},
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(MESSAGE)
        process.stdin.close()
        for shown in process.stderr:
            loaded[shown.rpartition(b"|")[2].strip().decode()] = time.monotonic()
    assert len(collector.events) == 1
    names, times = list(loaded), list(loaded.values())
    pause = names.index("faulthandler") + 1
    assert 0.4 < times[pause] - times[pause - 1] < 1.4
    packages = {name.partition(".")[0] for name in names[pause:] if name[0] != "_"}
    assert {"json", "re", "urllib"} <= packages <= sys.stdlib_module_names
    assert not packages & {"subprocess", "pathlib", "typing"}  # from below THE WALL


METER = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@linux
def test_the_sender_takes_at_most_32_megabytes(authority: Authority) -> None:
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    if system.exists():  # trust as many authorities as a whole system does
        authority.file.write_bytes(authority.file.read_bytes() + system.read_bytes())
    with support.collecting(over_tls(authority.context())) as collector:
        # Run by a small parent, because a child begins with the memory of its parent.
        meter = [sys.executable, "-I", "-S", "-c", METER, *support.SENDER]
        env = {ENDPOINT: secure_url(collector), **authority.trust}
        output = subprocess.check_output(meter, input=MESSAGE, env=env)
        status, kilobytes = map(int, output.split())
        assert (status, len(collector.events)) == (0, 1)
        assert kilobytes * 1024 <= 32_000_000


# --- Collectors that misbehave ---


def says(first: bytes, then: bytes | None = None, pause: float = 0) -> support.Answer:
    """Read a request, say something first, and repeat the other for ever."""

    def answers(connection: socket.socket, collector: Collector) -> None:
        collector.requests.append(support.read_request(connection))
        connection.sendall(first)
        while then is not None and not collector.stopping.wait(pause):
            connection.sendall(then)

    return answers


FAULTS: dict[str, support.Answer] = {
    "silent": says(b"", b"", 8),
    "a byte every second": says(b"", b"H", 1),
    "100 Continue for ever": says(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "endless headers": says(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "closes": says(b""),
    "noise": says(bytes(range(256)) * 8),
    "407": says(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
}


def test_a_command_shows_the_same_and_does_not_wait_whatever_a_collector_does(
    project: Path, env: dict[str, str], home: Path
) -> None:
    def outcome(name: str) -> tuple[int, str, str]:
        copy = support.copy_project(project, project.parent / name)
        with support.collecting(FAULTS[name]) as collector:
            support.agree(copy, home, collector.url)
            done = support.kedro("info", cwd=copy, env=env | {ENDPOINT: collector.url})
            assert name != "silent" or support.senders(), "the command waited"
            support.wait_until(lambda: collector.connections == 1)
        return done.returncode, done.stdout, done.stderr

    off = support.kedro("info", cwd=project, env=env | {"DO_NOT_TRACK": "1"})
    for name in ("silent", "noise", "endless headers"):
        assert outcome(name) == (0, off.stdout, off.stderr), name


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
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(4)  # a slow network gets its time
            process.wait(20)

    # Names are looked up where nobody answers, or one has many silent addresses.
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
            lambda: run_sender(MESSAGE, f"https://{HOST}:{port}/", hosts),
            *(partial(send_to, answer) for answer in FAULTS.values()),
            *(partial(keep_input_open, data) for data in (b"", MESSAGE[:99])),
        )
        # Without an endpoint, this is the only name that the sender looks up.
        assert b"\x0dheapanalytics\x03com\x00" in resolver.recv(4096)


@linux
def test_a_silent_address_and_a_slow_one_do_not_lose_the_event(
    tmp_path: Path, authority: Authority
) -> None:
    """As with broken IPv6: the first address is silent. The second one takes time."""

    def answer(connection: socket.socket, collector: Collector) -> None:
        time.sleep(0.8)
        over_tls(authority.context())(connection, collector)

    if not Path("/proc/net/if_inet6").exists():
        support.missing("IPv6")
    hosts = with_hosts(tmp_path, "::1", "127.0.0.1")
    with (
        support.collecting(answer) as collector,
        silent_port(socket.AF_INET6, collector.port),
    ):
        url = secure_url(collector, HOST)
        assert run_sender(MESSAGE, url, hosts, **authority.trust).returncode == 0
        assert collector.requests == [request_bytes(url)]


ANSWERS = [
    "302 Found\r\nLocation: {other}",
    "307 Moved\r\nLocation: {other}",
    "200 OK\r\nRefresh: 0; url={other}\r\nSet-Cookie: a=b; Path=/",
    '401 Unauthorized\r\nWWW-Authenticate: Basic realm="a"',
    '407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="a"',
]


def test_redirects_and_requests_to_log_in_are_not_followed(
    home: Path, collector: Collector
) -> None:
    """Nor is the body of an answer read: this one never arrives."""
    netrc = "machine 127.0.0.1\nlogin someone\npassword something\n"
    (home / ".netrc").write_text(netrc)

    def check(head: str) -> None:
        text = f"HTTP/1.1 {head}\r\nContent-Length: 1000000\r\n\r\n"
        answer = text.format(other=collector.url).encode()
        with support.collecting(says(answer, b"", 8)) as first:
            assert run_sender(MESSAGE, first.url, HOME=str(home)).returncode == 0
            assert first.requests == [request_bytes(first.url)]
            assert first.connections == 1

    side_by_side(check, ANSWERS)
    assert collector.connections == 0


def test_nothing_is_sent_to_a_collector_with_a_bad_certificate(
    authority: Authority,
) -> None:
    last = datetime.now(timezone.utc) - timedelta(days=1)
    first = last - timedelta(days=9)
    issue = authority.authority.issue_cert
    bad = {
        "expired": issue("localhost", not_before=first, not_after=last),
        "of an unknown authority": trustme.CA().issue_cert("localhost"),
        "of another host": issue(HOST),
    }

    def check(name: str) -> None:
        context = authority.context(bad[name])
        with support.collecting(over_tls(context)) as collector:
            url = secure_url(collector)
            assert run_sender(MESSAGE, url, **authority.trust).returncode == 1, name
            assert (collector.connections, collector.requests) == (1, [])

    side_by_side(check, bad)


# --- Proxies ---

PROXIES = {
    "HTTPS_PROXY": "http://PROXY",
    "https_proxy": "PROXY",
    "ALL_PROXY": "http://PROXY",
    "all_proxy": "someone:s3cr%40t@PROXY",
}


def test_a_proxy_sees_only_the_host_and_its_own_password(authority: Authority) -> None:
    def tunnel(connection: socket.socket, collector: Collector) -> None:
        says(b"HTTP/1.1 200 Connection established\r\n\r\n")(connection, collector)
        over_tls(authority.context())(connection, collector)

    def check(name: str) -> None:
        with support.collecting(tunnel) as proxy:
            place = PROXIES[name].replace("PROXY", f"127.0.0.1:{proxy.port}")
            variables = {name: place, "NO_PROXY": "a.test,tor.test", **authority.trust}
            assert run_sender(MESSAGE, URL, **variables).returncode == 0, name
            connect, post = proxy.requests
        lines = connect.decode().split("\r\n")
        assert re.fullmatch(rf"CONNECT {HOST}:443 HTTP/1\.[01]", lines[0])
        basic = base64.b64encode(b"someone:s3cr@t").decode()
        password = {f"Proxy-Authorization: Basic {basic}"} if "@" in place else set()
        host = f"Host: {HOST}:443"  # sent since Python 3.12
        assert {*lines[1:]} - {host, ""} == password
        assert post == request_bytes(URL)

    side_by_side(check, PROXIES)


@linux
def test_no_proxy_is_used_for_hosts_in_no_proxy(
    tmp_path: Path, authority: Authority, collector: Collector
) -> None:
    hosts = with_hosts(tmp_path, "127.0.0.1")
    env = {"ALL_PROXY": f"127.0.0.1:{collector.port}", **authority.trust}
    with support.collecting(over_tls(authority.context())) as secure:
        url = secure_url(secure, HOST)

        def send(value: str) -> int:
            return run_sender(MESSAGE, url, hosts, NO_PROXY=value, **env).returncode

        assert side_by_side(send, ["*", "a.test, test", f".{HOST}"]) == [0] * 3
        assert (secure.connections, collector.connections) == (3, 0)


def test_the_event_does_not_go_around_a_proxy_that_fails() -> None:
    def check(name: str) -> None:
        with support.collecting(FAULTS[name]) as proxy:
            place = f"127.0.0.1:{proxy.port}"
            assert run_sender(MESSAGE, URL, HTTPS_PROXY=place).returncode == 1, name
            assert proxy.connections == 1
            assert b"username" not in b"".join(proxy.requests)

    side_by_side(check, ["silent", "closes", "noise", "407"])


TRACERS = {
    "debugpy": ["debugpy", "--listen", "127.0.0.1:0", "-m"],
    "viztracer": ["viztracer", "--max_stack_depth=1", "-o", "a.json", "--module"],
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_no_sender_is_started_under_a_tracer_that_takes_over_processes(
    tracer: str, project: Path, env: dict[str, str], home: Path
) -> None:
    line = [sys.executable, "-m", *TRACERS[tracer], "kedro", "registry", "list"]
    done = subprocess.run(line, cwd=project, env=env, capture_output=True, check=True)
    assert b"- __default__" in done.stdout
    assert not (support.own_folder(home) / "salt").exists(), "an event was made"


SEND = """\
import network, subprocess, sys
network.enter_loopback()
assert network.attempts() == 0
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)
print(network.attempts())
"""


@linux
def test_the_suite_sees_a_sender_that_tries_to_leave() -> None:
    """This is what `conftest.py` checks after each test."""
    line = [sys.executable, "-c", SEND, *support.SENDER]
    path = str(support.ROOT / "tests")
    env = os.environ | {"PYTHONPATH": path, ENDPOINT: "https://192.0.2.1"}
    assert int(subprocess.check_output(line, input=MESSAGE, env=env)) > 0
