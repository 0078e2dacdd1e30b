"""The folder of a mag: opening what lies in it without following links, temporaries, and bringing them to
their names.

Every path is walked from a descriptor of the mag's folder, one part after the other, and no part may be a
symbolic link: what a mag holds lies in its folder, and nobody can lead the daemon out of it by exchanging a
folder for a link. The folder itself is the caller's to judge. It may be renamed while it is open.

Temporaries lie in `.magd/tmp`, on the same file system, under unique names that do not end in `.wkw`. They
are made on demand, so that reading leaves no trace. Those of a process that died are removed when the mag is
opened for writing the next time: one process at a time may have it open so.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from magd.cubes.cube_file import OPEN_FLAGS
from magd.cubes.descriptors import open_at
from magd.cubes.exact_io import sync_file_system
from magd.errors import DataLoss, MagdError, NotAllowed, Reason, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_FOLDER: Final = ".magd"
TEMPORARIES: Final = f"{OWN_FOLDER}/tmp"
_PREFIX: Final = "cube-"
_SUFFIX: Final = ".tmp"
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_PATH asks for no permission to list: walking needs none.
_WALK_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class MagFolder:
    """A mag's folder. Paths are relative to it, with `/` between their parts; "" is the folder itself.

    :param path: an existing folder
    :raises FileNotFoundError: it does not exist
    :raises DataLoss: it cannot be opened
    """

    def __init__(self, path: str) -> None:
        self.path: Final = path
        try:
            self._fd = open_at(path, _FOLDER_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise from_os_error(error, path) from error

    def close(self) -> None:
        """Close the descriptor. No call may be under way; later calls fail."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def full(self, relative: str) -> str:
        """The full path, for messages."""
        return f"{self.path}/{relative}" if relative else self.path

    def open_file(self, relative: str, flags: int = os.O_RDONLY) -> int:
        """Open a file.

        :return: a descriptor, which the caller closes
        :raises FileNotFoundError: it, or a folder on the way to it, does not exist, and the mag's folder does
        :raises NotAllowed: a part of the path is a symbolic link
        :raises DataLoss: it cannot be opened, or the mag's folder was removed
        """
        folder, _, name = relative.rpartition("/")
        parent = self._walk(folder)
        try:
            return self._open(name, flags | OPEN_FLAGS, parent, relative)
        finally:
            self._leave(parent)

    def status(self, relative: str) -> os.stat_result:
        """The status of a file, without opening it.

        :raises FileNotFoundError, NotAllowed, DataLoss: as of `open_file`
        """
        folder, _, name = relative.rpartition("/")
        with self._folder(folder) as parent:
            try:
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise from_os_error(error, self.full(relative)) from error

    def look(self, relative: str) -> os.stat_result | None:
        """The status of a file with one system call: enough to see whether it is one that is known.

        :return: None if it cannot be reached, for whatever reason; to open it tells why. Links on the way are followed
        """
        try:
            return os.stat(relative, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None

    def list(self, relative: str) -> list[str]:
        """The names in a folder, in no order.

        :raises FileNotFoundError: it does not exist
        :raises NotAllowed: a part of the path is a symbolic link
        :raises DataLoss: it cannot be read
        """
        fd = self._open_folder(relative)
        try:
            return os.listdir(fd)
        except OSError as error:
            raise from_os_error(error, self.full(relative)) from error
        finally:
            os.close(fd)

    def is_folder(self, relative: str) -> bool:
        """Whether there is a folder of this name, and not a link to one."""
        try:
            return stat.S_ISDIR(self.status(relative).st_mode)
        except FileNotFoundError:
            return False

    def make_folders(self, relative: str) -> None:
        """Make a folder and those on the way to it, where they do not exist. They are not synced.

        :raises DiskFull, DataLoss, NotAllowed: it cannot be made
        """
        walked = ""
        for name in relative.split("/"):
            with self._folder(walked) as parent:
                walked = f"{walked}/{name}" if walked else name
                try:
                    os.mkdir(name, dir_fd=parent)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise from_os_error(error, self.full(walked)) from error

    def make_temporary(self) -> tuple[str, int]:
        """Make an empty file with a temporary name.

        :return: the path, and a descriptor for reading and writing, which the caller closes
        :raises DiskFull, DataLoss, NotAllowed: it cannot be made
        """
        relative = _draw_temporary()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            return relative, self.open_file(relative, flags)
        except FileNotFoundError:
            self.make_folders(TEMPORARIES)
        try:
            return relative, self.open_file(relative, flags)
        except FileNotFoundError as error:
            raise from_os_error(error, self.full(relative)) from error

    def link_as_temporary(self, source: str) -> str:
        """Give a file a temporary name beside the one that it has.

        :return: that name
        :raises DiskFull, DataLoss, NotAllowed: it cannot be given
        """
        relative = _draw_temporary()
        self.make_folders(TEMPORARIES)
        self.link(source, relative)
        return relative

    def change_mode(self, relative: str, mode: int) -> None:
        """Change the permissions of a file.

        :raises DataLoss, NotAllowed: they cannot be changed
        """
        try:
            fd = self.open_file(relative)
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        except MagdError:
            raise
        except OSError as error:
            raise from_os_error(error, self.full(relative)) from error

    def rename(self, source: str, target: str) -> None:
        """Bring a file to its name, and replace what has this name. The folder of the target is not synced.

        :raises DiskFull, DataLoss, NotAllowed: it cannot be renamed
        """
        source_folder, _, source_name = source.rpartition("/")
        target_folder, _, target_name = target.rpartition("/")
        try:
            with self._folder(source_folder) as source_fd, self._folder(target_folder) as target_fd:
                os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except MagdError:
            raise
        except OSError as error:
            raise from_os_error(error, self.full(target)) from error

    def link(self, source: str, target: str) -> None:
        """Give a file a second name that nothing has. The folder of the target is not synced.

        :raises DiskFull, DataLoss, NotAllowed: it cannot be given, for example because there is a file of this name
        """
        source_folder, _, source_name = source.rpartition("/")
        target_folder, _, target_name = target.rpartition("/")
        try:
            with self._folder(source_folder) as source_fd, self._folder(target_folder) as target_fd:
                os.link(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        except MagdError:
            raise
        except OSError as error:
            raise from_os_error(error, self.full(target)) from error

    def remove_temporary(self, relative: str) -> None:
        """Remove a temporary, if it can be: on a way out that has an error of its own to tell."""
        folder, _, name = relative.rpartition("/")
        try:
            with self._folder(folder) as fd:
                os.unlink(name, dir_fd=fd)
        except OSError:
            # The next open of the mag tries again.
            pass

    def remove_leftovers(self) -> None:
        """Remove temporaries of a process that died. What others put beside them stays.

        :raises NotAllowed: `.magd` or `tmp` in it is a symbolic link
        :raises DataLoss: they cannot be listed
        """
        try:
            names = self.list(TEMPORARIES)
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                self.remove_temporary(f"{TEMPORARIES}/{name}")

    def sync_folder(self, relative: str) -> None:
        """fsync a folder: its entries survive a power loss.

        :raises DataLoss, DiskFull: it failed
        """
        try:
            fd = self._open_folder(relative)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except MagdError:
            raise
        except OSError as error:
            raise from_os_error(error, self.full(relative)) from error

    def sync_file_system(self) -> None:
        """Bring everything that was written to the file system of the folder to the disk, by whoever it was.

        :raises DataLoss, DiskFull: it failed
        """
        sync_file_system(self._fd, self.path)

    @contextmanager
    def _folder(self, relative: str) -> Iterator[int]:
        """A descriptor of a folder for a while, that serves to reach what lies in it."""
        fd = self._walk(relative)
        try:
            yield fd
        finally:
            self._leave(fd)

    def _open_folder(self, relative: str) -> int:
        """A descriptor to list or sync a folder with, which the caller closes.

        It is a new one in any case: threads that list through a common one would share its position.
        """
        with self._folder(relative) as fd:
            return self._open(".", _FOLDER_FLAGS, fd, relative)

    def _walk(self, relative: str) -> int:
        """As `_folder`; the caller has to `_leave` it."""
        fd = self._fd
        if relative:
            walked = ""
            for name in relative.split("/"):
                walked = f"{walked}/{name}" if walked else name
                try:
                    child = self._open(name, _WALK_FLAGS, fd, walked)
                finally:
                    self._leave(fd)
                fd = child
        return fd

    def _leave(self, fd: int) -> None:
        if fd != self._fd:
            os.close(fd)

    def _open(self, name: str, flags: int, parent: int, relative: str) -> int:
        try:
            return open_at(name, flags, parent)
        except FileNotFoundError:
            if os.fstat(self._fd).st_nlink == 0:
                raise DataLoss(
                    f"{self.path}: the folder was removed",
                    reason=Reason.CHANGED_ON_DISK,
                    metadata={"file": self.path},
                ) from None
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, parent):
                full = self.full(relative)
                raise NotAllowed(
                    f"{full}: is a symbolic link; those inside a mag are not followed",
                    reason=Reason.OUTSIDE_ROOT,
                    metadata={"file": full},
                ) from error
            raise from_os_error(error, self.full(relative)) from error


def _draw_temporary() -> str:
    return f"{TEMPORARIES}/{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False
