"""The log of a recorded disk: every write and every flush, in the order in which the disk took them.

Two files: `index` has one entry of three numbers for each event, `data` the bytes of all writes, one after the other.
The bytes are written before their entry, so an entry that is there is whole. A disk is recorded by one process; others
ask how long the log is while it grows, which is one look at the size of the index.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final

_ENTRY: Final = struct.Struct("<QQQ")
_FLUSH: Final = 2**64 - 1
"""Stands in the place of the offset."""
_INDEX: Final = "index"
_DATA: Final = "data"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that the disk took, and may lose or tear until the next flush."""

    offset: int
    """On the disk, in bytes."""
    data: memoryview


class Flush:
    """Everything that came before it is on the disk for good."""


Event = Write | Flush


class DiskLogWriter:
    """Writes the log.

    :param folder: exists, and has no log
    """

    def __init__(self, folder: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._index = os.open(os.path.join(folder, _INDEX), flags)
        self._data = os.open(os.path.join(folder, _DATA), flags)
        self._data_bytes = 0

    def write(self, offset: int, data: bytes) -> None:
        """The disk took a write."""
        _write_all(self._data, data)
        _write_all(self._index, _ENTRY.pack(offset, len(data), self._data_bytes))
        self._data_bytes += len(data)

    def flush(self) -> None:
        """The disk took a flush."""
        _write_all(self._index, _ENTRY.pack(_FLUSH, 0, 0))


def log_length(folder: str) -> int:
    """How many events the log has, now."""
    return os.stat(os.path.join(folder, _INDEX)).st_size // _ENTRY.size


def read_log(folder: str) -> list[Event]:
    """All events of a log."""
    with open(os.path.join(folder, _INDEX), "rb") as file:
        index = file.read()
    with open(os.path.join(folder, _DATA), "rb") as file:
        data = memoryview(
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
        )
    return [
        Flush() if offset == _FLUSH else Write(offset, data[start : start + size])
        for offset, size, start in _ENTRY.iter_unpack(index)
    ]


def _write_all(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError(f"a write of {len(data)} bytes to the log was short")
