"""The address: which collectors and proxies are accepted, and what is refused."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedro_telemetry.plugin import ENDPOINT_VARIABLE as ENDPOINT
from kedro_telemetry.plugin import endpoint, find_proxies

LABEL = "a" * 63
ACCEPTED = f"""
    https://collector.example
    https://collector.example/
    https://Collector.Example:8443/a/b-c_d.e~f
    https://collector.example:1/x
    https://collector.example:65535/x
    https://192.0.2.1/x
    https://localhost/x
    https://collector
    https://{LABEL}.{LABEL}.example/x
    http://127.0.0.1:1
    http://127.0.0.1:65535/x
    {"https://collector.example/".ljust(200, "x")}
""".split()
REFUSED = [
    "",
    "https://collector.example/x\n",
    "https://collector.example\n",
    "https://collector.example/\tx",
    "https://collector.example/a b",
    " https://collector.example/x",
    *f"""
    collector.example/x
    https:collector.example
    https://
    https:///x
    https://:443/x
    HTTPS://collector.example/x
    https://collector.example.
    https://collector.example./x
    https://.collector.example/x
    https://collector..example/x
    https://{LABEL}a.example/x
    https://collector.example:/x
    https://collector.example:0/x
    https://collector.example:65536/x
    https://collector.example:99999/x
    https://collector.example:100000/x
    https://collector.example:0443/x
    https://collector.example:-1/x
    https://collector.example:http/x
    https://collector.example:4\u0663/x
    https://[2001:db8::1]/x
    https://2001:db8::1/x
    http://[::1]:8080/x
    http://collector.example/x
    http://collector.example:80/x
    http://localhost:8080/x
    http://127.0.0.1/x
    http://127.0.0.1:0/x
    http://127.0.0.1:65536/x
    http://127.0.0.2:8080/x
    http://127.0.0.1.collector.example:80/x
    http://0.0.0.0:8080/x
    http://2130706433:8080/x
    http://127.1:8080/x
    ftp://127.0.0.1:21/x
    file://127.0.0.1/etc
    https://ada:s3cret@collector.example/x
    https://s3cret@collector.example/x
    https://collector.example/a@b
    https://collector.example/?s3cret=1
    https://collector.example?s3cret
    https://collector.example/x#a
    https://collector.example/%2e
    https://collector%2eexample/x
    https://collector.example\\@x
    https://coll\u00e9ctor.example/x
    https://collector.example/\u00e9
    {"https://collector.example/".ljust(201, "x")}
    """.split(),
]


def test_only_https_and_this_machine_are_accepted_as_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for url in ACCEPTED:
        monkeypatch.setenv(ENDPOINT, url)
        assert endpoint() == url
    for url in REFUSED:
        monkeypatch.setenv(ENDPOINT, url)
        with pytest.raises(ValueError, match=rf"^{ENDPOINT} is not http") as no:
            print(f"accepted: {endpoint()!r}")
        assert "s3cret" not in str(no.value)
    monkeypatch.delenv(ENDPOINT)
    assert endpoint() == "https://heapanalytics.com/api/track"


PIECE = st.sampled_from(
    [*"https://127.0.0.1:8080/x@?#%[]\\ \n", "https://", "a.b", ":1"]
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["https://", "http://127.0.0.1:"]), st.lists(PIECE))
def test_an_accepted_address_has_a_host_and_a_port_that_can_be_reached(
    start: str, pieces: list[str]
) -> None:
    os.environ[ENDPOINT] = url = start + "".join(pieces)
    try:
        assert endpoint() == url
    except ValueError:
        return
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port is None or 0 < parts.port < 65536
    assert parts.scheme == "https" or parts.hostname == "127.0.0.1"
    assert (parts.username, parts.query, parts.fragment) == (None, "", "")


CHOICES: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"HTTPS_PROXY": "", "ALL_PROXY": ""}, None),
    ({"HTTP_PROXY": "one:1"}, None),
    ({"HTTPS_PROXY": "one:1"}, "one:1"),
    ({"https_proxy": "one:1"}, "one:1"),
    ({"ALL_PROXY": "one:1"}, "one:1"),
    ({"all_proxy": "one:1"}, "one:1"),
    ({"ALL_PROXY": "one:1", "HTTPS_PROXY": "two:2"}, "two:2"),
    ({"https_proxy": "", "ALL_PROXY": "two:2"}, "two:2"),
]
if sys.platform != "win32":  # where the case of a variable does not matter
    CHOICES += [
        ({"HTTPS_PROXY": "one:1", "https_proxy": "two:2"}, "two:2"),
        ({"ALL_PROXY": "one:1", "all_proxy": "two:2"}, "two:2"),
    ]


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, proxy in CHOICES:
        with monkeypatch.context() as changed:
            for name, value in variables.items():
                changed.setenv(name, value)
            expected = {"https": f"http://{proxy}"} if proxy else {}
            assert find_proxies() == expected, variables


PROXIES = f"""
    proxy.example:3128
    192.0.2.1:1
    localhost:65535
    ada:s3cret@proxy.example:3128
    ada%40acme:s3c%3Aret!$&*+.~_-@proxy.example:3128
    {"a" * 50}:{"b" * 60}@{LABEL}.example:8080
""".split()
REFUSED_PROXIES = [
    "proxy.example:3128 ",
    "proxy.example:3128\n",
    "proxy.example:3128\r\nX: y",
    *f"""
    proxy.example
    proxy.example:
    proxy.example:0
    proxy.example:65536
    proxy.example:99999
    proxy.example:x
    proxy.example:3\u0663
    proxy.example:3128/
    proxy.example:3128/path
    proxy.example:3128?x
    proxy.example:3128#x
    proxy.example.:3128
    proxy..example:3128
    :3128
    [2001:db8::1]:3128
    s3cret@proxy.example:3128
    ada:@proxy.example:3128
    :s3cret@proxy.example:3128
    ada:s3:cret@proxy.example:3128
    ada:s3@cret@proxy.example:3128
    ada:s3cret\u00e9@proxy.example:3128
    ada:s3cret@
    //proxy.example:3128
    {LABEL}a.example:3128
    {"a" * 190}:s3cret@proxy.example:3128
    """.split(),
]


def test_a_proxy_that_urllib_would_misunderstand_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would show the password to a proxy of another kind, without encryption."""
    for proxy in PROXIES:
        for value in (proxy, f"http://{proxy}"):
            monkeypatch.setenv("HTTPS_PROXY", value)
            assert find_proxies() == {"https": f"http://{proxy}"}
    schemes = ("https", "socks", "socks5", "socks5h", "HTTP", "ftp", "x")
    others = [f"{scheme}://ada:s3cret@proxy.example:3128" for scheme in schemes]
    http = [f"http://{proxy}" for proxy in REFUSED_PROXIES]
    for value in (*REFUSED_PROXIES, *http, *others, "http://"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        with pytest.raises(ValueError, match=r"^HTTPS_PROXY is not \[http://\]") as no:
            print(f"accepted: {value!r}: {find_proxies()}")
        assert "s3cret" not in str(no.value)
