"""The exercise of many writers must notice every way in which a mag could go wrong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.cli.exercise import Written, overlaps, random_box, replay, voxels_of, write_boxes
from magd.geometry import Box, Vec3
from magd.voxels import VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from magd_client import MagHandle

WITHIN = Box.of((3, 4, 5), (30, 20, 10))
VOXELS = VoxelFormat.of("uint16", 2)


class MagInMemory:
    """A mag that is right, and can be made wrong."""

    def __init__(self, *, forgets_ids: bool = False, tears: bool = False) -> None:
        self.data = VOXELS.zeros(WITHIN.end)
        self._revision = Revision(1, 0)
        self._lock = threading.Lock()
        self._outcomes: dict[str, Revision] = {}
        self._forgets_ids = forgets_ids
        self._tears = tears

    def write(self, data: VoxelArray, *, offset: Vec3, request_id: str, durability: str) -> Acknowledgement:
        (x, y, z), (end_x, end_y, end_z) = offset, offset + Vec3.of(data.shape[1:])
        with self._lock:
            if request_id not in self._outcomes or self._forgets_ids:
                self._revision = self._outcomes[request_id] = self._revision.next()
                self.data[:, x : end_x - self._tears, y:end_y, z:end_z] = data[:, : data.shape[1] - self._tears]
            return Acknowledgement(self._outcomes[request_id], Durability.PROCESS)

    def read(self) -> VoxelArray:
        (x, y, z), (end_x, end_y, end_z) = WITHIN.offset, WITHIN.end
        return self.data[:, x:end_x, y:end_y, z:end_z]


def exercise(mag: MagInMemory) -> list[Written]:
    def write(writer: int) -> list[Written]:
        return write_boxes(cast("MagHandle", mag), WITHIN, VOXELS, writer=writer, count=10)

    with ThreadPoolExecutor(4) as threads:
        return [written for some in threads.map(write, range(4)) for written in some]


def replayed(written: list[Written]) -> VoxelArray:
    return replay(VOXELS.zeros(WITHIN.size), WITHIN, written, VOXELS)


def test_a_mag_that_is_right_holds_what_the_order_of_revisions_explains() -> None:
    mag = MagInMemory()
    written = exercise(mag)
    assert len(written) == 40
    assert sum(write.retried for write in written) == 8
    assert overlaps(written) > 100
    np.testing.assert_array_equal(mag.read(), replayed(written))


def test_a_retry_that_is_applied_again_is_noticed() -> None:
    with pytest.raises(AssertionError, match="a retry was applied again"):
        exercise(MagInMemory(forgets_ids=True))


def test_torn_writes_are_noticed() -> None:
    mag = MagInMemory(tears=True)
    assert (mag.read() != replayed(exercise(mag))).any()


def test_another_order_is_noticed() -> None:
    mag = MagInMemory()
    first, *others = exercise(mag)
    last = max(write.revision for write in others).next()
    assert (mag.read() != replayed([*others, Written(last, first.box, first.number, False)])).any()


def test_boxes_stay_inside_also_where_there_is_no_room() -> None:
    random = np.random.default_rng(0)
    for size in ((1, 1, 1), (2, 1, 3), (30, 20, 10)):
        within = Box.of((5, 5, 5), size)
        for _ in range(100):
            box = random_box(random, within)
            assert within.contains(box)
            assert box.problem() is None


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float64"])
def test_the_same_number_stands_for_the_same_voxels(dtype: str) -> None:
    voxels = VoxelFormat.of(dtype, 1)
    a: Any = voxels_of(7, Vec3(9, 8, 7), voxels)
    assert a.flags.f_contiguous
    assert a.dtype == voxels.dtype
    np.testing.assert_array_equal(a, voxels_of(7, Vec3(9, 8, 7), voxels))
    assert (a != voxels_of(8, Vec3(9, 8, 7), voxels)).any()
