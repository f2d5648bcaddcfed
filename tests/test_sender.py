"""The sender: the real process, real sockets."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import coverage
import environment
import pytest
import support
from network import (
    DIGITS,
    EVENT,
    SENDER,
    Authority,
    Gate,
    caught,
    gone,
    is_event,
    over_tls,
    request,
    run_sender,
    secure,
)

from kedro_telemetry import plugin

LARGEST = plugin.seal(
    {
        "username": "f" * 32,
        "package_name": "e" * 32,
        "command": plugin.mask_command(["run", *["--registered-model-name", "x"] * 99]),
        "project_version": "10.100.1000",
        "telemetry_version": plugin.VERSION,
        "python_version": "3.99",
        "os": "darwin",
        "tools": ", ".join(plugin.TOOLS),
        "example_pipeline": "False",
        "number_of_datasets": 990_000_000,
        "number_of_nodes": 990_000_000,
        "number_of_pipelines": 990_000_000,
    }
)
EVENTS = {
    "of a run": EVENT,
    "of another command": plugin.seal({"username": DIGITS, "command": "kedro registry list"}),
    "without a field": plugin.seal({}),
    "the largest": LARGEST,
}


def all_refused(inputs: Sequence[bytes], url: str) -> None:
    """Each input ends a sender with an error."""
    with ThreadPoolExecutor(3) as pool:
        for data, done in zip(inputs, pool.map(lambda data: run_sender(data, url), inputs), strict=True):
            assert done.returncode != 0, data


# --- One request, as preview says ---
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("path", ["api/track", "", "a/b?c=d&e=+"])
def test_posts_once_byte_for_byte(event: bytes, path: str, collector: support.Collector) -> None:
    url = f"http://127.0.0.1:{collector.port}/{path}"
    done = run_sender(event, url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert collector.requests == [request(url, event)]
    assert collector.connections == 1


def test_posts_over_tls_byte_for_byte(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with support.collecting(over_tls(authority.context())) as collector:
        for host in ("localhost", "127.0.0.1"):
            assert run_sender(EVENT, secure(collector, host), **authority.trust).returncode == 0
        assert collector.requests == [request(secure(collector, host)) for host in ("localhost", "127.0.0.1")]
        assert collector.connections == 2


def test_the_largest_request_is_small() -> None:
    """At most 1.5 KiB with headers, for the longest event and the longest URL."""
    url = "https://" + "a" * (plugin.MAX_URL - 9) + "/"
    assert len(plugin.mask_command(["run", *["--registered-model-name", "x"] * 99])) > plugin.MAX_COMMAND - 30
    assert len(request(url, LARGEST)) <= 1536


# --- Nothing but a sealed event ---
def mutants(event: bytes) -> Iterator[bytes]:
    """Each bit flipped, each byte left out, doubled, and replaced by one that means something in JSON; each swap."""
    for i, byte in enumerate(event):
        head, tail = event[:i], event[i + 1 :]
        yield from (head + bytes([byte ^ 1 << bit]) + tail for bit in range(8))
        yield from (head + put + tail for put in (b"", bytes([byte, byte]), b'"', b"\\", b" ", b"0", b"*", b"\x00"))
    yield from (event[:i] + event[i + 1 : i + 2] + event[i : i + 1] + event[i + 2 :] for i in range(len(event)))


def test_no_mutant_passes_that_is_no_event_itself() -> None:
    """Exhaustive, held against another statement of the form: what passes is an event, and what is one passes."""
    assert all(map(is_event, EVENTS.values()))
    tried = passed = 0
    for event in EVENTS.values():
        for data in mutants(event):
            try:
                same = plugin.seal(json.loads(data)["properties"]) == data
            except Exception:
                same = False
            assert same == is_event(data), data
            tried, passed = tried + 1, passed + (same and data != event)
    assert tried > 20_000
    assert passed < tried / 10  # another digit in a digest, a version or a count is another event: no more than those


def test_the_process_refuses_mutants(collector: support.Collector) -> None:
    """A sample of the same, on the real process."""
    draw = random.Random(4)
    inputs = draw.sample([data for data in mutants(EVENT) if not is_event(data)], 40)
    all_refused(inputs, collector.url)
    assert collector.connections == 0


def changed(**values: Any) -> bytes:
    """The event with these top-level fields, spelled as the sender spells it."""
    return json.dumps(json.loads(EVENT) | values, separators=(",", ":")).encode()


def held(**values: Any) -> bytes:
    """The event with these properties, spelled as the sender spells it."""
    return changed(properties=json.loads(EVENT)["properties"] | values)


LOADED = json.loads(EVENT)
NOT_SEALED = {
    "empty": b"",
    "no JSON": b"event",
    "cut": EVENT[:-1],
    "trailing new line": EVENT + b"\n",
    "leading space": b" " + EVENT,
    "byte order mark": b"\xef\xbb\xbf" + EVENT,
    "UTF-16": EVENT.decode().encode("utf-16"),
    "UTF-32": EVENT.decode().encode("utf-32"),
    "NUL at the end": EVENT + b"\x00",
    "two events": EVENT + EVENT,
    "two events on lines": EVENT + b"\n" + EVENT,
    "white space inside": json.dumps(LOADED).encode(),
    "indented": json.dumps(LOADED, indent=1).encode(),
    "keys in another order": json.dumps(dict(reversed(LOADED.items())), separators=(",", ":")).encode(),
    "properties in another order": changed(properties=dict(reversed(LOADED["properties"].items()))),
    "a field more": changed(host="acme-laptop"),
    "a property more": held(host="acme-laptop"),
    "a property that is null": held(package_name=None),
    "a duplicate field": EVENT.replace(b'{"app_id"', b'{"app_id":"acme","app_id"'),
    "a duplicate property": EVENT.replace(b'{"username"', b'{"username":"acme","username"'),
    "an escaped letter": EVENT.replace(b"kedro run", b"\\u006bedro run"),
    "an escaped solidus": EVENT.replace(b'"linux"', b'"\\/linux"'),
    "another app": changed(app_id="1234567890"),
    "another title": changed(event="acme"),
    "the title of no counts": changed(event="CLI command"),
    "another identity": changed(identity="0" * 32),
    "no identity": changed(identity=None),
    "no properties": b'{"app_id":"2388822444","event":"CLI command","identity":null}',
    "properties that are a list": changed(properties=[]),
    "properties that are text": changed(properties="command"),
    "properties that are null": changed(properties=None),
    "a list": b"[" + EVENT + b"]",
    "a number": b"1",
    "a huge number": held(number_of_nodes=0).replace(b'"number_of_nodes":0', b'"number_of_nodes":1' + b"0" * 3000),
    "a precise count": held(number_of_nodes=123),
    "a negative count": held(number_of_nodes=-1),
    "a count of minus nought": EVENT.replace(b'"number_of_nodes":4', b'"number_of_nodes":-0'),
    "a count that is a fraction": held(number_of_nodes=4.0),
    "a count that is true": held(number_of_nodes=True),
    "a count that is text": held(number_of_nodes="4"),
    "a count that is no number": held(number_of_nodes=float("nan")),
    "a count that is endless": held(number_of_nodes=float("inf")),
    "a word of no vocabulary": held(command="kedro run acme"),
    "a command with a value": held(command="kedro run --pipeline acme"),
    "a command of another program": held(command="acme run"),
    "a long command": held(command="kedro run" + " *****" * 90),
    "a name for a digest": held(username="acme"),
    "a digest in capitals": changed(
        identity=DIGITS.upper(), properties={**LOADED["properties"], "username": DIGITS.upper()}
    ),
    "a short digest": held(package_name="0" * 31),
    "a list for a digest": held(package_name=list("0" * 32)),
    "digits of another script": held(project_version="\u0661.\u0662"),
    "a long version": held(project_version="1.2.3.4.5.678"),
    "a version with a name": held(project_version="1.7.0+acme"),
    "another system": held(os="acme"),
    "tools in another order": held(tools="Documentation, Linting"),
    "a tool of no list": held(tools="Linting, acme"),
    "a lone surrogate": held(os="\udc80"),
    "deep lists": b"[" * plugin.MAX_EVENT,
    "deep objects": b'{"properties":' * 290,
    "4,097 bytes": EVENT + b" " * (plugin.MAX_EVENT + 1 - len(EVENT)),
    "4,096 bytes and an event": b" " * plugin.MAX_EVENT + EVENT,
}


@pytest.mark.parametrize("some", range(4))
def test_refuses_what_is_no_sealed_event(some: int, collector: support.Collector) -> None:
    inputs = list(NOT_SEALED.values())[some::4]
    assert EVENT not in inputs
    assert not any(map(is_event, inputs))
    all_refused(inputs, collector.url)
    assert collector.connections == 0


def test_reads_no_more_than_an_event(collector: support.Collector) -> None:
    """Input without an end: it stops reading at once, and nothing leaves."""
    process = subprocess.Popen(
        SENDER, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={plugin.ENDPOINT: collector.url}
    )
    assert process.stdin
    written = 0
    with pytest.raises(BrokenPipeError):  # noqa: PT012  the loop is the input
        while written < 64 << 20:
            written += os.write(process.stdin.fileno(), bytes(4096))
    process.stdin.close()
    assert process.wait(20) != 0
    assert written < 1 << 20
    assert collector.connections == 0


def test_without_an_input_nothing_leaves(collector: support.Collector) -> None:
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *SENDER],
        env={plugin.ENDPOINT: collector.url},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert closed.returncode != 0
    assert collector.connections == 0


# --- Only to https, or loopback ---
ELSEWHERE = (
    "",
    " ",
    "{host}/",
    "//{host}/",
    "http:///",
    "http://localhost:{port}/",
    "http://localhost.:{port}/",
    "http://0.0.0.0:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://[::ffff:0.0.0.0]:{port}/",
    "http://192.0.2.1:{port}/",
    "http://[2001:db8::1]:{port}/",
    "http://collector.example/",
    "http://127.0.0.1.collector.example/",
    "http://127.0.0.1:{port}\\@collector.example/",
    "http://someone:password@{host}/",
    "http://someone@{host}/",
    "http://@{host}/",
    "http://{host}/a@b",
    "https://someone:password@{host}/",
    "http://{host}/a b",
    "http://{host}/ HTTP/1.1",
    " http://{host}/",
    "http://{host}/ ",
    "http://{host}/a\nb",
    "http://{host}/a\r\nX-Y: z",
    "http://{host}/a\tb",
    "ht\ntp://{host}/",
    "\x01http://{host}/",
    "http://{host}/\x7f",
    "http://{host}/\x1b[2J",
    "http://{host}/\u00e9",
    "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "http://{host}/#fragment",
    "http://{host}/a\\b",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:port/",
    "http://127.0.0.1:-1/",
    "https://127.0.0.1:0/",
    "https://127.0.0.1:99999/",
    "https://127.0.0.1:port/",
    "https://",
    "https:///path",
    "https://:{port}/",
    "https:{host}",
    "https://[::1/",
    "http://[::1].evil.example:{port}/",
    "http://[::1]evil.example/",
    "http://evil.example[::1]/",
    "http://evil.example[::1]:{port}/",
    "https://[::1].evil.example/",
    "https://collector.example:/",
    "https://a%20b/",
    "https://collector.example/a%20b",
    "https://a%0d%0aX:%20y/",
    "https://a%2fb/",
    "http://[::1%25lo]:{port}/",
    "http://[::1%5D]:{port}/",
    "ftp://{host}/",
    "file:///etc/hostname",
    "FILE:/etc/hostname",
    "file://localhost/etc/hostname",
    "data:text/plain,x",
    "unix:/tmp/socket",
    "ws://{host}/",
    "httpx://{host}/",
    "http+unix://{host}/",
    "javascript:1",
    "http://{host}/" + "a" * plugin.MAX_URL,
    "https://" + "a" * 193,
)
# Where a broken check would connect to this machine, and look up no name.
TO_THIS_MACHINE = [
    url for url in ELSEWHERE if "{" in url and "%" not in url and ".example" not in url and "192." not in url
]


def fill(form: str, port: int) -> str:
    return form.replace("{host}", f"127.0.0.1:{port}").replace("{port}", str(port))


@pytest.mark.parametrize("form", ELSEWHERE, ids=ascii)
def test_no_other_place_is_a_collector(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.ENDPOINT, fill(form, 4321))
    assert plugin.collector() is None


@pytest.mark.parametrize(
    "url",
    [
        plugin.COLLECTOR,
        "https://collector.example",
        "https://collector.example:8443/a/X?c=d",
        "https://192.0.2.1/",
        "https://[2001:db8::1]:8443/",
        "HTTPS://Collector.Example/",
        "http://127.0.0.1:4321/",
        "http://127.255.255.254/",
        "http://[::1]:4321/api/track",
        "https://" + "a" * 192,
    ],
)
def test_these_places_are(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.ENDPOINT, url)
    assert plugin.collector() == url
    monkeypatch.delenv(plugin.ENDPOINT)
    assert plugin.collector() == "https://heapanalytics.com/api/track"


def test_the_process_goes_nowhere_else(collector: support.Collector) -> None:
    """The real process, for every form that a missing check would let through to a collector on this machine."""
    urls = [fill(form, collector.port) for form in TO_THIS_MACHINE]
    with ThreadPoolExecutor(3) as pool:
        for url, done in zip(urls, pool.map(lambda url: run_sender(EVENT, url), urls), strict=True):
            assert done.returncode != 0, url
            assert b"nowhere to send it" in done.stderr, url
    assert collector.connections == 0


# --- One answer, not followed, not read ---
REDIRECTS = ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
ANSWERS = {
    **dict.fromkeys(REDIRECTS, "Location: {other}"),
    "300 Multiple Choices": "Location: {other}",
    "305 Use Proxy": "Location: {other}",
    "200 OK": 'Refresh: 0; url={other}\r\nSet-Cookie: a=b; Path=/\r\nAlt-Svc: h2="{other}"',
    "401 Unauthorized": 'WWW-Authenticate: Basic realm="a"',
    "401 Unauthorised": 'WWW-Authenticate: Digest realm="a", nonce="b", qop="auth"',
    "407 Proxy Authentication Required": 'Proxy-Authenticate: Basic realm="a"',
    "429 Too Many Requests": "Retry-After: 0",
    "503 Service Unavailable": "Retry-After: 0",
}


@pytest.mark.parametrize("status", ANSWERS)
def test_no_answer_leads_to_a_second_request(status: str, home: Path, collector: support.Collector) -> None:
    """No redirect, cookie, password (a `.netrc` is at hand) or retry."""
    (home / ".netrc").write_text("machine 127.0.0.1\nlogin someone\npassword something\n")
    head = ANSWERS[status].format(other=collector.url)

    def answer(connection: socket.socket, found: support.Collector) -> None:
        found.requests.append(support.read_request(connection))
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\nContent-Length: 0\r\n\r\n".encode())
        if more := support.read_request(connection):
            found.requests.append(more)

    with support.collecting(answer) as first:
        for _ in range(2):  # the second finds nothing that the first kept
            run_sender(EVENT, first.url, HOME=str(home))
        assert first.requests == [request(first.url)] * 2
        assert first.connections == 2
    assert collector.connections == 0


@pytest.mark.parametrize("head", [b"Content-Length: 1000000\r\n", b""], ids=["a length", "no header"])
def test_the_body_of_an_answer_is_not_read(head: bytes) -> None:
    """The collector promises a body and sends none of it until the sender has closed: whoever reads would be stuck."""
    closed: list[bytes] = []

    def answer(connection: socket.socket, found: support.Collector) -> None:
        found.requests.append(support.read_request(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        closed.append(connection.recv(1))

    with support.collecting(answer) as found:
        assert run_sender(EVENT, found.url).returncode == 0
        found.wait(1)
        while not closed:
            assert gone(found.url)
        assert closed == [b""]


# --- What the process is ---
MEMORY = 25_000_000  # bytes
METER = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measured(env: dict[str, str]) -> tuple[int, int]:
    """A sender's exit status, and the most memory that it had resident, in bytes."""
    # Measured by a small parent: a child's high-water mark includes its parent's, from before it became itself.
    meter = [sys.executable, "-I", "-S", "-c", METER, *SENDER]
    done = subprocess.run(meter, input=EVENT, env=env, capture_output=True, timeout=30, check=True)
    status, kilobytes = map(int, done.stdout.split())
    return status, kilobytes * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_takes_little_memory(scheme: str, tmp_path: Path) -> None:
    """At most 25 MB resident in all its life, also with TLS and all the authorities of a system."""
    authority, variables = Authority(tmp_path), {}
    trusted = Path("/etc/ssl/certs/ca-certificates.crt")
    if scheme == "https":
        if trusted.exists():
            authority.file.write_bytes(authority.file.read_bytes() + trusted.read_bytes())
        variables = dict(authority.trust)
    answer = over_tls(authority.context()) if scheme == "https" else support.answer_ok
    with support.collecting(answer) as found:
        url = secure(found) if scheme == "https" else found.url
        status, taken = measured({plugin.ENDPOINT: url, **variables})
        assert found.requests == [request(url)]
    assert status == 0
    assert taken <= MEMORY


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("status", ["100 Continue", "200 OK"])
def test_takes_little_memory_whatever_the_answer(status: str) -> None:
    """As many header lines as Python reads, and as long: it keeps those of a 100 Continue."""

    def floods(connection: socket.socket, collector: support.Collector) -> None:
        support.read_request(connection)
        while not collector.stopping.is_set():
            connection.sendall(head + (b"X: " + b"a" * 65_000 + b"\r\n") * 99 + b"\r\n")

    head = f"HTTP/1.1 {status}\r\n".encode()
    with support.collecting(floods) as found:
        _, taken = measured({plugin.ENDPOINT: found.url})
        assert found.connections == 1
    assert taken <= MEMORY


