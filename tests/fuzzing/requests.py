"""Fuzzing of the gRPC edge: every method of magd.v1, on a server with a real storage behind it, in this process.

There are four kinds of cases:

- `call METHOD`: the pieces are the messages of a call of any number of messages, also for methods that take one.
- `leave METHOD`: the same, but the client leaves before the answer.
- `connection`: the pieces are what is sent over a plain connection: HTTP/2, or what is left of it.
- `properties`: the piece is the datasource-properties.json of a dataset that all calls for datasets are then made for.

What must hold:

1. Every call ends in time, with OK or a status that magd gives on purpose. UNKNOWN and INTERNAL are bugs.
2. A call that is refused has changed no file, but for those in `.magd`.
3. Afterwards the server answers, the budget is free, and what was written at the start is still read, unless it was
   overwritten or deleted by a call that was allowed to.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio
from structlog.testing import capture_logs

from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool
from magd.properties.file import PROPERTIES_NAME
from magd.rpc.addresses import HostPort
from magd.rpc.admission import EdgeConfig
from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, types_pb2, volume_pb2, watch_pb2
from tests.fuzzing.cases import Case, mutate_bytes
from tests.fuzzing.fuzzer import Broken
from tests.fuzzing.messages import METHODS, change_message, draw_message, request_of
from tests.fuzzing.properties import historic_tree, mutate_json, tree_of_today
from tests.rpc.serving import served

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from google.protobuf.message import Message

    from tests.rpc.serving import Served

CALL: Final = "call"
LEAVE: Final = "leave"
CONNECTION: Final = "connection"
PROPERTIES: Final = "properties"

_NEVER: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS})
_MANY: Final = ("Boxes", "BoxBatch", "ShareMemory")
"""In the names of methods of which a part may have taken effect when the rest is refused."""
_LOOKS: Final = ("/Get", "/List", "/Read", "/Watch")
"""In the names of methods that change nothing."""
_SAID_BY_CLIENT: Final = "Internal error from Core"
"""What gRPC in this process says when the server has ended a call to which there was more to send."""
_ENDED: Final = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError, asyncio.CancelledError)
"""What gRPC raises here for a call that has ended while there was more to send."""
_DEADLINE_SECONDS: Final = 30.0
_MOST_RESPONSES: Final = 20
_ATTEMPTS: Final = 3
_QUIET_SECONDS: Final = 0.05
_MEMORY: Final = "/dev/shm"
_CONFIG: Final = StorageConfig(
    budget_bytes=64 << 20, io_threads=2, idle_seconds=1.0, flush_seconds=3600.0, disk_reserve_bytes=0
)
_EDGE: Final = EdgeConfig(stall_seconds=5.0)

_BOX: Final = types_pb2.Box(offset=types_pb2.Vec3(x=1, y=2, z=3), size=types_pb2.Vec3(x=4, y=4, z=4))
_D, _L, _C = "datasets/d", "datasets/d/layers/l", "datasets/d/layers/c"


class Requests:
    """The target."""

    name: str = "requests"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="magd-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._pool = CompressionPool(1)

    def __enter__(self) -> Self:
        self._pool.start()
        self._runner.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
        self._pool.close()
        shutil.rmtree(self._folder)

    async def _open(self) -> None:
        self._storage = await self._stack.enter_async_context(Storage(Root(str(self._folder)), _CONFIG, self._pool))
        self._served: Served = await self._stack.enter_async_context(served(self._storage, config=_EDGE))
        await self._prepare()

    def begin_with(self) -> Sequence[Case]:
        """For each method a call that is right, or as good as; an HTTP/2 connection; descriptions of datasets."""
        known = {f"/magd.v1.{name}": requests for name, requests in _RIGHT.items()}
        calls = [
            Case(f"{CALL} {method}", tuple(request.SerializeToString() for request in known.get(method, ())) or (b"",))
            for method in METHODS
        ]
        trees = [Case(PROPERTIES, (_to_bytes(tree),)) for tree in (tree_of_today(), historic_tree())]
        return [*calls, Case(CONNECTION, _http2(GET_STATUS)), *trees]

    def mutate(self, case: Case, random: random.Random) -> Case:
        """The messages as messages, as bytes, and as a sequence."""
        word, _, method = case.kind.partition(" ")
        if word == PROPERTIES:
            changed = mutate_json(case.pieces[0], random) if case.pieces else None
            return case if changed is None else case.with_piece(0, changed)
        if word == CONNECTION:
            index = random.randrange(max(len(case.pieces), 1))
            return _mutate_sequence(case, random, mutate_bytes(case.pieces[index], random) if case.pieces else b"")
        if random.random() < 0.03:
            case = Case(f"{LEAVE if word == CALL else CALL} {method}", case.pieces)
        if case.pieces and random.random() < 0.8:
            index = random.randrange(len(case.pieces))
            return case.with_piece(index, _mutate_message(method, case.pieces[index], random))
        return _mutate_sequence(case, random, draw_message(METHODS[method].input_type, random).SerializeToString())

    def run(self, case: Case) -> None:
        """Make the call."""
        with capture_logs() as log:
            try:
                self._runner.run(self._run(case))
            except Broken as broken:
                for entry in log:
                    if isinstance(entry.get("exc_info"), BaseException):
                        raise broken from entry["exc_info"]
                raise

    def rest(self) -> None:
        """Wait until nobody holds a mag open any more."""
        self._runner.run(self._until(lambda: not self._storage.status().mags))

    async def _run(self, case: Case) -> None:
        word, _, method = case.kind.partition(" ")
        match word:
            case "connection":
                await self._connect(case.pieces)
            case "properties":
                await self._describe(case.pieces[0] if case.pieces else b"")
            case _:
                await self._call(method, case.pieces, leave=word == LEAVE)
        await self._check_alive()

    async def _call(self, method: str, pieces: Sequence[bytes], *, leave: bool) -> None:
        takes_one = not METHODS[method].client_streaming
        if takes_one and len(pieces) != 1:
            await self._send_what_does_not_fit(method, pieces)
            return
        is_partial = any(word in method for word in _MANY)
        is_refused = False
        for attempt in range(_ATTEMPTS):
            before = self._files()
            code, details = await self._status(method, pieces, leave=leave)
            if code in _NEVER and details != _SAID_BY_CLIENT:
                raise Broken(f"{method}: {code}: {details}")
            is_refused = code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
            changed = {path for path, _ in self._files().items() ^ before.items()}
            if not is_refused or not changed or is_partial:
                break
            # Or was it an operation that had ended, but was still clearing away what it had made?
            if attempt == _ATTEMPTS - 1:
                raise Broken(f"{method} was refused with {code}, {details}, but has changed {changed}")
            await self._check_alive()
        if leave:
            await self._check_alive()
        if (is_partial or not is_refused) and not any(word in method for word in _LOOKS):
            await self._prepare()

    async def _send_what_does_not_fit(self, method: str, pieces: Sequence[bytes]) -> None:
        """Send no message, or several, to a method that takes one. gRPC itself answers, or leaves it to the client to
        give up; no handler sees such a call, so it must not be one of ours that fails.
        """
        call: Any = self._served.channel.stream_stream(method)(timeout=_QUIET_SECONDS)
        try:
            for piece in pieces:
                await call.write(piece)
            await call.done_writing()
            await call.read()
        except _ENDED:
            pass
        if "the daemon's log has it" in str(await call.details()):
            raise Broken(f"{method} with {len(pieces)} messages: {await call.details()}")

    async def _status(
        self, method: str, pieces: Sequence[bytes], *, leave: bool = False
    ) -> tuple[grpc.StatusCode, str]:
        """Make a call, as a stream in both directions whatever the method takes, and say how it ended."""
        # Without serializers gRPC takes and gives bytes.
        call: Any = self._served.channel.stream_stream(method)(timeout=_DEADLINE_SECONDS)
        try:
            for piece in pieces:
                await call.write(piece)
            if leave:
                call.cancel()
            else:
                await call.done_writing()
            for _ in range(_MOST_RESPONSES):
                waits = method.endswith(("/Watch", "/WatchOperation", "/ShareMemory"))
                async with asyncio.timeout(_QUIET_SECONDS if waits else None):
                    if await call.read() is grpc.aio.EOF:
                        break
            else:
                call.cancel()
        except TimeoutError:
            call.cancel()
        except _ENDED:
            pass  # the status tells it
        code = await call.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not await call.trailing_metadata():
            raise Broken(f"{method} has not ended after {_DEADLINE_SECONDS:g} s")
        return code, str(await call.details())

    async def _connect(self, pieces: Sequence[bytes]) -> None:
        address = self._served.rpc.address
        assert isinstance(address, HostPort)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(_QUIET_SECONDS):
                while await reader.read(1 << 16):
                    pass
        except (TimeoutError, ConnectionError):
            pass  # it answers what is right, or hangs up
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass

    async def _describe(self, data: bytes) -> None:
        path = self._folder / "edited" / PROPERTIES_NAME
        before = path.read_bytes()
        try:
            await self._use_described(path, data)
        finally:
            # What is to be saved yet is saved now, and what could not be saved after that: not during another case.
            await self._do("MaintenanceService/Flush", maintenance_pb2.FlushRequest())
            path.write_bytes(before)
            await self._do("MaintenanceService/Flush", maintenance_pb2.FlushRequest())

    async def _use_described(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)  # noqa: ASYNC240  # nothing else shall go on meanwhile
        # One that was just modified would be read again and again, since somebody may be writing it.
        os.utime(path, (1e9, 1e9))
        name, layer = "datasets/edited", "datasets/edited/layers/color"
        mag = f"{layer}/mags/1"
        calls: list[tuple[str, Message]] = [
            ("DatasetService/ListDatasets", dataset_pb2.ListDatasetsRequest()),
            ("DatasetService/GetDataset", dataset_pb2.GetDatasetRequest(name=name)),
            ("DatasetService/ListLayers", dataset_pb2.ListLayersRequest(parent=name)),
            ("DatasetService/GetLayer", dataset_pb2.GetLayerRequest(name=layer)),
            ("DatasetService/ListMags", dataset_pb2.ListMagsRequest(parent=layer)),
            ("DatasetService/GetMag", dataset_pb2.GetMagRequest(name=mag)),
            ("VolumeService/ReadBox", volume_pb2.ReadBoxRequest(name=mag, box=_BOX)),
            ("VolumeService/ReadBox", volume_pb2.ReadBoxRequest(name=mag)),
            ("MaintenanceService/Check", maintenance_pb2.CheckRequest(name=name)),
            ("VolumeService/WriteBox", _write(mag)),
        ]
        for method, request in calls:
            code, details = await self._status(f"/magd.v1.{method}", [request.SerializeToString()])
            if code in _NEVER:
                raise Broken(f"{method}: {code}: {details}, for {data[:300]!r}")

    async def _check_alive(self) -> None:
        code, details = await self._status("/magd.v1.MaintenanceService/GetStatus", [b""])
        if code is not grpc.StatusCode.OK:
            raise Broken(f"the server does not answer any more: {code}, {details}")
        # Who left may have left something to be finished.
        await self._until(lambda: not self._served.rpc._calls.running)
        await self._until(lambda: not self._storage.budget.used_bytes)

    async def _prepare(self) -> None:
        """Wait for what was accepted, and make again what is missing."""
        await self._until(lambda: not self._storage.status().operations_running)
        for _ in range(_ATTEMPTS):
            for entry in self._folder.iterdir():
                if entry.name not in ("d", "edited", ".magd"):
                    await self._do("DatasetService/DeleteDataset", _delete(entry.name))
            codes = [await self._do(method, request) for method, request in _PREPARE]
            if grpc.StatusCode.ALREADY_EXISTS not in codes:
                break
            # Something of this name has become something else.
            for name in ("d", "edited"):
                await self._do("DatasetService/DeleteDataset", _delete(name))
        else:
            raise Broken("what was made at the start can be neither deleted nor made again")
        shutil.rmtree(self._folder / ".magd" / "trash", ignore_errors=True)

    async def _do(self, method: str, request: Message) -> grpc.StatusCode:
        code, _ = await self._status(f"/magd.v1.{method}", [request.SerializeToString()])
        return code

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that has no event to wait for."""
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while not condition():  # noqa: ASYNC110  # what is waited for has no event
                await asyncio.sleep(0.001)

    def _files(self) -> dict[str, tuple[int, int, int]]:
        """What is below the root, without magd's own: inode, length and time of change."""
        found = {}
        for folder, folders, names in os.walk(self._folder):
            # What an operation made may be cleared away after it has ended.
            folders[:] = [name for name in folders if ".magd" not in name]
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                try:
                    state = os.lstat(path)
                except FileNotFoundError:
                    continue  # it was cleared away just now
                is_folder = name in folders
                found[path] = (state.st_ino, 0 if is_folder else state.st_size, 0 if is_folder else state.st_mtime_ns)
        return found


