"""The sender as a process: what it accepts, what it posts, what it is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import strace
import support
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
    senders_to,
    side_by_side,
)
from support import MESSAGE, PROPERTIES

from kedro_telemetry.plugin import SENDER_VARIABLES

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT TESTED HERE: reads /proc or ru_maxrss"
)


def changed(**values: Any) -> bytes:
    return json.dumps(PROPERTIES | values).encode()


# --- One request ---


@pytest.mark.parametrize("path", ["api/track", "", "a/b?c=d&e=+"])
def test_the_sender_posts_once_byte_for_byte(
    path: str, collector: support.Collector
) -> None:
    url = f"http://127.0.0.1:{collector.port}/{path}"
    done = run_sender(MESSAGE, url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert collector.requests == [request_bytes(url)]
    assert collector.connections == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_sender_posts_once_over_tls_byte_for_byte(
    host: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    with support.collecting(over_tls(authority.context())) as collector:
        url = secure_url(collector, host)
        assert run_sender(MESSAGE, url, **authority.trust).returncode == 0
        assert collector.requests == [request_bytes(url)]
        assert collector.connections == 1


# --- One event, or nothing ---

NODES = b'"number_of_nodes": 4'
# The input, and the fields that are missing in the event.
CLEANED: list[tuple[bytes, list[str]]] = [
    (MESSAGE.decode().encode("utf-16"), []),
    (changed(host="acme-laptop", Os="acme"), []),
    (changed(app_id="1", event="acme", identity="acme", properties=PROPERTIES), []),
    (changed(project_version="\u0661.\u0662"), ["project_version"]),
    (changed(os="acme", package_name="acme"), ["package_name", "os"]),
    (
        changed(tools="Linting, acme", telemetry_version=1),
        ["telemetry_version", "tools"],
    ),
    (changed(os="\udc80", example_pipeline=False), ["os", "example_pipeline"]),
    (changed(number_of_nodes=123), ["number_of_nodes"]),
    (changed(number_of_nodes=4.0), ["number_of_nodes"]),
    (changed(number_of_nodes=True), ["number_of_nodes"]),
    (changed(number_of_nodes=float("nan")), ["number_of_nodes"]),
    (MESSAGE.replace(NODES, NODES + b"0" * 3000), ["number_of_nodes"]),
    (MESSAGE.replace(NODES, NODES + b"," + NODES + b"56"), ["number_of_nodes"]),
]


def test_the_sender_sends_only_the_good_values_of_a_message() -> None:
    def check(case: tuple[bytes, list[str]]) -> None:
        message, missing = case
        kept = {key: PROPERTIES[key] for key in PROPERTIES if key not in missing}
        with support.collecting() as collector:
            assert run_sender(message, collector.url).returncode == 0, message
            expected = request_bytes(collector.url, event_bytes(kept))
            assert collector.requests == [expected]
            assert len(collector.events) == 1  # the JSON Schema agrees

    side_by_side(check, CLEANED)


REFUSED = [
    b"",
    b"1",
    b"{}",
    MESSAGE[:-1],
    MESSAGE + MESSAGE,
    MESSAGE + b"\x00",
    b"[" + MESSAGE + b"]",
    b'{"properties": ' + MESSAGE + b"}",
    MESSAGE.replace(b"linux", b"\xff"),
    b"[" * 4096,
    MESSAGE + b" " * (4097 - len(MESSAGE)),
    b" " * 4096 + MESSAGE,
    changed(command="kedro run --pipeline acme"),
    changed(command="kedro info --pipeline *****"),
    changed(command="kedro acme"),
    changed(command="kedro run" + " *****" * 40),
    changed(command="kedro run "),
    changed(command="acme run"),
    changed(command=["kedro", "run"]),
    changed(command=None),
    changed(username=None),
]


def test_the_sender_sends_nothing_for_any_other_input(
    collector: support.Collector,
) -> None:
    def check(data: bytes) -> None:
        assert run_sender(data, collector.url).returncode != 0, data

    side_by_side(check, REFUSED)
    assert collector.connections == 0


def test_the_sender_does_not_read_endless_input(collector: support.Collector) -> None:
    with subprocess.Popen(
        support.SENDER,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={ENDPOINT: collector.url},
    ) as process:
        assert process.stdin
        written = 0
        with pytest.raises(BrokenPipeError):  # noqa: PT012  # the loop is the input
            while written < 64 << 20:
                written += os.write(process.stdin.fileno(), MESSAGE)
    assert written < 1 << 20
    assert collector.connections == 0


@pytest.mark.skipif(sys.platform == "win32", reason="NOT TESTED HERE: needs a shell")
def test_the_sender_sends_nothing_without_an_input(
    collector: support.Collector,
) -> None:
    closed = ["/bin/sh", "-c", '"$@" <&-', "sh"]
    assert run_sender(MESSAGE, collector.url, closed).returncode != 0
    assert collector.connections == 0


def test_the_sender_ends_within_5_seconds_although_its_input_does_not(
    collector: support.Collector,
) -> None:
    def send(data: bytes) -> int:
        with subprocess.Popen(
            support.SENDER,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={ENDPOINT: collector.url},
        ) as process:
            assert process.stdin
            process.stdin.write(data)
            process.stdin.flush()
            return process.wait(20)

    assert end_in_time(*(partial(send, data) for data in (b"", MESSAGE[:99], MESSAGE)))
    assert collector.connections == 0


# --- Only to https, or to loopback ---


def test_the_sender_posts_nowhere_else(collector: support.Collector) -> None:
    """Most of these forms would reach this collector if a check were missing."""
    place = f"127.0.0.1:{collector.port}"
    urls = [
        "",
        f"//{place}/",
        f"http:{place}/",
        f"http://localhost:{collector.port}/",
        f"http://0.0.0.0:{collector.port}/",
        f"http://2130706433:{collector.port}/",
        f"http://someone:password@{place}/",
        f"http://{place}\\@{HOST}/",
        f"http://{place}/a@b",
        f"http://{place}/a b",
        f"http://{place}/a\r\nX-Y: z",
        f"http://{place}/#fragment",
        f"http://{place}/{'a' * 200}",
        f"ftp://{place}/",
        "file:///etc/hostname",
    ]

    def check(url: str) -> None:
        assert run_sender(MESSAGE, url).returncode != 0, url

    side_by_side(check, urls)
    assert collector.connections == 0


# --- What it is ---


@linux
def test_the_sender_inherits_only_its_input_and_the_allowed_variables(
    project: Path, env: dict[str, str]
) -> None:
    seen: list[object] = []
    files: dict[int, str] = {}

    def look(connection: socket.socket, collector: support.Collector) -> None:
        support.read_request(connection)
        (sender,) = senders_to(collector.url)
        seen.extend([sender.cmdline(), sender.environ(), sender.cwd(), sender.nice()])
        seen.extend([os.getsid(sender.pid) == sender.pid, sender.num_threads()])
        for file in Path(f"/proc/{sender.pid}/fd").iterdir():
            files[int(file.name)] = os.readlink(file).partition(":")[0]
        connection.sendall(support.OK)

    allowed = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "socks5://127.0.0.1:9",
        "ALL_PROXY": "a",
        "all_proxy": "b",
        "NO_PROXY": "c",
        "no_proxy": "d",
        "SSL_CERT_FILE": "/authority.pem",
        "SSL_CERT_DIR": "/authorities",
        "LD_LIBRARY_PATH": "/nowhere",
        "DYLD_LIBRARY_PATH": "/nowhere",
        "SYSTEMROOT": "C:",
    }
    others = {"HTTP_PROXY": "x", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONWARNINGS": "all"}
    secret = os.open(project / "pyproject.toml", os.O_RDONLY)
    with support.collecting(look) as collector:
        allowed[ENDPOINT] = collector.url
        assert set(allowed) == set(SENDER_VARIABLES)
        variables = env | others | allowed
        support.kedro("info", cwd=project, env=variables, pass_fds=(secret,))
        support.wait_for_senders()
    os.close(secret)
    # It has its own session and a lower priority. Its second thread is the timer.
    assert seen == [support.SENDER, allowed, "/", os.nice(0) + 5, True, 2]
    assert [files.pop(number) for number in range(3)] == ["pipe", *["/dev/null"] * 2]
    assert list(files.values()) == ["socket"]


def test_the_sender_pauses_before_it_loads_anything(
    collector: support.Collector,
) -> None:
    # This option makes Python name each module when it has been loaded.
    options = ["-X", "importtime", *support.SENDER[1:-1]]

    def modules(*arguments: str) -> tuple[list[str], list[float]]:
        names, times = [], []
        with subprocess.Popen(
            [sys.executable, *options, *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={ENDPOINT: collector.url},
        ) as process:
            assert process.stdin
            assert process.stderr
            process.stdin.write(MESSAGE)
            process.stdin.close()
            for line in process.stderr:
                names.append(line.rpartition(b"|")[2].strip().decode())
                times.append(time.monotonic())
        assert process.returncode == 0
        return names, times

    bare, _ = modules("-c", "import os, time")
    names, times = modules(support.SENDER[-1])
    pause = names.index("faulthandler") + 1
    assert times[pause] - times[pause - 1] > 0.4
    assert set(names[:pause]) - set(bare) <= {"__future__", "faulthandler"}
    packages = {name.partition(".")[0] for name in names[pause:] if name[0] != "_"}
    assert {"json", "re", "urllib"} <= packages <= sys.stdlib_module_names
    # Nothing from below THE WALL, and nothing for annotations.
    assert not packages & {"subprocess", "pathlib", "typing"}
    assert len(collector.events) == 1


def test_the_sender_writes_no_bytecode(
    tmp_path: Path, collector: support.Collector
) -> None:
    prefix = ["-X", f"pycache_prefix={tmp_path}"]  # an empty cache
    command = [sys.executable, *prefix, *support.SENDER[1:]]
    env = {ENDPOINT: collector.url}
    subprocess.run(command, input=MESSAGE, env=env, check=True)
    assert len(collector.events) == 1
    assert list(tmp_path.iterdir()) == []


METER = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@linux
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_sender_takes_at_most_32_megabytes(scheme: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    if system.exists():  # trust as many authorities as a whole system does
        authority.file.write_bytes(authority.file.read_bytes() + system.read_bytes())
    answer: support.Answer = support.answer_ok
    if scheme == "https":
        answer = over_tls(authority.context())
    with support.collecting(answer) as collector:
        url = secure_url(collector) if scheme == "https" else collector.url
        # Run by a small parent, because a child begins with the memory of its parent.
        meter = [sys.executable, "-I", "-S", "-c", METER, *support.SENDER]
        env = {ENDPOINT: url, **authority.trust}
        done = subprocess.run(
            meter, input=MESSAGE, env=env, capture_output=True, check=True
        )
        status, kilobytes = map(int, done.stdout.split())
        assert status == 0
        assert kilobytes * 1024 <= 32_000_000
        assert len(collector.events) == 1


# --- Debuggers and tracers ---


@linux
@pytest.mark.parametrize("tracer", ["debugpy", "viztracer"])
def test_no_sender_is_started_under_a_tracer_that_takes_over_processes(
    tracer: str,
    project: Path,
    env: dict[str, str],
    collector: support.Collector,
    tmp_path: Path,
) -> None:
    line = [sys.executable, "-m", tracer]
    if tracer == "debugpy":
        line += ["--listen", "127.0.0.1:0", "-m"]
    else:
        report = str(tmp_path / "report.json")
        line += ["--max_stack_depth", "1", "--output_file", report, "--module"]
    line += ["kedro", "info"]
    done, found = strace.run(tmp_path / "trace", *line, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    assert "Installed plugins" in done.stdout
    started = [line for process in found for line, _ in process.programs]
    assert line in started
    assert [line for line in started if str(support.PLUGIN) in " ".join(line)] == []
    assert collector.connections == 0
