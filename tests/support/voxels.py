"""Talking to a Storage in few words: what many tests of the actors do."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import numpy as np

from magd.acknowledgement import Acknowledgement, Durability, Revision
from magd.actors.types import Bounds, Mask, OperationInfo, ReadResult, WriteCommand
from magd.catalog.names import DatasetName, LayerName, MagName
from magd.cubes.header import BlockType
from magd.geometry import Box, Mag, Vec3, Vec3Like
from magd.properties.model import LayerCategory, VoxelSize
from magd.voxels import VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    from magd.actors.storage import Storage

NANOMETERS = VoxelSize(11.24, 11.24, 28.0, "nanometer")


async def make_mag(
    storage: Storage,
    *,
    dataset: str = "brain",
    layer: str = "color",
    mag: str = "1",
    dtype: str = "uint8",
    num_channels: int = 1,
    block_len: int = 8,
    file_len: int = 2,
    compressed: bool = False,
) -> MagName:
    """Create a mag, with dataset and layer where they are missing."""
    await storage.hierarchy.create_dataset(dataset, NANOMETERS, exist_ok=True, request_id="")
    voxels = VoxelFormat.of(dtype, num_channels)
    await storage.hierarchy.create_layer(
        DatasetName(dataset), layer, LayerCategory.COLOR, voxels, exist_ok=True, request_id=""
    )
    info = await storage.hierarchy.create_mag(
        LayerName(dataset, layer),
        Mag.of(mag),
        block_len=block_len,
        file_len=file_len,
        block_type=BlockType.LZ4HC if compressed else BlockType.RAW,
        exist_ok=False,
        request_id="",
    )
    return info.name


async def write(
    storage: Storage,
    mag: MagName,
    offset: Vec3Like,
    data: VoxelArray,
    *,
    durability: Durability = Durability.PROCESS,
    bounds: Bounds = Bounds.EXTEND,
    request_id: str | None = None,
    mask: Mask = Mask.ALL,
    if_revision: Revision | None = None,
) -> Acknowledgement:
    """Write (x, y, z) or (c, x, y, z) data, as a handler does: check, lease, write."""
    whole = np.asfortranarray(data if data.ndim == 4 else data[np.newaxis])
    box = Box(Vec3.of(offset), Vec3.of(whole.shape[1:]))
    cost = await storage.volume.check_write(mag, box, VoxelFormat.of(whole.dtype, whole.shape[0]), bounds, mask)
    identifier = str(uuid.uuid4()) if request_id is None else request_id
    command = WriteCommand(identifier, box, whole, durability, bounds, mask, if_revision)
    with await storage.budget.lease(cost) as lease:
        return await storage.volume.write(mag, command, lease)


async def read_result(storage: Storage, mag: MagName, box: Box | None = None) -> ReadResult:
    """Read a box, or the bounding box."""
    box, _, cost = await storage.volume.check_read(mag, box)
    with await storage.budget.lease(cost) as lease:
        return await storage.volume.read(mag, box, lease)


async def read(storage: Storage, mag: MagName, offset: Vec3Like, size: Vec3Like) -> VoxelArray:
    """Read (c, x, y, z) voxels."""
    return (await read_result(storage, mag, Box.of(offset, size))).data


async def until(condition: Callable[[], object]) -> None:
    """Let everything else go on until something is so. Bounded; for what has no event to wait for."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # it yields, it does not wait for time to pass
            await asyncio.sleep(0)


async def finished(storage: Storage, operation: OperationInfo) -> OperationInfo:
    """The operation when it has ended."""
    last = operation
    async for info in storage.watch_operation(operation.name):
        last = info
    return last
