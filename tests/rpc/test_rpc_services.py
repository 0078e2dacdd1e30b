"""Every service over a real server and a real storage: what clients of any language see."""

# ruff: noqa: ASYNC240  # looking at small folders blocks nobody here

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool
from magd.errors import Reason
from magd.v1.dataset_pb2 import (
    LAYER_CATEGORY_COLOR,
    LAYER_CATEGORY_SEGMENTATION,
    CreateDatasetRequest,
    CreateLayerRequest,
    CreateMagRequest,
    DeleteDatasetRequest,
    DeleteLayerRequest,
    DeleteMagRequest,
    GetDatasetRequest,
    GetLayerRequest,
    GetMagRequest,
    ListCubeFilesRequest,
    ListDatasetsRequest,
    ListLayersRequest,
    ListMagsRequest,
    Mag,
    RenameLayerRequest,
    UpdateDatasetRequest,
    UpdateLayerRequest,
    VoxelSize,
)
from magd.v1.maintenance_pb2 import (
    FLUSH_LEVEL_DISK,
    MAG_STATE_SERVING,
    CheckRequest,
    FlushRequest,
    GetServerInfoRequest,
    GetStatusRequest,
)
from magd.v1.operation_pb2 import (
    OPERATION_KIND_COMPRESS,
    OPERATION_STATE_SUCCEEDED,
    CancelOperationRequest,
    CompressionLevel,
    CompressMagRequest,
    GetOperationRequest,
    ListOperationsRequest,
    WatchOperationRequest,
)
from magd.v1.types_pb2 import (
    BLOCK_TYPE_LZ4HC,
    BLOCK_TYPE_RAW,
    DATA_TYPE_UINT8,
    DATA_TYPE_UINT32,
    DURABILITY_NONE,
    BoundingBox,
    Revision,
    Vec3,
)
from magd.v1.volume_pb2 import ReadBoxRequest, WriteBoxRequest
from magd.v1.watch_pb2 import WatchRequest
from tests.rpc.serving import (
    Served,
    dataset_stub,
    failure_of,
    maintenance_stub,
    operation_stub,
    served,
    volume_stub,
    watch_stub,
)
from tests.rpc.test_write_box import box_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MAG = "datasets/brain/layers/color/mags/1"


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressionPool]:
    pool = CompressionPool(workers=1)
    pool.start()
    yield pool
    pool.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
async def server(root: Path, pool: CompressionPool) -> AsyncIterator[Served]:
    config = StorageConfig(budget_bytes=64 << 20, io_threads=2)
    async with Storage(Root(str(root)), config, pool) as storage:
        async with served(storage) as server:
            yield server
        await storage.flush("")
        assert storage.budget.used_bytes == 0


async def make_mag(server: Served, *, block_type: Any = BLOCK_TYPE_RAW) -> Mag:
    """A mag of cube files with an edge of 16 voxels."""
    stub = dataset_stub(server.channel)
    await stub.CreateDataset(CreateDatasetRequest(dataset_id="brain", voxel_size=VoxelSize(x=4, y=4, z=30)))
    await stub.CreateLayer(
        CreateLayerRequest(
            parent="datasets/brain",
            layer_id="color",
            category=LAYER_CATEGORY_COLOR,
            data_type=DATA_TYPE_UINT8,
        )
    )
    request = CreateMagRequest(
        parent="datasets/brain/layers/color",
        factor=Vec3(x=1, y=1, z=1),
        block_len=8,
        file_len=2,
        block_type=block_type,
    )
    return (await stub.CreateMag(request)).mag


async def write(server: Served, offset: tuple[int, int, int], data: np.ndarray[Any, Any]) -> Revision:
    request = WriteBoxRequest(
        name=MAG,
        box=box_message(offset, data.shape),
        data_type=DATA_TYPE_UINT8,
        num_channels=1,
        data=data.tobytes(order="F"),
    )
    return (await volume_stub(server.channel).WriteBox(iter([request]))).revision


async def read(server: Served, offset: tuple[int, int, int], size: tuple[int, int, int]) -> Any:
    call = volume_stub(server.channel).ReadBox(ReadBoxRequest(name=MAG, box=box_message(offset, size)))
    raw = b"".join([response.data async for response in call])
    return np.frombuffer(raw, np.uint8).reshape(size, order="F")


