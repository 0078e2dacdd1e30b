"""A daemon of voxels in memory, whose failures a test chooses.

It serves the part of the interface that boxes need, over real gRPC. It keeps the promises that a client relies
on: a request id is applied once, a write whose stream breaks off is not applied.
"""

# ruff: noqa: N802  # names of the methods are those of the protos

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn, Self

import grpc
import numpy as np
from grpc_status import rpc_status

from magd.errors import InvalidRequest, MagdError, NotFound, Reason, Unavailable
from magd.geometry import ORIGIN, BoundingBox, Box, Mag, Vec3
from magd.rpc.errors import status_of
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2, watch_pb2
from magd.v1.dataset_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from magd.v1.maintenance_pb2_grpc import (
    MaintenanceServiceServicer,
    add_MaintenanceServiceServicer_to_server,
)
from magd.v1.operation_pb2_grpc import OperationServiceServicer, add_OperationServiceServicer_to_server
from magd.v1.volume_pb2_grpc import VolumeServiceServicer, add_VolumeServiceServicer_to_server
from magd.v1.watch_pb2_grpc import WatchServiceServicer, add_WatchServiceServicer_to_server
from magd.voxels import VoxelArray, VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MAG = "datasets/cortex/layers/color/mags/1"
EXTENT = 256
"""Edge of the space that a mag of the fake has."""
PART_BYTES = 1 << 20

When = Literal["before", "after", "midway"]


@dataclass
class Fault:
    """A failure that some calls of one method meet."""

    error: MagdError
    when: When
    """Before anything was done, after it was done, or when half of the data has gone."""
    times: int


@dataclass
class FakeMag:
    """A mag in memory."""

    voxels: VoxelFormat
    cube_len: int = 32
    bounding_box: BoundingBox = field(default_factory=BoundingBox.empty)
    unserved_reason: str = ""

    def __post_init__(self) -> None:
        self.data: VoxelArray = self.voxels.zeros(Vec3.full(EXTENT))

    def part(self, box: Box) -> VoxelArray:
        (x, y, z), (x1, y1, z1) = box.offset, box.end
        return self.data[:, x:x1, y:y1, z:z1]


class FakeDaemon:
    """The daemon and the switches for its failures.

    :ivar calls: how often each method was called
    :ivar applied: the boxes that were written, in the order in which they were applied
    :ivar requests: the first message of each WriteBox
    :ivar messages: how many messages each write had that was received whole
    :ivar grant_after_seconds: how long to wait for a part that nobody granted
    :ivar came_early: whether one came
    :ivar release: lets the calls go on that never answer
    :ivar events: what a watch tells, and then ends
    :ivar operations: what following an operation tells, by name
    :ivar datasets: the ids of the datasets
    """

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.mags = {MAG: FakeMag(VoxelFormat.of("uint8", 1))}
        self.max_box_bytes = 64 << 20
        self.calls: Counter[str] = Counter()
        self.applied: list[Box] = []
        self.requests: list[volume_pb2.WriteBoxRequest] = []
        self.messages: list[int] = []
        self.came_early = False
        self.grant_after_seconds = 0.0
        self.release = threading.Event()
        self.events: list[watch_pb2.WatchResponse] = []
        self.operations: dict[str, list[operation_pb2.Operation]] = {}
        self.datasets: list[str] = ["cortex"]
        self.lock = threading.Lock()
        self._outcomes: dict[str, volume_pb2.WriteBoxResponse] = {}
        self._faults: dict[str, list[Fault]] = {}
        self.server = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0), ("grpc.enable_retries", 0)]
        )
        # What a servicer leaves out is UNIMPLEMENTED.
        add_VolumeServiceServicer_to_server(_Volume(self), self.server)  # type: ignore[abstract]
        add_DatasetServiceServicer_to_server(_Datasets(self), self.server)  # type: ignore[abstract]
        add_MaintenanceServiceServicer_to_server(_Maintenance(self), self.server)  # type: ignore[abstract]
        add_OperationServiceServicer_to_server(_Operations(self), self.server)  # type: ignore[abstract]
        add_WatchServiceServicer_to_server(_Watch(self), self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(address)}"

    @property
    def mag(self) -> FakeMag:
        """The mag that is always there."""
        return self.mags[MAG]

    def fail(self, method: str, error: MagdError, *, when: When = "before", times: int = 1) -> None:
        """Let the next calls of a method fail."""
        self._faults.setdefault(method, []).append(Fault(error, when, times))

    def fault(self, method: str, when: When) -> MagdError | None:
        """What the call of a method meets at some moment."""
        with self.lock:
            for fault in self._faults.get(method, []):
                if fault.when == when and fault.times > 0:
                    fault.times -= 1
                    return fault.error
        return None

    def begin(self, method: str, context: grpc.ServicerContext) -> None:
        """Count a call, and let it fail if it is to fail before anything is done."""
        with self.lock:
            self.calls[method] += 1
        self.meet(method, "before", context)

    def meet(self, method: str, when: When, context: grpc.ServicerContext) -> None:
        """Let a call fail if it is to fail now."""
        error = self.fault(method, when)
        if error is not None:
            abort(context, error)

    def find(self, name: str, context: grpc.ServicerContext) -> FakeMag:
        """A mag by its name."""
        if name not in self.mags:
            abort(context, NotFound(f"there is no mag {name}", reason=Reason.MAG_NOT_FOUND))
        return self.mags[name]

    def apply(self, request: volume_pb2.WriteBoxRequest, data: bytes) -> volume_pb2.WriteBoxResponse:
        """Apply a write, unless its id was applied."""
        with self.lock:
            known = self._outcomes.get(request.request_id)
            if known is not None:
                return known
            box = box_of(request.box)
            mag = self.mags[request.name]
            shape = (mag.voxels.num_channels, *box.size)
            mag.part(box)[...] = np.frombuffer(data, mag.voxels.dtype).reshape(shape, order="F")
            mag.bounding_box = mag.bounding_box.union(box.in_mag_1(Mag.of(1)))
            self.applied.append(box)
            outcome = volume_pb2.WriteBoxResponse(
                revision=types_pb2.Revision(epoch=1, counter=len(self.applied)),
                durability=request.durability,
            )
            self._outcomes[request.request_id] = outcome
            return outcome

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release.set()
        self.server.stop(grace=None).wait()


