"""The sender with servers that people run: nginx as collector, tinyproxy as proxy."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import network
import pytest
import support
from network import ENDPOINT, HOST

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (support.ROOT / ".github").exists(),
    reason="NOT TESTED HERE: Debian's nginx and tinyproxy, and COLLECTOR.md",
)


def program(name: str) -> str:
    return shutil.which(name) or support.missing(f"the program {name}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server in the foreground. Wait until its port is open."""
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            support.wait_until(lambda: server.poll() is not None or is_open(port))
            assert server.poll() is None, log.read_text()
            yield
        finally:
            server.terminate()
            server.wait(20)


class Nginx:
    """Debian's nginx with the configuration that COLLECTOR.md shows."""

    def __init__(self, folder: Path) -> None:
        authority = network.Authority(folder)
        leaf = authority.authority.issue_cert("localhost", HOST)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        self.trust = authority.trust
        self.port = free_port()
        self.log = folder / "kedro-events.jsonl"

        text = (support.ROOT / ".github" / "COLLECTOR.md").read_text("utf-8")
        (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
        for shown, times, used in (
            ("listen 443 ssl;", 1, f"listen 127.0.0.1:{self.port} ssl;"),
            ("/etc/nginx/telemetry.crt", 1, f"{folder}/server.pem"),
            ("/etc/nginx/telemetry.key", 1, f"{folder}/server.pem"),
            ("/var/log/nginx/kedro-events.jsonl", 1, str(self.log)),
            ("127.0.0.1:8099", 2, f"127.0.0.1:{free_port()}"),
        ):
            assert block.count(shown) == times, shown
            block = block.replace(shown, used)
        (folder / "nginx.conf").write_text(
            f"daemon off; pid nginx.pid; user root;\nevents {{}}\nhttp {{\n{block}}}\n"
        )
        self.command = [program("nginx"), "-p", str(folder), "-c", "nginx.conf"]
        self.command += ["-e", "error.log"]

    def events(self, count: int) -> list[bytes]:
        """Return the logged events once there are so many."""
        support.wait_until(lambda: self.log.read_text().count("\n") >= count)
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event"].encode() for line in lines]


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    server = Nginx(folder)
    with serving(server.command, server.port, folder / "output.log"):
        yield server


def test_nginx_logs_each_event_once_as_its_document_says(nginx: Nginx) -> None:
    many = [support.PROPERTIES | {"number_of_nodes": count} for count in range(10)]

    def send(properties: dict[str, object]) -> int:
        message = json.dumps(properties).encode()
        url = f"https://localhost:{nginx.port}/api/track"
        return network.run_sender(message, url, **nginx.trust).returncode

    assert network.side_by_side(send, many) == [0] * len(many)
    expected = [network.event_bytes(properties) for properties in many]
    assert sorted(nginx.events(len(many))) == sorted(expected)


def test_a_command_through_tinyproxy_with_a_password_to_nginx(
    nginx: Nginx, tmp_path: Path, project: Path, home: Path
) -> None:
    port = free_port()
    (tmp_path / "proxy.conf").write_text(
        f'Port {port}\nListen 127.0.0.1\nLogFile "{tmp_path}/proxy.log"\n'
        "LogLevel Connect\nBasicAuth someone s3cr3t\n"
    )
    # Only the proxy can resolve the name.
    command = [*network.with_hosts(tmp_path, "127.0.0.1"), program("tinyproxy")]
    command += ["-d", "-c", str(tmp_path / "proxy.conf")]
    url = f"https://{HOST}:{nginx.port}/api/track"
    support.agree(project, home, url)
    env = {
        **os.environ,
        **nginx.trust,
        ENDPOINT: url,
        "HTTPS_PROXY": f"http://someone:s3cr3t@127.0.0.1:{port}",
    }
    with serving(command, port, tmp_path / "output.log"):
        done = support.kedro("registry", "list", cwd=project, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        (event,) = nginx.events(1)
    support.check_event(json.loads(event))
    assert json.loads(event)["properties"]["command"] == "kedro registry list"
    assert (
        f"CONNECT {HOST}:{nginx.port} HTTP/1." in (tmp_path / "proxy.log").read_text()
    )