# -- datasets, layers, mags ------------------------------------------------------------------------------------


async def test_what_is_created_is_found_with_all_its_fields(server: Served) -> None:
    mag = await make_mag(server, block_type=BLOCK_TYPE_LZ4HC)
    assert mag.name == MAG
    assert (mag.block_len, mag.file_len, mag.block_type) == (8, 2, BLOCK_TYPE_LZ4HC)
    assert (mag.data_type, mag.num_channels, mag.folder) == (DATA_TYPE_UINT8, 1, "color/1")
    stub = dataset_stub(server.channel)
    dataset = (await stub.GetDataset(GetDatasetRequest(name="datasets/brain"))).dataset
    assert dataset.voxel_size == VoxelSize(x=4, y=4, z=30, unit="nanometer")
    assert dataset.etag
    (layer,) = dataset.layers
    assert layer == (await stub.GetLayer(GetLayerRequest(name="datasets/brain/layers/color"))).layer
    assert (layer.category, layer.data_type, layer.num_channels) == (LAYER_CATEGORY_COLOR, DATA_TYPE_UINT8, 1)
    assert (layer.data_format, layer.unserved_reason) == ("wkw", "")
    assert not layer.HasField("largest_segment_id")
    assert [each.name for each in layer.mags] == [MAG]
    assert (await stub.GetMag(GetMagRequest(name=MAG))).mag == layer.mags[0]


async def test_listings_come_in_pages_whose_tokens_are_opaque(server: Served) -> None:
    stub = dataset_stub(server.channel)
    size = VoxelSize(x=1, y=1, z=1)
    for name in ("a", "b", "c"):
        await stub.CreateDataset(CreateDatasetRequest(dataset_id=name, voxel_size=size))
    names, token = [], ""
    while True:
        page = await stub.ListDatasets(ListDatasetsRequest(page_size=2, page_token=token))
        names.append([dataset.name for dataset in page.datasets])
        token = page.next_page_token
        if not token:
            break
    assert names == [["datasets/a", "datasets/b"], ["datasets/c"]]
    full = await stub.ListDatasets(ListDatasetsRequest(page_size=3))
    assert not full.next_page_token


async def test_layers_and_mags_are_listed_in_pages(server: Served) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    for name in ("z", "a"):
        await stub.CreateLayer(
            CreateLayerRequest(
                parent="datasets/brain",
                layer_id=name,
                category=LAYER_CATEGORY_SEGMENTATION,
                data_type=DATA_TYPE_UINT32,
            )
        )
    for factor in (4, 2):
        await stub.CreateMag(
            CreateMagRequest(parent="datasets/brain/layers/color", factor=Vec3(x=factor, y=factor, z=1))
        )

    first = await stub.ListLayers(ListLayersRequest(parent="datasets/brain", page_size=2))
    request = ListLayersRequest(parent="datasets/brain", page_size=2, page_token=first.next_page_token)
    second = await stub.ListLayers(request)
    names = [layer.name.rpartition("/")[2] for layer in (*first.layers, *second.layers)]
    assert (names, second.next_page_token) == (["color", "z", "a"], "")

    mags, token = [], ""
    while True:
        page = await stub.ListMags(ListMagsRequest(parent="datasets/brain/layers/color", page_size=1, page_token=token))
        mags += [mag.name.rpartition("/")[2] for mag in page.mags]
        token = page.next_page_token
        if not token:
            break
    assert mags == ["1", "2-2-1", "4-4-1"]

    await stub.DeleteLayer(DeleteLayerRequest(name="datasets/brain/layers/z"))
    gone = await failure_of(stub.ListLayers(request))
    assert (gone.code, gone.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


@pytest.mark.parametrize("size", [-1, 1001])
async def test_a_page_size_out_of_range_is_refused(size: int, server: Served) -> None:
    stub = dataset_stub(server.channel)
    failure = await failure_of(stub.ListDatasets(ListDatasetsRequest(page_size=size)))
    assert (failure.code, failure.metadata) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        {"field": "page_size", "value": str(size)},
    )


