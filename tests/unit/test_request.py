"""The request: where the event goes, through which proxy, and with which headers."""

from __future__ import annotations

import pytest

from kedro_telemetry.plugin import (
    DEFAULT_ENDPOINT,
    MAX_URL,
    endpoint,
    find_proxy,
    parse_proxy,
    request_headers,
)
from kedro_telemetry.plugin import (
    ENDPOINT_VARIABLE as ENDPOINT,
)

COLLECTOR = "https://collector.example/x"


# --- The endpoint ---


def test_events_go_to_the_documented_address_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ENDPOINT)
    assert endpoint() == DEFAULT_ENDPOINT == "https://heapanalytics.com/api/track"


@pytest.mark.parametrize(
    "url",
    [
        "https://collector.example",
        "https://collector.example/",
        "https://Collector.Example:8443/a/b?c=d&e=f",
        "HTTPS://collector.example/x",
        "https://192.0.2.1/x",
        "https://[2001:db8::1]/x",
        "https://[2001:db8::1]:8443/x",
        "https://localhost/x",
        "http://127.0.0.1/x",
        "http://127.0.0.1:1/x",
        "http://127.255.0.9:65535/x",
        "http://[::1]:8080/x",
        COLLECTOR.ljust(200, "x"),
    ],
)
def test_https_and_loopback_http_endpoints_are_allowed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, url)
    assert endpoint() == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "host"),
        ("collector.example/x", "host"),
        ("https:collector.example", "host"),
        ("https:///x", "host"),
        ("https://:443/x", "host"),
        ("https://collector.example:/x", "host or port"),
        ("https://collector.example:0/x", "host or port"),
        ("https://collector.example:65536/x", "host or port"),
        ("https://collector.example:-1/x", "host or port"),
        ("https://collector.example:http/x", "host or port"),
        ("https://collector.example:0443/x", "host or port"),
        ("https://[2001:db8::1/x", "host or port"),
        ("https://[::1]x/x", "host or port"),
        ("https://2001:db8::1/x", "host or port"),
        ("http://collector.example/x", "must be an https:// URL"),
        ("http://localhost/x", "must be an https:// URL"),
        ("http://192.168.0.1/x", "must be an https:// URL"),
        ("http://127.0.0.1.collector.example/x", "must be an https:// URL"),
        ("http://0.0.0.0/x", "must be an https:// URL"),
        ("http://2130706433/x", "must be an https:// URL"),
        ("http://127.1/x", "must be an https:// URL"),
        ("http://[::ffff:192.0.2.1]/x", "must be an https:// URL"),
        ("ftp://127.0.0.1/x", "must be an https:// URL"),
        ("file://127.0.0.1/etc", "must be an https:// URL"),
        ("https://ada:s3cret@collector.example/x", "user name"),
        ("https://collector.example/a@b", "user name"),
        ("https://collector.example/a b", "character"),
        ("https://collector.example/x\n", "character"),
        ("https://collector.example/\tx", "character"),
        ("https://collector.example\\@x", "character"),
        ("https://collector.example/x#a", "character"),
        ("https://collector%2eexample/x", "character"),
        ("https://coll\u00e9ctor.example/x", "character"),
        ("https://collector.example/\udcff", "character"),
        (COLLECTOR.ljust(201, "x"), "longer than 200"),
    ],
)
def test_other_endpoints_are_refused(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, url)
    with pytest.raises(ValueError, match=reason) as refused:
        endpoint()
    assert str(refused.value).startswith(ENDPOINT)
    assert "s3cret" not in str(refused.value)


