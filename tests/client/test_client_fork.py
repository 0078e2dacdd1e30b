"""Handles across processes: forked children, pools of spawned ones, with a real daemon."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

import magd_client
from magd_client import fork

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

ROUNDS = 6
WRITES = 5


@pytest.fixture
def mag(serve: Serve, tmp_path: Path) -> magd_client.MagHandle:
    """A mag of a real daemon, which has answered already: the channel is open."""
    client = magd_client.connect(serve(tmp_path).grpc)
    layer = client.create_dataset("cortex", voxel_size=(1, 1, 1)).add_layer("color", dtype="uint16")
    return layer.add_mag(1, block_len=8, file_len=2)


def work(mag: magd_client.MagHandle, number: int) -> None:
    """Write and read what is this process's own."""
    for i in range(WRITES):
        value = np.full((5, 5, 5), number * WRITES + i + 1, dtype=np.uint16)
        mag.write(value, offset=(5 * i, 5 * number, 0), durability="none")
        assert mag.get_info().mag == magd_client.Mag.of(1)
        assert (mag.read((5 * i, 5 * number, 0), (5, 5, 5))[0] == value).all()


def check(mag: magd_client.MagHandle, number: int) -> None:
    for i in range(WRITES):
        assert (mag[5 * i : 5 * i + 5, 5 * number : 5 * number + 5, 0:5] == number * WRITES + i + 1).all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_and_writes_while_the_threads_of_the_parent_go_on(mag: magd_client.MagHandle) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def go_on(number: int) -> None:
        try:
            while not stop.is_set():
                work(mag, number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        children = []
        for number in range(3, 3 + ROUNDS):
            child = context.Process(target=work, args=(mag, number))
            child.start()
            children.append(child)
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * ROUNDS
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    for number in range(3 + ROUNDS):
        check(mag, number)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_child_and_a_child_that_closes_the_client(mag: magd_client.MagHandle) -> None:
    mag.write(np.ones((2, 2, 2), np.uint16))

    def grandchild() -> None:
        work(mag, 2)

    def child() -> None:
        work(mag, 1)
        inner = multiprocessing.get_context("fork").Process(target=grandchild)
        inner.start()
        inner.join(30)
        assert inner.exitcode == 0
        mag._connection.close()

    def unused() -> None:
        mag._connection.close()

    for target in (child, unused):
        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        process.join(60)
        assert process.exitcode == 0
    check(mag, 1)
    check(mag, 2)
    work(mag, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_os_fork_ends_like_any_python_process(serve: Serve, tmp_path: Path) -> None:
    """Interpreter shutdown destroys channels: also that must not hang in the child."""
    program = textwrap.dedent(
        """
        import os, sys
        import numpy as np
        import magd_client
        client = magd_client.connect(sys.argv[1])
        layer = client.create_dataset("a", voxel_size=(1, 1, 1)).add_layer("color")
        mag = layer.add_mag(1)
        mag.write(np.ones((2, 2, 2), np.uint8))
        child = os.fork()
        mag.write(np.full((2, 2, 2), 2 if child else 3, np.uint8), offset=(2 if child else 4, 0, 0))
        if child:
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert mag[:, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
            print("both ended")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", program, serve(tmp_path).grpc], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "both ended\n"


def test_what_cannot_work_in_a_child_is_refused_instead_of_hanging(serve: Serve, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        import magd_client
        from magd_client import aio
        address, mode = sys.argv[1:]

        async def use():
            async with aio.connect(address) as client:
                await client.get_server_info()

        client = magd_client.connect(address)
        if mode == "aio":
            asyncio.run(use())
        else:
            os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
            client.get_server_info()
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
        try:
            asyncio.run(use()) if mode == "aio" else client.get_server_info()
        except RuntimeError as error:
            print(error)
            sys.stdout.flush()
            os._exit(0)
        os._exit(1)
        """
    )
    address = serve(tmp_path).grpc
    for mode, text in [("aio", "the async client was used before"), ("off", "GRPC_ENABLE_FORK_SUPPORT is 0")]:
        result = subprocess.run(
            [sys.executable, "-c", program, address, mode], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert text in result.stdout


def test_a_pool_of_spawned_processes_gets_handles(mag: magd_client.MagHandle) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(work, mag, number) for number in range(4)]:
            future.result(timeout=60)
    for number in range(4):
        check(mag, number)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_the_calls_under_way_and_holds_new_ones_back() -> None:
    inside, leave, seen = threading.Event(), threading.Event(), []

    def call() -> None:
        with fork.call():
            inside.set()
            leave.wait()
            seen.append("left")

    thread = threading.Thread(target=call)
    thread.start()
    inside.wait()
    timer = threading.Timer(0.1, leave.set)
    timer.start()
    child = os.fork()
    if child == 0:
        # The gate of the child is open, and nobody is inside.
        with fork.call():
            os._exit(0 if seen == ["left"] else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with fork.call():
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_thread_may_fork_within_a_call_of_its_own() -> None:
    with fork.call():
        child = os.fork()
        if child == 0:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
