"""Mags that are stored in another way while they are in use: nothing is lost, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import wkw

from magd.actors import conversion
from magd.actors.storage import Storage
from magd.actors.types import OperationState
from magd.catalog.names import MagName
from magd.catalog.root import Root
from magd.compression.pool import MAX_ATTEMPTS, CompressionPool
from magd.cubes import convert
from magd.cubes.header import BlockType
from magd.errors import AlreadyExists, Conflict, DataLoss, InvalidRequest, Reason
from magd.geometry import Mag
from tests.actors.conftest import CONFIG
from tests.support.voxels import finished, make_mag, read, until, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magd.actors.types import OperationInfo
    from magd.voxels import VoxelArray

EDGE = 40
"""Of what is written, in voxels: over several cube files of 16 voxels, and none of their borders."""


async def compress(storage: Storage, mag: MagName, target: str | None = None) -> OperationInfo:
    return await storage.compress(mag, target=target, level="auto", request_id="")


async def decompress(storage: Storage, mag: MagName, target: str | None = None) -> OperationInfo:
    return await storage.decompress(mag, target=target, request_id="")


async def longer(storage: Storage, mag: MagName, target: str | None = None) -> OperationInfo:
    return await storage.rechunk(mag, target=target, block_len=4, file_len=16, request_id="")


async def shorter(storage: Storage, mag: MagName, target: str | None = None) -> OperationInfo:
    return await storage.rechunk(mag, target=target, block_len=0, file_len=1, request_id="")


async def same_edge(storage: Storage, mag: MagName, target: str | None = None) -> OperationInfo:
    return await storage.rechunk(mag, target=target, block_len=4, file_len=4, request_id="")


# Whether the mag is compressed before, and what is done to it.
KINDS: dict[str, tuple[bool, Any]] = {
    "compress": (False, compress),
    "decompress": (True, decompress),
    "longer raw": (False, longer),
    "shorter compressed": (True, shorter),
    "same edge compressed": (True, same_edge),
}
kinds = pytest.mark.parametrize(("compressed", "convert_mag"), KINDS.values(), ids=KINDS.keys())


def some_voxels(seed: int = 0) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(seed).integers(0, 5, (EDGE, EDGE, EDGE), dtype=np.uint8))


async def succeed(storage: Storage, started: OperationInfo) -> OperationInfo:
    done = await finished(storage, started)
    assert done.state is OperationState.SUCCEEDED, done
    return done


def read_files(folder: Path, mag: str = "1") -> VoxelArray:
    """What the `wkw` package finds."""
    with wkw.Dataset.open(str(folder / mag)) as files:
        voxels: VoxelArray = files.read((0, 0, 0), (EDGE, EDGE, EDGE))[0]
    return voxels


def cube_length(dataset: Path) -> int:
    tree = json.loads((dataset / "datasource-properties.json").read_text())
    length: int = tree["dataLayers"][0]["mags"][0]["cubeLength"]
    return length


def parts_of(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Make cube files in parts of this size. The daemon decides that, not the processes."""
    monkeypatch.setattr(convert, "PART_BYTES", size_bytes)


@contextmanager
def stopped_workers() -> Iterator[None]:
    """Every process of the pool stands still."""
    pids = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@kinds
@pytest.mark.parametrize("part_bytes", [convert.PART_BYTES, 1024])
async def test_in_place_every_voxel_stays_and_everybody_is_told_the_lengths(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compressed: bool,
    convert_mag: Any,
    part_bytes: int,
) -> None:
    parts_of(monkeypatch, part_bytes)
    mag = await make_mag(storage, compressed=compressed)
    voxels = some_voxels()
    await write(storage, mag, (0, 0, 0), voxels)
    await storage.flush("")
    before = await storage.hierarchy.get_mag(mag)
    done = await succeed(storage, await convert_mag(storage, mag))
    after = await storage.hierarchy.get_mag(mag)
    assert done.result == str(mag)
    assert (before.generation, after.generation) == (0, 1)
    assert (before.block_type, before.block_len, before.file_len) != (after.block_type, after.block_len, after.file_len)
    assert cube_length(tmp_path / "root/brain") == after.block_len * after.file_len
    assert np.array_equal((await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], voxels)
    assert np.array_equal(read_files(tmp_path / "root/brain/color"), voxels)
    assert sorted(os.listdir(tmp_path / "root/brain/color")) == ["1"]
    again = await convert_mag(storage, mag)
    assert again.state is OperationState.SUCCEEDED, "it is stored so already"
    # Life goes on.
    await write(storage, mag, (3, 3, 3), voxels + np.uint8(1))
    await storage.flush("")
    assert np.array_equal(read_files(tmp_path / "root/brain/color")[3:, 3:, 3:], voxels[:-3, :-3, :-3] + 1)