async def test_a_token_of_another_listing_or_of_nobody_is_refused(server: Served) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    await stub.CreateDataset(CreateDatasetRequest(dataset_id="c", voxel_size=VoxelSize(x=1, y=1, z=1)))
    token = (await stub.ListDatasets(ListDatasetsRequest(page_size=1))).next_page_token
    for wrong in (token, "%", "abcd", "ü", token[:-4]):
        request = ListLayersRequest(parent="datasets/brain", page_token=wrong)
        failure = await failure_of(stub.ListLayers(request))
        assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


async def test_exist_ok_and_the_errors_of_existing_things(server: Served) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    size = VoxelSize(x=4, y=4, z=30)
    failure = await failure_of(stub.CreateDataset(CreateDatasetRequest(dataset_id="brain", voxel_size=size)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, Reason.DATASET_EXISTS)
    request = CreateDatasetRequest(dataset_id="brain", voxel_size=size, exist_ok=True)
    assert (await stub.CreateDataset(request)).dataset.name == "datasets/brain"
    other = CreateDatasetRequest(dataset_id="brain", voxel_size=VoxelSize(x=1, y=1, z=1), exist_ok=True)
    failure = await failure_of(stub.CreateDataset(other))
    assert failure.reason == Reason.EXISTS_WITH_OTHER_PARAMETERS


async def test_properties_are_changed_with_an_etag(server: Served, root: Path) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    name = "datasets/brain/layers/color"
    layer = (await stub.GetLayer(GetLayerRequest(name=name))).layer
    request = UpdateLayerRequest(
        name=name,
        etag=layer.etag,
        bounding_box=BoundingBox(offset=Vec3(x=1, y=2, z=3), size=Vec3(x=4, y=5, z=6)),
        default_view_configuration_json='{"alpha": 50}',
    )
    changed = (await stub.UpdateLayer(request)).layer
    assert changed.bounding_box == request.bounding_box
    assert json.loads(changed.default_view_configuration_json) == {"alpha": 50}
    failure = await failure_of(stub.UpdateLayer(request))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, Reason.ETAG_MISMATCH)
    without_etag = UpdateLayerRequest(name=name, bounding_box=request.bounding_box)
    assert (await failure_of(stub.UpdateLayer(without_etag))).metadata["field"] == "etag"
    # What is absent stays, what is empty is removed.
    changed = (await stub.UpdateLayer(UpdateLayerRequest(name=name, default_view_configuration_json=""))).layer
    assert changed.default_view_configuration_json == ""
    assert changed.bounding_box == request.bounding_box
    dataset = await stub.UpdateDataset(
        UpdateDatasetRequest(name="datasets/brain", default_view_configuration_json='{"zoom": 2}')
    )
    assert json.loads(dataset.dataset.default_view_configuration_json) == {"zoom": 2}


@pytest.mark.parametrize(
    "text", ["[]", "1", "{", '{"a": NaN}', "[" * 100_000], ids=["list", "number", "cut", "nan", "deep"]
)
async def test_a_view_configuration_that_is_no_json_object_is_refused(text: str, server: Served) -> None:
    stub = dataset_stub(server.channel)
    request = UpdateDatasetRequest(name="datasets/brain", default_view_configuration_json=text)
    failure = await failure_of(stub.UpdateDataset(request))
    assert (failure.code, failure.metadata["field"]) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "default_view_configuration_json",
    )


async def test_a_segmentation_knows_its_largest_id(server: Served) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    await stub.CreateLayer(
        CreateLayerRequest(
            parent="datasets/brain",
            layer_id="segmentation",
            category=LAYER_CATEGORY_SEGMENTATION,
            data_type=DATA_TYPE_UINT32,
        )
    )
    request = UpdateLayerRequest(name="datasets/brain/layers/segmentation", largest_segment_id=0)
    layer = (await stub.UpdateLayer(request)).layer
    assert layer.HasField("largest_segment_id")
    assert layer.largest_segment_id == 0


