"""How large boxes are written into a raw cube file."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.geometry import Box
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HEADER = Header(VoxelFormat.of(np.dtype("uint8"), 1), block_len=32, file_len=8, block_type=BlockType.RAW)


def test_one_thread_at_a_time_writes_a_cube_file_and_blocks_of_two_layers_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box.of((0, 0, 0), (256, 256, 128))
    data = HEADER.voxels.empty(box.size)
    data[...] = np.random.default_rng(0).integers(0, 256, data.shape, dtype=np.uint8)
    files = MagFiles.create(str(tmp_path / "mag"), HEADER)
    files.write(box, np.zeros_like(data))
    in_kernel = threading.Lock()
    overlaps = 0
    sizes: list[int] = []
    real = os.pwritev

    def pwritev(fd: int, buffers: Any, offset: int) -> int:
        nonlocal overlaps
        if not in_kernel.acquire(blocking=False):
            overlaps += 1
            return real(fd, buffers, offset)
        try:
            sizes.append(sum(len(buffer) for buffer in buffers))
            return real(fd, buffers, offset)
        finally:
            in_kernel.release()

    monkeypatch.setattr(os, "pwritev", pwritev)
    files.write(box, data)
    assert not overlaps
    assert sum(sizes) == data.nbytes
    assert min(sizes) >= 2**3 * HEADER.block_bytes, "as many as follow each other in Morton order"
    np.testing.assert_array_equal(files.read(box), data)
    files.close()
