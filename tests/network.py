"""What the tests of the network share: TLS on a loopback collector, the sender as a process, and what must be there."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
import support
import trustme

from kedro_telemetry import plugin

IN_CI = bool(os.environ.get("CI"))  # read before the tests scrub the environment
SENDER = (sys.executable, "-I", "-S", str(support.PLUGIN))
DIGITS = "0123456789abcdef" * 2
EVENT = plugin.seal(
    {
        "username": DIGITS,
        "package_name": DIGITS[::-1],
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
)

# The form of an event once more, in another language than the file's: the bytes that are an event, and no others.
PATHS = "|".join(map(re.escape, plugin.COMMANDS))
FLAGS = "|".join(re.escape(option) for option in plugin.OPTIONS if option[-1] != "=")
VALUED = "|".join(re.escape(option[:-1]) for option in plugin.OPTIONS if option[-1] == "=")
WORD = rf"{FLAGS}|(?:{VALUED}) \*{{5}}|\*{{5}}"
COMMAND = rf'"(?=[^"]{{5,480}}")kedro(?: (?:{PATHS}))?(?: (?:{WORD}))*(?: (?:{VALUED}))?"'
DIGEST = "[0-9a-f]{32}"
TOOLS = "|".join(", ".join(some) for n in range(1, 8) for some in combinations(plugin.TOOLS, n))
COUNT = "(?:[0-9]|[1-9][0-9]0{0,7})"
FORMS = {
    "username": rf'"{DIGEST}"',
    "package_name": f'"{DIGEST}"',
    "command": COMMAND,
    "project_version": r'"(?=[0-9.]{1,11}")[0-9]+(?:\.[0-9]+)*"',
    "telemetry_version": f'"{re.escape(plugin.VERSION)}"',
    "python_version": r'"3\.[0-9]{1,2}"',
    "os": '"(?:linux|darwin|win32|other)"',
    "tools": f'"(?:{TOOLS})"',
    "example_pipeline": '"(?:True|False)"',
    "number_of_datasets": COUNT,
    "number_of_nodes": COUNT,
    "number_of_pipelines": COUNT,
}
FIELDS = "".join(rf'(?:"{name}":(?P<{name}>{form})(?:,(?!\}})|(?=\}})))?' for name, form in FORMS.items())
SHAPE = re.compile(
    r'\{"app_id":"2388822444","event":"(?P<title>CLI command|Kedro Project Statistics)",'
    rf'"identity":(?P<identity>null|"{DIGEST}"),"properties":\{{{FIELDS}\}}\}}'
)


def is_event(data: bytes) -> bool:
    """Whether these bytes are an event of that form: all of it, and nothing else."""
    found = SHAPE.fullmatch(data.decode("latin-1"))
    if not found or found["identity"] != (found["username"] or "null") or len(data) > 4096:
        return False
    counted = any(found[name] for name in FORMS if name.startswith("number_of_"))
    return counted == (found["title"] != "CLI command")


def absent(reason: str) -> NoReturn:
    """What a test needs is not on this machine: a failure in CI, elsewhere a skip that says why."""
    if IN_CI:
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(f"NOT TESTED HERE: {reason}")


def run_sender(event: bytes, url: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The sender process on this input, in an environment of the endpoint and these variables alone, to its end."""
    env = {plugin.ENDPOINT: url, **variables}
    return subprocess.run(SENDER, input=event, env=env, capture_output=True, timeout=30, check=False)


def request(url: str, event: bytes = EVENT) -> bytes:
    """The bytes that must arrive at a collector with this URL, as preview shows them."""
    path = "/" + url.split("/", 3)[3]
    head = plugin.headers(url, event).replace("\n", "\r\n")
    return f"POST {path} HTTP/1.1\r\n{head}\r\n\r\n".encode() + event


def gone(url: str, deadline: float = support.SENDER_LIFE) -> bool:
    """Whether no sender to this collector is left, at the latest at the deadline."""
    end = time.monotonic() + deadline
    while support.senders(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def caught(url: str, deadline: float = 20) -> psutil.Process:
    """The one sender to this collector, as soon as it is there."""
    end = time.monotonic() + deadline
    while not (found := support.senders(url)):
        assert time.monotonic() < end, "no sender was started"
        time.sleep(0.005)
    (sender,) = found
    return sender


class Authority:
    """A certificate authority of the test's own, and the variables that make the sender trust it."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.file = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.file))
        self.trust = {"SSL_CERT_FILE": str(self.file)}

    def context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """A server's side of TLS with this certificate (a good one for loopback, if none is given)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.authority.issue_cert("localhost", "127.0.0.1")).configure_cert(context)
        return context


def over_tls(context: ssl.SSLContext, answer: support.Answer = support.answer_ok) -> support.Answer:
    """This answer, behind TLS."""

    def wrapped(connection: socket.socket, collector: support.Collector) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            answer(encrypted, collector)

    return wrapped


def secure(collector: support.Collector, host: str = "localhost") -> str:
    """The URL of a collector whose answer is `over_tls`."""
    return f"https://{host}:{collector.port}/api/track"


class Gate:
    """An answer that holds a request until the test has looked at the sender that waits for it."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, connection: socket.socket, collector: support.Collector) -> None:
        collector.requests.append(support.read_request(connection))
        self.open.wait(20)
        connection.sendall(support.OK)
