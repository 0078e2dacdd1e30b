"""Large boxes: what happens to them while they travel, and what they leave in memory and on the disk."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magd.acknowledgement import Acknowledgement, Durability
from magd.actors import arrival as arrival_module
from magd.actors import commit, requests
from magd.actors import volume as volume_module
from magd.actors.requests import fingerprint_of, slabs_of
from magd.actors.types import Bounds, Mask, WriteCommand
from magd.cubes.header import BlockType, Header
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, DiskFull, InvalidRequest
from magd.geometry import Box, Vec3
from magd.journal import journal_file
from magd.journal.journal import Journal
from magd.journal.staging import Staging
from magd.voxels import VoxelArray, VoxelFormat
from tests.support.voxels import make_mag, read, read_result, until, write

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from magd.actors.storage import Storage
    from magd.catalog.names import MagName

BOX = Box.of((0, 0, 0), (64, 64, 64))
UINT8 = VoxelFormat.of("uint8", 1)
PIECE_BYTES = 10_000


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small boxes are large."""
    monkeypatch.setattr(volume_module, "SIDE_BYTES", 1000)
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)
    monkeypatch.setattr(arrival_module, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(requests, "SLAB_BYTES", 2 * 64 * 64 * 8)


def noise(seed: int = 1) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(seed).integers(0, 256, (1, *BOX.size), dtype=np.uint8))


def journal_names(tmp_path: Path) -> list[str]:
    folder = tmp_path / "root" / "brain" / "color" / "1" / ".magd" / "journal"
    return sorted(os.listdir(folder)) if folder.exists() else []


def data_names(tmp_path: Path) -> list[str]:
    """Without the journal file, which begins while the first large box is on its way."""
    return [name for name in journal_names(tmp_path) if ".journal" not in name]


async def arrive(
    storage: Storage,
    name: MagName,
    data: VoxelArray,
    *,
    request_id: str = "id",
    durability: Durability = Durability.PROCESS,
    mask: Mask = Mask.ALL,
    bytes_at_a_time: int = 7000,
    stop_after: int | None = None,
) -> Acknowledgement | None:
    """Write a box as its handler does: its bytes come one part after the other.

    :param stop_after: leave after so many bytes
    """
    cost = await storage.volume.check_write(name, BOX, UINT8, Bounds.EXTEND, mask)
    raw = data.tobytes(order="F")
    with (
        await storage.budget.lease(cost) as lease,
        await storage.volume.arrival(name, BOX, UINT8, durability, mask, lease) as arrival,
    ):
        for start in range(0, len(raw), bytes_at_a_time):
            if stop_after is not None and start >= stop_after:
                return None
            arrival.add(raw[start : start + bytes_at_a_time])
            await asyncio.sleep(0)
        await arrival.finish()
        command = WriteCommand(request_id, BOX, arrival.data, durability, Bounds.EXTEND, mask, staging=arrival.staging)
        return await storage.volume.write(name, command, lease)


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("bytes_at_a_time", [64**3, 12_345, 3000])
async def test_a_box_that_arrives_in_parts_is_committed_whole(
    storage: Storage, tmp_path: Path, durability: Durability, bytes_at_a_time: int
) -> None:
    name = await make_mag(storage)
    data = noise()
    assert await arrive(storage, name, data, durability=durability, bytes_at_a_time=bytes_at_a_time)
    np.testing.assert_array_equal(await read(storage, name, BOX.offset, BOX.size), data)
    kinds = {name.rpartition(".")[2] for name in journal_names(tmp_path)}
    assert kinds == ({"journal"} if durability is Durability.NONE else {"journal", "side"})
    await storage.flush("")
    await until(lambda: storage.budget.used_bytes == 0)
    kinds = {name.rpartition(".")[2] for name in journal_names(tmp_path)}
    assert kinds == ({"journal"} if durability is Durability.NONE else {"journal", "staged"}), "the file is kept"


