"""The sender, in processes in which its lines are counted.

`python -I -S` counts none, so `coverage run` starts the file here. The system tests
start it as it is started for real.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import coverage
import support


def send(message: bytes, folder: Path, **variables: str) -> int:
    """Run the sender, and return its exit status."""
    suite = coverage.Coverage.current()
    data_file = suite.config.data_file if suite else folder / ".coverage"
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={data_file}"]
    return subprocess.run(
        [*command, "--parallel-mode", str(support.PLUGIN)],
        input=message,
        env=variables,
        cwd=support.ROOT,
        start_new_session="ALL_PROXY" in variables,  # one of them leads one already
        capture_output=True,
        timeout=30,
    ).returncode


def keep_and_close(connection: socket.socket, collector: support.Collector) -> None:
    collector.requests.append(connection.recv(65536))


def test_the_sender_posts_one_event_or_nothing(
    collector: support.Collector, tmp_path: Path
) -> None:
    def run(
        endpoint: str, message: bytes = support.MESSAGE, **variables: str
    ) -> Future[int]:
        variables["KEDRO_TELEMETRY_ENDPOINT"] = endpoint
        return pool.submit(send, message, tmp_path, **variables)

    remote = "https://192.0.2.1/x"
    with (
        support.collecting(keep_and_close) as plain,
        support.collecting(keep_and_close) as proxy,
        support.collecting(keep_and_close) as private,
        ThreadPoolExecutor() as pool,
    ):
        sent = run(collector.url)
        failed = [
            run(collector.url, message=b"{}"),
            run("nowhere"),
            run(f"https://127.0.0.1:{plain.port}/x"),
            run(remote, HTTPS_PROXY=f"127.0.0.1:{proxy.port}"),
            run(remote, ALL_PROXY=f"http://ada:s3c%20ret@127.0.0.1:{private.port}"),
        ]
        assert sent.result() == 0
        assert all(future.result() != 0 for future in failed)
        (event,) = collector.wait()
        assert event["properties"] == support.PROPERTIES
        (hello,) = plain.requests
        assert hello.startswith(b"\x16\x03"), "a handshake of TLS"
        (tunnel,) = proxy.requests
        assert tunnel.startswith(b"CONNECT 192.0.2.1:443 HTTP/1.")
        assert b"Authorization" not in tunnel
        credentials = base64.b64encode(b"ada:s3c ret")
        assert (
            b"\r\nProxy-Authorization: Basic %b\r\n" % credentials
            in (private.requests[0])
        )
        for data in (hello, tunnel, private.requests[0]):
            assert b"kedro run" not in data