def _mutate_message(method: str, data: bytes, random: random.Random) -> bytes:
    if random.random() < 0.7:
        message = request_of(method)()
        try:
            message.ParseFromString(data)
        except Exception:  # noqa: BLE001  # protobuf has no common class for its errors
            return mutate_bytes(data, random)
        change_message(message, random)
        return message.SerializeToString()
    return mutate_bytes(data, random)


def _mutate_sequence(case: Case, random: random.Random, new: bytes) -> Case:
    pieces = list(case.pieces)
    index = random.randrange(len(pieces) + 1)
    match random.randrange(4):
        case 0 if pieces:
            del pieces[index - 1]
        case 1 if pieces:
            pieces.insert(index, random.choice(pieces))
        case 2 if pieces:
            pieces[index - 1] = new
        case _:
            pieces.insert(index, new)
    return Case(case.kind, tuple(pieces[:8]))


def _write(name: str, *, data: bytes = bytes(range(64)), **fields: Any) -> volume_pb2.WriteBoxRequest:
    return volume_pb2.WriteBoxRequest(
        name=name, box=_BOX, data_type=types_pb2.DATA_TYPE_UINT8, num_channels=1, data=data, **fields
    )


def _delete(dataset: str) -> dataset_pb2.DeleteDatasetRequest:
    return dataset_pb2.DeleteDatasetRequest(name=f"datasets/{dataset}")


