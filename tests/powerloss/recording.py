"""A disk that is recorded: an image served through FUSE, a loop device on it, ext4 on that, mounted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from tests.powerloss.disk_log import log_length
from tests.powerloss.mounts import make_file_system, mounted, run
from tests.powerloss.states import copy_sparse

if TYPE_CHECKING:
    import random
    from types import TracebackType

DISK_BYTES: Final = 192 << 20
"""Most of it is a hole."""

_SERVE: Final = (sys.executable, "-m", "tests.powerloss.fuse_disk")
_READY: Final = "serving\n"


class RecordedDisk:
    """A context manager. Outside of the context its log and its first state can be read.

    :param folder: an empty folder, best in memory
    :param options: with which the file system is mounted
    :ivar root: the folder where the file system is mounted
    :ivar first_image: the disk before the first event of the log
    """

    def __init__(self, folder: str, *, options: str = "data=ordered") -> None:
        self.folder: Final = folder
        self._options = options
        self.first_image: Final = os.path.join(folder, "first")
        self._served = os.path.join(folder, "served")
        self.root: Final = os.path.join(folder, "recorded")
        self._stack = ExitStack()

    def position(self) -> int:
        """How many events the log has, now."""
        return log_length(self.folder)

    def __enter__(self) -> Self:
        os.mkdir(self._served)
        os.mkdir(self.root)
        make_file_system(self.first_image, DISK_BYTES)
        copy_sparse(self.first_image, os.path.join(self.folder, "image"))
        with ExitStack() as stack:
            process = subprocess.Popen([*_SERVE, self.folder, self._served], stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            assert process.stdout is not None
            line = process.stdout.readline()
            if line != _READY:
                raise AssertionError(f"the disk is not served: {line!r}")
            stack.callback(run, "umount", self._served)
            stack.enter_context(mounted(os.path.join(self._served, "disk"), self.root, self._options))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Writeback:
    """Has the kernel write back some files at some moments, as it may whenever it likes: the data of a file, without
    a flush. A context manager.

    :param root: the folder whose files are written back
    """

    def __init__(self, root: str, rng: random.Random) -> None:
        self._root = root
        self._random = rng
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writeback", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._random.uniform(0.0, 0.04)):
            paths = [os.path.join(at, name) for at, _, names in os.walk(self._root) for name in names]
            for path in self._random.sample(paths, min(4, len(paths))):
                _write_back(path)


def _write_back(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # it went away since it was listed
    try:
        # Pages are written before they are dropped, and none is waited for.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()  # nothing of it is mounted any more, and it has nothing to finish
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
