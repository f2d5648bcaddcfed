"""The sender with the servers that people run: nginx with TLS as the collector, tinyproxy as the proxy."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import support
from network import EVENT, Authority, absent, gone, is_event, over_tls, request, run_sender, secure

from kedro_telemetry import plugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED HERE: Debian's nginx and tinyproxy")
PLACES = f"/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:{os.environ.get('PATH', '')}"
AT_ONCE = 8  # senders side by side: each lives 4 seconds at most, and this must hold on two cores
NGINX = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    {temporary}
    log_format event escape=json '{{"status":$status,"agent":"$http_user_agent","event":"$request_body"}}';
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        client_max_body_size 4k;
        access_log off;
        location = /api/track {{
            limit_except POST {{ deny all; }}
            access_log {folder}/events.log event;
            proxy_pass http://unix:{folder}/end;
        }}
    }}
    server {{
        listen unix:{folder}/end;
        access_log off;
        return 204;
    }}
}}
"""
TINYPROXY = """\
Port {port}
Listen 127.0.0.1
Timeout 20
MaxClients 50
LogFile "{folder}/proxy.log"
LogLevel Connect
{more}
"""


def program(name: str) -> str:
    """Where this program is."""
    return shutil.which(name, path=PLACES) or absent(f"the program {name} (Debian's package of this name)")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """This server, in the foreground, until it is no longer needed."""
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL) as server,
    ):
        try:
            end = time.monotonic() + 20
            while True:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait(20)


@dataclass
class Nginx:
    url: str
    log: Path
    trust: dict[str, str]

    def lines(self, count: int) -> list[dict[str, Any]]:
        """What it logged, once there are so many lines."""
        end = time.monotonic() + 20
        while (text := self.log.read_text()).count("\n") < count and time.monotonic() < end:
            time.sleep(0.05)
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class Tinyproxy:
    url: str
    log: Path

    def connects(self) -> list[str]:
        """The targets of the CONNECT requests that it saw."""
        return re.findall(r"CONNECT (\S+:\d+) HTTP/", self.log.read_text())


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    folder, port = tmp_path / "nginx", free_port()
    folder.mkdir()
    authority = Authority(folder)
    leaf = authority.authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, temporary=temporary, user=user))
    command = [program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with serving(command, port, folder / "output.log"):
        yield Nginx(f"https://localhost:{port}/api/track", folder / "events.log", authority.trust)


@contextmanager
def proxying(folder: Path, more: str = "") -> Iterator[Tinyproxy]:
    port = free_port()
    folder.mkdir()
    (folder / "proxy.conf").write_text(TINYPROXY.format(port=port, folder=folder, more=more))
    command = [program("tinyproxy"), "-d", "-c", str(folder / "proxy.conf")]
    with serving(command, port, folder / "output.log"):
        yield Tinyproxy(f"http://127.0.0.1:{port}", folder / "proxy.log")


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[Tinyproxy]:
    with proxying(tmp_path / "proxy") as found:
        yield found


@pytest.fixture
def behind_tls(tmp_path: Path) -> Iterator[tuple[support.Collector, dict[str, str]]]:
    """A collector that keeps the bytes as they came out of TLS, and the variables that make it trusted."""
    authority = Authority(tmp_path)
    with support.collecting(over_tls(authority.context())) as collector:
        yield collector, authority.trust


# --- nginx ---
def test_nginx_gets_hundreds_of_events(nginx: Nginx) -> None:
    """None lost, none twice, each line and each event valid JSON."""
    properties = json.loads(EVENT)["properties"]
    events = [plugin.seal(properties | {"package_name": f"{number:032x}"}) for number in range(200)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda event: run_sender(event, nginx.url, **nginx.trust), events))
    assert [sender.returncode for sender in done] == [0] * 200
    lines = nginx.lines(200)
    assert sorted(line["event"].encode() for line in lines) == sorted(events)
    assert all(is_event(line["event"].encode()) for line in lines)
    assert {(line["status"], line["agent"]) for line in lines} == {(204, f"kedro-telemetry/{plugin.VERSION}")}


