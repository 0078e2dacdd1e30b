"""Where a daemon listens, and the channel options every connection to it uses."""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from magd.errors import InvalidRequest

DEFAULT_ADDRESS: Final = "127.0.0.1:7733"
"""Where `magd serve` listens unless it is told otherwise."""
ADDRESS_VARIABLE: Final = "MAGD_SERVER"
"""The environment variable that replaces the default address."""

_MAX_MESSAGE_BYTES: Final = 16 << 20
# The daemon accepts a ping every 10 s; gRPC's own default refuses clients that ping every 20 s or faster.
_KEEPALIVE_SECONDS: Final = 30
_KEEPALIVE_TIMEOUT_SECONDS: Final = 10
_RECONNECT_FIRST_SECONDS: Final = 0.1
_RECONNECT_MAX_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address, as text that gRPC takes for a target."""

    text: str

    @classmethod
    def of(cls, text: str | None) -> Address:
        """Check an address.

        :param text: `host:port`, `[ipv6]:port`, `unix:/path` or `unix-abstract:name`; None: `MAGD_SERVER`,
            or 127.0.0.1:7733
        :raises InvalidRequest: it is none of these
        """
        text = text or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        for scheme in ("unix:", "unix-abstract:"):
            if text.startswith(scheme):
                if len(text) > len(scheme):
                    return cls(text)
                raise _invalid(text)
        host, _, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        is_ipv6 = host.startswith("[") and host.endswith("]")
        if not bare or "/" in host or (":" in bare and not is_ipv6):
            raise _invalid(text)
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise _invalid(text)
        return cls(text)

    @property
    def is_unix_socket(self) -> bool:
        """Whether it is a unix socket."""
        return self.text.startswith(("unix:", "unix-abstract:"))

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it is a unix socket, or of the loopback."""
        if self.is_unix_socket:
            return True
        host = self.text.rpartition(":")[0].removeprefix("[").removesuffix("]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def __str__(self) -> str:
        return self.text


def _invalid(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"address {text!r} is neither like '127.0.0.1:7733' nor like 'unix:/path'",
        metadata={"field": "address", "value": text},
    )


def channel_options(name: str | None) -> list[tuple[str, str | int]]:
    """The options of a channel.

    Retries of gRPC are off: they stop silently at 256 KiB, and ours know the request id. Proxies are off: a
    daemon is addressed directly, and `http_proxy` would capture even the loopback.

    :param name: of the program that uses the client, for the daemon's log
    """
    # By the last word the daemon knows which calls are of one client also on a unix socket, where addresses do not say.
    agent = f"magd-client/{version('magd')} client/{secrets.token_hex(8)}"
    return [
        ("grpc.primary_user_agent", f"{name} {agent}" if name else agent),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.initial_reconnect_backoff_ms", int(_RECONNECT_FIRST_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_SECONDS * 1000),
    ]
