# Generated from _async/mag.py by scripts/unasync: change it there.
"""A handle of a mag: reading and writing boxes of voxels."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from magd.errors import InvalidRequest, MagdError, NotAllowed, Reason
from magd.geometry import ORIGIN, Box, Mag, Vec3Like
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2
from magd_client import answers, arrays, convert, methods, names
from magd_client._sync import boxes
from magd_client._sync.boxes import Target, WriteOptions
from magd_client._sync.connection import Connection, new_request_id
from magd_client._sync.operation import Operation
from magd_client._sync.view import Sliceable, View
from magd_client.defaults import box_of, check_inside, check_possible, vec3_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from magd.acknowledgement import Acknowledgement, Revision
    from magd.voxels import VoxelArray
    from magd_client.convert import Bounds, DurabilityLike, FlushLevel, Level
    from magd_client.info import CubeFile, MagInfo, MagStatus
    from magd_client.names import Resource
    from magd_client.progress import ProgressLike


class MagHandle(Sliceable):
    """One magnification of a layer. A handle: making it does no I/O, and the mag need not exist.

    All offsets and sizes are in voxels of this mag, absolute. A handle can be pickled.
    """

    def __init__(self, connection: Connection, layer: str, mag: Mag) -> None:
        self._connection: Final = connection
        self._target: Target | None = None
        self.mag: Final = mag
        """The downsampling factor along each axis."""
        self.name: Final = names.mag_name(layer, mag)
        """The full resource name."""

    def __repr__(self) -> str:
        return f"<magd_client.MagHandle {self.name!r} at {self._connection.address}>"

    def get_info(self, *, timeout: float | None = None) -> MagInfo:
        """What it is, as it is now.

        :raises NotFound: there is no such mag
        """
        request = dataset_pb2.GetMagRequest(name=self.name)
        response = self._connection.call(methods.GET_MAG, request, timeout)
        info = answers.mag_info(response.mag)
        if info.unserved_reason:
            self._target = None
        else:
            self._target = Target(self._connection, self.name, info.voxels, info.cube_len)
        return info

    def write(
        self,
        data: npt.ArrayLike,
        offset: Vec3Like = ORIGIN,
        *,
        durability: DurabilityLike | None = None,
        bounds: Bounds = "extend",
        only_nonzero: bool = False,
        if_revision: Revision | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        progress: ProgressLike = None,
    ) -> Acknowledgement:
        """Write a box. When this returns, it is committed: durable as asked for, and seen by every later read.

        A box of at most `max_box_bytes` (see `Client.get_server_info`) is seen whole or not at all by every
        reader. A larger one is sent in pieces along cube files, each atomic alone; after a failure some of them
        may be committed. Attempts that fail because the daemon is away or busy are repeated, and applied once.

        :param data: (x, y, z) for one channel, or (c, x, y, z); the layer's dtype; any memory order (Fortran
            order is not copied). Not to be changed while it is written
        :param offset: first voxel, each component at least 0
        :param durability: "none", "process" or "disk"; None: the client's
        :param bounds: "extend" lets a box that leaves the bounding box enlarge it, "reject" refuses it
        :param only_nonzero: leave the voxels as they are that are zero, in all channels, in `data`
        :param if_revision: refuse the write if an overlapping box was, or may have been, committed after this
            revision: take it from `get_info()` before the read that the data is made from. A box of several
            pieces is refused piece by piece
        :param request_id: a UUID, to repeat a write whose outcome is unknown; None: a new one
        :param timeout: seconds for all of it; None: by its size
        :param progress: True shows a bar; a function is called with bytes done and in all, from any thread
        :return: the revision that has the write, and the durability reached; of several pieces the highest
            revision and the lowest durability
        :raises InvalidRequest: dtype, channels or dimensions are not the layer's (nothing is cast), or the box
            is not possible
        :raises OutOfBounds: the box leaves the bounding box, with bounds="reject"
        :raises Conflict: REVISION_MISMATCH: `if_revision` does not hold; read again, then decide
        :raises NotFound: there is no such mag
        :raises NotAllowed: the daemon or the mag is read-only, or magd does not serve the layer's format
        :raises TooSlow: the time is over. It is not known whether the write was committed: repeat it with the
            request_id in `metadata`
        :raises Unavailable: the daemon could not be reached until then; otherwise the same
        :raises DiskFull: the box was not written
        """
        start = vec3_of("offset", offset)
        settings = self._connection.settings
        options = WriteOptions(
            durability=settings.durability if durability is None else convert.durability_of(durability),
            bounds=bounds,
            only_nonzero=only_nonzero,
            if_revision=if_revision,
            request_id=request_id,
            timeout=timeout,
            progress=progress,
        )
        target, array = self._checked(data)
        try:
            return boxes.write(target, Box(start, arrays.size_of(array)), array, options)
        except MagdError:
            self._target = None
            raise

    def read(
        self,
        offset: Vec3Like | None = None,
        size: Vec3Like | None = None,
        *,
        out: VoxelArray | None = None,
        timeout: float | None = None,
        progress: ProgressLike = None,
    ) -> VoxelArray:
        """Read a box; without arguments the bounding box, enlarged outward to this mag.

        The read sees every write that was acknowledged before it was called, and no part of one that was not; a
        box larger than `max_box_bytes` is read in pieces, for each of which that holds.

        :param offset: first voxel; None: the corner of the bounding box
        :param size: extent; None: up to the end of the bounding box
        :param out: an array to read into, which saves the time that new memory takes: (c, x, y, z), or (x, y, z) for
            one channel, contiguous in Fortran order, of the layer's dtype. After an error it may hold some of the box
        :param timeout: seconds for all of it; None: by its size
        :param progress: True shows a bar; a function is called with bytes done and in all, from any thread
        :return: `out`; without it a new array (c, x, y, z), Fortran order, the layer's dtype. Zeros where nothing was
            written, also outside of the bounding box; of size 0 if the layer has no data yet and no box is given
        :raises InvalidRequest: offset below 0, or size below 1, or the box does not fit into `out` as it is
        :raises OutOfBounds: no size is given, and the offset is not inside the bounding box
        :raises NotFound: there is no such mag
        :raises DataLoss: a cube file under the box is damaged; nothing is returned
        """
        if offset is None or size is None:
            box = box_of((self.get_info()).bounding_box, offset, size)
            target = self.target()
            if offset is None and size is None and box.is_empty:
                if out is None:
                    return target.voxels.empty(ORIGIN)
                arrays.room_in(out, target.voxels, ORIGIN)
                return out
        else:
            box = Box(vec3_of("offset", offset), vec3_of("size", size))
            target = self.target()
        try:
            data = boxes.read(target, box, timeout=timeout, progress=progress, out=out)
        except MagdError:
            self._target = None
            raise
        return data if out is None else out

    def get_view(
        self, offset: Vec3Like | None = None, size: Vec3Like | None = None, *, read_only: bool = False
    ) -> View:
        """A view of a box of this mag, which refuses what leaves the box.

        :param offset: first voxel; None: the corner of the bounding box
        :param size: extent; None: up to the end of the bounding box
        :raises OutOfBounds: it leaves the bounding box, and is not read-only
        :raises InvalidRequest: the box is not possible, for instance empty
        :raises NotFound: there is no such mag
        """
        bounds = (self.get_info()).bounding_box
        box = box_of(bounds, offset, size)
        check_possible(box)
        if not read_only:
            check_inside(box, bounds, "the bounding box")
        return View(self, box, read_only=read_only)

    def cube_files(
        self,
        offset: Vec3Like | None = None,
        size: Vec3Like | None = None,
        *,
        timeout: float | None = None,
    ) -> Iterator[CubeFile]:
        """The cube files, in (z, y, x) order; also those that exist only in memory yet.

        :param offset: with `size`: only files that touch this box; None: all
        :param timeout: seconds for the whole listing; None: an hour
        :raises InvalidRequest: only one of offset and size is given, or the box is not possible
        :raises NotFound: there is no such mag
        """
        request = dataset_pb2.ListCubeFilesRequest(name=self.name)
        if offset is not None and size is not None:
            box = Box(vec3_of("offset", offset), vec3_of("size", size))
            check_possible(box)
            request.box.CopyFrom(convert.box_to_proto(box))
        elif offset is not None or size is not None:
            raise InvalidRequest(
                "cube_files takes both offset and size, or none", metadata={"field": "box", "value": ""}
            )
        stream = self._connection.stream(methods.LIST_CUBE_FILES, request, timeout)
        with closing(stream) as responses:
            for response in responses:
                for file in response.cube_files:
                    yield answers.cube_file(file)

    def compress(
        self,
        target: Resource | None = None,
        *,
        level: Level = "auto",
        min_gain: float = 0.0,
        timeout: float | None = None,
    ) -> Operation:
        """Start to compress it. Reads and writes go on meanwhile; no voxel changes.

        :param target: a dataset (a handle or its name) to write to, as target/layer/mag; None: in place
        :param level: "auto" decides block by block, "fast", or an LZ4HC level from 3 to 12
        :param min_gain: leaves the mag as it is if it would shrink by less than this share
        :return: the operation; done already if the mag is compressed
        :raises AlreadyExists: the target has this mag
        :raises Conflict: another operation runs on the mag
        """
        request = operation_pb2.CompressMagRequest(
            name=self.name,
            target_dataset_id=names.last_part(names.resource_name(target)),
            level=convert.compression_level_to_proto(level),
            min_gain=min_gain,
            request_id=new_request_id(),
        )
        response = self._connection.call(methods.COMPRESS_MAG, request, timeout)
        return Operation(self._connection, response.operation.name)

    def decompress(self, target: Resource | None = None, *, timeout: float | None = None) -> Operation:
        """Start to store it raw. Reads and writes go on meanwhile; no voxel changes.

        :param target: a dataset (a handle or its name) to write to, as target/layer/mag; None: in place
        :return: the operation; done already if the mag is raw
        :raises AlreadyExists: the target has this mag
        :raises Conflict: another operation runs on the mag
        """
        request = operation_pb2.DecompressMagRequest(
            name=self.name,
            target_dataset_id=names.last_part(names.resource_name(target)),
            request_id=new_request_id(),
        )
        response = self._connection.call(methods.DECOMPRESS_MAG, request, timeout)
        return Operation(self._connection, response.operation.name)

    def rechunk(
        self,
        *,
        block_len: int | None = None,
        file_len: int | None = None,
        target: Resource | None = None,
        timeout: float | None = None,
    ) -> Operation:
        """Start to store it in cube files of other lengths. Reads and writes go on meanwhile; no voxel changes.

        :param block_len: edge of a block in voxels, a power of two up to 128; None: as it is
        :param file_len: edge of a cube file in blocks, a power of two up to 128; None: as it is
        :param target: a dataset (a handle or its name) to write to, as target/layer/mag; None: in place
        :return: the operation; done already if the mag has these lengths
        :raises InvalidRequest: a length is not a power of two up to 128
        :raises AlreadyExists: the target has this mag
        :raises Conflict: another operation runs on the mag
        """
        request = operation_pb2.RechunkMagRequest(
            name=self.name,
            target_dataset_id=names.last_part(names.resource_name(target)),
            block_len=0 if block_len is None else block_len,
            file_len=0 if file_len is None else file_len,
            request_id=new_request_id(),
        )
        response = self._connection.call(methods.RECHUNK_MAG, request, timeout)
        return Operation(self._connection, response.operation.name)

    def flush(self, level: FlushLevel = "files", *, timeout: float | None = None) -> None:
        """Bring everything that was acknowledged before to the disk, into the cube files, or both.

        :param level: "files": both, and into the properties; "disk" makes it durable only; "applied" only has other
            programs of the machine see it in the cube files and the properties: a power loss may still take what was
            acknowledged below "disk"
        :param timeout: seconds; None: an hour
        """
        self._connection.flush(self.name, level, timeout)

    def reopen(self, *, timeout: float | None = None) -> MagStatus:
        """Accept that another program changed its files, which stopped it: they are read as they are now, and what was
        committed and is not in them is brought there. A mag that has not stopped is left alone.

        What was written with the durability "none" and was not in the files yet is lost.

        :return: how it is doing then
        :raises NotFound: there is no such mag
        :raises DataLoss: header.wkw or the journal is damaged
        """
        request = maintenance_pb2.ReopenMagRequest(name=self.name)
        response = self._connection.call(methods.REOPEN_MAG, request, timeout)
        self._target = None
        return answers.mag_status(response.mag)

    def delete(self, *, timeout: float | None = None) -> str:
        """Remove it from the layer, and move its folder to the trash.

        :return: where it went, relative to the root; empty if it had no folder
        :raises NotFound: there is no such mag
        """
        request = dataset_pb2.DeleteMagRequest(name=self.name, request_id=new_request_id())
        response = self._connection.call(methods.DELETE_MAG, request, timeout)
        self._target = None
        return response.trash_path

    def target(self) -> Target:
        """What boxes of this mag need to know, asked for once. Of use to views only.

        :raises NotAllowed: magd does not serve the mag
        """
        if self._target is not None:
            return self._target
        info = self.get_info()
        if info.unserved_reason:
            raise NotAllowed(
                f"{self.name} is not served: {info.unserved_reason}",
                reason=Reason.UNSUPPORTED_DATA_FORMAT,
                metadata={"field": "name", "value": self.name},
            )
        return Target(self._connection, self.name, info.voxels, info.cube_len)

    def _checked(self, data: npt.ArrayLike) -> tuple[Target, VoxelArray]:
        """The data as (c, x, y, z), and the target that it fits."""
        known = self._target
        if known is not None:
            try:
                return known, arrays.as_voxels(data, known.voxels)
            except InvalidRequest:
                # Perhaps the mag was deleted and made anew since: ask.
                self._target = None
        target = self.target()
        return target, arrays.as_voxels(data, target.voxels)

    @property
    def _may_grow(self) -> bool:
        return True

    def _check_writable(self) -> None:
        """Only the daemon knows."""

    def _batch_target(self) -> tuple[Target, Box | None]:
        return self.target(), None

    def _selectable(self) -> tuple[Target, Box]:
        info = self.get_info()
        return self.target(), info.bounding_box
