"""What the tests of the sender share: a message, its process, TLS on loopback."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import support
import trustme

from kedro_telemetry import plugin

PROPERTIES = {
    "username": "0123456789abcdef" * 2,
    "package_name": "fedcba9876543210" * 2,
    "command": "kedro run --pipeline *****",
    "project_version": "1.7.0",
    "telemetry_version": plugin.VERSION,
    "python_version": "3.11",
    "os": "linux",
    "tools": "Linting, Documentation",
    "example_pipeline": "False",
    "number_of_datasets": 120,
    "number_of_nodes": 4,
    "number_of_pipelines": 3,
}
MESSAGE = json.dumps(PROPERTIES).encode()
EVENT = plugin.build_event(MESSAGE)
HOST = "collector.test"  # a name that is not on loopback; tests resolve it themselves

Input = TypeVar("Input")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Input], Result], inputs: Iterable[Input]
) -> list[Result]:
    """Run these at the same time: most of a sender's life is waiting."""
    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(function, inputs))


def run_sender(
    message: bytes, url: str, wrapper: Iterable[str] = (), **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a sender with this input to its end."""
    return subprocess.run(
        [*wrapper, *support.SENDER],
        input=message,
        env={plugin.ENDPOINT_VARIABLE: url, "PATH": os.environ["PATH"], **variables},
        capture_output=True,
        timeout=30,
        check=False,
    )


def request_bytes(url: str, event: bytes = EVENT) -> bytes:
    """Return what must arrive at this URL, byte for byte."""
    lines = [f"POST /{url.split('/', 3)[3]} HTTP/1.1"]
    headers = plugin.request_headers(url, event)
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + event


class Authority:
    """A certificate authority, and the variable that makes a sender trust it."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.file = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.file))
        self.trust = {"SSL_CERT_FILE": str(self.file)}

    def context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a server's side of TLS, with a good certificate by default."""
        names = ("localhost", "127.0.0.1", HOST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.authority.issue_cert(*names)).configure_cert(context)
        return context


def over_tls(
    context: ssl.SSLContext, answer: support.Answer = support.answer_ok
) -> support.Answer:
    def wrapped(connection: socket.socket, collector: support.Collector) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            answer(encrypted, collector)

    return wrapped


def secure_url(collector: support.Collector, host: str = "localhost") -> str:
    return f"https://{host}:{collector.port}/api/track"


def with_files(folder: Path, **files: str) -> list[str]:
    """Return a wrapper that replaces files of /etc for one process (Linux, root).

    The keywords are the names, with `_` for a dot.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        support.missing("mount namespaces: Linux, as root")
    commands = []
    for name, content in files.items():
        file = folder / name.replace("_", ".", 1)
        file.write_text(content)
        commands.append(f"mount --bind {file} /etc/{file.name}")
    script = " && ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