def abort(context: grpc.ServicerContext, error: MagdError) -> NoReturn:
    """End a call with an error, as the daemon does."""
    context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort returned")


def box_of(box: types_pb2.Box) -> Box:
    """A box of a message."""
    return Box(Vec3(box.offset.x, box.offset.y, box.offset.z), Vec3(box.size.x, box.size.y, box.size.z))


def to_proto(vec: Vec3) -> types_pb2.Vec3:
    """A vector for a message."""
    return types_pb2.Vec3(x=vec.x, y=vec.y, z=vec.z)


class _Volume(VolumeServiceServicer):
    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake

    def WriteBox(
        self, requests: Iterator[volume_pb2.WriteBoxRequest], context: grpc.ServicerContext
    ) -> volume_pb2.WriteBoxResponse:
        fake = self._fake
        fake.begin("WriteBox", context)
        first = next(requests)
        with fake.lock:
            fake.requests.append(first)
        mag = fake.find(first.name, context)
        if types_pb2.DataType.Name(first.data_type) != f"DATA_TYPE_{mag.voxels.dtype.name.upper()}":
            abort(context, InvalidRequest("other voxels", reason=Reason.DATA_TYPE_MISMATCH))
        nbytes = mag.voxels.nbytes(box_of(first.box))
        messages: list[bytes] = [first.data]
        came = threading.Event()
        ended = threading.Event()

        def receive() -> None:
            try:
                for request in requests:
                    messages.append(request.data)
                    came.set()
                    if fake.fault("WriteBox", "midway") is not None:
                        break
            except grpc.RpcError:
                pass  # the client has gone
            ended.set()

        threading.Thread(target=receive, daemon=True).start()
        if len(first.data) < nbytes:
            if came.wait(fake.grant_after_seconds):
                fake.came_early = True
            context.send_initial_metadata(())
        while not ended.wait(0.05):
            if not context.is_active():
                return volume_pb2.WriteBoxResponse()
        data = b"".join(messages)
        if len(data) < nbytes:
            abort(context, Unavailable("the stream broke off"))
        with fake.lock:
            fake.messages.append(len(messages))
        response = fake.apply(first, data)
        fake.meet("WriteBox", "after", context)
        return response

    def ReadBox(
        self, request: volume_pb2.ReadBoxRequest, context: grpc.ServicerContext
    ) -> Iterator[volume_pb2.ReadBoxResponse]:
        fake = self._fake
        fake.begin("ReadBox", context)
        mag = fake.find(request.name, context)
        data = mag.part(box_of(request.box)).tobytes(order="F")
        response = volume_pb2.ReadBoxResponse(
            box=request.box,
            data_type=f"DATA_TYPE_{mag.voxels.dtype.name.upper()}",
            num_channels=mag.voxels.num_channels,
        )
        for start in range(0, len(data), PART_BYTES):
            response.data = data[start : start + PART_BYTES]
            yield response
            fake.meet("ReadBox", "midway", context)
            response = volume_pb2.ReadBoxResponse()