async def test_layers_are_renamed_and_things_go_to_the_trash(server: Served, root: Path) -> None:
    await make_mag(server)
    stub = dataset_stub(server.channel)
    await write(server, (0, 0, 0), np.ones((4, 4, 4), np.uint8))
    request = RenameLayerRequest(name="datasets/brain/layers/color", new_layer_id="em")
    layer = (await stub.RenameLayer(request)).layer
    assert layer.name == "datasets/brain/layers/em"
    name = "datasets/brain/layers/em/mags/1"
    deleted = await stub.DeleteMag(DeleteMagRequest(name=name))
    assert (root / deleted.trash_path).is_dir()
    failure = await failure_of(stub.GetMag(GetMagRequest(name=name)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, Reason.MAG_NOT_FOUND)
    trash = (await stub.DeleteDataset(DeleteDatasetRequest(name="datasets/brain"))).trash_path
    assert (root / trash).is_dir()
    failure = await failure_of(stub.GetDataset(GetDatasetRequest(name="datasets/brain")))
    assert failure.reason == Reason.DATASET_NOT_FOUND


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"category": 0}, "category"),
        ({"data_type": 0}, "data_type"),
        ({"num_channels": -1}, "num_channels"),
        ({"num_channels": 300}, "num_channels"),
        ({"layer_id": "../x"}, "layer_id"),
        ({"layer_id": ""}, "layer_id"),
        ({"parent": "datasets/.."}, "parent"),
    ],
)
async def test_a_layer_that_cannot_be_is_refused(
    request_fields: dict[str, Any], field: str, server: Served, root: Path
) -> None:
    await make_mag(server)
    before = sorted(path.name for path in (root / "brain").iterdir())
    fields: dict[str, Any] = {
        "parent": "datasets/brain",
        "layer_id": "new",
        "category": LAYER_CATEGORY_COLOR,
        "data_type": DATA_TYPE_UINT8,
        **request_fields,
    }
    failure = await failure_of(dataset_stub(server.channel).CreateLayer(CreateLayerRequest(**fields)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in failure.metadata["field"]
    assert sorted(path.name for path in (root / "brain").iterdir()) == before


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"factor": Vec3(x=3, y=1, z=1)}, "factor"),
        ({"factor": Vec3()}, "factor"),
        ({"factor": None}, "factor"),
        ({"block_len": 33}, "block_len"),
        ({"file_len": 256}, "file_len"),
        ({"file_len": -1}, "file_len"),
        ({"block_type": 7}, "block_type"),
        ({"request_id": "x" * 200}, "request_id"),
    ],
)
async def test_a_mag_that_cannot_be_is_refused(request_fields: dict[str, Any], field: str, server: Served) -> None:
    await make_mag(server)
    fields: dict[str, Any] = {
        "parent": "datasets/brain/layers/color",
        "factor": Vec3(x=2, y=2, z=2),
        **request_fields,
    }
    failure = await failure_of(dataset_stub(server.channel).CreateMag(CreateMagRequest(**fields)))
    assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


# -- voxels ----------------------------------------------------------------------------------------------------


async def test_boxes_are_written_and_read_over_cube_file_borders(server: Served) -> None:
    await make_mag(server)
    model = np.zeros((40, 40, 40), np.uint8)
    rng = np.random.default_rng(1)
    for offset, size in (((3, 5, 7), (20, 21, 22)), ((10, 10, 10), (16, 16, 16)), ((0, 0, 0), (8, 8, 8))):
        data = rng.integers(0, 256, size, dtype=np.uint8)
        await write(server, offset, data)
        region = tuple(slice(start, start + length) for start, length in zip(offset, size, strict=True))
        model[region] = data
    assert np.array_equal(await read(server, (0, 0, 0), (40, 40, 40)), model)
    call = volume_stub(server.channel).ReadBox(ReadBoxRequest(name=MAG))
    first = await anext(aiter(call))
    assert first.box == box_message((0, 0, 0), (26, 26, 29))


async def test_a_mag_without_data_reads_as_a_box_of_size_0(server: Served) -> None:
    await make_mag(server)
    (response,) = [each async for each in volume_stub(server.channel).ReadBox(ReadBoxRequest(name=MAG))]
    assert response.box.size == Vec3()
    assert (response.data_type, response.num_channels) == (DATA_TYPE_UINT8, 1)