def _to_bytes(tree: object) -> bytes:
    return json.dumps(tree).encode()


def _dataset(name: str) -> dataset_pb2.CreateDatasetRequest:
    size = dataset_pb2.VoxelSize(x=1, y=1, z=1)
    return dataset_pb2.CreateDatasetRequest(dataset_id=name, voxel_size=size, exist_ok=True)


def _layer(dataset: str, name: str) -> dataset_pb2.CreateLayerRequest:
    return dataset_pb2.CreateLayerRequest(
        parent=f"datasets/{dataset}",
        layer_id=name,
        category=dataset_pb2.LAYER_CATEGORY_COLOR,
        data_type=types_pb2.DATA_TYPE_UINT8,
        num_channels=1,
        exist_ok=True,
    )


def _mag(layer: str, block_type: types_pb2.BlockType) -> dataset_pb2.CreateMagRequest:
    return dataset_pb2.CreateMagRequest(
        parent=layer,
        factor=types_pb2.Vec3(x=1, y=1, z=1),
        block_len=8,
        file_len=2,
        block_type=block_type,
        exist_ok=True,
    )


_PREPARE: Final[tuple[tuple[str, Message], ...]] = (
    ("DatasetService/CreateDataset", _dataset("d")),
    ("DatasetService/CreateLayer", _layer("d", "l")),
    ("DatasetService/CreateLayer", _layer("d", "c")),
    ("DatasetService/CreateMag", _mag(_L, types_pb2.BLOCK_TYPE_RAW)),
    ("DatasetService/CreateMag", _mag(_C, types_pb2.BLOCK_TYPE_LZ4)),
    ("DatasetService/CreateDataset", _dataset("edited")),
    ("DatasetService/CreateLayer", _layer("edited", "color")),
    ("DatasetService/CreateMag", _mag("datasets/edited/layers/color", types_pb2.BLOCK_TYPE_RAW)),
    ("VolumeService/WriteBox", _write(f"{_C}/mags/1")),
    ("MaintenanceService/Flush", maintenance_pb2.FlushRequest()),
)

