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

COLLECTOR = support.ROOT / ".github" / "COLLECTOR.md"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not COLLECTOR.exists(),
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


def test_nginx_logs_each_event_once_and_tinyproxy_is_passed_with_a_password(
    tmp_path: Path, project: Path, home: Path
) -> None:
    """nginx has the configuration that COLLECTOR.md shows."""
    authority, log = network.Authority(tmp_path), tmp_path / "events.jsonl"
    leaf = authority.authority.issue_cert("localhost", HOST)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    port, proxy_port = free_port(), free_port()
    text = COLLECTOR.read_text("utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    used = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/nginx/telemetry.crt": f"{tmp_path}/server.pem",
        "/etc/nginx/telemetry.key": f"{tmp_path}/server.pem",
        "/var/log/nginx/kedro-events.jsonl": str(log),
        "127.0.0.1:8099": f"127.0.0.1:{free_port()}",
    }
    for shown in used:
        assert shown in block
        block = block.replace(shown, used[shown])
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid nginx.pid; user root; events {{}}\nhttp {{\n{block}}}\n"
    )
    (tmp_path / "proxy.conf").write_text(
        f"Port {proxy_port}\nListen 127.0.0.1\nBasicAuth someone s3cr3t\n"
    )
    nginx = [program("nginx"), "-p", str(tmp_path), "-c", "nginx.conf", "-e", "e.log"]
    tinyproxy = [program("tinyproxy"), "-d", "-c", str(tmp_path / "proxy.conf")]
    # Only the proxy can resolve the name.
    tinyproxy = [*network.with_hosts(tmp_path, "127.0.0.1"), *tinyproxy]
    url = f"https://localhost:{port}/api/track"
    env = os.environ | authority.trust | {ENDPOINT: f"https://{HOST}:{port}/api/track"}
    env["HTTPS_PROXY"] = f"http://someone:s3cr3t@127.0.0.1:{proxy_port}"
    support.agree(project, home, env[ENDPOINT])
    many = [support.PROPERTIES | {"number_of_nodes": count} for count in range(10)]

    def send(properties: dict[str, object]) -> int:
        message = json.dumps(properties).encode()
        return network.run_sender(message, url, **authority.trust).returncode

    with (
        serving(nginx, port, tmp_path / "nginx.log"),
        serving(tinyproxy, proxy_port, tmp_path / "tinyproxy.log"),
    ):
        assert network.side_by_side(send, many) == [0] * len(many)
        done = support.kedro("registry", "list", cwd=project, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        support.wait_until(lambda: log.read_text().count("\n") == len(many) + 1)
    *events, last = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    expected = [network.event_bytes(properties).decode() for properties in many]
    assert sorted(events) == sorted(expected)
    support.check_event(json.loads(last))
    assert json.loads(last)["properties"]["command"] == "kedro registry list"
