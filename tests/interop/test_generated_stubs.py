"""What any language's generated code can do, done with Python's: grpc and magd.v1, without our client."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, cast

import grpc
import numpy as np
import pytest
import wkw
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from magd.v1 import (
    dataset_pb2,
    dataset_pb2_grpc,
    operation_pb2,
    operation_pb2_grpc,
    types_pb2,
    volume_pb2,
    volume_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve

DATASET = "datasets/stubs"
LAYER = f"{DATASET}/layers/segmentation"
MAG = f"{LAYER}/mags/2-2-1"
TIMEOUT = 30.0

OFFSET = (100, 7, 250)
SIZE = (61, 40, 23)


@pytest.fixture
def channel(serve: Serve, any_address: str, tmp_path: Path) -> Iterator[grpc.Channel]:
    """A channel to a daemon that serves an empty folder."""
    daemon = serve(tmp_path, grpc=any_address)
    with grpc.insecure_channel(daemon.grpc) as channel:
        yield channel


def vec3(xyz: tuple[int, int, int]) -> types_pb2.Vec3:
    return types_pb2.Vec3(x=xyz[0], y=xyz[1], z=xyz[2])


BOX = types_pb2.Box(offset=vec3(OFFSET), size=vec3(SIZE))


def make_mag(channel: grpc.Channel) -> None:
    datasets = dataset_pb2_grpc.DatasetServiceStub(channel)
    datasets.CreateDataset(
        dataset_pb2.CreateDatasetRequest(
            dataset_id="stubs",
            voxel_size=dataset_pb2.VoxelSize(x=4, y=4, z=35, unit="nanometer"),
            request_id=str(uuid.uuid4()),
        ),
        timeout=TIMEOUT,
    )
    datasets.CreateLayer(
        dataset_pb2.CreateLayerRequest(
            parent=DATASET,
            layer_id="segmentation",
            category=dataset_pb2.LAYER_CATEGORY_SEGMENTATION,
            data_type=types_pb2.DATA_TYPE_UINT32,
            num_channels=1,
            request_id=str(uuid.uuid4()),
        ),
        timeout=TIMEOUT,
    )
    created = datasets.CreateMag(
        dataset_pb2.CreateMagRequest(
            parent=LAYER,
            factor=vec3((2, 2, 1)),
            block_len=8,
            file_len=4,
            block_type=types_pb2.BLOCK_TYPE_RAW,
            request_id=str(uuid.uuid4()),
        ),
        timeout=TIMEOUT,
    )
    assert created.mag.name == MAG


def write_requests(data: bytes, part_bytes: int) -> Iterator[volume_pb2.WriteBoxRequest]:
    yield volume_pb2.WriteBoxRequest(
        name=MAG,
        box=BOX,
        data_type=types_pb2.DATA_TYPE_UINT32,
        num_channels=1,
        durability=types_pb2.DURABILITY_PROCESS,
        request_id=str(uuid.uuid4()),
        data=data[:part_bytes],
    )
    for start in range(part_bytes, len(data), part_bytes):
        yield volume_pb2.WriteBoxRequest(data=data[start : start + part_bytes])


def read(channel: grpc.Channel) -> bytes:
    responses = list(
        volume_pb2_grpc.VolumeServiceStub(channel).ReadBox(
            volume_pb2.ReadBoxRequest(name=MAG, box=BOX), timeout=TIMEOUT
        )
    )
    assert responses[0].box == BOX
    assert responses[0].data_type == types_pb2.DATA_TYPE_UINT32
    assert responses[0].num_channels == 1
    assert not any(response.HasField("box") for response in responses[1:])
    return b"".join(response.data for response in responses)


def test_generated_stubs_write_and_read_a_box_and_follow_a_compression(channel: grpc.Channel, tmp_path: Path) -> None:
    make_mag(channel)
    array = np.random.default_rng(5).integers(1, 2**32, SIZE, dtype="<u4")
    data = array.tobytes(order="F")

    # Parts that end in the middle of a voxel.
    acknowledgement = volume_pb2_grpc.VolumeServiceStub(channel).WriteBox(
        write_requests(data, part_bytes=10_001), timeout=TIMEOUT
    )
    assert acknowledgement.durability >= types_pb2.DURABILITY_PROCESS
    assert acknowledgement.revision.counter >= 1
    assert read(channel) == data

    operations = operation_pb2_grpc.OperationServiceStub(channel)
    started = operations.CompressMag(
        operation_pb2.CompressMagRequest(name=MAG, request_id=str(uuid.uuid4())), timeout=TIMEOUT
    ).operation
    assert started.kind == operation_pb2.OPERATION_KIND_COMPRESS
    watched = [
        response.operation
        for response in operations.WatchOperation(
            operation_pb2.WatchOperationRequest(name=started.name), timeout=TIMEOUT
        )
    ]
    assert watched[-1].state == operation_pb2.OPERATION_STATE_SUCCEEDED
    assert watched[-1].result == MAG
    # x 100 to 160 lies in 3 cube files of 32 voxels, y 7 to 46 in 2, z 250 to 272 in 2.
    assert watched[-1].progress.files_done == watched[-1].progress.files_total == 12
    assert watched[-1].end_time.ToDatetime() >= watched[-1].create_time.ToDatetime()
    done = [operation.progress.files_done for operation in watched]
    assert done == sorted(done)
    assert read(channel) == data

    with wkw.Dataset.open(str(tmp_path / "stubs/segmentation/2-2-1")) as dataset:
        assert dataset.header.block_type == wkw.Header.BLOCK_TYPE_LZ4HC
        np.testing.assert_array_equal(dataset.read(OFFSET, SIZE)[0], array)


def test_an_error_carries_a_reason_that_generated_code_can_decode(channel: grpc.Channel) -> None:
    make_mag(channel)
    with pytest.raises(grpc.RpcError) as caught:
        dataset_pb2_grpc.DatasetServiceStub(channel).GetMag(
            dataset_pb2.GetMagRequest(name=f"{LAYER}/mags/4"), timeout=TIMEOUT
        )
    status = rpc_status.from_call(cast("grpc.Call", caught.value))
    assert status is not None
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert (info.domain, info.reason) == ("magd", "MAG_NOT_FOUND")


def test_a_write_of_too_few_bytes_changes_nothing(channel: grpc.Channel) -> None:
    make_mag(channel)
    data = np.ones(SIZE, dtype="<u4").tobytes()
    with pytest.raises(grpc.RpcError) as caught:
        volume_pb2_grpc.VolumeServiceStub(channel).WriteBox(write_requests(data[:-4], 10_000), timeout=TIMEOUT)
    assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not any(read(channel))


def test_the_daemon_tells_its_health_in_the_standard_way(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
