"""What the tests share: an event, a collector, a clean environment, `kedro`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
# The installed file, which is not the repository's if a wheel is tested.
PLUGIN = Path(str(importlib.resources.files("kedro_telemetry") / "plugin.py"))
SENDER = [sys.executable, "-I", "-S", "-B", str(PLUGIN)]
SENDER_LIFE = 6.0  # seconds after which no sender may be left
KEDRO_018 = importlib.metadata.version("kedro").startswith("0.18.")
HOME = "LOCALAPPDATA" if sys.platform == "win32" else "HOME"  # as the plugin reads it
OTHER_USER = 54321  # has no name
IN_CI = bool(os.environ.get("CI"))  # read before the environment is scrubbed
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SCHEMA = json.loads((ROOT / "tests" / "event.schema.json").read_text("utf-8"))
EVENT_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
# All fields with good values. MESSAGE is what a sender gets.
PROPERTIES: dict[str, Any] = {
    "username": "0123456789abcdef" * 2,
    "package_name": "fedcba9876543210" * 2,
    "command": "kedro run --pipeline *****",
    "project_version": "1.7.0",
    "telemetry_version": "2.0.0+hardened",
    "python_version": "3.11",
    "os": "linux",
    "tools": "Linting, Documentation",
    "example_pipeline": "False",
    "number_of_datasets": 120,
    "number_of_nodes": 4,
    "number_of_pipelines": 3,
}
MESSAGE = json.dumps(PROPERTIES).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="NOT TESTED HERE: only root can act for another user",
)

Answer = Callable[[socket.socket, "Collector"], None]


def examples(usual: int) -> int:
    """Return how many examples a property test tries."""
    return usual * 20 if LONG else usual


def missing(what: str) -> NoReturn:
    """Fail in CI because something is not installed; elsewhere skip and say so."""
    if IN_CI:
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"NOT TESTED HERE, missing: {what}")


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return as soon as the condition is true. Raises AssertionError if it is late."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} seconds"
        time.sleep(0.01)


def check_event(event: Any) -> None:
    """Raise unless this is an event as `event.schema.json` describes it."""
    EVENT_VALIDATOR.validate(event)


def read_request(connection: socket.socket) -> bytes:
    """Return the bytes of one HTTP request, or what came of it."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        head, separator, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if separator and len(body) >= (int(length[1]) if length else 0):
            break
    return data


def answer_ok(connection: socket.socket, collector: Collector) -> None:
    collector.requests.append(read_request(connection))
    connection.sendall(OK)


