"""What the tests share: a collector on loopback, a scrubbed environment, real `kedro` commands."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

# The file that runs here: not the repository's where the wheel is installed. It is looked for without being imported.
PLUGIN = Path(str(importlib.resources.files("kedro_telemetry") / "plugin.py"))
KEDRO_018 = importlib.metadata.version("kedro").startswith("0.18.")
MEMORY_DATASET = "MemoryDataSet" if KEDRO_018 else "MemoryDataset"
# A command that fails and is reported: Kedro 0.18 calls no hook where a command ends with an exception.
FAILING_RUN = ["run", "--no-such-option" if KEDRO_018 else "--pipeline=nowhere"]
SENDER_LIFE = 6.0  # seconds after which no sender may be left
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read_request(connection: socket.socket) -> bytes:
    """One HTTP request with its body, as its bytes arrived; what came until then if the peer stops."""
    data = b""
    while True:
        head, separator, body = data.partition(b"\r\n\r\n")
        if separator:
            lengths = [
                line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            ]
            if len(body) >= int(lengths[0] if lengths else 0):
                return data
        chunk = connection.recv(65536)
        if not chunk:
            return data
        data += chunk


def answer_ok(connection: socket.socket, collector: Collector) -> None:
    """A healthy collector: reads one request, answers 200."""
    collector.requests.append(read_request(connection))
    connection.sendall(OK)


Answer = Callable[[socket.socket, "Collector"], None]


class Collector:
    """A TCP server on loopback that treats every connection as `answer` says, and keeps what it read."""

    def __init__(self, answer: Answer = answer_ok) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self.server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/track"
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with connection, suppress(OSError):
            self.answer(connection, self)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The events, decoded."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]

    def wait(self, count: int = 1, deadline: float = 20) -> list[dict[str, Any]]:
        """The events, once there are `count`; AssertionError if they do not come."""
        end = time.monotonic() + deadline
        while len(self.requests) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(self.requests) >= count, f"{len(self.requests)} of {count} events came"
        return self.bodies

    def stays_silent(self, seconds: float = 1.5) -> bool:
        """Whether nobody connects for this long, and no sender is left that still could."""
        wait_for_no_sender(url=self.url)
        time.sleep(seconds)
        return self.connections == 0

    def close(self) -> None:
        self.stopping.set()
        with suppress(OSError):  # ends `accept`, so that no later collector's connection is taken
            self.server.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(5)
        self.server.close()


def senders(url: str | None = None) -> list[psutil.Process]:
    """The sender processes that are alive: those to this endpoint, or those of the plugin that is installed here."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if command[1:3] != ["-I", "-S"] or not command[-1].endswith("plugin.py"):
                continue
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if command[-1] == str(PLUGIN) if url is None else process.environ().get("KEDRO_TELEMETRY_ENDPOINT") == url:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_no_sender(deadline: float = SENDER_LIFE, url: str | None = None) -> None:
    """Return once no sender is left (to this endpoint, if given); AssertionError after the deadline."""
    end = time.monotonic() + deadline
    while left := senders(url):
        assert time.monotonic() < end, f"senders left: {left}"
        time.sleep(0.05)


def scrubbed(home: Path, **variables: str) -> dict[str, str]:
    """An environment of nothing but a path, a home, a login name, an unusable collector, and `variables`."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(home),
        "LOGNAME": "somebody",
        "KEDRO_TELEMETRY_ENDPOINT": "http://127.0.0.1:9/nobody-listens",
        "KEDRO_LOGGING_CONFIG": str(Path(__file__).resolve().parent / "logging.yml"),
        "PYTHONPATH": str(Path(__file__).resolve().parent / "guard"),
    }
    if os.name == "nt":  # where no process starts without these
        environment |= {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP") if name in os.environ}
    return environment | variables


def make_project(folder: Path, home: Path, name: str = "acme") -> Path:
    """A real Kedro project made by `kedro new`, with two pipelines, of two nodes, and a small catalog."""
    if KEDRO_018:  # which knows neither of these options, nor what they choose
        config = folder / "new.yml"
        config.write_text(f"output_dir: .\nproject_name: {name}\nrepo_name: {name}\npython_package: {name}\n")
        options = [f"--config={config}"]
    else:
        options = [f"--name={name}", "--tools=lint,docs", "--example=no"]
    subprocess.run(
        [sys.executable, "-m", "kedro", "new", *options],
        cwd=folder,
        env=scrubbed(home),
        check=True,
        capture_output=True,
    )
    project = folder / name
    if KEDRO_018:
        (project / "conf" / "base" / "logging.yml").unlink()  # it outweighs KEDRO_LOGGING_CONFIG there
    package = project / "src" / name
    for pipeline in ("ds", "de"):
        module = package / "pipelines" / pipeline
        module.mkdir(parents=True)
        (module.parent / "__init__.py").touch()
        (module / "__init__.py").write_text(
            "from kedro.pipeline import Pipeline, node\n\n\n"
            "def one():\n    return 1\n\n\n"
            "def same(number):\n    return number\n\n\n"
            "def create_pipeline(**kwargs):\n"
            f"    return Pipeline([node(one, None, '{pipeline}_a'), node(same, '{pipeline}_a', '{pipeline}_b')])\n"
        )
    (project / "conf" / "base" / "catalog.yml").write_text(
        "".join(f"{name}:\n  type: {MEMORY_DATASET}\n" for name in ("ds_a", "ds_b", "de_b"))
    )
    (project / "conf" / "base" / "parameters.yml").write_text("secret_parameter: 1\n")
    return project


def copy_project(source: Path, target: Path, consent: str | None = "consent: true\n") -> Path:
    """A copy of a project, with this `.telemetry` (None: without one)."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / ".telemetry").unlink(missing_ok=True)
    if consent is not None:
        (target / ".telemetry").write_text(consent)
    return target


def kedro(*arguments: str, cwd: Path, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """A real `kedro` command, its output captured and its input closed."""
    return subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        **options,
    )


@contextmanager
def collecting(answer: Answer = answer_ok) -> Iterator[Collector]:
    collector = Collector(answer)
    try:
        yield collector
    finally:
        collector.close()
