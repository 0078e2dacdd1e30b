"""Addresses."""

from __future__ import annotations

import pytest

import magd_client
from magd.errors import InvalidRequest
from magd_client.address import ADDRESS_VARIABLE, DEFAULT_ADDRESS, Address


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:7733", "host.example:1", "[::1]:65535", "unix:/run/magd.sock", "unix:here", "unix-abstract:magd"],
)
def test_an_address_is_taken_as_it_is(text: str) -> None:
    assert str(Address.of(text)) == text
    assert magd_client.connect(text).address == text


@pytest.mark.parametrize(
    "text", ["host", "host:", ":7733", "host:0", "host:65536", "host:-1", "::1:7733", "http://host:1", "unix:"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is neither like") as caught:
        magd_client.connect(text)
    assert caught.value.metadata == {"field": "address", "value": text}


def test_without_an_address_the_environment_says_it_or_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert str(Address.of(None)) == DEFAULT_ADDRESS
    monkeypatch.setenv(ADDRESS_VARIABLE, "unix:/elsewhere")
    assert str(Address.of(None)) == "unix:/elsewhere"
    assert str(Address.of("host:1")) == "host:1"


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/magd.sock", True),
        ("unix-abstract:magd", True),
        ("10.0.0.1:1", False),
        ("magd.example.org:1", False),
    ],
)
def test_an_address_tells_whether_the_daemon_is_on_this_machine(text: str, here: bool) -> None:
    assert Address.of(text).is_on_this_machine is here