class Collector(socketserver.ThreadingTCPServer):
    """A TCP server on loopback that keeps the requests that `answer` reads."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer: Answer = answer_ok) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/api/track"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(20)
        with suppress(OSError):
            self.answer(request, self)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.connections += 1
        return True

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the events that arrived, each of them checked."""
        events = [json.loads(r.partition(b"\r\n\r\n")[2]) for r in self.requests]
        for event in events:
            check_event(event)
        return events

    @property
    def commands(self) -> list[str]:
        return [event["properties"]["command"] for event in self.events]

    def wait(self, count: int = 1, seconds: float = 20) -> list[dict[str, Any]]:
        """Return the events once `count` have arrived. Raises AssertionError."""
        with suppress(AssertionError):  # the next line says how many arrived
            wait_until(lambda: len(self.requests) >= count, seconds)
        assert len(self.requests) == count, f"{len(self.requests)} of {count} events"
        return self.events

    def stays_silent(self) -> bool:
        """Return whether nothing has connected when no sender is left."""
        wait_for_senders()
        return self.connections == 0

    def close(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()


@contextmanager
def collecting(answer: Answer = answer_ok) -> Iterator[Collector]:
    with closing(Collector(answer)) as collector:
        yield collector


def senders() -> list[psutil.Process]:
    """Return the running senders of this test process and of all that it started.

    On Linux, `network.adopt_orphans` makes each of them a descendant.
    """
    found, every = [], psutil.process_iter()
    children = psutil.Process().children(recursive=True)
    for process in children if sys.platform == "linux" else every:
        with suppress(psutil.Error):
            is_sender = process.cmdline()[1:] == SENDER[1:]
            if is_sender and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for_senders(seconds: float = SENDER_LIFE) -> None:
    """Return when no sender is left. Raises AssertionError if one lives too long."""
    wait_until(lambda: not senders(), seconds)


def clean_environment(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment without anything of the person who runs the tests."""
    binaries = Path(sys.executable).parent
    environment = {
        "PATH": os.pathsep.join([str(binaries), "/usr/sbin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "LOGNAME": "somebody",
        "KEDRO_TELEMETRY_ENDPOINT": "http://127.0.0.1:9/nobody-listens",
        "KEDRO_LOGGING_CONFIG": str(ROOT / "tests" / "logging.yml"),
        "PYTHONPATH": str(ROOT / "tests" / "guard"),
    }
    if sys.platform == "win32":
        environment["LOCALAPPDATA"] = str(home)
        for name in ("SYSTEMROOT", "TEMP"):  # no process starts without these
            environment[name] = os.environ.get(name, "")
    return environment | variables


def make_project(folder: Path, home: Path, name: str = "acme") -> Path:
    """Make a Kedro project with `kedro new`: two pipelines of two nodes, a catalog."""
    options = [f"--name={name}", "--tools=lint,docs", "--example=no"]
    if KEDRO_018:  # it knows none of these options
        config = folder / "new.yml"
        names = f"project_name: {name}\nrepo_name: {name}\npython_package: {name}\n"
        config.write_text(f"output_dir: .\n{names}")
        options = [f"--config={config}"]
    subprocess.run(
        [sys.executable, "-m", "kedro", "new", *options],
        cwd=folder,
        env=clean_environment(home),
        check=True,
        capture_output=True,
    )
    project = folder / name
    if KEDRO_018:  # it would override KEDRO_LOGGING_CONFIG
        (project / "conf" / "base" / "logging.yml").unlink()
    pipelines = project / "src" / name / "pipelines"
    pipelines.mkdir(exist_ok=True)
    (pipelines / "__init__.py").touch()
    for pipeline in ("ds", "de"):
        (pipelines / pipeline).mkdir()
        (pipelines / pipeline / "__init__.py").write_text(
            "from kedro.pipeline import Pipeline, node\n\n\n"
            "def one():\n    return 1\n\n\n"
            "def same(number):\n    return number\n\n\n"
            "def create_pipeline(**kwargs):\n"
            f"    first = node(one, None, '{pipeline}_a')\n"
            f"    second = node(same, '{pipeline}_a', '{pipeline}_b')\n"
            "    return Pipeline([first, second])\n"
        )
    dataset = "MemoryDataSet" if KEDRO_018 else "MemoryDataset"
    catalog = "".join(f"{n}:\n  type: {dataset}\n" for n in ("ds_a", "ds_b", "de_b"))
    (project / "conf" / "base" / "catalog.yml").write_text(catalog)
    (project / "conf" / "base" / "parameters.yml").write_text("secret_parameter: 1\n")
    return project


def make_bare_project(folder: Path, settings: str = "", registry: str = "") -> None:
    """Make the smallest project that Kedro accepts, in no time."""
    for name in ("src/bare", "conf/base", "conf/local"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "bare"\nproject_name = "bare"\n'
        f'kedro_init_version = "{importlib.metadata.version("kedro")}"\n'
    )
    (folder / "conf" / "base" / "catalog.yml").touch()
    (folder / "src" / "bare" / "__init__.py").touch()
    (folder / "src" / "bare" / "settings.py").write_text(settings)
    (folder / "src" / "bare" / "pipeline_registry.py").write_text(registry)


def copy_project(source: Path, target: Path) -> Path:
    """Copy a project. It gets no `.telemetry`."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / ".telemetry").unlink(missing_ok=True)
    return target


def own_folder(home: Path) -> Path:
    """Return the folder of the user's own answers and salt."""
    if sys.platform == "win32":
        return home / "kedro-telemetry"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "kedro-telemetry"
    return home / ".local" / "state" / "kedro-telemetry"


def own_file(project: Path, home: Path) -> Path:
    """Return the file of the user's own answer for this project."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(project))).hexdigest()
    return own_folder(home) / name


def agree(project: Path, home: Path, url: str) -> Path:
    """Save both yeses: in `.telemetry`, and the user's own, for this address."""
    (project / ".telemetry").write_bytes(b"consent: true\n")
    path = own_file(project, home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(f"yes to version 2 at {url}\n".encode())
    return path


def kedro(
    *arguments: str, cwd: Path, env: dict[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a `kedro` command without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        **options,
    )


def as_owner() -> list[str]:
    """Return what to put before a command so that file permissions apply to root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return []
    capabilities = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