@pytest.mark.usefixtures("small_sizes")
async def test_the_data_of_a_record_is_the_file_it_arrived_in(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_second_copy(path: str, data: memoryview) -> None:
        raise AssertionError(f"{len(data)} bytes are written to {path} again")

    monkeypatch.setattr(journal_file, "_written_side", no_second_copy)
    monkeypatch.setattr(journal_file, "checksum_of", None)  # nor is it gone through again
    name = await make_mag(storage)
    await arrive(storage, name, noise())
    assert [name for name in journal_names(tmp_path) if name.endswith("side")]


@pytest.mark.usefixtures("small_sizes")
async def test_the_journal_begins_while_the_first_large_box_is_on_its_way(storage: Storage, tmp_path: Path) -> None:
    name = await make_mag(storage)
    cost = await storage.volume.check_write(name, BOX, UINT8, Bounds.EXTEND, Mask.ALL)
    with (
        await storage.budget.lease(cost) as lease,
        await storage.volume.arrival(name, BOX, UINT8, Durability.PROCESS, Mask.ALL, lease),
    ):
        await until(lambda: any(name.endswith(".journal") for name in journal_names(tmp_path)))
    await write(storage, name, (0, 0, 0), noise()[0])
    np.testing.assert_array_equal(await read(storage, name, BOX.offset, BOX.size), noise())


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("failures", [1, 1000])
async def test_a_journal_that_could_not_begin_while_a_box_was_on_its_way_is_tried_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    name = await make_mag(storage)
    real, failed = Journal.begin, 0

    def begin(*given: Any) -> Journal:
        nonlocal failed
        if failed < failures:
            failed += 1
            raise DiskFull("there is no space")
        return real(*given)

    monkeypatch.setattr(Journal, "begin", begin)
    if failures == 1:
        assert await arrive(storage, name, noise())
        np.testing.assert_array_equal(await read(storage, name, BOX.offset, BOX.size), noise())
    else:
        with pytest.raises(DiskFull):
            await arrive(storage, name, noise())
        assert failed >= 2, "once early, and once for the write"
    monkeypatch.undo()


@pytest.mark.usefixtures("small_sizes")
async def test_on_a_full_disk_nothing_is_staged_and_an_old_outcome_is_told(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await make_mag(storage)
    first = await arrive(storage, name, noise())
    before = journal_names(tmp_path)
    real, while_it_arrived = Staging.take, []

    def take(self: Staging, data: memoryview) -> None:
        while_it_arrived.append(journal_names(tmp_path))
        real(self, data)

    def refuse(*_: object) -> None:
        raise DiskFull("there is no space")

    monkeypatch.setattr(Staging, "take", take)
    monkeypatch.setattr(volume_module, "require_space", refuse)
    monkeypatch.setattr(commit, "require_space", refuse)
    assert await arrive(storage, name, noise()) == first
    with pytest.raises(DiskFull):
        await arrive(storage, name, noise(2), request_id="other")
    assert while_it_arrived
    assert not any(name.endswith("staged") for names in while_it_arrived for name in names)
    assert not [name for name in data_names(tmp_path) if name not in before]


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("stop_after", [1, PIECE_BYTES, 3 * PIECE_BYTES, 200_000])
async def test_who_leaves_before_the_end_leaves_nothing(storage: Storage, tmp_path: Path, stop_after: int) -> None:
    name = await make_mag(storage)
    await arrive(storage, name, noise(), stop_after=stop_after)
    await until(lambda: storage.budget.used_bytes == 0)
    await until(lambda: data_names(tmp_path) == [])
    assert not (await read(storage, name, BOX.offset, BOX.size)).any()


@pytest.mark.usefixtures("small_sizes")
async def test_a_call_that_is_cancelled_while_a_thread_works_gives_back_file_and_memory_after_it(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await make_mag(storage)
    entered, go_on = threading.Event(), threading.Event()
    real = Staging.take

    def wait(self: Staging, data: memoryview) -> None:
        entered.set()
        assert go_on.wait(20)
        real(self, data)

    monkeypatch.setattr(Staging, "take", wait)
    call = asyncio.create_task(arrive(storage, name, noise()))
    await until(entered.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert storage.budget.used_bytes > 0
    assert len(data_names(tmp_path)) == 1
    go_on.set()
    await until(lambda: storage.budget.used_bytes == 0)
    await until(lambda: data_names(tmp_path) == [])


@pytest.mark.usefixtures("small_sizes")
async def test_a_retry_joins_the_first_attempt_and_its_file_is_removed(storage: Storage, tmp_path: Path) -> None:
    name = await make_mag(storage)
    data = noise()
    first = await arrive(storage, name, data)
    assert await arrive(storage, name, data, bytes_at_a_time=50_000) == first
    assert await write(storage, name, (0, 0, 0), data[0], request_id="id") == first, "also by another way"
    with pytest.raises(InvalidRequest):
        await arrive(storage, name, noise(2))
    await until(lambda: not [name for name in journal_names(tmp_path) if name.endswith("staged")])


@pytest.mark.usefixtures("small_sizes")
async def test_a_masked_box_that_arrives_in_parts_keeps_what_lies_below_its_zeros(storage: Storage) -> None:
    name = await make_mag(storage)
    below, data = noise(), noise(2)
    data[:, ::2] = 0
    await arrive(storage, name, below, request_id="below")
    await arrive(storage, name, data, mask=Mask.NONZERO)
    expected = np.where(data == 0, below, data)
    np.testing.assert_array_equal(await read(storage, name, BOX.offset, BOX.size), expected)


def test_a_write_has_one_fingerprint_however_its_data_came() -> None:
    data = noise()
    staging = Staging(None, sync=False)
    staging.take(data.reshape(-1, order="F").data)
    at_once = WriteCommand("id", BOX, data, Durability.PROCESS, Bounds.EXTEND)
    in_parts = WriteCommand("id", BOX, data, Durability.PROCESS, Bounds.EXTEND, staging=staging)
    other = WriteCommand("id", BOX, noise(2), Durability.PROCESS, Bounds.EXTEND)
    assert fingerprint_of(at_once) == fingerprint_of(in_parts) != fingerprint_of(other)


# -- reading -----------------------------------------------------------------------------------------------------------


@given(
    offset=st.tuples(*[st.integers(0, 200)] * 3),
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 300)),
    block_len=st.sampled_from([1, 8, 32, 128]),
)
def test_slabs_are_the_box_in_the_order_of_its_bytes_and_share_no_block(
    offset: tuple[int, int, int], size: tuple[int, int, int], block_len: int
) -> None:
    box, header = Box.of(offset, size), Header(UINT8, block_len, 32, BlockType.RAW)
    slabs = list(slabs_of(box, header))
    assert slabs[0].offset == box.offset
    assert slabs[-1].end == box.end
    for before, after in pairwise(slabs):
        assert after.offset == Vec3(box.offset.x, box.offset.y, before.end.z)
        assert after.offset.z % block_len == 0
    layer = box.size.x * box.size.y * block_len
    assert all(UINT8.nbytes(slab) <= max(requests.SLAB_BYTES, layer) for slab in slabs)
    assert len(slabs) <= 2 + UINT8.nbytes(box) // min(requests.SLAB_BYTES // 2, layer)


async def slabs_read(storage: Storage, name: MagName, box: Box) -> list[VoxelArray]:
    with await storage.budget.lease(1 << 20) as lease:
        return [slab.data async for slab in storage.volume.read_slabs(name, box, lease)]


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("compressed", [False, True])
async def test_the_slabs_of_a_box_are_the_box(storage: Storage, compressed: bool) -> None:
    name = await make_mag(storage, compressed=compressed)
    model = np.zeros((1, 80, 80, 80), np.uint8)
    for seed, offset in enumerate([(0, 0, 0), (16, 9, 3)]):  # some of it in the overlay
        x, y, z = (slice(start, start + 64) for start in offset)
        model[:, x, y, z] = noise(seed)
        await write(storage, name, offset, noise(seed))
    box = Box.of((1, 2, 3), (70, 71, 72))
    slabs = await slabs_read(storage, name, box)
    assert len(slabs) > 3
    np.testing.assert_array_equal(np.concatenate(slabs, axis=3), model[:, 1:71, 2:73, 3:75])


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
@pytest.mark.parametrize("compressed", [False, True])
async def test_slabs_are_read_into_the_place_there_is_for_them(storage: Storage, compressed: bool, dtype: str) -> None:
    name = await make_mag(storage, compressed=compressed, dtype=dtype)
    model = np.zeros((1, 80, 80, 80), dtype)
    for seed, offset in enumerate([(0, 0, 0), (16, 9, 3)]):  # some of it in the overlay
        x, y, z = (slice(start, start + 64) for start in offset)
        model[:, x, y, z] = noise(seed)
        await write(storage, name, offset, noise(seed).astype(dtype))
    box = Box.of((1, 2, 3), (70, 71, 72))
    expected = model[:, 1:71, 2:73, 3:75]
    memory = np.full(1 + expected.nbytes, 99, np.uint8)
    limit = expected.nbytes * 2 // 3

    def place(start: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        end = start + size_bytes
        return memory[1 + start : 1 + end] if end <= limit else None

    with await storage.budget.lease(1 << 20) as lease:
        slabs = [slab async for slab in storage.volume.read_slabs(name, box, lease, place)]
    np.testing.assert_array_equal(np.concatenate([slab.data for slab in slabs], axis=3), expected)
    placed = [slab for slab in slabs if slab.is_placed]
    assert 1 < len(placed) < len(slabs)
    assert all(np.shares_memory(slab.data, memory) == slab.is_placed for slab in slabs)
    filled = sum(slab.data.nbytes for slab in placed)
    assert memory[1 : 1 + filled].tobytes() == expected.tobytes(order="F")[:filled]
    assert (memory[1 + filled :] == 99).all()


@pytest.mark.usefixtures("small_sizes")
async def test_a_read_that_fails_in_the_middle_is_an_error_and_no_zeros(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await make_mag(storage)
    await write(storage, name, (0, 0, 0), noise())
    real = MagFiles.read

    def fail(self: MagFiles, box: Box, out: VoxelArray | None = None) -> VoxelArray:
        if box.offset.z >= 32:
            raise DataLoss("a block is damaged", metadata={"file": "z0"})
        return real(self, box, out)

    monkeypatch.setattr(MagFiles, "read", fail)
    seen: list[VoxelArray] = []

    async def read_on() -> None:
        with await storage.budget.lease(1 << 20) as lease:
            async for slab in storage.volume.read_slabs(name, BOX, lease):
                seen.append(slab.data)  # noqa: PERF401  # those before the failure are to be seen

    with pytest.raises(DataLoss, match="a block is damaged"):
        await read_on()
    np.testing.assert_array_equal(np.concatenate(seen, axis=3), noise()[..., :32])
    await until(lambda: storage.budget.used_bytes == 0)


@pytest.mark.usefixtures("small_sizes")
async def test_the_turn_ends_when_all_is_read_and_not_when_all_is_sent(storage: Storage) -> None:
    name = await make_mag(storage)
    await write(storage, name, (0, 0, 0), noise())
    with await storage.budget.lease(1 << 20) as lease:
        slabs = storage.volume.read_slabs(name, BOX, lease)
        parts = [(await anext(slabs)).data]
        await write(storage, name, (0, 0, 0), noise(2))  # waits for the turn, not for the reader
        parts += [slab.data async for slab in slabs]
    np.testing.assert_array_equal(np.concatenate(parts, axis=3), noise())
    np.testing.assert_array_equal((await read_result(storage, name, BOX)).data, noise(2))


@pytest.mark.usefixtures("small_sizes")
async def test_a_read_that_is_left_is_not_read_to_its_end(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await make_mag(storage)
    await write(storage, name, (0, 0, 0), noise())
    entered, go_on = threading.Event(), threading.Event()
    boxes: list[Box] = []
    real = MagFiles.read

    def wait(self: MagFiles, box: Box, out: VoxelArray | None = None) -> VoxelArray:
        boxes.append(box)
        if len(boxes) == 2:
            entered.set()
            assert go_on.wait(20)
        return real(self, box, out)

    monkeypatch.setattr(MagFiles, "read", wait)
    with await storage.budget.lease(1 << 20) as lease:
        slabs = storage.volume.read_slabs(name, BOX, lease)
        await anext(slabs)
        await until(entered.is_set)
        await slabs.aclose()
        await asyncio.sleep(0)
    assert storage.budget.used_bytes > 0
    go_on.set()
    await until(lambda: storage.budget.used_bytes == 0)
    assert len(boxes) == 2


# -- what is left ------------------------------------------------------------------------------------------------------


async def test_a_mag_keeps_nothing_of_a_box_that_is_in_its_files_or_was_read(storage: Storage) -> None:
    name = await make_mag(storage)
    data: Any = noise()
    written = weakref.ref(data)
    command: Any = WriteCommand("", BOX, data, Durability.PROCESS, Bounds.EXTEND)
    with await storage.budget.lease(1 << 20) as lease:
        await storage.volume.write(name, command, lease)
    del data, command
    await storage.flush("")
    await until(lambda: written() is None)

    with await storage.budget.lease(1 << 20) as lease:
        result = await storage.volume.read(name, BOX, lease)
    read_data = weakref.ref(result.data)
    del result
    await until(lambda: read_data() is None)
