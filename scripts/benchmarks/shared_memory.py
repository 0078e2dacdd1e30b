"""The way over shared memory on one machine, beside `wkw` in this process.

A client that reaches its daemon by a unix socket uses shared memory for large boxes by itself, where the daemon offers
it. The same over the socket alone, from a daemon that offers none, stands beside it. `wkw` never syncs and has no
journal.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np

import magd_client
from magd.v1 import maintenance_pb2, maintenance_pb2_grpc
from scripts.benchmarks.measure import Durability, Goal, Probe, Results, Settings, Work, make_memory_ready, measured
from scripts.benchmarks.transfers import READ_INTO
from scripts.benchmarks.volumes import BLOCK_LEN, random_voxels, wkw_dataset
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from magd.voxels import VoxelArray

GROUP: Final = "shared"
SHARED: Final = "shared memory"
READ: Final = "read"


def run(settings: Settings, results: Results) -> None:
    """Measure writes, overwrites and reads."""
    folder = settings.folder / GROUP
    data = random_voxels(settings.edge)
    room = np.zeros_like(data)
    base = Work(
        group=GROUP,
        name="",
        by="magd",
        box=f"{settings.edge}^3",
        dtype="uint8",
        size_bytes=data.nbytes,
        block_len=BLOCK_LEN,
        file_len=settings.file_len,
    )
    with ExitStack() as stack:

        def start(name: str, *options: str) -> tuple[str, tuple[int, magd_client.Dataset]]:
            root = folder / name
            root.mkdir(parents=True)
            address = f"unix:{settings.sockets}/{name}.sock"
            daemon = stack.enter_context(Daemon(root, *options, "--log-level", "warning", grpc=address))
            client = stack.enter_context(magd_client.connect(daemon.grpc))
            return daemon.grpc, (daemon.pid, client.create_dataset("benchmark", voxel_size=(1.0, 1.0, 1.0)))

        address, first = start("first")
        limits = _limits(address)
        is_offered = limits.shared_memory_bytes > 0
        datasets = {SHARED if is_offered else "unix": first}
        if is_offered:
            _, datasets["unix"] = start("second", "--no-shared-memory")
        # Of the larger cube files the box covers a part, and the others wholly.
        partly, wholly = settings.file_len, settings.edge // BLOCK_LEN
        for number in range(settings.rounds + 1):
            for file_len in dict.fromkeys((partly, wholly)):
                of_files = replace(base, file_len=file_len)
                with wkw_dataset(folder / f"wkw-{number}-{file_len}", "uint8", file_len) as files:
                    _by_wkw(files, data, replace(of_files, by="wkw"), settings, results)
                for transport, (pid, dataset) in datasets.items():
                    layer = dataset.add_layer(f"color-{number}-{file_len}", category="color", dtype="uint8")
                    mag = layer.add_mag("1", block_len=BLOCK_LEN, file_len=file_len)
                    _by_magd(mag, pid, data, room, replace(of_files, transport=transport), settings, results)
            if number == 0:
                results.forget(GROUP)
    for name, file_len, said, reach in (
        ("write new", partly, "", 0.8),
        (READ, partly, "", 0.8),
        (READ_INTO, partly, "", 0.8),
        ("overwrite", wholly, ", cube files that it covers wholly", 0.6),
        ("overwrite", partly, ", cube files of which it covers a part", 0.6),
    ):
        is_read = name in (READ, READ_INTO)
        for end in ("",) if is_read else (", acknowledged", ", sustained"):
            durability: Durability | None = None if is_read else "process"
            ours = replace(base, name=name + end, transport=SHARED, durability=durability, file_len=file_len)
            # `wkw` reads into new arrays only.
            theirs = replace(base, name=READ if is_read else name, by="wkw", file_len=file_len)
            reached = results.times_as_fast(ours, theirs) if is_offered else None
            what = f"{name} {base.box} over shared memory{said}{', PROCESS' if durability else ''}{end}"
            remark = "" if is_offered else "this daemon offers no shared memory"
            results.goals.append(Goal("daemon", GROUP, what, "wkw in process", reach, reached, remark=remark))
    results.compare_memory(GROUP, limits.budget_bytes)


def _limits(address: str) -> maintenance_pb2.Limits:
    with grpc.insecure_channel(address) as channel:
        stub = maintenance_pb2_grpc.MaintenanceServiceStub(channel)
        info: maintenance_pb2.GetServerInfoResponse = stub.GetServerInfo(maintenance_pb2.GetServerInfoRequest())
        return info.limits


def _by_wkw(files: Any, data: VoxelArray, work: Work, settings: Settings, results: Results) -> None:
    for name in ("write new", "overwrite"):
        with measured(results, replace(work, name=name), settings):
            files.write((0, 0, 0), data)
        os.sync()  # as behind those of magd: to write over what is on the disk already costs more
    with measured(results, replace(work, name=READ), settings):
        files.read((0, 0, 0), data.shape)


def _by_magd(
    mag: magd_client.MagHandle,
    pid: int,
    data: VoxelArray,
    room: VoxelArray,
    work: Work,
    settings: Settings,
    results: Results,
) -> None:
    for name in ("write new", "overwrite"):
        make_memory_ready(work, settings)
        probe = Probe(pid)
        mag.write(data, (0, 0, 0), durability="process")
        acknowledged = probe.sample()
        mag.flush("applied")
        of_write = replace(work, durability="process")
        results.add(replace(of_write, name=f"{name}, acknowledged"), acknowledged)
        results.add(replace(of_write, name=f"{name}, sustained"), probe.sample())
        mag.flush()  # so that what follows does not share the disk with it
    with measured(results, replace(work, name=READ), settings, there=pid):
        mag.read((0, 0, 0), data.shape)
    with measured(results, replace(work, name=READ_INTO), settings, there=pid):
        mag.read((0, 0, 0), data.shape, out=room)
