"""Large boxes over missing cube files are written once, and nobody can tell from the voxels."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors import arrival as arrival_module
from magd.actors import storage as storage_module
from magd.actors.types import Bounds, Mask, WriteCommand
from magd.cubes.mag_files import MagFiles
from magd.errors import MagdError
from magd.geometry import Box
from magd.journal import journal_file
from magd.voxels import VoxelArray, VoxelFormat
from tests.support.voxels import make_mag, read, until, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.actors.storage import Storage
    from magd.catalog.names import MagName

UINT8 = VoxelFormat.of("uint8", 1)
SIZE = 96


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small boxes are large."""
    monkeypatch.setattr(storage_module, "SIDE_BYTES", 1000)
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)
    monkeypatch.setattr(arrival_module, "PIECE_BYTES", 3000)


async def arrive(storage: Storage, name: MagName, box: Box, data: VoxelArray, durability: Durability) -> None:
    """Write a box as its handler does: its bytes come one part after the other."""
    cost = await storage.check_write(name, box, UINT8, Bounds.EXTEND, Mask.ALL)
    raw = data.tobytes(order="F")
    with (
        await storage.budget.lease(cost) as lease,
        await storage.arrival(name, box, UINT8, durability, Mask.ALL, lease) as arrival,
    ):
        for start in range(0, len(raw), 7000):
            arrival.add(raw[start : start + 7000])
            await asyncio.sleep(0)
        await arrival.finish()
        command = WriteCommand("", box, arrival.data, durability, Bounds.EXTEND, staging=arrival.staging)
        await storage.write(name, command, lease)


def noise(box: Box, seed: int = 1) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(seed).integers(1, 256, (1, *box.size), dtype=np.uint8))


def count_links(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note of each box whose parts are to become cube files, whether they did."""
    real, results = MagFiles.link, []

    def link(self: MagFiles, box: Box, paths: list[str]) -> bool:
        results.append(real(self, box, paths))
        return results[-1]

    monkeypatch.setattr(MagFiles, "link", link)
    return results


def random_box(rng: random.Random, most: int) -> Box:
    size = [rng.randrange(1, most) for _ in range(3)]
    return Box.of([rng.randrange(SIZE - edge) for edge in size], size)


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
async def test_a_box_over_missing_cube_files_becomes_them(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    results = count_links(monkeypatch)
    name = await make_mag(storage, block_len=8, file_len=4)
    box = Box.of((3, 5, 7), (50, 40, 30))
    await arrive(storage, name, box, noise(box), durability)
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    await storage.flush("", to_files=True)
    assert results == [True]
    await until(lambda: storage.budget.used_bytes == 0)
    folder = tmp_path / "root" / "brain" / "color" / "1"
    assert {path.name.rpartition(".")[2] for path in (folder / ".magd" / "journal").iterdir()} == {"journal"}
    assert {path.stat().st_nlink for path in folder.glob("z*/y*/x*.wkw")} == {1}
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    await write(storage, name, (10, 10, 10), np.full((5, 5, 5), 7, np.uint8))
    await storage.flush("", to_files=True)
    expected = noise(box)
    expected[:, 7:12, 5:10, 3:8] = 7
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), expected)


@pytest.mark.parametrize("seed", range(8))
async def test_boxes_beside_and_over_each_other_read_as_they_were_written(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    results = count_links(monkeypatch)
    rng = random.Random(seed)
    linked = 0
    for mag in ("1", "2", "4", "8"):
        name = await make_mag(storage, mag=mag, block_len=8, file_len=rng.choice((2, 4, 8)))
        expected = np.zeros((1, SIZE, SIZE, SIZE), np.uint8)
        for _ in range(rng.randrange(2, 5)):
            group: list[Box] = []
            for _ in range(6):
                box = random_box(rng, 48)
                if not any(box.intersects(other) for other in group):
                    group.append(box)
            async with asyncio.TaskGroup() as tasks:
                for box in group:
                    data = noise(box, rng.getrandbits(30))
                    expected[:, box.offset.x : box.end.x, box.offset.y : box.end.y, box.offset.z : box.end.z] = data
                    durability = rng.choice(list(Durability))
                    if rng.random() < 0.7:
                        tasks.create_task(arrive(storage, name, box, data, durability))
                    else:
                        tasks.create_task(write(storage, name, box.offset, data, durability=durability))
            np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (SIZE, SIZE, SIZE)), expected)
            if rng.random() < 0.3:
                await storage.flush("", to_files=rng.random() < 0.5)
        await storage.flush("", to_files=True)
        np.testing.assert_array_equal(await read(storage, name, (0, 0, 0), (SIZE, SIZE, SIZE)), expected)
        linked += sum(results)
    assert linked


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
@pytest.mark.parametrize("call", ["link", "rename", "fdatasync", "mark", "write"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", [0, 1, 3])
async def test_a_box_whose_parts_cannot_become_cube_files_is_written(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, durability: Durability, call: str, code: int, at: int
) -> None:
    name = await make_mag(storage, block_len=8, file_len=4)
    await write(storage, name, (90, 90, 90), np.full((2, 2, 2), 9, np.uint8))
    await storage.flush("", to_files=True)
    box = Box.of((3, 5, 7), (50, 40, 30))
    calls = 0

    def is_it(path: object) -> bool:
        nonlocal calls
        calls += 1
        return calls == at + 1

    if call == "mark":
        real_open = os.open

        def failing_open(path: str, *arguments: int, **options: int) -> int:
            if str(path).endswith(".linked") and is_it(path):
                raise OSError(code, os.strerror(code))
            return real_open(path, *arguments, **options)

        monkeypatch.setattr(os, "open", failing_open)
    else:
        attribute = {"write": "pwrite"}.get(call, call)
        real = getattr(os, attribute)

        def failing(*arguments: object, **options: object) -> object:
            if is_it(arguments[0]):
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        monkeypatch.setattr(os, attribute, failing)
    await arrive(storage, name, box, noise(box), durability)
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
    try:
        await storage.flush("", to_files=True)
    except MagdError:
        # A sync of the cube files failed: they are opened anew.
        await storage.flush("", to_files=True)
    np.testing.assert_array_equal(await read(storage, name, box.offset, box.size), noise(box))
