"""What travels when a call fails: every class of errors has its answer, and no answer is too long."""

from __future__ import annotations

import inspect

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st

from magd import errors
from magd.actors.types import OperationFailure
from magd.errors import Busy, DataLoss, DiskFull, InvalidRequest, MagdError, NotFound, Reason
from magd.rpc.errors import (
    ANSWERS,
    MAX_TRAILER_BYTES,
    answer_of,
    box_error,
    operation_error,
    status_of,
    trailer_bytes,
)
from magd.v1 import errors_pb2

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MagdError) and kind is not MagdError
]


def info_of(status: Status) -> ErrorInfo:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_the_reasons_are_those_of_the_proto() -> None:
    assert {f"ERROR_REASON_{reason}" for reason in Reason} == set(errors_pb2.ErrorReason.keys())


def test_every_class_of_errors_has_an_answer_of_its_own() -> None:
    assert set(ANSWERS) == set(KINDS)


def test_the_answers_tell_apart_what_callers_do_differently() -> None:
    codes: dict[grpc.StatusCode, list[type[MagdError]]] = {}
    for kind, answer in ANSWERS.items():
        codes.setdefault(answer.code, []).append(kind)
    shared = [set(kinds) for kinds in codes.values() if len(kinds) > 1]
    # The two that share a code differ in the advice to retry.
    assert shared == [{Busy, DiskFull}]
    assert ANSWERS[Busy].retry_seconds is not None
    assert ANSWERS[DiskFull].retry_seconds is None


def test_every_error_becomes_a_status_with_its_reason_and_metadata() -> None:
    for kind in KINDS:
        for reason in Reason:
            status = status_of(kind("what happened", reason=reason, metadata={"field": "box", "value": 7}))
            assert status.code == answer_of(kind).code.value[0]
            assert status.message == "what happened"
            info = info_of(status)
            assert (info.reason, info.domain) == (reason.value, "magd")
            assert dict(info.metadata) == {"field": "box", "value": "7"}


def test_a_subclass_is_answered_like_its_base_and_an_unknown_error_like_a_bug() -> None:
    class Missing(NotFound):
        pass

    assert answer_of(Missing).code is grpc.StatusCode.NOT_FOUND
    assert answer_of(MagdError).code is grpc.StatusCode.INTERNAL


def test_busy_says_when_to_try_again() -> None:
    for error, expected in ((Busy("full"), 1000), (Busy("full", retry_after=0.25), 250)):
        retry = RetryInfo()
        assert any(detail.Unpack(retry) for detail in status_of(error).details)
        assert retry.retry_delay.ToMilliseconds() == expected


def test_a_full_disk_gives_no_advice_to_retry() -> None:
    status = status_of(DiskFull("no space", metadata={"file": "z0/y0/x0.wkw"}))
    assert not any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)


def test_an_error_of_a_field_is_a_field_violation() -> None:
    bad = BadRequest()
    status = status_of(InvalidRequest("size is below 1", metadata={"field": "box"}))
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [(each.field, each.description) for each in bad.field_violations] == [("box", "size is below 1")]


def test_file_names_that_are_not_utf_8_are_escaped() -> None:
    status = status_of(DataLoss("cannot read caf\udce9.wkw", metadata={"file": "caf\udce9.wkw"}))
    assert status.message == "cannot read caf\\udce9.wkw"
    assert info_of(status).metadata["file"] == "caf\\udce9.wkw"


def test_long_texts_keep_their_beginning_and_their_end() -> None:
    status = status_of(NotFound("no " + "x" * 100_000 + " here"))
    assert status.message.startswith("no xxx")
    assert status.message.endswith("xxx here")


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    message=st.text(max_size=50) | st.text(min_size=1).map(lambda text: text * 5000),
    metadata=st.dictionaries(
        st.text(max_size=20) | st.just("field") | st.just("k" * 5000),
        st.text(max_size=50) | st.just("ü" * 10_000) | st.just("\udcff" * 3000),
        max_size=40,
    ),
)
def test_no_status_is_too_long_for_the_trailers(kind: type[MagdError], message: str, metadata: dict[str, str]) -> None:
    status = status_of(kind(message, metadata=metadata))
    assert trailer_bytes(status) <= MAX_TRAILER_BYTES < 4096
    assert Status.FromString(status.SerializeToString()) == status


def test_the_failure_of_an_operation_has_the_code_of_its_class() -> None:
    failure = OperationFailure("DataLoss", "CORRUPT_CUBE_FILE", "damaged", {"file": "z0/y0/x0.wkw"})
    error = operation_error(failure)
    assert error.code == grpc.StatusCode.DATA_LOSS.value[0]
    assert (error.reason, error.message, dict(error.metadata)) == (
        "CORRUPT_CUBE_FILE",
        "damaged",
        {"file": "z0/y0/x0.wkw"},
    )


def test_the_failure_of_an_operation_by_an_unknown_error_is_a_bug() -> None:
    error = operation_error(OperationFailure("ZeroDivisionError", "INTERNAL", "internal error", {}))
    assert error.code == grpc.StatusCode.INTERNAL.value[0]


def test_the_error_of_one_box_says_the_same_as_a_status() -> None:
    error = box_error(Busy("full", retry_after=0.5, metadata={"limit": 3}))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert (error.reason, error.message, dict(error.metadata)) == ("BUSY", "full", {"limit": "3"})
    assert error.retry_delay_ms == 500
    assert box_error(NotFound("gone")).retry_delay_ms == 0
