"""Many small boxes through the client and a real daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import magd_client
from magd.geometry import Box, Vec3
from magd.v1.volume_pb2 import BoxError
from magd_client import Outcome, aio, methods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve

RANDOM = np.random.default_rng(7)
EDGE = 48


def tile(*shape: int) -> Any:
    return RANDOM.integers(1, 200, shape).astype("uint8")


@pytest.fixture
def address(serve: Serve, tmp_path: Path) -> str:
    """Of a daemon with a mag."""
    address = serve(tmp_path).grpc
    with magd_client.connect(address) as client:
        dataset = client.create_dataset("cortex", voxel_size=(1, 1, 1))
        dataset.add_layer("color", dtype="uint8").add_mag(1, block_len=8, file_len=2)
    return address


@pytest.fixture
def mag(address: str) -> Iterator[magd_client.MagHandle]:
    """The mag."""
    with magd_client.connect(address) as client:
        yield client.dataset("cortex").layer("color").mag(1)


def offsets(count: int, step: int) -> list[Vec3]:
    return [Vec3(x, y, z) * step for z in range(count) for y in range(count) for x in range(count)]


def test_a_batch_writes_and_reads_many_boxes(mag: magd_client.MagHandle) -> None:
    data = {offset: tile(8, 8, 8) for offset in offsets(8, 8)}
    with mag.batch(durability="process") as batch:
        written = [batch.write(voxels, offset) for offset, voxels in data.items()]
        read = [batch.read(offset, (8, 8, 8)) for offset in data]
    assert len({outcome.result().revision for outcome in written}) == len(data)
    for outcome, voxels in zip(read, data.values(), strict=True):
        assert (outcome.result() == voxels).all()
        assert outcome.result().flags.f_contiguous
        assert outcome.result().flags.writeable
    assert (mag.read((0, 0, 0), (8, 8, 8)) == data[Vec3(0, 0, 0)]).all()


def test_iterators_write_and_read_many_boxes_in_their_order(mag: magd_client.MagHandle) -> None:
    data = {offset: tile(8, 8, 8) for offset in offsets(7, 8)}
    acknowledgements = list(mag.write_boxes(data.items(), durability="none"))
    assert len(acknowledgements) == len(data)
    boxes = [Box(offset, Vec3.full(8)) for offset in data]
    read = list(mag.read_boxes(boxes))
    assert [box for box, _ in read] == boxes
    for (_, found), expected in zip(read, data.values(), strict=True):
        assert (found == expected).all()


async def test_the_async_client_has_the_same(address: str) -> None:
    async with aio.connect(address) as client:
        mag = client.dataset("cortex").layer("color").mag(1)
        data = {offset: tile(8, 8, 8) for offset in offsets(5, 8)}
        async with mag.batch() as batch:
            written = [await batch.write(voxels, offset) for offset, voxels in data.items()]
            read = await batch.read((0, 0, 0), (8, 8, 8))
        assert [outcome.is_known for outcome in written] == [True] * len(data)
        assert (read.result() == data[Vec3(0, 0, 0)]).all()
        found = {box.offset: voxels async for box, voxels in mag.read_boxes(outcome.box for outcome in written)}
        assert all((found[offset] == voxels).all() for offset, voxels in data.items())
        assert len([ack async for ack in mag.write_boxes(data.items())]) == len(data)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(
            st.booleans(),
            st.tuples(*[st.integers(0, EDGE - 2)] * 3),
            st.sampled_from([(1, 1, 1), (5, 9, 3), (20, 20, 20), (40, 40, 40)]),
        ),
        max_size=40,
    )
)
def test_boxes_of_a_batch_that_overlap_take_effect_in_the_order_of_the_calls(
    mag: magd_client.MagHandle, calls: list[tuple[bool, tuple[int, int, int], tuple[int, int, int]]]
) -> None:
    model = np.zeros((1, EDGE + 40, EDGE + 40, EDGE + 40), "uint8")
    mag.write(model)
    expected = []
    with mag.batch(durability="none") as batch:
        for number, (is_write, (x, y, z), (a, b, c)) in enumerate(calls):
            part = model[:, x : x + a, y : y + b, z : z + c]
            if is_write:
                part[...] = number + 1
                batch.write(np.full((a, b, c), number + 1, "uint8"), (x, y, z))
            else:
                expected.append((batch.read((x, y, z), (a, b, c)), part.copy()))
    for outcome, voxels in expected:
        assert (outcome.result() == voxels).all()
    assert (mag.read((0, 0, 0), model.shape[1:]) == model).all()


def test_arrays_of_any_memory_order_may_be_changed_after_the_call(mag: magd_client.MagHandle) -> None:
    data = np.ascontiguousarray(tile(9, 5, 7))
    with mag.batch() as batch:
        batch.write(data, (0, 0, 0))
        batch.write(np.asfortranarray(data), (20, 0, 0))
        batch.write(data[::2], (40, 0, 0))
        kept = data.copy()
        data[...] = 0
    assert (mag.read((0, 0, 0), (9, 5, 7)) == kept).all()
    assert (mag.read((20, 0, 0), (9, 5, 7)) == kept).all()
    assert (mag.read((40, 0, 0), (5, 5, 7)) == kept[::2]).all()


def test_a_box_that_fills_a_message_alone_is_written_and_read_in_a_batch(mag: magd_client.MagHandle) -> None:
    large, small = tile(128, 128, 128), tile(4, 4, 4)
    with mag.batch(durability="process") as batch:
        batch.write(large)
        batch.write(small, (3, 3, 3))
        read = batch.read((0, 0, 0), (128, 128, 128))
    large[3:7, 3:7, 3:7] = small
    assert (read.result() == large).all()


def test_the_first_error_is_raised_when_the_batch_is_left_and_the_others_are_done(mag: magd_client.MagHandle) -> None:
    mag.write(tile(32, 32, 32))
    good = tile(4, 4, 4)
    outcomes: list[Outcome[magd_client.Acknowledgement]] = []

    def write() -> None:
        with mag.batch(bounds="reject") as batch:
            outcomes.extend(batch.write(good, (x, 0, 0)) for x in (0, 30, 20, 40))

    with pytest.raises(magd_client.OutOfBounds, match=r"\(30, 0, 0\)") as raised:
        write()
    assert raised.value.__notes__ == ["2 boxes of the batch failed; this is the first one"]
    assert [isinstance(outcome.error, magd_client.OutOfBounds) for outcome in outcomes] == [False, True, False, True]
    assert (mag.read((20, 0, 0), (4, 4, 4)) == good).all()
    with pytest.raises(magd_client.OutOfBounds):
        outcomes[1].result()


def test_what_is_wrong_in_itself_is_refused_at_the_call(mag: magd_client.MagHandle) -> None:
    with mag.batch() as batch:
        for data, x in ((tile(2, 2), 0), (np.zeros((2, 2, 2), "uint16"), 0), (tile(2, 2, 2), -1)):
            with pytest.raises(magd_client.InvalidRequest):
                batch.write(data, (x, 0, 0))
        with pytest.raises(magd_client.InvalidRequest):
            batch.read((0, 0, 0), (0, 1, 1))
        good = batch.write(tile(2, 2, 2), (0, 0, 0))
        with pytest.raises(RuntimeError, match="not known yet"):
            good.result()
        batch.flush()
        assert good.result().revision.counter > 0
    with pytest.raises(RuntimeError, match="context"):
        mag.batch().write(tile(2, 2, 2))


def test_an_exception_in_the_context_sends_nothing_more(mag: magd_client.MagHandle) -> None:
    def write() -> None:
        with mag.batch() as batch:
            batch.write(tile(8, 8, 8))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert not mag.read((0, 0, 0), (8, 8, 8)).any()


def test_a_view_refuses_boxes_that_leave_it_in_a_batch_and_in_iterators(mag: magd_client.MagHandle) -> None:
    mag.write(np.zeros((64, 64, 64), "uint8"))
    view = mag.get_view((16, 16, 16), (32, 32, 32))
    data = tile(8, 8, 8)
    with view.batch() as batch:
        batch.write(data, (16, 16, 16))
        for offset in ((0, 0, 0), (42, 16, 16)):
            with pytest.raises(magd_client.OutOfBounds):
                batch.write(data, offset)
            with pytest.raises(magd_client.OutOfBounds):
                batch.read(offset, (8, 8, 8))
    assert (next(iter(view.read_boxes([Box.of((16, 16, 16), (8, 8, 8))])))[1] == data).all()
    with pytest.raises(magd_client.OutOfBounds):
        list(view.write_boxes([((16, 16, 16), data), ((0, 0, 0), data)]))
    read_only = mag.get_view((16, 16, 16), (32, 32, 32), read_only=True)
    with read_only.batch() as batch, pytest.raises(magd_client.NotAllowed):
        batch.write(data, (16, 16, 16))


def test_an_iterator_takes_a_bounded_number_of_boxes_ahead(mag: magd_client.MagHandle) -> None:
    taken = []

    def boxes() -> Iterator[Box]:
        for i in range(400):
            taken.append(i)
            yield Box(Vec3(0, 0, i * 64), Vec3.full(64))

    reader = mag.read_boxes(boxes())
    for done, _ in enumerate(reader):
        # A window of results, the calls under way, and the group that is being collected.
        assert len(taken) - done < 64 + 4 * 4 + 5
        if done == 200:
            break
    reader.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(taken) < 400


def test_boxes_without_an_outcome_are_sent_again_with_the_same_ids(
    mag: magd_client.MagHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = mag._connection.transport
    real, sent = transport.unary, []

    def unary(method: Any, request: Any, timeout: float) -> Any:
        if method is not methods.WRITE_BOX_BATCH:
            return real(method, request, timeout)
        sent.append([box.header.request_id for box in request.boxes])
        if len(sent) == 1:
            raise magd_client.Unavailable("away")
        response = real(method, request, timeout)
        if len(sent) == 2:
            # They were committed, but this client does not hear of it.
            response.results[1].error.CopyFrom(BoxError(code=14, reason="ACTOR_STOPPED", message="stopped"))
            response.results[2].error.CopyFrom(BoxError(code=8, reason="BUSY", retry_delay_ms=1, message="busy"))
        return response

    before = mag.write(tile(1, 1, 1)).revision.counter
    monkeypatch.setattr(transport, "unary", unary)
    with mag.batch() as batch:
        outcomes = [batch.write(tile(4, 4, 4), (x, 0, 0)) for x in (0, 8, 16, 24)]
    ids = [outcome.request_id for outcome in outcomes]
    assert sent == [ids, ids, ids[1:3]]
    assert [outcome.result().revision.counter for outcome in outcomes] == [before + i for i in (1, 2, 3, 4)]


def test_boxes_whose_outcome_stays_unknown_say_with_which_id_to_repeat_them(
    mag: magd_client.MagHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = mag._connection.transport
    real = transport.unary

    def unary(method: Any, request: Any, timeout: float) -> Any:
        if method is methods.WRITE_BOX_BATCH:
            raise magd_client.Unavailable("away")
        return real(method, request, timeout)

    monkeypatch.setattr(transport, "unary", unary)
    outcomes: list[Outcome[magd_client.Acknowledgement]] = []

    def write() -> None:
        with mag.batch(timeout=0.2) as batch:
            outcomes.extend(batch.write(tile(4, 4, 4), (x, 0, 0)) for x in (0, 8))

    with pytest.raises(magd_client.Unavailable, match="applied at most once"):
        write()
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.metadata["request_id"] == outcome.request_id