def test_nginx_gets_a_burst(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many senders as a parallel build starts, from a process that waits for none of them."""
    for name, value in {plugin.ENDPOINT: nginx.url, **nginx.trust}.items():
        monkeypatch.setenv(name, value)
    events = [plugin.seal({"command": "kedro info", "package_name": f"{number:032x}"}) for number in range(AT_ONCE)]
    for event in events:
        plugin.start_sender(event)
    assert sorted(line["event"].encode() for line in nginx.lines(AT_ONCE)) == sorted(events)
    assert gone(nginx.url)
    plugin.STARTED.clear()


def test_a_command_through_tinyproxy_to_nginx(nginx: Nginx, tinyproxy: Tinyproxy, project: Path) -> None:
    """All of it: a real command, its sender, a proxy, TLS, a server's log."""
    env = {**os.environ, plugin.ENDPOINT: nginx.url, "HTTPS_PROXY": tinyproxy.url, **nginx.trust}
    done = support.kedro("registry", "list", cwd=project, env=env)
    assert done.returncode == 0
    assert done.stderr == ""
    (line,) = nginx.lines(1)
    assert is_event(line["event"].encode())
    assert json.loads(line["event"])["properties"]["command"] == "kedro registry list"
    assert tinyproxy.connects() == [nginx.url.split("/")[2]]


# --- tinyproxy ---
Secure = tuple[support.Collector, dict[str, str]]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_https_goes_through_the_proxy(name: str, tinyproxy: Tinyproxy, behind_tls: Secure) -> None:
    """A tunnel: the proxy learns the collector's name, and the request is the same to the byte."""
    collector, trust = behind_tls
    assert run_sender(EVENT, secure(collector), **trust, **{name: tinyproxy.url}).returncode == 0
    assert tinyproxy.connects() == [f"localhost:{collector.port}"]
    assert collector.requests == [request(secure(collector))]
    assert collector.connections == 1


def test_the_password_of_a_proxy_stays_there(tmp_path: Path, behind_tls: Secure) -> None:
    collector, trust = behind_tls
    with proxying(tmp_path / "proxy", "BasicAuth someone s3cr3t") as proxy:
        for password, status in (("s3cr3t", 0), ("wrong", 1)):
            named = proxy.url.replace("//", f"//someone:{password}@")
            assert run_sender(EVENT, secure(collector), **trust, HTTPS_PROXY=named).returncode == status
        assert run_sender(EVENT, secure(collector), **trust, HTTPS_PROXY=proxy.url).returncode == 1
    assert collector.requests == [request(secure(collector))]
    for secret in (b"someone", b"s3cr3t", b"Authorization", base64.b64encode(b"someone:s3cr3t")):
        assert secret not in collector.requests[0]


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("exempt", ["*", "localhost", "example, localhost", "localhost:{port}"])
def test_no_proxy(name: str, exempt: str, tinyproxy: Tinyproxy, behind_tls: Secure) -> None:
    """A name that is exempt is reached directly; another one is not."""
    collector, trust = behind_tls
    variables = {"HTTPS_PROXY": tinyproxy.url, name: exempt.format(port=collector.port), **trust}
    assert run_sender(EVENT, secure(collector), **variables).returncode == 0
    assert tinyproxy.connects() == []
    assert collector.requests == [request(secure(collector))]
    run_sender(EVENT, secure(collector, "127.0.0.1"), **variables)
    assert tinyproxy.connects() == ([] if exempt == "*" else [f"127.0.0.1:{collector.port}"])


def test_loopback_http_takes_no_proxy(tinyproxy: Tinyproxy, collector: support.Collector) -> None:
    """Whatever variables name one: an event in the clear does not leave the machine."""
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "proxy", "_proxy")
    for host in ("127.0.0.1", "127.0.0.2"):
        url = collector.url.replace("127.0.0.1", host)
        run_sender(EVENT, url, **dict.fromkeys(names, tinyproxy.url))
    assert collector.requests[0] == request(collector.url)
    assert "Request (" not in tinyproxy.log.read_text()


def test_a_proxy_that_refuses_the_port(tmp_path: Path, behind_tls: Secure) -> None:
    """The event does not take another way."""
    collector, trust = behind_tls
    with proxying(tmp_path / "proxy", "ConnectPort 443") as proxy:
        assert run_sender(EVENT, secure(collector), **trust, HTTPS_PROXY=proxy.url).returncode == 1
        assert proxy.connects() == [f"localhost:{collector.port}"]
    assert collector.connections == 0
