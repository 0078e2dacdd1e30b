"""File systems in images of disks, mounted where nobody else sees them.

Everything is mounted in a mount namespace, by processes in a pid namespace of their own. When the first of them ends,
however it ends, the kernel kills the others, and with the last of them the mounts go. The loop devices are told to go
with their mounts. So nothing is left behind, also when a test is killed.
(`fuse_disk` says what the process behind a disk has to do for that.)
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_MEMORY: Final = "/dev/shm"
"""What happens to disks is simulated, so the images themselves need no disk."""

_TOOLS: Final = ("setpriv", "unshare", "mount", "umount", "losetup", "mkfs.ext4")
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class MountError(Exception):
    """A tool for disks failed. The text is what it said."""


def isolated(*command: str) -> list[str]:
    """The command that runs another one in namespaces of its own. It ends with the thread that starts it."""
    alone = [_path_of("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [_path_of("setpriv"), "--pdeathsig", "KILL", *alone, *command]


@cache
def why_not() -> str:
    """Why no disk can be recorded here; empty if one can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        return f"there is no {', '.join(missing)}"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if importlib.util.find_spec("mfusepy") is None:
        return "the Python package mfusepy is not installed"
    if not any(ctypes.util.find_library(name) for name in ("fuse", "fuse3")):
        return "there is no libfuse (Debian: fuse3)"
    if os.geteuid() != 0:
        return "only root may mount file systems"
    probe = subprocess.run(
        isolated(sys.executable, "-m", "tests.powerloss.mounts"), capture_output=True, text=True, check=False
    )
    return "" if probe.returncode == 0 else f"no disk can be mounted here: {probe.stderr.strip()[-300:]}"


def make_file_system(image: str, size_bytes: int) -> None:
    """Make a file that is a disk with an empty ext4 on it.

    :param image: does not exist
    """
    with open(image, "xb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-b", "4096", "-J", "size=4", "-N", "4096", "-E", "nodiscard,lazy_itable_init=0", image)


@contextmanager
def mounted(
    image: str, folder: str, options: str = "data=ordered", *, let_go: Callable[[], object] | None = None
) -> Iterator[None]:
    """Mount the file system of a disk.

    :param folder: exists, and is where
    :param options: of ext4
    :param let_go: closes what may still be open on it in the end
    :raises MountError: it cannot be mounted
    """
    device = run("losetup", "--find", "--show", image).strip()
    try:
        # commit: what is not synced gets to the disk soon, so that a short recording has all of it.
        run("mount", "-t", "ext4", "-o", f"noatime,commit=1,{options}", device, folder)
    finally:
        run("losetup", "--detach", device)  # when it is not used any more
    try:
        yield
    finally:
        try:
            run("umount", folder)
        except MountError:
            if let_go is None:
                raise
            let_go()
            run("umount", folder)


def take_boot_id() -> None:
    """Have the kernel's id of this run of the machine be ours to change, for the processes in this namespace."""
    with tempfile.NamedTemporaryFile("w", dir=memory_folder()) as file:
        run("mount", "--bind", file.name, _BOOT_ID)  # which outlives the name
    start_machine_anew()


def start_machine_anew() -> None:
    """From now on, it looks as if the machine had been started again since."""
    with open(_BOOT_ID, "w", encoding="ascii") as file:
        file.write(f"{uuid.uuid4()}\n")


def run(tool: str, *arguments: str) -> str:
    """Run a tool for disks.

    :return: what it printed
    :raises MountError: it failed
    """
    done = subprocess.run([_path_of(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountError(f"{tool} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def memory_folder() -> str | None:
    """A folder for temporary files in memory; None where there is none."""
    return IN_MEMORY if os.path.isdir(IN_MEMORY) else None


def _path_of(tool: str) -> str:
    return shutil.which(tool, path=_PATH) or tool


def _probe() -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        image, at = os.path.join(folder, "image"), os.path.join(folder, "mnt")
        os.mkdir(at)
        make_file_system(image, 16 << 20)
        with mounted(image, at):
            pass


if __name__ == "__main__":
    _probe()
