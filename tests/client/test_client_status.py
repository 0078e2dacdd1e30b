"""From a status to an error: the inverse of the daemon's table, and of the comments of the protos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from magd.errors import (
    Busy,
    Conflict,
    DiskFull,
    InternalError,
    InvalidRequest,
    MagdError,
    NotFound,
    Reason,
    TooSlow,
    Unavailable,
)
from magd.rpc.errors import ANSWERS, answer_of, box_error
from magd_client.status import CLASS_BY_CODE, CLASS_BY_REASON, error_of, is_unreachable

if TYPE_CHECKING:
    import magd_client
    from tests.client.fake_daemon import FakeDaemon

ERRORS_PROTO = Path(__file__).parents[2] / "protos" / "magd" / "v1" / "errors.proto"


def documented_codes() -> dict[Reason, grpc.StatusCode]:
    """The code that the comment of each reason names."""
    found = re.findall(r"// ([A-Z_]+)[.,][^\n]*\n(?:\s*//[^\n]*\n)*\s*ERROR_REASON_(\w+) =", ERRORS_PROTO.read_text())
    return {Reason(reason): grpc.StatusCode[code] for code, reason in found}


def test_every_reason_but_unspecified_says_its_code() -> None:
    assert documented_codes().keys() == set(Reason) - {Reason.UNSPECIFIED}


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.UNSPECIFIED}))
def test_each_reason_becomes_a_class_that_the_daemon_sends_with_its_code(reason: Reason) -> None:
    code = documented_codes()[reason]
    error = error_of(code.value[0], reason, "text", {})
    assert error.reason is reason
    assert answer_of(type(error)).code is code


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_the_daemon_raises_is_what_the_client_raises(
    kind: type[MagdError], fake: FakeDaemon, client: magd_client.Client
) -> None:
    reason = Reason.DISK_FULL if kind is DiskFull else Reason.INVALID_FIELD
    sent = kind("what happened", reason=reason, metadata={"field": "box", "value": "ü"}, retry_after=1000.0)
    # Longer than the deadline: so it is not called again.
    fake.fail("GetServerInfo", sent)
    with pytest.raises(MagdError) as caught:
        client.get_server_info()
    got = caught.value
    assert type(got) is kind
    assert (got.message, got.reason, got.metadata) == (sent.message, sent.reason, sent.metadata)
    assert got.retry_after == 1000.0


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_error_of_one_box_is_read_by_the_same_table(kind: type[MagdError]) -> None:
    reason = Reason.DISK_FULL if kind is DiskFull else Reason.INVALID_FIELD
    sent = box_error(kind("text", reason=reason))
    assert type(error_of(sent.code, sent.reason, sent.message, sent.metadata)) is kind


def test_every_code_but_ok_has_a_class() -> None:
    assert CLASS_BY_CODE.keys() == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert CLASS_BY_REASON.keys() <= set(Reason)


def test_a_reason_that_is_newer_than_the_client_falls_back_to_its_code() -> None:
    error = error_of(grpc.StatusCode.ABORTED.value[0], "MOON_PHASE", "text", {"field": "x"})
    assert type(error) is Conflict
    assert error.reason is Reason.UNSPECIFIED
    assert error.metadata == {"field": "x", "reason": "MOON_PHASE"}
    assert type(error_of(99, "MOON_PHASE", "text", {})) is InternalError


def test_no_daemon_is_an_error_that_names_the_address_and_nothing_of_grpc() -> None:
    import magd_client
    from tests.client.conftest import QUICK

    with (
        magd_client.connect("127.0.0.1:9", retry=QUICK) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.get_server_info()
    assert isinstance(caught.value, ConnectionError)
    assert str(caught.value).startswith("cannot reach magd at 127.0.0.1:9: Connection refused")
    assert "ipv4" not in str(caught.value)
    assert "grpc" not in str(caught.value).lower()
    assert caught.value.__cause__ is None
    assert is_unreachable(caught.value)


def test_a_unix_socket_that_is_not_there_is_an_error_that_names_it() -> None:
    import magd_client
    from tests.client.conftest import QUICK

    with (
        magd_client.connect("unix:/nonexistent/socket", retry=QUICK) as client,
        pytest.raises(Unavailable, match="unix:/nonexistent/socket: No such file or directory"),
    ):
        client.get_server_info()


def test_a_deadline_is_an_error_that_names_the_address(fake: FakeDaemon, client: magd_client.Client) -> None:
    with pytest.raises(TooSlow, match=f"magd at {fake.address} did not answer in time") as caught:
        client.get_status(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)


def test_the_classes_are_also_those_of_python() -> None:
    assert issubclass(NotFound, LookupError)
    assert issubclass(InvalidRequest, ValueError)
    assert not issubclass(Busy, OSError)