async def test_the_same_request_id_is_applied_once_and_with_other_content_refused(server: Served) -> None:
    await make_mag(server)
    stub = volume_stub(server.channel)

    def request(value: int) -> WriteBoxRequest:
        return WriteBoxRequest(
            name=MAG,
            box=box_message((0, 0, 0), (1, 1, 1)),
            data_type=DATA_TYPE_UINT8,
            num_channels=1,
            request_id="one",
            data=bytes([value]),
        )

    first = await stub.WriteBox(iter([request(1)]))
    again = await stub.WriteBox(iter([request(1)]))
    assert first == again
    failure = await failure_of(stub.WriteBox(iter([request(2)])))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.REQUEST_ID_REUSED)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"data_type": DATA_TYPE_UINT32}, Reason.DATA_TYPE_MISMATCH, "data_type"),
        ({"num_channels": 2}, Reason.CHANNELS_MISMATCH, "num_channels"),
        ({"box": box_message((0, 0, 0), (1024, 1024, 1024))}, Reason.BOX_TOO_LARGE, "box"),
    ],
)
async def test_what_does_not_fit_the_mag_is_refused_and_writes_nothing(
    fields: dict[str, Any], reason: Reason, field: str, server: Served, root: Path
) -> None:
    await make_mag(server)
    wanted: dict[str, Any] = {
        "name": MAG,
        "box": box_message((0, 0, 0), (1, 1, 1)),
        "data_type": DATA_TYPE_UINT8,
        "num_channels": 1,
        "data": b"x",
        **fields,
    }
    failure = await failure_of(volume_stub(server.channel).WriteBox(iter([WriteBoxRequest(**wanted)])))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert failure.metadata["field"] == field
    assert not list(root.glob("brain/color/1/z*"))


async def test_cube_files_are_listed_all_and_in_a_box(server: Served) -> None:
    await make_mag(server)
    await write(server, (0, 0, 0), np.ones((40, 20, 20), np.uint8))
    stub = dataset_stub(server.channel)

    async def paths(**fields: Any) -> list[str]:
        call = stub.ListCubeFiles(ListCubeFilesRequest(name=MAG, **fields))
        return [file.path for page in [page async for page in call] for file in page.cube_files]

    found = await paths()
    assert found == [f"z{z}/y{y}/x{x}.wkw" for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)]
    assert await paths(box=box_message((33, 0, 0), (1, 1, 1))) == ["z0/y0/x2.wkw"]
    failure = await failure_of(paths(box=box_message((0, 0, 0), (0, 1, 1))))
    assert failure.reason == Reason.INVALID_BOX


# -- operations ------------------------------------------------------------------------------------------------


async def test_a_mag_is_compressed_and_its_operation_followed_to_the_end(server: Served) -> None:
    await make_mag(server)
    data = np.random.default_rng(1).integers(0, 4, (40, 40, 40), dtype=np.uint8)
    await write(server, (0, 0, 0), data)
    stub = operation_stub(server.channel)
    started = (await stub.CompressMag(CompressMagRequest(name=MAG, request_id="c"))).operation
    assert started.kind == OPERATION_KIND_COMPRESS
    assert started.resource == MAG
    states = [response.operation async for response in stub.WatchOperation(WatchOperationRequest(name=started.name))]
    last = states[-1]
    assert last.state == OPERATION_STATE_SUCCEEDED
    assert last.result == MAG
    assert last.progress.files_done == last.progress.files_total == 27
    assert last.end_time.ToNanoseconds() >= last.create_time.ToNanoseconds() > 0
    assert (await stub.GetOperation(GetOperationRequest(name=started.name))).operation == last
    assert (await stub.CancelOperation(CancelOperationRequest(name=started.name))).operation == last
    assert np.array_equal(await read(server, (0, 0, 0), (40, 40, 40)), data)
    again = (await stub.CompressMag(CompressMagRequest(name=MAG))).operation
    assert again.state == OPERATION_STATE_SUCCEEDED


async def test_operations_are_listed_newest_first_in_pages(server: Served) -> None:
    await make_mag(server, block_type=BLOCK_TYPE_LZ4HC)
    stub = operation_stub(server.channel)
    started = [(await stub.CompressMag(CompressMagRequest(name=MAG))).operation.name for _ in range(3)]
    listed, token = [], ""
    while True:
        request = ListOperationsRequest(resource="datasets/brain", page_size=2, page_token=token)
        page = await stub.ListOperations(request)
        listed += [operation.name for operation in page.operations]
        token = page.next_page_token
        if not token:
            break
    assert listed == started[::-1]
    others = await stub.ListOperations(ListOperationsRequest(resource="datasets/other"))
    assert not others.operations
    first = await stub.ListOperations(ListOperationsRequest(resource="datasets/brain", page_size=2))
    elsewhere = ListOperationsRequest(page_token=first.next_page_token)
    assert (await failure_of(stub.ListOperations(elsewhere))).metadata["field"] == "page_token"


