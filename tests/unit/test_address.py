"""The address: which collectors and proxies are accepted, and what is refused."""

import sys

import pytest

from kedro_telemetry.plugin import ENDPOINT_VARIABLE as ENDPOINT
from kedro_telemetry.plugin import endpoint, find_proxies

LABEL = "a" * 63
ACCEPTED = f"""
    https://a.example https://a.example/ https://A.Example:8443/a/b-c_d.e~f https://a
    https://a.example:1/x https://a.example:65535/x https://192.0.2.1/x
    https://{LABEL}.{LABEL}.example/x http://127.0.0.1:1 http://127.0.0.1:59999/x
    {"https://a.example/".ljust(200, "x")}
""".split()
REFUSED = f"""
    a.example/x https:a.example https:// https:///x https://:443/x HTTPS://a.example/x
    https://a.example. https://a.example./x https://.a.example/x https://a..example/x
    https://{LABEL}a.example/x https://a.example:/x https://a.example:0/x
    https://a.example:65536/x https://a.example:99999/x https://a.example:100000/x
    https://a.example:0443/x https://a.example:-1/x https://a.example:http/x
    https://a.example:4\u0663/x https://[2001:db8::1]/x https://2001:db8::1/x
    http://[::1]:8080/x http://a.example/x http://a.example:80/x http://localhost:80/x
    http://127.0.0.1/x http://127.0.0.1:0/x http://127.0.0.1:65536/x http://127.1:80/x
    http://127.0.0.2:80/x http://127.0.0.1.a.example:80/x http://0.0.0.0:80/x
    http://2130706433:80/x ftp://127.0.0.1:21/x file://127.0.0.1/etc
    https://ada:s3cret@a.example/x https://s3cret@a.example/x https://a.example/a@b
    https://a.example/?s3cret=1 https://a.example?s3cret https://a.example/x#a
    https://a.example/%2e https://a%2eexample/x https://a.example\\@x
    https://\u00e9.example/x https://a.example/\u00e9
    {"https://a.example/".ljust(201, "x")}
""".split()
REFUSED += [
    *("", "https://a.example/x\n", "https://a.example\n", "https://a.example/\tx"),
    *(" https://a.example/x", "https://a.example/a b", "https://a.example/\udcff"),
]
PROXIES = f"""
    proxy.example:3128 192.0.2.1:1 localhost:65535 ada:s3cret@proxy.example:3128
    ada%40acme:s3c%3Aret!$&*+.~_-@a.example:80 ada:{"b" * 60}@{LABEL}.example:8080
""".split()
REFUSED_PROXIES = f"""
    a.example a.example: a.example:0 a.example:65536 a.example:99999 a.example:x
    a.example:3\u0663 a.example:80/ a.example:80/path a.example:80?x a.example:80#x
    a.example.:80 a..example:80 :80 [2001:db8::1]:80 s3cret@a.example:80 //a.example:80
    ada:@a.example:80 :s3cret@a.example:80 ada:s3:cret@a.example:80 {LABEL}a.example:80
    ada:s3@cret@a.example:80 ada:s3cret\u00e9@a.example:80 ada:s3cret@
    {"a" * 190}:s3cret@a.example:80
""".split()
REFUSED_PROXIES += ["a.example:80 ", "a.example:80\n", "a.example:80\r\nX: y"]
OTHER_KINDS = "https socks socks4 socks5 socks5h HTTP ftp x"


def test_an_address_is_https_or_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ACCEPTED:
        monkeypatch.setenv(ENDPOINT, url)
        assert endpoint() == url
    for url in REFUSED:
        monkeypatch.setenv(ENDPOINT, url)
        with pytest.raises(ValueError, match=rf"^{ENDPOINT} is not http") as refused:
            print(f"accepted: {endpoint()!r}")
        assert "s3cret" not in str(refused.value)
    monkeypatch.delenv(ENDPOINT)
    assert endpoint() == "https://heapanalytics.com/api/track"


CHOICES = {  # what the environment has, and the proxy that is used
    "HTTPS_PROXY= ALL_PROXY= HTTP_PROXY=one:1": None,
    "HTTPS_PROXY=one:1": "one:1",
    "https_proxy=one:1": "one:1",
    "HTTPS_PROXY= ALL_PROXY=one:1": "one:1",
    "all_proxy=one:1": "one:1",
    "all_proxy=one:1 HTTPS_PROXY=two:2": "two:2",
}
if sys.platform != "win32":  # where the case of a variable does not matter
    CHOICES["HTTPS_PROXY=one:1 https_proxy=two:2"] = "two:2"
    CHOICES["ALL_PROXY=one:1 all_proxy=two:2"] = "two:2"


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, proxy in CHOICES.items():
        with monkeypatch.context() as changed:
            for variable in variables.split():
                changed.setenv(*variable.split("="))
            expected = {"https": f"http://{proxy}"} if proxy else {}
            assert find_proxies() == expected, variables


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would show the password to a proxy of another kind, without encryption."""
    for proxy in PROXIES:
        for value in (proxy, f"http://{proxy}"):
            monkeypatch.setenv("HTTPS_PROXY", value)
            assert find_proxies() == {"https": f"http://{proxy}"}
    others = [f"{kind}://ada:s3cret@a.example:80" for kind in OTHER_KINDS.split()]
    http = [f"http://{proxy}" for proxy in REFUSED_PROXIES]
    for value in (*REFUSED_PROXIES, *http, *others, "http://"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        with pytest.raises(ValueError, match=r"(?i)^HTTPS_PROXY is not") as refused:
            print(f"accepted: {value!r}: {find_proxies()}")
        assert "s3cret" not in str(refused.value)