@kinds
async def test_into_another_dataset_the_mag_stays_as_it_is(
    storage: Storage, tmp_path: Path, compressed: bool, convert_mag: Any
) -> None:
    mag = await make_mag(storage, compressed=compressed)
    voxels = some_voxels()
    await write(storage, mag, (0, 0, 0), voxels)
    before = await storage.hierarchy.get_mag(mag)
    done = await succeed(storage, await convert_mag(storage, mag, "other"))
    target = MagName("other", "color", Mag.of(1))
    assert done.result == str(target)
    made = await storage.hierarchy.get_mag(target)
    assert cube_length(tmp_path / "root/other") == made.block_len * made.file_len
    assert np.array_equal((await read(storage, target, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], voxels)
    assert np.array_equal(read_files(tmp_path / "root/other/color"), voxels)
    after = await storage.hierarchy.get_mag(mag)
    assert (after.block_type, after.block_len, after.file_len) == (
        before.block_type,
        before.block_len,
        before.file_len,
    )
    with pytest.raises(AlreadyExists):
        await convert_mag(storage, mag, "other")


IN_JOURNAL, IN_ROUNDS, IN_HOLD = (conversion.LITTLE_BYTES, conversion.CARRIED_BYTES), (0, 1 << 20), (0, 0)
"""What is touched comes along in the journal, goes through rounds first, or is spliced while the mag is held."""


@pytest.mark.parametrize(
    ("kind", "into", "way"),
    [
        *((kind, None, IN_JOURNAL) for kind in KINDS),
        *((kind, None, way) for kind in ("compress", "same edge compressed") for way in (IN_ROUNDS, IN_HOLD)),
        ("compress", "other", IN_JOURNAL),
        ("longer raw", "other", IN_HOLD),
    ],
)
async def test_everything_that_is_written_meanwhile_is_in_the_result(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    into: str | None,
    way: tuple[int, int],
) -> None:
    compressed, convert_mag = KINDS[kind]
    monkeypatch.setattr(conversion, "LITTLE_BYTES", way[0])
    monkeypatch.setattr(conversion, "CARRIED_BYTES", way[1])
    parts_of(monkeypatch, 2048)
    mag = await make_mag(storage, compressed=compressed)
    model = some_voxels()
    await write(storage, mag, (0, 0, 0), model)
    before_end: list[VoxelArray] = []
    operation = await convert_mag(storage, mag, into)
    rng = np.random.default_rng(3)
    value = 0
    while not storage.get_operation(operation.name).state.has_ended:
        x, y, z = (int(v) for v in rng.integers(0, EDGE - 9, 3))
        value = value % 250 + 1
        await write(storage, mag, (x, y, z), np.full((9, 9, 9), value, dtype="uint8"))
        model[x : x + 9, y : y + 9, z : z + 9] = value
        before_end.append(model.copy())
    done = await succeed(storage, operation)
    assert np.array_equal((await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], model)
    await storage.flush("")
    assert np.array_equal(read_files(tmp_path / "root/brain/color"), model)
    if into is not None:
        # A moment of the time in which it ran, as a whole.
        copy = read_files(tmp_path / "root/other/color")
        assert any(np.array_equal(copy, state) for state in (some_voxels(), *before_end))
    assert done.statistics is not None
    assert done.statistics.longest_hold_seconds > 0


async def test_blocks_written_meanwhile_are_told(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "LITTLE_BYTES", 0)
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), some_voxels())
    with stopped_workers():
        operation = await compress(storage, mag)
        await until(lambda: storage.get_operation(operation.name).progress.files_total)
        await write(storage, mag, (0, 0, 0), np.ones((1, 1, 1), "uint8"))
        await storage.flush("")
    done = await succeed(storage, operation)
    assert done.statistics is not None
    assert done.statistics.respliced_blocks == 1
    assert done.progress.files_redone == 1
    assert (await read(storage, mag, (0, 0, 0), (1, 1, 1))).item() == 1


