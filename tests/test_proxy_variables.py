"""Which proxy the environment names, for both ends."""

import base64
from typing import Dict, Optional
from urllib.parse import urlsplit

import pytest

from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.proxy_variables import find_proxy, names_proxy

pytestmark = pytest.mark.container


def proxy_for(url: str, **environ: str) -> Optional[str]:
    parts = urlsplit(url)
    tls = parts.scheme == "wss"
    proxy = find_proxy(tls, parts.hostname or "", parts.port or (443 if tls else 80), environ)
    return None if proxy is None else str(proxy)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "p:3128"),
        ({"https_proxy": "http://p:3128"}, "p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, "p:3128"),
        ({"HTTPS_PROXY": " http://p:3128/ "}, "p:3128"),
        ({"HTTPS_PROXY": "HTTP://P:3128"}, "p:3128"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "[fd00::1]:3128"),
        ({"HTTPS_PROXY": "http://p"}, "p:80"),
        ({"HTTPS_PROXY": "me:secret@p:3128"}, "p:3128"),
        ({"ALL_PROXY": "http://p:1"}, "p:1"),
        ({"all_proxy": "http://p:1"}, "p:1"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:2"}, "p:1"),
        ({"https_proxy": "http://p:1", "all_proxy": "socks5h://q:2"}, "p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "p:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://q:2"}, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://p:1"}, "p:1"),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1"}, None),
    ],
)
def test_the_proxy_of_an_encrypted_address(environ: Dict[str, str], proxy: Optional[str]) -> None:
    assert proxy_for("wss://ssmmessages.eu-west-1.amazonaws.com/", **environ) == proxy


def test_a_plain_address_has_the_plain_proxy() -> None:
    url = "ws://a.example/"
    assert proxy_for(url, http_proxy="http://p:1") == "p:1"
    assert proxy_for(url, HTTP_PROXY="http://p:1") == "p:1"
    assert proxy_for(url, HTTPS_PROXY="http://p:1") is None
    # What a CGI client can set by a header.
    assert proxy_for(url, HTTP_PROXY="http://p:1", REQUEST_METHOD="GET") is None
    assert proxy_for(url, http_proxy="http://p:1", REQUEST_METHOD="GET") == "p:1"


def test_whether_there_is_any() -> None:
    assert names_proxy({"all_proxy": "socks5://p:1"})
    assert not names_proxy({"NO_PROXY": "*", "https_proxy": ""})


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_has_no_proxy(host: str) -> None:
    assert proxy_for(f"wss://{host}/", HTTPS_PROXY="http://p:1") is None


def test_a_name_that_begins_like_loopback_has_one() -> None:
    assert proxy_for("wss://127.0.0.1.example/", HTTPS_PROXY="http://p:1") == "p:1"


@pytest.mark.parametrize(
    ("no_proxy", "bypassed"),
    [
        ("a.example", True),
        ("example", True),
        (".example", True),
        ("*.example", True),
        ("a.example.", True),
        (".a.example", True),
        ("ample", False),
        ("*", True),
        ("b.example, a.example", True),
        ("b.example a.example", True),
        ("A.EXAMPLE", True),
        ("a.example:443", True),
        ("*.example:443", True),
        ("a.example:0443", True),
        ("a.example:8443", False),
        ("a.example:", False),
        ("10.0.0.0", False),
        ("10.0.0.0/8", False),
        ("0.0.0.0/0", False),
        ("a.example/8", False),
        (",. ,*.", False),
        ("", False),
    ],
)
def test_no_proxy_lists_names_and_endings(no_proxy: str, bypassed: bool) -> None:
    proxy = proxy_for("wss://a.example/", HTTPS_PROXY="http://p:1", NO_PROXY=no_proxy)

    assert (proxy is None) is bypassed


@pytest.mark.parametrize(
    ("host", "no_proxy", "bypassed"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:444", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.99/24", True),
        ("10.1.2.3", "10.1.3.0/24", False),
        ("10.1.2.3", "192.168.0.0/16,10.1.2.3/32", True),
        ("10.1.2.3", "10.0.0.0/33", False),
        ("10.1.2.3", "fd00::/8", False),
        ("10.1.2.3", ".3", False),
        ("10.1.2.3", "2.3", False),
        ("[fd00::1]", "[fd00::1]", True),
        ("[fd00::1]", "[fd00::1]:443", True),
        ("[fd00::1]", "[fd00::1]:1", False),
        ("[fd00::1]", "fd00:0:0::1", True),
        ("[fd00::1]", "fd00::/8", True),
        ("[fd00::1]", "fe80::/10", False),
        ("[::ffff:10.1.2.3]", "10.0.0.0/8", True),
    ],
)
def test_no_proxy_lists_addresses_and_networks(host: str, no_proxy: str, bypassed: bool) -> None:
    proxy = proxy_for(f"wss://{host}/", HTTPS_PROXY="http://p:1", no_proxy=no_proxy)

    assert (proxy is None) is bypassed


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@p:1", "HTTPS_PROXY names a proxy that cannot be used .https://p:1 does not"),
        ("socks5://me:secret@p:1", "HTTPS_PROXY names a proxy that cannot be used .socks5://p:1 does not"),
        ("socks5h://p", "HTTPS_PROXY names a proxy that cannot be used .socks5h://p:80 does not"),
        ("http://me:secret@:1", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("http://me:secret@p:port", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("http://me:secret@p:0", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("http://me:secret@[::1", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("http://me:sec[ret@p:1", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("http://me:secret@a b:1", "HTTPS_PROXY is not a valid URL of a proxy"),
        ("me:secret", "HTTPS_PROXY is not a valid URL of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(url: str, said: str) -> None:
    with pytest.raises(LocalSetup, match=said) as failure:
        proxy_for("wss://a.example/", HTTPS_PROXY=url)
    assert "secret" not in str(failure.value)
    assert "or list a.example in NO_PROXY" in str(failure.value)


def test_the_variable_that_counts_is_the_one_that_is_named() -> None:
    with pytest.raises(LocalSetup, match="all_proxy names a proxy"):
        proxy_for("wss://a.example/", all_proxy="socks5h://p:1080")


def test_name_and_password_are_decoded_and_in_no_text() -> None:
    proxy = find_proxy(True, "a.example", 443, {"https_proxy": "http://me:s%20e%3Ac@p:1"})
    assert proxy is not None
    assert proxy.authorization == "Basic " + base64.b64encode(b"me:s e:c").decode()
    assert proxy.url == "http://me:s%20e%3Ac@p:1"
    assert "s e" not in f"{proxy!r} {proxy}"
