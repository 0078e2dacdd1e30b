"""One cube file that is open, and whose header was read and found sound."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from magd.cubes.exact_io import read_exactly
from magd.cubes.header import HEADER_BYTES, Header, damaged
from magd.errors import MagdError, from_os_error

if TYPE_CHECKING:
    from types import TracebackType

OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""For every open of a file in a mag: no links; a pipe in the place of a cube file must not block us."""

_ABOUT_THE_PROCESS: Final = frozenset({"EMFILE", "ENFILE", "ENOMEM"})


@dataclass(frozen=True, slots=True)
class OpenCubeFile:
    """A descriptor with what is known of its file. Leaving it as a context manager closes the descriptor.

    :ivar path: for errors
    :ivar header: the file's own
    :ivar status: of the moment it was opened
    """

    fd: int
    path: str
    header: Header
    status: os.stat_result

    @classmethod
    def of(cls, fd: int, path: str, mag: Header | None = None) -> OpenCubeFile:
        """Take over a descriptor: read the file's header and compare its length with what the header
        promises.

        :param mag: the header of the mag; None: of what layout the file is does not matter
        :raises DataLoss: the file is damaged, or its layout is not that of the mag. The descriptor is closed
            then
        """
        try:
            status = _status(fd, path)
            header = Header.parse(bytes(read_exactly(fd, HEADER_BYTES, 0, path)), file=path)
            _check(header, status.st_size, mag, path)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path, header, status)

    @classmethod
    def open(cls, path: str) -> OpenCubeFile:
        """Open a cube file by its path for reading.

        :raises DataLoss: it cannot be opened (also: it does not exist), or is damaged
        """
        try:
            fd = os.open(path, os.O_RDONLY | OPEN_FLAGS)
        except OSError as error:
            raise from_os_error(error, path) from error
        return cls.of(fd, path)

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self.status.st_size

    def starts_with(self, data: bytes) -> bool:
        """Whether these are its first bytes.

        :raises DataLoss: it cannot be read
        """
        try:
            return os.pread(self.fd, len(data), 0) == data
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def close(self) -> None:
        """Close the descriptor. Once only."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_about_the_file(error: MagdError) -> bool:
    """Whether an error says something about the file, and not about the process that wanted to open it."""
    return error.metadata.get("errno") not in _ABOUT_THE_PROCESS


def _status(fd: int, path: str) -> os.stat_result:
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise from_os_error(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "it is not a regular file")
    if status.st_size < HEADER_BYTES:
        raise damaged(path, f"it has {status.st_size} bytes, less than a header")
    return status


def _check(header: Header, size_bytes: int, mag: Header | None, path: str) -> None:
    if mag is not None and not header.has_layout_of(mag):
        raise damaged(path, f"it has {header.describe_layout()}, its mag has {mag.describe_layout()}")
    least = header.first_block_offset
    if header.data_offset < least:
        raise damaged(path, f"its first block is said to start at byte {header.data_offset}, before byte {least}")
    if header.data_offset > size_bytes:
        raise damaged(path, f"its first block is said to start at byte {header.data_offset}, after its end")
    if not header.block_type.is_compressed:
        least = header.data_offset + header.blocks_per_file * header.block_bytes
    if size_bytes < least:
        raise damaged(path, f"it has {size_bytes} bytes, at least {least} are needed")