async def test_the_numbers_of_a_conversion_add_up(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage, block_len=16, file_len=2)
    noise = np.random.default_rng(1).integers(1, 256, (16, 16, 16), dtype=np.uint8)
    await write(storage, mag, (0, 0, 0), noise)
    await write(storage, mag, (16, 0, 0), np.ones((16, 16, 16), dtype="uint8"))
    await write(storage, mag, (64, 0, 0), np.zeros((3, 3, 3), dtype="uint8"))
    await storage.flush("")
    done = await succeed(storage, await compress(storage, mag))
    statistics = done.statistics
    assert statistics is not None
    assert (statistics.zero_blocks, statistics.stored_blocks, statistics.high_blocks) == (14, 1, 1)
    assert statistics.raw_bytes == 2 * 32**3 == done.progress.bytes_total == done.progress.bytes_done
    path = tmp_path / "root/brain/color/1/z0/y0/x0.wkw"
    assert statistics.stored_bytes == path.stat().st_size - 16 - 8 * 8
    assert statistics.seconds > 0
    assert statistics.note == ""
    # A cube file of nothing but zeros is left out.
    assert not (tmp_path / "root/brain/color/1/z0/y0/x2.wkw").exists()
    assert not (await read(storage, mag, (64, 0, 0), (3, 3, 3))).any()


async def test_where_nothing_is_gained_it_says_so_and_with_a_least_gain_nothing_is_written(
    storage: Storage, tmp_path: Path
) -> None:
    mag = await make_mag(storage, block_len=16, file_len=2)
    noise = np.random.default_rng(1).integers(1, 256, (48, 48, 48), dtype=np.uint8)
    await write(storage, mag, (0, 0, 0), noise)
    skipped = await succeed(
        storage, await storage.compress(mag, target=None, level="auto", min_gain=0.1, request_id="")
    )
    assert skipped.statistics is not None
    assert "left as it is" in skipped.statistics.note
    assert (skipped.result, skipped.progress.files_done) == (str(mag), 0)
    info = await storage.hierarchy.get_mag(mag)
    assert (info.block_type, info.generation) == (BlockType.RAW, 0)
    assert sorted(os.listdir(tmp_path / "root/brain/color")) == ["1"]
    done = await succeed(storage, await compress(storage, mag))
    assert done.statistics is not None
    assert "next to nothing" in done.statistics.note


async def test_a_least_gain_that_is_reached_does_not_hinder(storage: Storage) -> None:
    mag = await make_mag(storage, block_len=16, file_len=2)
    await write(storage, mag, (0, 0, 0), np.full((50, 50, 50), 7, dtype="uint8"))
    await succeed(storage, await storage.compress(mag, target=None, level="auto", min_gain=0.5, request_id=""))
    assert (await storage.hierarchy.get_mag(mag)).block_type is BlockType.LZ4HC
    with pytest.raises(InvalidRequest, match="min_gain"):
        await storage.compress(mag, target=None, level="auto", min_gain=1.5, request_id="")


@pytest.mark.parametrize(("field", "length"), [("block_len", 3), ("block_len", 256), ("file_len", -1)])
async def test_lengths_that_no_mag_may_have_are_refused(storage: Storage, field: str, length: int) -> None:
    mag = await make_mag(storage)
    lengths = {"block_len": 0, "file_len": 0} | {field: length}
    with pytest.raises(InvalidRequest) as refused:
        await storage.rechunk(mag, target=None, request_id="", **lengths)
    assert refused.value.metadata["field"] == field