_RIGHT: Final[Mapping[str, tuple[Message, ...]]] = {
    "DatasetService/GetDataset": (dataset_pb2.GetDatasetRequest(name=_D),),
    "DatasetService/CreateDataset": (_dataset("new"),),
    "DatasetService/UpdateDataset": (
        dataset_pb2.UpdateDatasetRequest(name=_D, default_view_configuration_json='{"a": 1}'),
    ),
    "DatasetService/DeleteDataset": (dataset_pb2.DeleteDatasetRequest(name="datasets/none"),),
    "DatasetService/ListLayers": (dataset_pb2.ListLayersRequest(parent=_D),),
    "DatasetService/GetLayer": (dataset_pb2.GetLayerRequest(name=_L),),
    "DatasetService/CreateLayer": (_layer("d", "new"),),
    "DatasetService/UpdateLayer": (dataset_pb2.UpdateLayerRequest(name=_L, largest_segment_id=5),),
    "DatasetService/RenameLayer": (dataset_pb2.RenameLayerRequest(name=_L, new_layer_id="l"),),
    "DatasetService/DeleteLayer": (dataset_pb2.DeleteLayerRequest(name=_L),),
    "DatasetService/ListMags": (dataset_pb2.ListMagsRequest(parent=_L),),
    "DatasetService/GetMag": (dataset_pb2.GetMagRequest(name=f"{_L}/mags/1"),),
    "DatasetService/CreateMag": (_mag(_L, types_pb2.BLOCK_TYPE_RAW),),
    "DatasetService/DeleteMag": (dataset_pb2.DeleteMagRequest(name=f"{_L}/mags/1"),),
    "DatasetService/ListCubeFiles": (dataset_pb2.ListCubeFilesRequest(name=f"{_C}/mags/1", box=_BOX),),
    "VolumeService/WriteBox": (
        _write(f"{_L}/mags/1", data=bytes(30), request_id="a"),
        volume_pb2.WriteBoxRequest(data=bytes(34)),
    ),
    "VolumeService/ReadBox": (volume_pb2.ReadBoxRequest(name=f"{_C}/mags/1", box=_BOX),),
    "VolumeService/WriteBoxBatch": (
        volume_pb2.WriteBoxBatchRequest(boxes=[_write(f"{_L}/mags/1"), _write(f"{_C}/mags/1", data=b"")]),
    ),
    "VolumeService/ReadBoxBatch": (
        volume_pb2.ReadBoxBatchRequest(boxes=[volume_pb2.ReadBoxRequest(name=f"{_C}/mags/1", box=_BOX)]),
    ),
    "VolumeService/WriteBoxes": (
        volume_pb2.WriteBoxesRequest(index=1, box=_write(f"{_L}/mags/1", data=bytes(64))),
        volume_pb2.WriteBoxesRequest(index=2, box=_write(f"{_C}/mags/1", data=bytes(40))),
        volume_pb2.WriteBoxesRequest(index=2, box=volume_pb2.WriteBoxRequest(data=bytes(24))),
    ),
    "VolumeService/ReadBoxes": (
        volume_pb2.ReadBoxesRequest(index=1, box=volume_pb2.ReadBoxRequest(name=f"{_C}/mags/1", box=_BOX)),
        volume_pb2.ReadBoxesRequest(index=2, box=volume_pb2.ReadBoxRequest(name=f"{_L}/mags/1")),
    ),
    "VolumeService/ShareMemory": (volume_pb2.ShareMemoryRequest(lease_bytes=4096),),
    "OperationService/CompressMag": (operation_pb2.CompressMagRequest(name=f"{_L}/mags/1"),),
    "OperationService/DecompressMag": (operation_pb2.DecompressMagRequest(name=f"{_C}/mags/1"),),
    "OperationService/RechunkMag": (
        operation_pb2.RechunkMagRequest(name=f"{_L}/mags/1", block_len=16, file_len=2, target_dataset_id="new"),
    ),
    "OperationService/DownsampleLayer": (operation_pb2.DownsampleLayerRequest(name=_L, source_mag="1"),),
    "OperationService/GetOperation": (operation_pb2.GetOperationRequest(name="operations/none"),),
    "OperationService/WatchOperation": (operation_pb2.WatchOperationRequest(name="operations/none"),),
    "OperationService/CancelOperation": (operation_pb2.CancelOperationRequest(name="operations/none"),),
    "WatchService/Watch": (
        watch_pb2.WatchRequest(name=f"{_L}/mags/1", after_revision=types_pb2.Revision(epoch=1, counter=1)),
    ),
    "MaintenanceService/Flush": (maintenance_pb2.FlushRequest(name=_D),),
    "MaintenanceService/Check": (maintenance_pb2.CheckRequest(name=_D, deep=True),),
    "MaintenanceService/ReopenMag": (maintenance_pb2.ReopenMagRequest(name=f"{_L}/mags/1"),),
}
"""Requests of each method; without any, an empty one is right."""


# -- HTTP/2 ------------------------------------------------------------------------------------------------------------

GET_STATUS: Final = "/magd.v1.MaintenanceService/GetStatus"


def _http2(path: str) -> tuple[bytes, ...]:
    """A whole connection with one call, frame by frame."""
    headers = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )
    frames: Iterator[bytes] = (
        _frame(kind, flags, stream, payload)
        for kind, flags, stream, payload in (
            (4, 0, 0, b""),  # SETTINGS
            (1, 4, 1, headers),  # HEADERS, the end of them
            (0, 1, 1, b"\0\0\0\0\0"),  # DATA, the end of the stream: one message without bytes, not compressed
            (6, 0, 0, bytes(8)),  # PING
        )
    )
    return (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *frames)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