def test_a_failed_delivery_is_silent() -> None:
    """Nobody reads why, and a traceback would cost more memory than the event."""
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        done = run_sender(EVENT, f"http://127.0.0.1:{bound.getsockname()[1]}/")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_loads_nothing_for_annotations() -> None:
    """They are for a type checker, and `typing` alone takes a megabyte."""
    line = [*SENDER[:-1], "-X", "importtime", SENDER[-1]]
    env = {plugin.ENDPOINT: "http://127.0.0.1:9/"}
    loaded = subprocess.run(line, input=EVENT, env=env, capture_output=True, timeout=30, check=False)
    names = {found.rpartition("|")[2].strip() for found in loaded.stderr.decode().splitlines()}
    assert "urllib.request" in names
    assert "typing" not in names


@pytest.mark.skipif(os.name == "nt", reason="Windows has no sessions, niceness and descriptors of this kind")
def test_is_a_process_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `start_sender` starts it: its own session, lowest priority; no descriptor, folder, variable of the user's."""
    gate = Gate()
    with support.collecting(gate) as found, (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        allowed = {name: "0" for name in plugin.SENDER_VARIABLES if "LIBRARY" not in name and "SSL" not in name}
        for name, value in {**allowed, plugin.ENDPOINT: found.url, "SECRET": "acme", "PYTHONSTARTUP": "acme"}.items():
            monkeypatch.setenv(name, value)
        plugin.start_sender(EVENT)
        found.wait(1)
        process = caught(found.url)
        with process.oneshot():
            assert process.cmdline() == list(SENDER)
            assert process.cwd() == "/"
            assert process.nice() == 19
            assert process.environ() == {**allowed, plugin.ENDPOINT: found.url}
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        assert process.num_threads() <= 2  # itself, and the clock that ends it
        assert process.children() == []
        if sys.platform == "linux":
            files = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
            assert files.pop(0).startswith("pipe:")
            assert [files.pop(1), files.pop(2)] == ["/dev/null"] * 2
            assert [file.partition(":")[0] for file in files.values()] == ["socket"]
        gate.open.set()
        assert gone(found.url)
    plugin.STARTED.clear()


def test_loads_the_standard_library_alone(collector: support.Collector) -> None:
    """No Kedro, no pluggy, no site-packages; and of this file nothing below the wall."""
    traced = [SENDER[0], "-X", "importtime", *SENDER[1:]]
    env = {plugin.ENDPOINT: collector.url}
    done = subprocess.run(traced, input=EVENT, env=env, capture_output=True, timeout=30, check=True)
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.decode().splitlines()[1:]}
    assert {"json", "ssl", "urllib"} <= names
    assert names <= sys.stdlib_module_names
    assert not names & {"kedro", "pluggy", "subprocess", "site"}
    assert len(collector.requests) == 1