@pytest.mark.parametrize("name", ["", "operations/", "operations/a/b", "datasets/a"])
async def test_what_is_no_name_of_an_operation_is_refused(name: str, server: Served) -> None:
    stub = operation_stub(server.channel)
    failure = await failure_of(stub.GetOperation(GetOperationRequest(name=name)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_NAME)


async def test_an_unknown_operation_is_not_found(server: Served) -> None:
    stub = operation_stub(server.channel)
    for call in (
        stub.GetOperation(GetOperationRequest(name="operations/nothing-1")),
        stub.CancelOperation(CancelOperationRequest(name="operations/nothing-1")),
        anext(aiter(stub.WatchOperation(WatchOperationRequest(name="operations/nothing-1")))),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, Reason.OPERATION_NOT_FOUND)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"min_gain": 1.0}, grpc.StatusCode.INVALID_ARGUMENT, "min_gain"),
        ({"min_gain": -0.1}, grpc.StatusCode.INVALID_ARGUMENT, "min_gain"),
        ({"level": CompressionLevel(high=2)}, grpc.StatusCode.INVALID_ARGUMENT, "level"),
        ({"level": CompressionLevel(high=13)}, grpc.StatusCode.INVALID_ARGUMENT, "level"),
        ({"level": CompressionLevel(fast=False)}, grpc.StatusCode.INVALID_ARGUMENT, "level.fast"),
        ({"level": CompressionLevel(auto=False)}, grpc.StatusCode.INVALID_ARGUMENT, "level.auto"),
    ],
)
async def test_a_compression_that_cannot_be_is_refused(
    fields: dict[str, Any], code: grpc.StatusCode, field: str, server: Served
) -> None:
    stub = operation_stub(server.channel)
    failure = await failure_of(stub.CompressMag(CompressMagRequest(name=MAG, **fields)))
    assert (failure.code, failure.metadata["field"]) == (code, field)


@pytest.mark.parametrize(
    "level",
    [
        None,
        CompressionLevel(),
        CompressionLevel(auto=True),
        CompressionLevel(fast=True),
        CompressionLevel(high=3),
    ],
)
async def test_every_level_can_be_chosen(level: CompressionLevel | None, server: Served) -> None:
    await make_mag(server)
    await write(server, (0, 0, 0), np.ones((8, 8, 8), np.uint8))
    stub = operation_stub(server.channel)
    started = (await stub.CompressMag(CompressMagRequest(name=MAG, level=level))).operation
    states = [each async for each in stub.WatchOperation(WatchOperationRequest(name=started.name))]
    assert states[-1].operation.state == OPERATION_STATE_SUCCEEDED


# -- watching --------------------------------------------------------------------------------------------------


async def test_a_watcher_is_told_of_commits_and_properties(server: Served) -> None:
    await make_mag(server)
    watch = aiter(watch_stub(server.channel).Watch(WatchRequest(name="datasets/brain")))
    assert (await anext(watch)).HasField("started")
    revision = await write(server, (1, 2, 3), np.ones((4, 5, 6), np.uint8))
    seen = {}
    while "commit" not in seen or "properties" not in seen:
        event = await anext(watch)
        seen[event.WhichOneof("event")] = event
    assert seen["commit"].commit.name == MAG
    assert seen["commit"].commit.box == box_message((1, 2, 3), (4, 5, 6))
    assert seen["commit"].commit.revision == revision
    assert seen["properties"].properties.dataset.name == "datasets/brain"