class _Datasets(DatasetServiceServicer):
    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake

    def GetMag(self, request: dataset_pb2.GetMagRequest, context: grpc.ServicerContext) -> dataset_pb2.GetMagResponse:
        self._fake.begin("GetMag", context)
        mag = self._fake.find(request.name, context)
        box = mag.bounding_box
        if mag.unserved_reason:
            return dataset_pb2.GetMagResponse(
                mag=dataset_pb2.Mag(name=request.name, unserved_reason=mag.unserved_reason)
            )
        return dataset_pb2.GetMagResponse(
            mag=dataset_pb2.Mag(
                name=request.name,
                factor=to_proto(Vec3.full(1)),
                block_len=8,
                file_len=mag.cube_len // 8,
                block_type=types_pb2.BLOCK_TYPE_RAW,
                data_type=f"DATA_TYPE_{mag.voxels.dtype.name.upper()}",
                num_channels=mag.voxels.num_channels,
                bounding_box=types_pb2.Box(
                    offset=to_proto(ORIGIN if box.is_empty else box.offset), size=to_proto(box.size)
                ),
            )
        )

    def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> dataset_pb2.ListDatasetsResponse:
        self._fake.begin("ListDatasets", context)
        start = int(request.page_token or 0)
        datasets = self._fake.datasets
        return dataset_pb2.ListDatasetsResponse(
            datasets=[dataset_pb2.Dataset(name=f"datasets/{name}") for name in datasets[start : start + 2]],
            next_page_token=str(start + 2) if start + 2 < len(datasets) else "",
        )

    def ListCubeFiles(
        self, request: dataset_pb2.ListCubeFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[dataset_pb2.ListCubeFilesResponse]:
        self._fake.begin("ListCubeFiles", context)
        for index in range(3):
            yield dataset_pb2.ListCubeFilesResponse(cube_files=[dataset_pb2.CubeFile(path=f"z0/y0/x{index}.wkw")])
            self._fake.meet("ListCubeFiles", "midway", context)

    def CreateDataset(
        self, request: dataset_pb2.CreateDatasetRequest, context: grpc.ServicerContext
    ) -> dataset_pb2.CreateDatasetResponse:
        self._fake.begin("CreateDataset", context)
        if request.request_id not in self._fake.datasets:
            self._fake.datasets.append(request.request_id)
        self._fake.meet("CreateDataset", "after", context)
        return dataset_pb2.CreateDatasetResponse()


class _Maintenance(MaintenanceServiceServicer):
    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake

    def GetServerInfo(
        self, request: maintenance_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> maintenance_pb2.GetServerInfoResponse:
        self._fake.begin("GetServerInfo", context)
        return maintenance_pb2.GetServerInfoResponse(
            version="fake", limits=maintenance_pb2.Limits(max_box_bytes=self._fake.max_box_bytes)
        )

    def GetStatus(
        self, request: maintenance_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> maintenance_pb2.GetStatusResponse:
        """Answers when it is released: for deadlines."""
        self._fake.begin("GetStatus", context)
        self._fake.release.wait()
        return maintenance_pb2.GetStatusResponse()


class _Operations(OperationServiceServicer):
    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake

    def WatchOperation(
        self, request: operation_pb2.WatchOperationRequest, context: grpc.ServicerContext
    ) -> Iterator[operation_pb2.WatchOperationResponse]:
        self._fake.begin("WatchOperation", context)
        for operation in self._fake.operations[request.name]:
            yield operation_pb2.WatchOperationResponse(operation=operation)
            self._fake.meet("WatchOperation", "midway", context)
        if operation.state == operation_pb2.OPERATION_STATE_RUNNING:
            self._fake.release.wait()


class _Watch(WatchServiceServicer):
    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake

    def Watch(
        self, request: watch_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[watch_pb2.WatchResponse]:
        self._fake.begin("Watch", context)
        yield watch_pb2.WatchResponse(started=watch_pb2.WatchStarted())
        yield from self._fake.events
        self._fake.meet("Watch", "midway", context)
