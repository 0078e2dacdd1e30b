"""Parts that are to take the place of cube files, when something goes wrong."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magd.acknowledgement import Durability
from magd.actors import arrival as arrival_module
from magd.actors import volume as volume_module
from magd.actors.types import Bounds, Mask, WriteCommand
from magd.cubes.known_files import KnownFiles
from magd.cubes.mag_files import MagFiles
from magd.errors import DataLoss, MagdError, Reason
from magd.geometry import Box
from magd.journal import journal_file
from magd.voxels import VoxelArray, VoxelFormat
from tests.support.voxels import make_mag, read, write

if TYPE_CHECKING:
    from pathlib import Path

    from magd.actors.storage import Storage
    from magd.catalog.names import MagName
    from magd.cubes.handles import Handle

UINT8 = VoxelFormat.of("uint8", 1)
COVERED = Box.of((0, 0, 0), (64, 64, 32))
"""Four cube files that are there, wholly."""


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small boxes are large."""
    monkeypatch.setattr(volume_module, "SIDE_BYTES", 1000)
    monkeypatch.setattr(journal_file, "SIDE_BYTES", 1000)
    monkeypatch.setattr(arrival_module, "PIECE_BYTES", 3000)


def noise(seed: int) -> VoxelArray:
    return np.asfortranarray(np.random.default_rng(seed).integers(1, 256, (1, *COVERED.size), dtype=np.uint8))


async def with_covered_cube_files(storage: Storage, tmp_path: Path) -> tuple[MagName, Path]:
    """A mag with cube files under `COVERED`, and its folder."""
    name = await make_mag(storage, block_len=8, file_len=4)
    await write(storage, name, COVERED.offset, noise(2))
    await storage.flush("")
    return name, tmp_path / "root" / "brain" / "color" / "1"


async def arrive(storage: Storage, name: MagName, durability: Durability = Durability.DISK) -> None:
    """Write `COVERED` as its handler does: its bytes come one part after the other."""
    cost = await storage.volume.check_write(name, COVERED, UINT8, Bounds.EXTEND, Mask.ALL)
    raw = noise(1).tobytes(order="F")
    with (
        await storage.budget.lease(cost) as lease,
        await storage.volume.arrival(name, COVERED, UINT8, durability, Mask.ALL, lease) as arrival,
    ):
        for start in range(0, len(raw), 7000):
            arrival.add(raw[start : start + 7000])
            await asyncio.sleep(0)
        await arrival.finish()
        command = WriteCommand("", COVERED, arrival.data, durability, Bounds.EXTEND, staging=arrival.staging)
        await storage.volume.write(name, command, lease)


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
@pytest.mark.parametrize("call", ["link", "rename", "fdatasync", "fchmod"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", [0, 3, 6])
async def test_where_a_call_fails_the_box_is_written_and_no_name_is_left_behind(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durability: Durability,
    call: str,
    code: int,
    at: int,
) -> None:
    name, folder = await with_covered_cube_files(storage, tmp_path)
    for path in folder.glob("z*/y*/x*.wkw"):
        path.chmod(0o640)
    real, calls = getattr(os, call), 0

    def failing(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    await arrive(storage, name, durability)
    np.testing.assert_array_equal(await read(storage, name, COVERED.offset, COVERED.size), noise(1))
    try:
        await storage.flush("")
    except MagdError:
        # A sync of the cube files failed: they are opened anew.
        await storage.flush("")
    np.testing.assert_array_equal(await read(storage, name, COVERED.offset, COVERED.size), noise(1))
    assert not list((folder / ".magd" / "tmp").iterdir())
    assert {path.stat().st_nlink for path in folder.glob("z*/y*/x*.wkw")} == {1}


@pytest.mark.parametrize("at", [0, 3])
async def test_where_a_part_has_vanished_the_box_is_written(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    name, _ = await with_covered_cube_files(storage, tmp_path)
    real, vanished = MagFiles.link, []

    def link(self: MagFiles, box: Box, paths: list[str], **options: bool) -> bool:
        vanished.append(paths[at])
        os.unlink(os.path.join(self.folder, paths[at]))
        return real(self, box, paths, **options)

    monkeypatch.setattr(MagFiles, "link", link)
    await arrive(storage, name)
    await storage.flush("")
    assert len(vanished) == 1
    np.testing.assert_array_equal(await read(storage, name, COVERED.offset, COVERED.size), noise(1))


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_cube_file_that_another_program_changes_when_its_turn_comes_is_left_as_it_is(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    name, folder = await with_covered_cube_files(storage, tmp_path)
    foreign, real = folder / "z0" / "y1" / "x0.wkw", KnownFiles.check_block_type
    content = foreign.read_bytes()

    def check_block_type(self: KnownFiles, handle: Handle) -> None:
        real(self, handle)
        if folder / handle.relative == foreign:
            monkeypatch.setattr(KnownFiles, "check_block_type", real)
            foreign.unlink()
            if is_replaced:
                foreign.write_bytes(content)

    real_link = MagFiles.link

    def link(self: MagFiles, box: Box, paths: list[str], **options: bool) -> bool:
        monkeypatch.setattr(KnownFiles, "check_block_type", check_block_type)
        return real_link(self, box, paths, **options)

    monkeypatch.setattr(MagFiles, "link", link)
    await arrive(storage, name)
    with pytest.raises(DataLoss) as caught:
        await storage.flush("")
    assert caught.value.reason is Reason.CHANGED_ON_DISK
    assert foreign.exists() == is_replaced
    assert not is_replaced or foreign.read_bytes() == content
