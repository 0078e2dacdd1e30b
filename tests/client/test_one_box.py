"""A small box alone, over a real daemon: as a batch of one, and in a stream as for a daemon that is slow at that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import magd_client
from magd_client import methods
from magd_client._sync.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Serve

RANDOM = np.random.default_rng(17)
ID = "5f1c1f0e-0b4e-4f6e-9d5e-1f2d3c4b5a69"


def tile(*size: int, dtype: str = "uint8") -> Any:
    return RANDOM.integers(1, 255, size).astype(dtype)


@pytest.fixture
def client(serve: Serve, tmp_path: Path) -> Iterator[magd_client.Client]:
    """A client of a daemon on an empty root."""
    with magd_client.connect(serve(tmp_path).grpc, durability="process") as client:
        yield client


def make_mag(client: magd_client.Client, dtype: str = "uint8", num_channels: int = 1) -> magd_client.MagHandle:
    dataset = client.create_dataset("cortex", voxel_size=(1, 1, 1), exist_ok=True)
    return dataset.add_layer(f"l-{dtype}-{num_channels}", dtype=dtype, num_channels=num_channels).add_mag(
        1, block_len=8, file_len=4
    )


def in_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "batches_one_box", lambda _: False)


def calls_of(mag: magd_client.MagHandle, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of unary calls from now on."""
    transport = mag._connection.transport
    real, paths = transport.unary, []

    def unary(method: Any, request: Any, timeout: float) -> Any:
        paths.append(method.path.rpartition("/")[2])
        return real(method, request, timeout)

    monkeypatch.setattr(transport, "unary", unary)
    return paths


@pytest.mark.parametrize(("dtype", "num_channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("float", 1)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("encoding", ["raw", "lz4"])
def test_what_was_written_in_one_message_is_read_in_one_message_and_in_a_stream(
    client: magd_client.Client,
    serve: Serve,
    dtype: str,
    num_channels: int,
    order: Any,
    encoding: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dtype = "float32" if dtype == "float" else dtype
    make_mag(client, dtype, num_channels)
    with magd_client.connect(str(client._connection.address), encoding=encoding) as own:
        mag = own.dataset("cortex").layer(f"l-{dtype}-{num_channels}").mag(1)
        data = np.asarray(tile(num_channels, 13, 17, 19, dtype=dtype), order=order)
        mag.get_info()
        own.get_server_info()
        paths = calls_of(mag, monkeypatch)
        mag.write(data, offset=(3, 5, 7))
        read = mag.read((3, 5, 7), (13, 17, 19))
        assert (read == data).all()
        assert read.flags.f_contiguous
        assert "WriteBoxBatch" in paths
        assert ("ReadBoxBatch" in paths) == (encoding == "raw")
        in_streams(monkeypatch)
        assert (mag.read((3, 5, 7), (13, 17, 19)) == data).all()


def test_a_box_that_does_not_fit_into_one_message_goes_in_a_stream(
    client: magd_client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = make_mag(client)
    data = tile(128, 128, 65)
    mag.write(data[..., :64])
    paths = calls_of(mag, monkeypatch)
    mag.write(data)
    assert (mag.read((0, 0, 0), data.shape) == data).all()
    assert not paths


FAILURES: dict[str, Callable[[magd_client.MagHandle], object]] = {
    "the box leaves the bounding box": lambda mag: mag.write(tile(4, 4, 4), (100, 0, 0), bounds="reject"),
    "the box was changed since": lambda mag: mag.write(tile(4, 4, 4), if_revision=magd_client.Revision(1, 0)),
    "the id was used for other data": lambda mag: mag.write(tile(4, 4, 4), request_id=ID),
    "the id is no id": lambda mag: mag.write(tile(4, 4, 4), request_id="\n"),
    "the mag is gone, to a write": lambda mag: [mag.delete(), mag.write(tile(4, 4, 4))],
    "the mag is gone, to a read": lambda mag: [mag.delete(), mag.read((0, 0, 0), (4, 4, 4))],
    "the box is outside of everything": lambda mag: mag.read((2**31 - 1, 0, 0), (4, 4, 4)),
}


@pytest.mark.parametrize("what", FAILURES)
def test_errors_are_those_of_a_stream(client: magd_client.Client, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for way in ("one message", "stream"):
        if way == "stream":
            in_streams(monkeypatch)
            client.dataset("cortex").layer("l-uint8-1").delete()
        mag = make_mag(client)
        mag.write(np.ones((8, 8, 8), np.uint8), request_id=ID)
        with pytest.raises(magd_client.MagdError) as caught:
            FAILURES[what](mag)
        errors.append(caught.value)
    alone, streamed = errors
    assert type(alone) is type(streamed)
    assert (alone.reason, alone.metadata, alone.message) == (streamed.reason, streamed.metadata, streamed.message)


def test_a_write_whose_answer_was_lost_is_repeated_with_its_id_and_applied_once(
    client: magd_client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    mag = make_mag(client)
    transport = mag._connection.transport
    real, ids = transport.unary, []
    before = mag.write(tile(4, 4, 4)).revision

    def unary(method: Any, request: Any, timeout: float) -> Any:
        response = real(method, request, timeout)
        if method is methods.WRITE_BOX_BATCH:
            ids.append(request.boxes[0].header.request_id)
            if len(ids) == 1:
                raise magd_client.Unavailable("the answer was lost")
        return response

    monkeypatch.setattr(transport, "unary", unary)
    data = tile(4, 4, 4)
    acknowledgement = mag.write(data)
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert acknowledgement.revision == before.next()
    assert (mag.read((0, 0, 0), (4, 4, 4)) == data).all()


def test_progress_tells_all_of_it(client: magd_client.Client) -> None:
    mag, told = make_mag(client), list[tuple[int, int]]()
    mag.write(tile(8, 8, 8), progress=lambda done, total: told.append((done, total)))
    mag.read((0, 0, 0), (8, 8, 8), progress=lambda done, total: told.append((done, total)))
    assert told == [(512, 512), (512, 512)]
