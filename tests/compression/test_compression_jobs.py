"""Making real cube files in worker processes, also when these die in the middle of it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pytest

from magd.compression.jobs import (
    FinishFile,
    Job,
    MakeFile,
    MakePart,
    MakePartAhead,
    PlacePart,
    RemoveBuffers,
    SampleBlocks,
    SpliceBlocks,
)
from magd.compression.pool import CompressionPool
from magd.cubes.convert import Conversion
from magd.cubes.header import BlockType
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, InvalidRequest
from magd.geometry import Box, Vec3
from tests.cubes.oracle import make_header, some_voxels, wkw_read, wkw_write

if TYPE_CHECKING:
    from magd.compression.pool import JobFuture
    from magd.cubes.encode import CompressionLevel
    from magd.voxels import VoxelArray

ResultT_co = TypeVar("ResultT_co", covariant=True)

HEADER = make_header("uint16", block_len=16, file_len=4)
ORIGIN = Vec3(0, 0, 0)
EVERYTHING = Box(ORIGIN, HEADER.cube_size)


@dataclass(frozen=True)
class DieAfter(Generic[ResultT_co]):
    """The worker is killed when the first attempt has done everything and told nobody."""

    job: Job[ResultT_co]
    marker: str
    file: str = "x0.wkw"

    def run(self) -> ResultT_co:
        result = self.job.run()
        if not os.path.exists(self.marker):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@dataclass(frozen=True)
class TruncateAndDie(Generic[ResultT_co]):
    """The first attempt leaves half a target behind, as a worker does that is killed; the second makes it."""

    job: Job[ResultT_co]
    file: str = "x0.wkw"

    def run(self) -> ResultT_co:
        if not os.path.exists(self.job.file):
            Path(self.job.file).parent.mkdir(parents=True, exist_ok=True)
            Path(self.job.file).write_bytes(b"WKW half of it" * 100_000)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.job.run()


def conversion_in(
    folder: Path, seed: int, block_type: BlockType = BlockType.LZ4HC, level: CompressionLevel = "auto"
) -> tuple[Conversion, VoxelArray]:
    """From a raw mag with one cube file; and the voxels in it."""
    voxels = some_voxels(HEADER, HEADER.cube_size, seed)
    folder.mkdir(exist_ok=True)
    wkw_write(folder / "source", HEADER, voxels)
    target = replace(HEADER, block_type=block_type)
    MagFiles.create(str(folder / "target"), target).close()
    return Conversion(str(folder / "source"), HEADER, str(folder / "target"), target, level), voxels


def test_a_cube_file_is_compressed_in_a_worker(tmp_path: Path) -> None:
    conversion, voxels = conversion_in(tmp_path, seed=1, level=9)
    with CompressionPool(1) as pool:
        made = pool.submit(MakeFile(conversion, ORIGIN)).result()
        sample = pool.submit(SampleBlocks(conversion, ORIGIN, 5)).result()
    assert made.size_bytes == os.path.getsize(conversion.file(ORIGIN)) < made.data_bytes
    assert 0 < sample.stored_data_bytes < sample.data_bytes
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", EVERYTHING), voxels)


def test_the_files_of_workers_that_are_killed_again_and_again_are_all_right_in_the_end(tmp_path: Path) -> None:
    mags = [conversion_in(tmp_path / str(index), index) for index in range(6)]
    with CompressionPool(2) as pool:
        futures = [pool.submit(TruncateAndDie(MakeFile(conversion, ORIGIN))) for conversion, _ in mags]
        for future in futures:
            assert future.result().size_bytes > 0
            assert future.attempts == 2
        assert pool.statistics.replaced == 6
    for conversion, voxels in mags:
        np.testing.assert_array_equal(wkw_read(Path(conversion.target), EVERYTHING), voxels)


@pytest.mark.parametrize("block_type", [BlockType.LZ4HC, BlockType.RAW])
def test_every_job_can_be_done_twice(tmp_path: Path, block_type: BlockType) -> None:
    conversion, voxels = conversion_in(tmp_path, seed=7, block_type=block_type)
    attempts = list[int]()

    def twice(pool: CompressionPool, job: Job[ResultT_co]) -> ResultT_co:
        future: JobFuture[ResultT_co] = pool.submit(DieAfter(job, str(tmp_path / f"died-{len(attempts)}")))
        result = future.result()
        attempts.append(future.attempts)
        return result

    with CompressionPool(1) as pool:
        offset = conversion.header.of_cube_file().data_offset
        made = [twice(pool, MakePart(conversion, ORIGIN, 0, 32, offset))]
        if block_type.is_compressed:
            made.append(twice(pool, MakePartAhead(conversion, ORIGIN, 32, 64, 3)))
            twice(pool, PlacePart(conversion, ORIGIN, 3, offset + made[0].size_bytes, made[1].size_bytes))
        else:
            made.append(twice(pool, MakePart(conversion, ORIGIN, 32, 64, offset)))
        lengths = b"".join(part.lengths for part in made)
        twice(pool, RemoveBuffers(conversion, 4))
        assert os.listdir(tmp_path / "target/.magd/tmp") == []
        size = twice(pool, FinishFile(conversion, ORIGIN, lengths))
        with MagFiles.open(conversion.source) as files:
            files.write(Box.of((0, 0, 0), (20, 20, 20)), np.full((1, 20, 20, 20), 77, np.uint16))
        voxels[:, :20, :20, :20] = 77
        blocks = np.arange(8, dtype=np.int64)
        twice(pool, SpliceBlocks(conversion, ORIGIN, blocks.tobytes()))
    assert size > 0
    assert set(attempts) == {2}
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", EVERYTHING), voxels)


def test_what_lies_at_the_target_is_replaced(tmp_path: Path) -> None:
    conversion, voxels = conversion_in(tmp_path, seed=2, level="fast")
    target = Path(conversion.file(ORIGIN))
    target.parent.mkdir(parents=True)
    target.write_bytes(b"left by somebody" * 100_000)
    MakeFile(conversion, ORIGIN).run()
    np.testing.assert_array_equal(wkw_read(tmp_path / "target", EVERYTHING), voxels)


def test_a_damaged_source_is_an_error_that_names_it_and_leaves_no_target(tmp_path: Path) -> None:
    conversion, _ = conversion_in(tmp_path, seed=3)
    source = tmp_path / "source/z0/y0/x0.wkw"
    os.truncate(source, 1000)
    with CompressionPool(1) as pool, pytest.raises(DataLoss) as caught:
        pool.submit(MakeFile(conversion, ORIGIN)).result()
    assert caught.value.metadata["file"] == str(source)
    assert not os.path.exists(conversion.file(ORIGIN))


def test_a_missing_source_a_target_that_is_a_folder_and_a_level_there_is_not_are_refused(tmp_path: Path) -> None:
    conversion, _ = conversion_in(tmp_path, seed=4)
    with CompressionPool(1) as pool:
        missing = pool.submit(MakeFile(conversion, Vec3(5, 0, 0)))
        os.makedirs(conversion.file(ORIGIN))
        folder = pool.submit(MakeFile(conversion, ORIGIN))
        level = pool.submit(MakeFile(replace(conversion, level=13), ORIGIN))
        assert "x5.wkw" in str(missing.exception())
        error = folder.exception()
        assert isinstance(error, DataLoss)
        assert error.metadata["file"] == conversion.file(ORIGIN)
        assert level.exception() is not None
    with pytest.raises(InvalidRequest):
        SampleBlocks(replace(conversion, level=13), ORIGIN, 3).run()
    assert os.path.isdir(conversion.file(ORIGIN))
