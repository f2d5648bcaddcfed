"""The sender as a process: what it accepts, what it posts, and what it is given."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import coverage
import network
import pytest
import support
from network import EVENT, MESSAGE, PROPERTIES, run_sender, side_by_side

from kedro_telemetry import plugin

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc exists on Linux")


def changed(**values: Any) -> bytes:
    return json.dumps(PROPERTIES | values).encode()


# --- One request ---


@pytest.mark.parametrize("path", ["api/track", "", "a/b?c=d&e=+"])
def test_it_posts_once_byte_for_byte(path: str, collector: support.Collector) -> None:
    url = f"http://127.0.0.1:{collector.port}/{path}"
    done = run_sender(MESSAGE, url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert collector.requests == [network.request_bytes(url)]
    assert collector.connections == 1


def test_it_posts_over_tls_byte_for_byte(tmp_path: Path) -> None:
    authority = network.Authority(tmp_path)
    with support.collecting(network.over_tls(authority.context())) as collector:
        for host in ("localhost", "127.0.0.1"):
            url = network.secure_url(collector, host)
            assert run_sender(MESSAGE, url, **authority.trust).returncode == 0
            assert collector.requests.pop() == network.request_bytes(url)
        assert collector.connections == 2


def test_it_sends_what_it_knows_and_drops_the_rest(
    collector: support.Collector,
) -> None:
    message = changed(host="acme-laptop", os="acme", number_of_nodes=123)
    assert run_sender(message, collector.url).returncode == 0
    (event,) = collector.wait()
    dropped = ("os", "number_of_nodes")
    kept = {name: PROPERTIES[name] for name in PROPERTIES if name not in dropped}
    assert event["properties"] == kept


# --- Nothing but an event ---

REFUSED = {
    "empty": b"",
    "not JSON": b"event",
    "cut": MESSAGE[:-1],
    "two messages": MESSAGE + MESSAGE,
    "a NUL at the end": MESSAGE + b"\x00",
    "a list": b"[" + MESSAGE + b"]",
    "a number": b"1",
    "null": b"null",
    "no command": b"{}",
    "an event instead of its fields": EVENT,
    "deep lists": b"[" * plugin.MAX_MESSAGE,
    "deep objects": b'{"properties":' * 290,
    "a byte too long": MESSAGE + b" " * (plugin.MAX_MESSAGE + 1 - len(MESSAGE)),
    "spaces, then a message": b" " * plugin.MAX_MESSAGE + MESSAGE,
    "a value in the command": changed(command="kedro run --pipeline acme"),
    "a public word in another place": changed(command="kedro info --pipeline *****"),
    "an unknown command": changed(command="kedro acme"),
    "another program": changed(command="acme run"),
    "a long command": changed(command="kedro run" + " *****" * 40),
    "a line break": changed(command="kedro run\n"),
    "a list for the command": changed(command=["kedro", "run"]),
    "no text in the command": changed(command=None),
}


def test_it_sends_nothing_for_any_other_input(collector: support.Collector) -> None:
    results = side_by_side(
        lambda name: run_sender(REFUSED[name], collector.url).returncode, REFUSED
    )
    assert [
        name for name, code in zip(REFUSED, results, strict=True) if code == 0
    ] == []
    assert collector.connections == 0


def test_it_reads_no_more_than_a_message(collector: support.Collector) -> None:
    with subprocess.Popen(
        support.SENDER,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={plugin.ENDPOINT_VARIABLE: collector.url},
    ) as process:
        assert process.stdin
        written = 0
        with pytest.raises(BrokenPipeError):  # noqa: PT012  # the loop is the input
            while written < 64 << 20:
                written += os.write(process.stdin.fileno(), bytes(4096))
    assert written < 1 << 20
    assert collector.connections == 0


def test_it_ends_although_its_input_does_not(collector: support.Collector) -> None:
    def exit_status(data: bytes) -> int:
        with subprocess.Popen(
            support.SENDER,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={plugin.ENDPOINT_VARIABLE: collector.url},
        ) as process:
            assert process.stdin
            process.stdin.write(data)
            process.stdin.flush()
            return process.wait(support.SENDER_LIFE)

    assert 0 not in side_by_side(exit_status, [b"", MESSAGE[:100], MESSAGE])
    assert collector.connections == 0


# --- Only to https, or to loopback ---


def test_it_posts_nowhere_else(collector: support.Collector) -> None:
    """These forms would reach this machine if a check were missing."""
    port = collector.port
    urls = [
        "",
        f"http://localhost:{port}/",
        f"http://0.0.0.0:{port}/",
        f"http://127.1:{port}/",
        f"http://2130706433:{port}/",
        f"http://127.0.0.1.:{port}/",
        f"http://someone:password@127.0.0.1:{port}/",
        f"http://@127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}/a b",
        f"http://127.0.0.1:{port}/a\r\nX-Y: z",
        f"http://127.0.0.1:{port}/#fragment",
        f"http://127.0.0.1:{port}/" + "a" * plugin.MAX_URL,
        f"ftp://127.0.0.1:{port}/",
        f"//127.0.0.1:{port}/",
        "file:///etc/hostname",
        "data:text/plain,x",
    ]
    results = side_by_side(lambda url: run_sender(MESSAGE, url).returncode, urls)
    assert 0 not in results
    assert collector.connections == 0


# --- What it is given, and what it leaves ---


class Gate:
    """A collector that answers when the test has looked at the waiting sender."""

    def __init__(self) -> None:
        self.is_open = False

    def __call__(self, connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(support.read_request(connection))
        while not self.is_open:
            time.sleep(0.01)
        connection.sendall(support.OK)


@linux
def test_it_is_given_nothing_of_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = Gate()
    with support.collecting(gate) as found, (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        allowed = {"NO_PROXY": "a", "no_proxy": "b", "ALL_PROXY": "http://127.0.0.1:9"}
        allowed[plugin.ENDPOINT_VARIABLE] = found.url
        for name, value in {**allowed, "SECRET": "acme", "PYTHONPATH": "acme"}.items():
            monkeypatch.setenv(name, value)
        plugin.start_sender(MESSAGE)
        (process,) = support.senders()
        found.wait(1)
        try:
            assert process.cmdline() == support.SENDER
            assert process.cwd() == "/"
            assert process.environ() == allowed
            assert os.getsid(process.pid) == process.pid != os.getsid(0)
            assert process.nice() == 10
            assert process.num_threads() <= 2  # one of them is the timer
            files = {
                int(file.name): os.readlink(file)
                for file in Path(f"/proc/{process.pid}/fd").iterdir()
            }
            assert files.pop(0).startswith("pipe:")
            assert [files.pop(1), files.pop(2)] == ["/dev/null"] * 2
            assert [file.partition(":")[0] for file in files.values()] == ["socket"]
        finally:
            gate.is_open = True


@linux
def test_it_loads_next_to_nothing_before_its_pause(
    collector: support.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugin.ENDPOINT_VARIABLE, collector.url)
    plugin.start_sender(MESSAGE)
    (process,) = support.senders()
    time.sleep(0.3)  # it has started, and its pause is not over
    libraries = Path(f"/proc/{process.pid}/maps").read_text()
    assert "_ssl" not in libraries
    assert "_json" not in libraries
    assert collector.connections == 0
    collector.wait()


def test_it_loads_only_the_standard_library(collector: support.Collector) -> None:
    traced = [sys.executable, "-X", "importtime", *support.SENDER[1:]]
    env = {plugin.ENDPOINT_VARIABLE: collector.url}
    done = subprocess.run(
        traced, input=MESSAGE, env=env, capture_output=True, check=True
    )
    lines = done.stderr.decode().splitlines()[1:]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    packages = {module.partition(".")[0] for module in modules}
    assert {"json", "urllib"} <= packages <= sys.stdlib_module_names
    assert not packages & {"subprocess", "site", "typing", "kedro", "pluggy"}
    assert len(collector.requests) == 1


def test_it_writes_no_bytecode(tmp_path: Path, collector: support.Collector) -> None:
    """Python would write it beside a standard library that has none."""
    prefix = {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert run_sender(MESSAGE, collector.url, **prefix).returncode == 0
    copy = tmp_path / "plugin.py"
    copy.write_bytes(support.PLUGIN.read_bytes())
    command = [*support.SENDER[:-1], str(copy)]
    env = {plugin.ENDPOINT_VARIABLE: collector.url}
    subprocess.run(command, input=MESSAGE, env=env, check=True)
    assert list(tmp_path.iterdir()) == [copy]
    assert support.SENDER[3] == "-B"
    assert len(collector.requests) == 2


METER = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@linux
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_it_takes_at_most_32_megabytes(scheme: str, tmp_path: Path) -> None:
    """With TLS, it loads the authorities of a whole system."""
    authority = network.Authority(tmp_path)
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    if system.exists():
        authority.file.write_bytes(authority.file.read_bytes() + system.read_bytes())
    answer: support.Answer = support.answer_ok
    if scheme == "https":
        answer = network.over_tls(authority.context())
    with support.collecting(answer) as found:
        url = network.secure_url(found) if scheme == "https" else found.url
        env = {plugin.ENDPOINT_VARIABLE: url, **authority.trust}
        # A small parent, because a child begins with the memory of its parent.
        meter = [sys.executable, "-I", "-S", "-c", METER, *support.SENDER]
        done = subprocess.run(
            meter, input=MESSAGE, env=env, capture_output=True, check=True
        )
        status, kilobytes = map(int, done.stdout.split())
        assert status == 0
        assert kilobytes * 1024 <= 32_000_000
        assert len(found.requests) == 1


@pytest.mark.parametrize("tracer", ["debugpy", "viztracer"])
def test_no_sender_under_a_tracer_that_follows_child_processes(
    tracer: str,
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", tracer]
    if tracer == "debugpy":
        command += ["--listen", "127.0.0.1:0", "-m", "kedro", "info"]
    else:
        trace = str(tmp_path / "trace.json")
        command += ["--quiet", "-o", trace, "--module", "kedro", "info"]
    done = subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert "Installed plugins" in done.stdout + done.stderr
    assert collector.stays_silent()


def test_its_lines_are_counted_by_coverage(
    tmp_path: Path, collector: support.Collector
) -> None:
    """The sender is a process that coverage does not reach by itself."""
    suite = coverage.Coverage.current()
    data_file = str(suite.config.data_file) if suite else str(tmp_path / ".coverage")
    authority = network.Authority(tmp_path)
    options = ["--parallel-mode", "--branch", f"--data-file={data_file}"]
    command = [sys.executable, "-m", "coverage", "run", *options, str(support.PLUGIN)]

    def run(message: bytes, url: str, **variables: str) -> int:
        env = {plugin.ENDPOINT_VARIABLE: url, **variables}
        return subprocess.run(
            command,
            input=message,
            env=env,
            cwd=support.ROOT,
            capture_output=True,
            check=False,
        ).returncode

    assert run(MESSAGE, collector.url) == 0
    assert run(b"{}", collector.url) == 1
    for proxy in ("http://127.0.0.1:9", "http://someone:password@127.0.0.1:9"):
        url = f"https://{network.HOST}/api/track"
        assert run(MESSAGE, url, HTTPS_PROXY=proxy, **authority.trust) == 1
    assert len(collector.requests) == 1
