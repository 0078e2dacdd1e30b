"""What `scripts/quickstart` shows, once magd is installed.

1. Start a daemon on a folder of its own.
2. Import a volume with cube files so small that most boxes lie across their borders.
3. Four processes write overlapping, unaligned boxes at once; some writes are sent twice, as after a lost connection.
4. Apply the same writes to an array, in the order of the revisions the daemon gave them, and compare every voxel.
5. List, compress, and read again: through the daemon, and from the files with the `wkw` package.
6. Stop the daemon.
Any difference ends it with status 1.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

import magd_client
from magd.cli.exercise import Written, overlaps, replay, write_boxes
from magd.cli.units import count, format_size
from magd.errors import MagdError
from magd.geometry import Box, Vec3
from tests.support.daemon import MAGD, Daemon, DaemonError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.voxels import VoxelArray, VoxelFormat

FOLDER: Final = ".quickstart"
WRITERS: Final = 4
WRITES: Final = 25
LARGEST_PLAYGROUND: Final = Vec3(192, 192, 96)
"""Voxels that the writers write to, at most: each write is kept to be compared."""
SMALL_FILE_BYTES: Final = 8 << 20


class Different(Exception):
    """Voxels are not what they should be."""


def main(arguments: Sequence[str]) -> None:
    """Do it all."""
    started = time.monotonic()
    data = os.path.join(FOLDER, "data")
    shutil.rmtree(data, ignore_errors=True)
    os.makedirs(data)
    path, options = (arguments[0], list(arguments[1:])) if arguments else (_example(), ["--volume", "0"])

    with Daemon(data) as daemon:
        _say(f"a daemon serves {data} at {daemon.grpc}")
        _magd(daemon, "import", path, "brain/mri", *options, *_small_cube_files(path))
        with magd_client.connect(daemon.grpc) as client:
            mag = client.dataset("brain").layer("mri").mag("1")
            info = mag.get_info()
            voxels = info.voxels
            imported = _read(mag, info.bounding_box)
            if not arguments:
                _compare(imported, _example_voxels(path, voxels), "imported")
            playground = _playground(info.bounding_box)
            before = _read(mag, playground)

            written = _write_at_once(daemon.grpc, playground, voxels)
            expected = replay(before, playground, written, voxels)
            _compare(_read(mag, playground), expected, "written")
            retried = sum(write.retried for write in written)
            _say(
                f"{WRITERS} processes wrote {count(len(written), 'box', 'boxes')} at once, "
                f"{overlaps(written):,} pairs of them overlap, {retried} were sent twice",
                f"read back: all {playground.volume:,} voxels are as the order of the revisions explains",
            )

            _magd(daemon, "ls")
            _magd(daemon, "ls", "brain")
            raw_bytes = sum(file.allocated_bytes for file in mag.cube_files())
            _magd(daemon, "compress", "brain/mri/1")
            compressed_bytes = sum(file.allocated_bytes for file in mag.cube_files())
            _say(f"on disk: {format_size(raw_bytes)} became {format_size(compressed_bytes)}")
            _compare(_read(mag, playground), expected, "compressed")
            _magd(daemon, "check", "--deep")
            folder = os.path.join(data, "brain", mag.get_info().folder)
    # Only now: as long as it runs, the daemon is the one who touches the files.
    same = _compare_with_wkw(folder, playground, expected)
    _say(
        "the daemon was asked to stop, and ended with status 0",
        "read again from the files with the wkw package: the same"
        if same
        else "there is no wkw to read the files with",
    )
    seconds = time.monotonic() - started
    _say(
        f"done in {seconds:.0f} s; the dataset lies in {os.path.abspath(os.path.join(data, 'brain'))}",
        f"to go on: {os.path.join(os.path.dirname(sys.executable), 'magd')} serve {data}",
    )


def _example() -> str:
    """A magnetic resonance scan of a head: 128 x 96 x 24 voxels, int16."""
    import nibabel

    return os.path.join(os.path.dirname(nibabel.__file__), "tests", "data", "example4d.nii.gz")


def _example_voxels(path: str, voxels: VoxelFormat) -> VoxelArray:
    """The first volume as nibabel reads it, which is not how the import does."""
    import nibabel

    whole = np.asanyarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined,unused-ignore]
    return np.asfortranarray(whole[np.newaxis, ..., 0].astype(voxels.dtype))


def _small_cube_files(path: str) -> list[str]:
    """Cube files of 16 voxels for a small volume; a large one would have too many of them."""
    if os.path.isfile(path) and os.path.getsize(path) <= SMALL_FILE_BYTES:
        return ["--block-len", "8", "--file-len", "2"]
    return ["--block-len", "32", "--file-len", "4"]


def _playground(bounding_box: Box) -> Box:
    """Where the writers write: in the volume and a little beyond its end, so that its bounding box grows."""
    end = bounding_box.end + Vec3(3, 5, 7)
    return Box.between((end - LARGEST_PLAYGROUND).max(bounding_box.offset), end)


def _write_at_once(address: str, within: Box, voxels: VoxelFormat) -> list[Written]:
    # Spawned: the writers are programs of their own that share nothing with this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WRITERS, mp_context=context) as processes:
        jobs = [processes.submit(_write, address, within, voxels, writer) for writer in range(WRITERS)]
        return [write for job in jobs for write in job.result()]


def _write(address: str, within: Box, voxels: VoxelFormat, writer: int) -> list[Written]:
    with magd_client.connect(address) as client:
        mag = client.dataset("brain").layer("mri").mag("1")
        return write_boxes(mag, within, voxels, writer=writer, count=WRITES)


def _read(mag: magd_client.MagHandle, box: Box) -> VoxelArray:
    return mag.read(offset=box.offset, size=box.size)


def _compare(found: VoxelArray, expected: VoxelArray, what: str) -> None:
    different = int(np.count_nonzero(found != expected))
    if different:
        raise Different(f"{count(different, 'voxel')} of {expected.size:,} are not as they were {what}")


def _compare_with_wkw(folder: str, box: Box, expected: VoxelArray) -> bool:
    """Whether the files could be read."""
    try:
        import wkw
    except ModuleNotFoundError:
        return False
    with wkw.Dataset.open(folder) as dataset:
        _compare(dataset.read(tuple(box.offset), tuple(box.size)), expected, "written, when read with wkw")
    return True


def _magd(daemon: Daemon, *arguments: str) -> None:
    print(f"$ magd {' '.join(arguments)}", flush=True)
    subprocess.run([*MAGD, *arguments], env={**os.environ, "MAGD_SERVER": daemon.grpc}, check=True)
    print(flush=True)


def _say(*texts: str) -> None:
    print(*(f"- {text}" for text in texts), sep="\n", end="\n\n", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        # The command has said why.
        sys.exit(error.returncode)
    except (Different, DaemonError, MagdError) as error:
        sys.exit(f"quickstart: {error}")
