"""Compressing real cube files in worker processes, also when these die in the middle of it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import wkw

from magd.compression.jobs import CompressFile
from magd.compression.pool import CompressionPool
from magd.errors import DataLoss, InvalidRequest

if TYPE_CHECKING:
    from magd.cubes.convert import ConvertedFile

EDGE = 64  # of a cube file, in voxels


@dataclass(frozen=True)
class TruncateAndDie:
    """The first attempt leaves half a target behind, as a worker does that is killed; the second compresses."""

    job: CompressFile
    file: str = "x0.wkw"

    def run(self) -> ConvertedFile:
        if not os.path.exists(self.job.target):
            Path(self.job.target).write_bytes(b"WKW half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.job.run()


def write_cube_file(folder: Path, seed: int) -> tuple[Path, npt.NDArray[Any]]:
    """:return: a raw cube file that `wkw` wrote, and the voxels in it"""
    data = np.asfortranarray(np.random.default_rng(seed).integers(0, 9, (EDGE, EDGE, EDGE), dtype=np.uint16))
    data[:, :20] = 0
    with wkw.Dataset.create(str(folder), wkw.Header(np.uint16, block_len=16, file_len=4)) as dataset:
        dataset.write((0, 0, 0), data)
    return folder / "z0/y0/x0.wkw", data


def read_compressed(folder: Path) -> npt.NDArray[Any]:
    """What `wkw` reads of a folder with one compressed cube file that got there without a header."""
    header = wkw.Header(np.uint16, block_len=16, file_len=4, block_type=wkw.Header.BLOCK_TYPE_LZ4HC)
    with wkw.Dataset.create(str(folder / "of-header"), header):
        (folder / "of-header/header.wkw").rename(folder / "header.wkw")
    with wkw.Dataset.open(str(folder)) as dataset:
        voxels: npt.NDArray[Any] = dataset.read((0, 0, 0), (EDGE, EDGE, EDGE))[0]
    return voxels


def target_in(folder: Path) -> Path:
    (folder / "z0/y0").mkdir(parents=True)
    return folder / "z0/y0/x0.wkw"


def test_a_cube_file_is_compressed_in_a_worker(tmp_path: Path) -> None:
    source, data = write_cube_file(tmp_path / "raw", seed=1)
    target = target_in(tmp_path / "compressed")
    with CompressionPool(1) as pool:
        converted = pool.submit(CompressFile(str(source), str(target), 9)).result()
    assert converted.bytes_in == source.stat().st_size
    assert converted.bytes_out == target.stat().st_size < converted.bytes_in
    np.testing.assert_array_equal(read_compressed(tmp_path / "compressed"), data)


def test_the_files_of_workers_that_are_killed_again_and_again_are_all_right_in_the_end(tmp_path: Path) -> None:
    files = [write_cube_file(tmp_path / f"raw{index}", index) for index in range(6)]
    targets = [target_in(tmp_path / f"compressed{index}") for index in range(6)]
    with CompressionPool(2) as pool:
        futures = [
            pool.submit(TruncateAndDie(CompressFile(str(source), str(target), "auto")))
            for (source, _), target in zip(files, targets, strict=True)
        ]
        for future in futures:
            assert future.result().bytes_out > 0
            assert future.attempts == 2
        assert pool.statistics.replaced == 6
    for index, (_, data) in enumerate(files):
        np.testing.assert_array_equal(read_compressed(tmp_path / f"compressed{index}"), data)


def test_what_lies_at_the_target_is_replaced(tmp_path: Path) -> None:
    source, data = write_cube_file(tmp_path / "raw", seed=2)
    target = target_in(tmp_path / "compressed")
    target.write_bytes(b"left by somebody" * 100_000)
    CompressFile(str(source), str(target), "fast").run()
    assert target.stat().st_size < source.stat().st_size
    np.testing.assert_array_equal(read_compressed(tmp_path / "compressed"), data)


def test_a_damaged_source_is_an_error_that_names_it_and_leaves_no_target(tmp_path: Path) -> None:
    source, _ = write_cube_file(tmp_path / "raw", seed=3)
    os.truncate(source, 1000)
    target = target_in(tmp_path / "compressed")
    with CompressionPool(1) as pool, pytest.raises(DataLoss) as caught:
        pool.submit(CompressFile(str(source), str(target), "auto")).result()
    assert caught.value.metadata["file"] == str(source)
    assert not target.exists()


def test_a_missing_source_a_target_that_is_a_folder_and_a_level_there_is_not_are_refused(tmp_path: Path) -> None:
    source, _ = write_cube_file(tmp_path / "raw", seed=4)
    target = target_in(tmp_path / "compressed")
    with CompressionPool(1) as pool:
        missing = pool.submit(CompressFile(str(tmp_path / "none.wkw"), str(target), "auto"))
        folder = pool.submit(CompressFile(str(source), str(target.parent), "auto"))
        level = pool.submit(CompressFile(str(source), str(target), 13))
        assert str(tmp_path / "none.wkw") in str(missing.exception())
        error = folder.exception()
        assert isinstance(error, DataLoss)
        assert error.metadata["file"] == str(target.parent)
        assert isinstance(level.exception(), InvalidRequest)
    assert target.parent.is_dir()
