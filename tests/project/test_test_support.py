"""The tests' own tools. A harness that cannot fail proves nothing."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import wkw

from tests.support.daemon import Daemon, DaemonError
from tests.support.data import SampleMag, real_dataset

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

# A program that behaves like `magd serve`, or not.
PRETENDER = """
import signal, sys
print("arguments", *sys.argv[1:], file=sys.stderr, flush=True)
{before}
signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))
print("a line about something else")
print("magd ready grpc=127.0.0.1:7 http=127.0.0.1:8", flush=True)
signal.pause()
"""


def pretender(folder: Path, before: str = "", status: int = 0) -> tuple[str, str]:
    path = folder / "pretender.py"
    path.write_text(PRETENDER.format(before=before, status=status))
    return sys.executable, str(path)


def test_a_daemon_is_ready_when_it_says_so_and_ends_when_asked(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--read-only", command=pretender(tmp_path)) as daemon:
        assert (daemon.grpc, daemon.http) == ("127.0.0.1:7", "127.0.0.1:8")
        assert not daemon.ended_as_it_should
        os.kill(daemon.pid, 0)
    assert daemon.status == 0
    assert f"serve {tmp_path} --grpc 127.0.0.1:0 --http 127.0.0.1:0 --read-only" in daemon.log


def test_a_daemon_that_ends_before_it_is_ready_is_an_error_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="ended with status 3") as caught:
        Daemon(tmp_path, command=pretender(tmp_path, before="sys.exit(3)"))
    assert caught.value.status == 3
    assert "arguments serve" in caught.value.log


def test_a_daemon_that_never_is_ready_is_killed(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="not ready in time"):
        Daemon(tmp_path, command=pretender(tmp_path, before="signal.pause()"), timeout_seconds=1.0)


def test_a_daemon_that_was_killed_has_ended_as_it_should(tmp_path: Path) -> None:
    with Daemon(tmp_path, command=pretender(tmp_path)) as daemon:
        daemon.kill()
        assert daemon.status == -9


def test_a_daemon_that_ends_with_another_status_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DaemonError, match="ended with status 4"),
        Daemon(tmp_path, command=pretender(tmp_path, status=4)),
    ):
        pass


def test_the_fixture_fails_a_test_whose_daemon_did_not_end_with_0_and_shows_its_log(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    command = pretender(tmp_path, status=4)
    pytester.makepyfile(f"""
        from tests.conftest import serve

        def test_that_uses_a_daemon(serve):
            serve({str(tmp_path)!r}, command={command!r})
    """)
    outcome = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    outcome.assert_outcomes(passed=1, errors=1)
    outcome.stdout.fnmatch_lines(["*log of the daemon at 127.0.0.1:7*", "*arguments serve*"])


def test_the_sample_holds_what_is_said_of_it(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]],
) -> None:
    folder, expected = sample
    for (layer, mag), described in expected.items():
        with wkw.Dataset.open(str(folder / layer / mag)) as dataset:
            assert dataset.header.block_type == wkw.Header.BLOCK_TYPE_LZ4HC
            assert (dataset.header.block_len, dataset.header.file_len) == (32, 16)
            around = dataset.read(tuple(o - 1 for o in described.offset), tuple(s + 2 for s in described.size))
        inside = around[:, 1:-1, 1:-1, 1:-1]
        np.testing.assert_array_equal(inside, described.data)
        assert inside.all()
        assert np.count_nonzero(around) == inside.size
    assert sorted(path.name for path in folder.iterdir()) == [
        "color",
        "datasource-properties.json",
        "segmentation",
    ]


def test_the_sample_has_the_shape_of_the_real_dataset(
    sample: tuple[Path, dict[tuple[str, str], SampleMag]],
) -> None:
    made, real = (
        json.loads((folder / "datasource-properties.json").read_text()) for folder in (sample[0], real_dataset())
    )
    for properties in (made, real):
        del properties["id"]["name"]
        del properties["dataLayers"][1]["largestSegmentId"]
    assert made == real
    for file in real_dataset().rglob("header.wkw"):
        assert (sample[0] / file.relative_to(real_dataset())).read_bytes() == file.read_bytes()