async def test_a_damaged_cube_file_fails_it_and_changes_nothing(storage: Storage, tmp_path: Path) -> None:
    mag = await make_mag(storage, compressed=True)
    await write(storage, mag, (0, 0, 0), some_voxels())
    await storage.flush("")
    path = tmp_path / "root/brain/color/1/z0/y1/x1.wkw"
    path.write_bytes(path.read_bytes()[:-20] + b"\xff" * 20)
    failed = await finished(storage, await decompress(storage, mag))
    assert failed.state is OperationState.FAILED
    assert failed.failure is not None
    assert failed.failure.metadata["file"] == str(path)
    assert failed.statistics is None
    assert sorted(os.listdir(tmp_path / "root/brain/color")) == ["1"]
    with pytest.raises(DataLoss):
        await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE))


@kinds
async def test_cancelling_does_not_wait_for_what_the_processes_do(
    storage: Storage, tmp_path: Path, compressed: bool, convert_mag: Any
) -> None:
    mag = await make_mag(storage, compressed=compressed)
    voxels = some_voxels()
    await write(storage, mag, (0, 0, 0), voxels)
    with stopped_workers():  # these do not finish their jobs
        operation = await convert_mag(storage, mag)
        await until(lambda: storage.get_operation(operation.name).progress.files_total)
        storage.cancel_operation(operation.name)
        assert (await finished(storage, operation)).state is OperationState.CANCELLED
    assert sorted(os.listdir(tmp_path / "root/brain/color")) == ["1"]
    assert (await storage.hierarchy.get_mag(mag)).generation == 0
    assert np.array_equal((await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], voxels)
    await succeed(storage, await convert_mag(storage, mag))
    assert np.array_equal((await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], voxels)


@kinds
async def test_processes_that_are_killed_at_random_cost_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool, convert_mag: Any
) -> None:
    parts_of(monkeypatch, 1024)
    rng = random.Random(str(convert_mag))
    with CompressionPool(2) as own_pool:
        async with Storage(Root(str(tmp_path)), CONFIG, own_pool) as storage:
            mag = await make_mag(storage, compressed=compressed, block_len=8, file_len=4)
            voxels = some_voxels()
            await write(storage, mag, (0, 0, 0), voxels)
            operation = await convert_mag(storage, mag)
            killed = 0
            # Fewer than the attempts of a job: all of them may meet the same one.
            while killed < MAX_ATTEMPTS - 1 and not storage.get_operation(operation.name).state.has_ended:
                await asyncio.sleep(rng.random() / 50)
                children = [process for process in multiprocessing.active_children() if process.pid is not None]
                if children and own_pool.statistics.running:
                    victim = rng.choice(children)
                    assert victim.pid is not None
                    os.kill(victim.pid, signal.SIGKILL)
                    killed += 1
            await succeed(storage, operation)
            assert np.array_equal((await read(storage, mag, (0, 0, 0), (EDGE, EDGE, EDGE)))[0], voxels)
            assert np.array_equal(read_files(tmp_path / "brain/color"), voxels)


async def test_a_mag_has_one_operation_at_a_time_whatever_they_are(storage: Storage) -> None:
    mag = await make_mag(storage)
    await write(storage, mag, (0, 0, 0), some_voxels())
    operation = await longer(storage, mag)
    for attempt in (compress(storage, mag), decompress(storage, mag), shorter(storage, mag, "other")):
        with pytest.raises(Conflict) as refused:
            await attempt
        assert refused.value.reason is Reason.OPERATION_IN_PROGRESS
    await succeed(storage, operation)


async def test_conditions_on_revisions_and_ids_hold_across_a_conversion(storage: Storage) -> None:
    mag = await make_mag(storage)
    data = some_voxels()
    first = await write(storage, mag, (0, 0, 0), data, request_id="mine")
    await succeed(storage, await longer(storage, mag))
    again = await write(storage, mag, (0, 0, 0), data, request_id="mine")
    assert again == first, "the id is remembered"
    later = await write(storage, mag, (0, 0, 0), data)
    assert later.revision > first.revision