@pytest.mark.parametrize("data", [b"", EVENT[:100], EVENT], ids=["nothing", "a part", "an event"])
def test_ends_although_its_input_does_not(data: bytes, collector: support.Collector) -> None:
    """Gone within 5 seconds (plus its start) whatever happens; half an event is none."""
    env = {plugin.ENDPOINT: collector.url}
    with subprocess.Popen(SENDER, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdin
        process.stdin.write(data)
        process.stdin.flush()
        assert process.wait(support.SENDER_LIFE) != 0
    assert collector.connections == 0


def test_under_coverage(tmp_path: Path, collector: support.Collector) -> None:
    """The sender's lines are counted in its own process: an event, a refusal; where the suite is, with the suite's."""
    suite = coverage.Coverage.current()
    data_file = Path(str(suite.config.data_file)) if suite else tmp_path / ".coverage"
    root = environment.ROOT
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "--parallel-mode",
        "--branch",
        f"--data-file={data_file}",
        str(support.PLUGIN),
    ]
    env = {plugin.ENDPOINT: collector.url}
    for data, status in ((EVENT, 0), (b"{}", 1), (EVENT.replace(b"linux", b"Linux"), 1)):
        done = subprocess.run(command, input=data, env=env, cwd=root, capture_output=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
    assert collector.requests == [request(collector.url)]
    assert len(list(data_file.parent.glob(f"{data_file.name}.*"))) >= 3
