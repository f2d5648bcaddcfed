"""The sender with servers that people run: nginx as collector, tinyproxy as proxy."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import network
import pytest
import support
from network import HOST

from kedro_telemetry import plugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Debian's packages")


def program(name: str) -> str:
    return shutil.which(name) or support.missing(name)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server in the foreground, and wait until its port is open."""
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as server,
    ):
        try:
            end = time.monotonic() + 20
            while not is_open(port):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait(20)


def readme_block() -> str:
    """Return the configuration of nginx that README.md shows."""
    text = (support.ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    return str(block)


@dataclass
class Nginx:
    url: str
    log: Path
    trust: dict[str, str]

    def lines(self, count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            text = self.log.read_text() if self.log.exists() else ""
            if text.count("\n") >= count:
                break
            time.sleep(0.05)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    folder, port = tmp_path / "nginx", free_port()
    folder.mkdir()
    authority = network.Authority(folder)
    leaf = authority.authority.issue_cert("localhost", HOST)
    pem = folder / "server.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(str(pem))
    block = readme_block()
    for shown, used in {
        r"listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        r"ssl_certificate\s+\S+;": f"ssl_certificate {pem};",
        r"ssl_certificate_key\s+\S+;": f"ssl_certificate_key {pem};",
        r"access_log /\S+": f"access_log {folder}/events.log",
        r"127\.0\.0\.1:8099": f"127.0.0.1:{free_port()}",
    }.items():
        if "8099" in shown:
            block = re.sub(shown, used, block)
        else:
            block, count = re.subn(shown, used, block)
            assert count == 1, shown
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 512; }}\nhttp {{ {paths}\n{block}\n}}\n"
    )
    command = [program("nginx"), "-p", str(folder), "-c", str(configuration)]
    command += ["-e", str(folder / "error.log")]
    with serving(command, port, folder / "output.log"):
        url = f"https://localhost:{port}/api/track"
        yield Nginx(url, folder / "events.log", authority.trust)


def test_nginx_logs_every_event_as_the_readme_shows(nginx: Nginx) -> None:
    def message(number: int) -> bytes:
        properties = network.PROPERTIES | {"package_name": f"{number:032x}"}
        return json.dumps(properties).encode()

    def send(number: int) -> int:
        done = network.run_sender(message(number), nginx.url, **nginx.trust)
        return done.returncode

    assert network.side_by_side(send, range(12)) == [0] * 12
    events = [line["event"].encode() for line in nginx.lines(12)]
    assert sorted(events) == [plugin.build_event(message(n)) for n in range(12)]


def test_a_command_goes_through_tinyproxy_to_nginx(
    nginx: Nginx, tmp_path: Path, project: Path
) -> None:
    """All of it: a `kedro` command, its sender, a proxy with a password, TLS, a log."""
    port, folder = free_port(), tmp_path / "proxy"
    folder.mkdir()
    configuration = folder / "proxy.conf"
    configuration.write_text(
        f'Port {port}\nListen 127.0.0.1\nLogFile "{folder}/proxy.log"\n'
        "LogLevel Connect\nBasicAuth someone s3cr3t\n"
    )
    resolve = network.with_files(
        folder, hosts=f"127.0.0.1 {HOST}\n", nsswitch_conf="hosts: files\n"
    )
    command = [*resolve, program("tinyproxy"), "-d", "-c", str(configuration)]
    with serving(command, port, folder / "output.log"):
        env = {
            **os.environ,
            **nginx.trust,
            plugin.ENDPOINT_VARIABLE: nginx.url.replace("localhost", HOST),
            "HTTPS_PROXY": f"http://someone:s3cr3t@127.0.0.1:{port}",
        }
        done = support.kedro("registry", "list", cwd=project, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = nginx.lines(1)
    event = json.loads(line["event"])
    support.check_event(event)
    assert event["properties"]["command"] == "kedro registry list"
    target = nginx.url.split("/")[2].replace("localhost", HOST)
    assert f"CONNECT {target} HTTP/1." in (folder / "proxy.log").read_text()
