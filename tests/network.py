"""The network of the tests, which is loopback only; senders and servers on it."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import support
import trustme
from support import PROPERTIES

ENDPOINT = "KEDRO_TELEMETRY_ENDPOINT"
HOST = "collector.test"  # nobody knows this name, unless a test replaces /etc/hosts
CLONE_NEWNET = 0x40000000  # from sched.h
PR_SET_CHILD_SUBREAPER = 36  # from sys/prctl.h

# --- Loopback only (Linux): the kernel counts what tries to leave ---


def enter_loopback() -> None:
    """Move this process into a network of loopback only. Raises OSError.

    The guard in `guard/` does not see the sender, which runs isolated. This does.
    """
    if sys.platform != "linux":
        raise OSError("network namespaces exist only on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    subprocess.run(["ip", "-Version"], check=True, capture_output=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def attempts() -> int:
    """Return how many packets found no way out of this network so far."""
    names, values = map(str.split, Path("/proc/net/snmp").read_text().split("\n")[:2])
    count = int(values[names.index("OutNoRoutes")])
    if (snmp6 := Path("/proc/net/snmp6")).exists():
        version6 = dict(map(str.split, snmp6.read_text().splitlines()))
        count += int(version6["Ip6OutNoRoutes"])
    return count


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends: of every sender."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# --- Senders ---


def side_by_side(function: Callable[[Any], Any], inputs: Iterable[Any]) -> list[Any]:
    """Call the function for all inputs at once: most of a sender's life is waiting."""
    with ThreadPoolExecutor(24) as pool:
        return list(pool.map(function, inputs))


def run_sender(
    message: bytes, url: str | None, wrapper: Iterable[str] = (), **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a sender with this input to its end. Status 0 means that it has posted."""
    endpoint = {} if url is None else {ENDPOINT: url}
    return subprocess.run(
        [*wrapper, *support.SENDER],
        input=message,
        env={"PATH": os.environ["PATH"], **endpoint, **variables},
        capture_output=True,
        timeout=30,
        check=False,
    )


def end_in_time(*runs: Callable[[], object]) -> bool:
    """Return whether all of these end like a process that sleeps for 4.5 seconds.

    Then they end within 5 seconds, unless the machine needs so long to start one. There
    is a second try, for a machine that was busy.
    """

    def seconds(run: Callable[[], object]) -> float:
        start = time.monotonic()
        run()
        return time.monotonic() - start

    sleep = [sys.executable, "-c", "import time; time.sleep(4.5)"]
    for _ in range(2):
        slept, *others = side_by_side(seconds, [lambda: subprocess.run(sleep), *runs])
        if max(others) < slept + 0.5:
            return True
    return False


def event_bytes(properties: dict[str, object] = PROPERTIES) -> bytes:
    """Return the event that must arrive for these properties. They have a count."""
    event = {
        "app_id": "2388822444",
        "event": "Kedro Project Statistics",
        "identity": properties["username"],
        "properties": properties,
    }
    return json.dumps(event).encode()


def request_bytes(url: str, event: bytes | None = None) -> bytes:
    """Return the request that must arrive at this URL."""
    event = event or event_bytes()
    host, _, path = url.partition("://")[2].partition("/")
    head = (
        f"POST /{path} HTTP/1.1\nAccept-Encoding: identity\n"
        f"Content-Length: {len(event)}\nHost: {host}\n"
        "Content-Type: application/json\n"
        "User-Agent: kedro-telemetry/2.0.0+hardened\nConnection: close\n\n"
    )
    return head.replace("\n", "\r\n").encode() + event


# --- Servers with TLS, and names ---


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
    """Return a wrapper that replaces files of /etc for one process (Linux, as root).

    The keywords are their names, with `_` for the dot.
    """
    try:
        subprocess.run(["unshare", "--mount", "true"], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        support.missing(f"mount namespaces (Linux, as root): {error}")
    commands = []
    for name, content in files.items():
        file = folder / name.replace("_", ".", 1)
        file.write_text(content)
        commands.append(f"mount --bind {file} /etc/{file.name}")
    script = " && ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def with_hosts(folder: Path, *addresses: str) -> list[str]:
    """Return a wrapper that gives HOST these addresses, for one process."""
    hosts = "".join(f"{address} {HOST}\n" for address in addresses)
    return with_files(folder, hosts=hosts, nsswitch_conf="hosts: files\n")