# --- The proxy ---


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "proxy.example:3128"),
        ({"https_proxy": "proxy.example:3128/"}, "proxy.example:3128"),
        ({"ALL_PROXY": "proxy.example"}, "proxy.example:80"),
        ({"all_proxy": "HTTP://proxy.example"}, "proxy.example:80"),
        ({"HTTPS_PROXY": "one:1", "ALL_PROXY": "two:2"}, "one:1"),
        ({"HTTPS_PROXY": "one:1", "https_proxy": "two:2"}, "two:2"),
        ({"ALL_PROXY": "one:1", "all_proxy": "two:2"}, "two:2"),
        ({"https_proxy": "", "ALL_PROXY": "two:2"}, "two:2"),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, None),
    ],
)
def test_the_environment_names_the_proxy(
    variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_proxy(COLLECTOR) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", COLLECTOR, True),
        ("collector.example", COLLECTOR, True),
        (".collector.example", COLLECTOR, True),
        ("example", COLLECTOR, True),
        (".example", COLLECTOR, True),
        ("Collector.EXAMPLE", COLLECTOR, True),
        ("other.example, collector.example ,", COLLECTOR, True),
        ("collector.example:8443", "https://Collector.example:8443/x", True),
        ("192.0.2.1", "https://192.0.2.1/x", True),
        ("collector.example:8443", COLLECTOR, False),
        ("ollector.example", COLLECTOR, False),
        ("collector", COLLECTOR, False),
        ("collector.example.org", COLLECTOR, False),
        ("", COLLECTOR, False),
        (",", COLLECTOR, False),
        (",", "https://collector.example./x", False),
        (".", COLLECTOR, False),
    ],
)
def test_no_proxy_lists_hosts_that_are_reached_directly(
    no_proxy: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert find_proxy(url) == (None if direct else "proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv("NO_PROXY", "nothing.example")
    assert find_proxy(url) == (None if direct else "proxy.example:3128")


def test_a_loopback_address_never_takes_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    for host in ("127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST"):
        assert find_proxy(f"https://{host}:8443/x") is None
    for host in ("192.0.2.1", "[2001:db8::1]", "localhost.example"):
        assert find_proxy(f"https://{host}:8443/x") == "127.0.0.1:3128"


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("http://ada:s3cret@proxy.example:3128/", "ada:s3cret@proxy.example:3128"),
        ("ada:s3cret@proxy.example", "ada:s3cret@proxy.example:80"),
        ("http://ada@proxy.example", "ada@proxy.example:80"),
        ("http://proxy.example:", "proxy.example:80"),
        ("http://192.0.2.1", "192.0.2.1:80"),
        ("http://[2001:db8::1]", "[2001:db8::1]:80"),
        ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128"),
        ("http://ada:pass:word@proxy.example", "ada:pass:word@proxy.example:80"),
    ],
)
def test_the_port_of_a_proxy_is_80_by_default(proxy: str, expected: str) -> None:
    assert parse_proxy("HTTPS_PROXY", proxy) == expected


@pytest.mark.parametrize("scheme", ["https", "socks", "socks5", "socks5h", "ftp", "x"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_with_another_scheme_is_refused(
    variable: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib would talk to it without encryption, and show it the password."""
    monkeypatch.setenv(variable, f"{scheme}://ada:s3cret@127.0.0.1:3128")
    with pytest.raises(ValueError, match="does not name an http:// proxy") as refused:
        find_proxy(COLLECTOR)
    assert variable in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "/",
        "http:///path",
        "http://proxy.example/path",
        "http://proxy.example?x",
        "http://proxy.example#x",
        "http://proxy.example:0",
        "http://:3128",
        "http://proxy.example:x",
        "http://proxy.example:65536",
        "http://[2001:db8::1",
        "http://proxy.example:3128 ",
        "http://proxy.example\r\nX: y",
        "http://ada:s3cret@",
    ],
)
def test_a_proxy_without_a_valid_host_and_port_is_refused(proxy: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is not http:"):
        parse_proxy("HTTPS_PROXY", proxy)


# --- The headers ---


def test_the_headers_name_nothing_but_the_plugin() -> None:
    url = "https://collector.example:8443/track"
    assert list(request_headers(url, b"{}").items()) == [
        ("Host", "collector.example:8443"),
        ("User-Agent", "kedro-telemetry/1.1.0+hardened"),
        ("Content-Type", "application/json"),
        ("Content-Length", "2"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]


def test_headers_and_url_fit_in_512_bytes() -> None:
    url = COLLECTOR.ljust(MAX_URL, "x")
    assert sum(map(len, request_headers(url, b"{}").values())) + len(url) < 512
