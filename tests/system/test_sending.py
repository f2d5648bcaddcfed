"""The sender as a process: what it accepts, what it posts, what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import support
from network import (
    ENDPOINT,
    Authority,
    event_bytes,
    over_tls,
    request_bytes,
    run_sender,
    secure_url,
    side_by_side,
)
from support import MESSAGE, PROPERTIES, Collector


def changed(**values: Any) -> bytes:
    return json.dumps(PROPERTIES | values).encode()


# --- One request, one event, or nothing ---


def test_the_sender_posts_once_byte_for_byte(
    collector: Collector, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
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
    bad: dict[str, object] = {"host": "acme", "os": "acme", "package_name": "acme"}
    bad |= {"project_version": "\u0661.\u0662", "tools": "Linting, acme"}
    bad |= {"number_of_nodes": 123, "app_id": "1", "event": "acme", "identity": "acme"}
    kept = {name: PROPERTIES[name] for name in PROPERTIES if name not in bad}
    message = changed(command="kedro run --pipeline acme", **bad)
    assert run_sender(message, collector.url).returncode == 0
    assert collector.requests == [request_bytes(collector.url, event_bytes(kept))]
    assert len(collector.events) == 1  # the JSON Schema agrees


NOTHING = {
    "nothing": b"",
    "no object": b"[1]",
    "half a message": MESSAGE[:-1],
    "two messages": MESSAGE + MESSAGE,
    "bytes that are no text": MESSAGE.replace(b"linux", b"\xff"),
    "too much nesting": b"[" * 4096,
    "a message after 4 KiB": b" " * 4096 + MESSAGE,
    "a command that is no text": changed(command=["kedro", "run"]),
    "no user": changed(username=None),
}


def test_the_sender_sends_nothing_for_any_other_input(collector: Collector) -> None:
    done = side_by_side(lambda data: run_sender(data, collector.url), NOTHING.values())
    sent = [name for name, d in zip(NOTHING, done, strict=True) if d.returncode == 0]
    assert sent == []
    assert collector.connections == 0


def test_the_sender_posts_nowhere_else(collector: Collector) -> None:
    """Most of these addresses would reach this collector if they were not refused."""
    port = collector.port
    urls = ["", f"http:127.0.0.1:{port}/", f"http://localhost:{port}/"]
    urls += [f"http://a:b@127.0.0.1:{port}/", f"http://127.0.0.1:{port}/?a"]
    urls += [f"http://0.0.0.0:{port}/", f"http://127.0.0.1:{port}/{'a' * 200}"]
    done = side_by_side(lambda url: run_sender(MESSAGE, url), urls)
    assert [process.returncode for process in done] == [1] * len(urls)
    assert collector.connections == 0


# --- What it costs ---


def test_the_sender_pauses_before_it_loads_anything_and_writes_no_bytecode(
    collector: Collector, tmp_path: Path
) -> None:
    # Python names each module when it has been loaded. Its cache of bytecode is empty.
    options = ["-X", "importtime", "-X", f"pycache_prefix={tmp_path}"]
    loaded = {}
    with subprocess.Popen(
        [sys.executable, *options, *support.SENDER[1:]],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={ENDPOINT: collector.url},
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(MESSAGE)
        process.stdin.close()
        for line in process.stderr:
            loaded[line.rpartition(b"|")[2].strip().decode()] = time.monotonic()
    assert len(collector.events) == 1
    names, times = list(loaded), list(loaded.values())
    pause = names.index("faulthandler") + 1
    assert times[pause] - times[pause - 1] > 0.4
    packages = {name.partition(".")[0] for name in names[pause:] if name[0] != "_"}
    assert {"json", "re", "urllib"} <= packages <= sys.stdlib_module_names
    assert not packages & {"subprocess", "pathlib", "typing"}  # from below THE WALL
    assert list(tmp_path.iterdir()) == []


METER = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: needs ru_maxrss")
def test_the_sender_takes_at_most_32_megabytes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
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


# --- Debuggers and tracers ---

TRACERS = {
    "debugpy": ["debugpy", "--listen", "127.0.0.1:0", "-m"],
    "viztracer": ["viztracer", "--max_stack_depth=1", "-o", "a.json", "--module"],
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_nothing_is_sent_under_a_tracer_that_takes_over_processes(
    tracer: str, project: Path, env: dict[str, str], collector: Collector
) -> None:
    line = [sys.executable, "-m", *TRACERS[tracer], "kedro", "registry", "list"]
    done = subprocess.run(line, cwd=project, env=env, capture_output=True, check=True)
    assert b"- __default__" in done.stdout
    assert collector.stays_silent()
