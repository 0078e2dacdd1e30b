"""The jobs of the pool: what is to be done with a file, as data that travels to a worker process.

A job may be begun more than once, since a worker can die in the middle of it. So it changes nothing but its
target, a temporary that its caller named and owns, and it removes what an earlier attempt left there before
it begins. Jobs and results are small (names and numbers, never voxels): they cross a pipe.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from magd.cubes.convert import ConvertedFile, compress_cube_file
from magd.errors import from_os_error

if TYPE_CHECKING:
    from magd.cubes.encode import CompressionLevel

ResultT_co = TypeVar("ResultT_co", covariant=True)


class Job(Protocol[ResultT_co]):
    """Something a worker process can do."""

    @property
    def file(self) -> str:
        """The file the job is about, for errors."""

    def run(self) -> ResultT_co:
        """Do it, in the worker. Blocks.

        :raises MagdError: as it is raised here, the caller in the daemon gets it
        """


@dataclass(frozen=True, slots=True)
class CompressFile:
    """Write a compressed copy of one cube file."""

    source: str  # path of a cube file, raw or compressed; only read
    target: str  # path of a temporary in an existing folder; what lies there is replaced
    level: CompressionLevel

    @property
    def file(self) -> str:
        return self.source

    def run(self) -> ConvertedFile:
        try:
            os.unlink(self.target)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise from_os_error(error, self.target) from error
        return compress_cube_file(self.source, self.target, self.level)