async def test_a_watcher_begins_after_a_revision_or_is_told_that_events_are_lost(server: Served) -> None:
    await make_mag(server)
    first = await write(server, (0, 0, 0), np.ones((1, 1, 1), np.uint8))
    second = await write(server, (0, 0, 0), np.ones((1, 1, 1), np.uint8))
    stub = watch_stub(server.channel)
    watch = aiter(stub.Watch(WatchRequest(name=MAG, after_revision=first)))
    assert (await anext(watch)).HasField("started")
    event = await anext(watch)
    assert event.commit.revision == second
    lost = stub.Watch(WatchRequest(name=MAG, after_revision=Revision(epoch=0, counter=0)))
    failure = await failure_of(anext(aiter(lost)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, Reason.EVENTS_LOST)


async def test_a_watch_of_a_wrong_name_or_of_a_revision_without_mag_is_refused(server: Served) -> None:
    stub = watch_stub(server.channel)
    failure = await failure_of(anext(aiter(stub.Watch(WatchRequest(name="brain")))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_NAME)
    request = WatchRequest(after_revision=Revision(epoch=1, counter=1))
    failure = await failure_of(anext(aiter(stub.Watch(request))))
    assert (failure.code, failure.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "after_revision")


# -- the daemon ------------------------------------------------------------------------------------------------


async def test_the_server_tells_every_limit(server: Served) -> None:
    info = await maintenance_stub(server.channel).GetServerInfo(GetServerInfoRequest())
    assert info.version
    assert info.boot_id
    assert not info.read_only
    assert info.limits.budget_bytes == 64 << 20
    assert info.limits.max_box_bytes == 16 << 20
    assert info.limits.max_message_bytes == 4 << 20
    assert info.limits.part_bytes == 1 << 20
    assert info.limits.min_durability == DURABILITY_NONE
    assert info.limits.request_id_window_seconds == 600
    assert info.limits.min_rate_bytes_per_second == 64 << 10


async def test_the_status_shows_mags_in_use(server: Served) -> None:
    await make_mag(server)
    await write(server, (0, 0, 0), np.ones((4, 4, 4), np.uint8))
    status = await maintenance_stub(server.channel).GetStatus(GetStatusRequest())
    (mag,) = status.mags
    assert (mag.name, mag.state, mag.writes) == (MAG, MAG_STATE_SERVING, 1)
    assert status.budget_bytes == 64 << 20


async def test_flush_counts_mags_and_refuses_what_it_does_not_know(server: Served) -> None:
    await make_mag(server)
    await write(server, (0, 0, 0), np.ones((4, 4, 4), np.uint8))
    stub = maintenance_stub(server.channel)
    assert (await stub.Flush(FlushRequest())).mags == 1
    assert (await stub.Flush(FlushRequest(name="datasets/brain", level=FLUSH_LEVEL_DISK))).mags == 1
    assert (await stub.Flush(FlushRequest(name="datasets/other"))).mags == 0
    failure = await failure_of(stub.Flush(FlushRequest(level=9)))  # type: ignore[arg-type]
    assert failure.metadata["field"] == "level"
    failure = await failure_of(stub.Flush(FlushRequest(name="other")))
    assert failure.reason == Reason.INVALID_NAME


async def test_a_check_names_a_damaged_file(server: Served, root: Path) -> None:
    await make_mag(server)
    await write(server, (0, 0, 0), np.ones((20, 4, 4), np.uint8))
    stub = maintenance_stub(server.channel)
    await stub.Flush(FlushRequest())

    async def check() -> tuple[list[str], int, int]:
        responses = [response async for response in stub.Check(CheckRequest(deep=True))]
        files = [finding.file for response in responses for finding in response.findings]
        return files, responses[-1].files_checked, responses[-1].files_damaged

    assert await check() == ([], 2, 0)
    (root / "brain/color/1/z0/y0/x1.wkw").write_bytes(b"WKW")
    files, checked, damaged = await check()
    assert (files, damaged) == (["brain/color/1/z0/y0/x1.wkw"], 1)
    assert checked == 2


@pytest.mark.parametrize("size", [VoxelSize(), VoxelSize(x=1, y=-1, z=1), VoxelSize(x=1, y=1, z=math.inf)])
async def test_a_voxel_size_that_is_none_is_refused_and_leaves_nothing(
    server: Served, root: Path, size: VoxelSize
) -> None:
    stub = dataset_stub(server.channel)
    failure = await failure_of(stub.CreateDataset(CreateDatasetRequest(dataset_id="brain", voxel_size=size)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.metadata["field"].startswith("voxel_size.")
    assert list(root.iterdir()) == []
