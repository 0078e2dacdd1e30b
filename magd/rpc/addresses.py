"""Addresses to listen on: HOST:PORT, or unix:PATH.

A unix socket is not bound under its name but in a folder of its own that only this user can enter, gets its
mode there, and is then moved to its name. So nobody can connect before the mode is set, the name changes from
a stale socket to the new one in one step, and gRPC, which unlinks what it bound, never unlinks the socket of
somebody else.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from magd.errors import InvalidRequest, NotAllowed, Reason, os_errors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNIX: Final = "unix:"
_MAX_SOCKET_PATH_BYTES: Final = 107
_ROOM_FOR_FOLDER: Final = 16
"""What the name of the folder in which a socket is bound takes at most."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


def parse_address(text: str, *, field: str) -> HostPort | UnixPath:
    """Read HOST:PORT, [HOST]:PORT or unix:PATH.

    :param field: where the text came from, for the error
    :raises InvalidRequest: it is none of these
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path or "\0" in path:
            raise _invalid(field, text, "the path of the socket is missing or has a NUL")
        return UnixPath(os.path.abspath(path))
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise _invalid(field, text, "expected HOST:PORT or unix:PATH")
    return HostPort(host, int(port))


def check_free(address: HostPort | UnixPath, *, field: str) -> None:
    """Look whether a server can listen on an address. Blocks for the look-up of a host name.

    gRPC says only that it could not bind; this says why.

    :raises NotAllowed: another server listens there, or this user may not
    :raises InvalidRequest: this machine has no such address
    """
    match address:
        case UnixPath(path):
            _check_socket_is_stale(path, field)
        case HostPort(host, port):
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except OSError as error:
                raise _invalid(field, str(address), f"the host is not known: {error.strerror}") from None
            for family, kind, protocol, _, where in found:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind(where)
                    except OSError as error:
                        raise _cannot_listen(address, field, error) from None


@contextmanager
def unix_socket(address: UnixPath, bind: Callable[[str], object]) -> Iterator[None]:
    """Give a name to a unix socket for as long as the context lasts; only this user may connect.

    :param bind: called once, with the path at which the socket is to be bound
    :raises NotAllowed: another server listens there
    """
    path = address.path
    _check_socket_is_stale(path, "grpc")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES - _ROOM_FOR_FOLDER:
        raise _invalid("grpc", str(address), f"it is longer than {_MAX_SOCKET_PATH_BYTES - _ROOM_FOR_FOLDER} bytes")
    with os_errors_of(path), tempfile.TemporaryDirectory(prefix=".", dir=os.path.dirname(path)) as folder:
        bound = os.path.join(folder, "s")
        bind(bound)
        os.chmod(bound, stat.S_IRUSR | stat.S_IWUSR)
        ours = os.stat(bound)
        os.rename(bound, path)
    try:
        yield
    finally:
        try:
            if os.path.samestat(os.lstat(path), ours):
                os.unlink(path)
        except FileNotFoundError:
            pass


def _check_socket_is_stale(path: str, field: str) -> None:
    with os_errors_of(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISSOCK(mode):
        raise _taken(f"{_UNIX}{path}", field, "there is a file of this name, and it is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise _taken(f"{_UNIX}{path}", field, os.strerror(error.errno or errno.ETIMEDOUT)) from None
    raise _taken(f"{_UNIX}{path}", field, "another server listens there")


def _cannot_listen(address: HostPort, field: str, error: OSError) -> NotAllowed | InvalidRequest:
    if error.errno == errno.EADDRINUSE:
        return _taken(str(address), field, "another server listens there")
    if error.errno == errno.EADDRNOTAVAIL:
        return _invalid(field, str(address), "this machine has no such address")
    return _taken(str(address), field, os.strerror(error.errno or 0))


def _taken(address: str, field: str, why: str) -> NotAllowed:
    return NotAllowed(
        f"cannot listen on {address}: {why}",
        reason=Reason.LOCKED,
        metadata={"field": field, "value": address},
    )


def _invalid(field: str, address: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {address!r}: {why}", metadata={"field": field, "value": address})
