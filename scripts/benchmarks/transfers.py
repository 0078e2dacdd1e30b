"""How fast large boxes go through the daemon, beside what gRPC moves on the same machine with nothing behind it.

The client is this process, the other side a process of its own: a gRPC server that throws data away or makes it up (the
sink and the source: 1 MiB in a message, malloc pinned, no protobuf), and `magd serve`.

"acknowledged" ends with the acknowledgement of the write; "sustained" when all is in the cube files and out of the
journal, as durable as was asked for; "on the disk" when a power loss could not take it any more either.

Cube files are of two lengths: large ones, of which the box covers a part, and such as it covers wholly.

At last, one client and then several write and read, while the daemon is asked for its health: the event loop answers
that by itself. With several clients the answer also waits for a processor.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

import magd_client
from scripts.benchmarks.bare import bare_server
from scripts.benchmarks.clients import Clients, Task
from scripts.benchmarks.measure import Durability, Goal, Probe, Results, Settings, Work, make_memory_ready, measured
from scripts.benchmarks.volumes import BLOCK_LEN, random_voxels, webknossos_mag, write_plain_file
from tests.soak.samples import Lag
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from scripts.benchmarks.bare import BareServer

GROUP: Final = "transfers"
DURABILITIES: Final[tuple[Durability, ...]] = ("process", "disk")
READ_INTO: Final = "read into an array that is there"
"""Memory that is new has to be made by the system first, a page at a time; the source has no such costs."""
CROWDS: Final = (1, 4)
"""Clients that write and read at the same time while the event loop is watched."""
CROWD_BOXES: Final = 4
"""All of them together, each way."""
PING_SECONDS: Final = 0.005
MOST_STALL_SECONDS: Final = 0.02


def run(settings: Settings, results: Results) -> None:
    """Measure, over TCP."""
    _Transfers(settings, results).run()


class _Transfers:
    def __init__(self, settings: Settings, results: Results) -> None:
        self._settings = settings
        self._results = results
        self._folder = settings.folder / GROUP
        self._data = random_voxels(settings.edge)
        self._c_order = np.ascontiguousarray(self._data)
        self._room = np.zeros_like(self._data)
        self._base = Work(
            group=GROUP,
            name="",
            by="magd",
            box=f"{settings.edge}^3",
            dtype="uint8",
            size_bytes=self._data.nbytes,
            block_len=BLOCK_LEN,
            file_len=settings.file_len,
            transport="tcp",
        )
        self._sink = replace(self._base, name="stream to", by="gRPC sink")
        self._source = replace(self._base, name="stream from", by="gRPC source")
        self._file = replace(self._base, name="write + fdatasync", by="plain file", transport="")
        self._webknossos = replace(self._base, name="write new", by="webknossos", transport="")

    def run(self) -> None:
        root = self._folder / "root"
        root.mkdir(parents=True)
        with (
            bare_server("127.0.0.1:0") as bare,
            Daemon(root, "--log-level", "warning") as daemon,
            magd_client.connect(daemon.grpc) as client,
        ):
            dataset = client.create_dataset("benchmark", voxel_size=(1.0, 1.0, 1.0))
            for number in range(self._settings.rounds + 1):
                self._peers(number, bare)
                self._magd(number, daemon.pid, dataset)
                if number == 0:
                    self._results.forget(GROUP)
            budget_bytes = client.get_server_info().limits.budget_bytes
            stalls = {clients: self._crowd(daemon, dataset, clients) for clients in CROWDS}
        self._goals(budget_bytes)
        for clients, seconds in stalls.items():
            self._stall_goal(clients, seconds)

    def _peers(self, number: int, bare: BareServer) -> None:
        with measured(self._results, self._sink, self._settings, there=bare.pid):
            bare.pour(self._data)
        with measured(self._results, self._source, self._settings, there=bare.pid):
            bare.drain(self._data.nbytes)
        with measured(self._results, self._file, self._settings):
            write_plain_file(self._folder / "plain", self._data)
        for work, data in ((self._webknossos, self._data), (replace(self._webknossos, order="C"), self._c_order)):
            mag = webknossos_mag(
                self._folder / "webknossos",
                f"{work.order}-{number}",
                "uint8",
                self._settings.file_len,
                self._settings.edge,
            )
            with measured(self._results, work, self._settings):
                mag.write(data, absolute_offset=(0, 0, 0))

    def _magd(self, number: int, pid: int, dataset: magd_client.Dataset) -> None:
        for durability in DURABILITIES:
            base = replace(self._base, durability=durability)
            for file_len in self._file_lens:
                work = replace(base, file_len=file_len)
                mag = self._new_mag(dataset, f"{durability}-{file_len}-{number}", file_len)
                self._write(replace(work, name="write new"), pid, mag)
                self._write(replace(work, name="overwrite"), pid, mag)
                if durability == "process" and file_len == self._base.file_len:
                    with measured(self._results, replace(self._base, name="read"), self._settings, there=pid):
                        mag.read((0, 0, 0), self._data.shape)
                    with measured(self._results, replace(self._base, name=READ_INTO), self._settings, there=pid):
                        mag.read((0, 0, 0), self._data.shape, out=self._room)
        mag = self._new_mag(dataset, f"C-{number}", self._base.file_len)
        self._write(replace(self._base, durability="process", name="write new", order="C"), pid, mag)

    @property
    def _file_lens(self) -> tuple[int, ...]:
        """In blocks: cube files of which the box covers a part, and cube files that are as large as the box."""
        return tuple(dict.fromkeys((self._base.file_len, self._settings.edge // BLOCK_LEN)))

    def _new_mag(self, dataset: magd_client.Dataset, layer: str, file_len: int) -> magd_client.MagHandle:
        return dataset.add_layer(layer, category="color", dtype="uint8", num_channels=1).add_mag(
            "1", block_len=BLOCK_LEN, file_len=file_len
        )

    def _write(self, work: Work, pid: int, mag: magd_client.MagHandle) -> None:
        data = self._c_order if work.order == "C" else self._data
        make_memory_ready(work, self._settings)
        probe = Probe(pid)
        mag.write(data, offset=(0, 0, 0), durability=work.durability)
        acknowledged = probe.sample()
        mag.flush("applied" if work.durability == "process" else "files")
        sustained = probe.sample()
        self._results.add(replace(work, name=f"{work.name}, acknowledged"), acknowledged)
        self._results.add(replace(work, name=f"{work.name}, sustained"), sustained)
        if work.durability == "process":
            mag.flush()
            self._results.add(replace(work, name=f"{work.name}, on the disk"), probe.sample())

    def _crowd(self, daemon: Daemon, dataset: magd_client.Dataset, count: int) -> list[float]:
        """Have some clients write and read at the same time.

        :return: what the event loop took to answer meanwhile, in seconds
        """
        edge, file_len = self._settings.edge, self._base.file_len
        layer = f"crowd-{count}"
        self._new_mag(dataset, layer, file_len)
        with Clients(count) as clients:
            lag = Lag(daemon.grpc, PING_SECONDS)
            try:
                for kind in ("write", "read"):
                    tasks = [
                        Task(
                            daemon.grpc, ("benchmark", layer, "1"), "one by one", kind == "write", "process",
                            "uint8", edge, ((edge * number, 0, 0),) * (CROWD_BOXES // count),
                        )
                        for number in range(count)
                    ]  # fmt: skip
                    sample, _ = clients.run(tasks, daemon.pid)
                    durability: Durability | None = "process" if kind == "write" else None
                    name = f"{kind}, all at once"
                    self._results.add(replace(self._base, name=name, durability=durability, clients=count), sample)
            finally:
                lag.close()
        return lag.take()

    def _stall_goal(self, clients: int, seconds: list[float]) -> None:
        who = f"{clients} clients write and read" if clients > 1 else "1 client writes and reads"
        what = f"longest answer of the event loop while {who} {CROWD_BOXES} boxes of {self._base.box}"
        remark = f"median {median(seconds) * 1000:.1f} ms of {len(seconds)}"
        self._results.goals.append(
            Goal(
                "daemon", GROUP, what, "", MOST_STALL_SECONDS * 1000, max(seconds) * 1000, is_at_most=True, unit="ms",
                remark=remark,
            )
        )  # fmt: skip

    def _goals(self, budget_bytes: int) -> None:
        faster = self._results.times_as_fast
        process, disk = (replace(self._base, durability=durability) for durability in DURABILITIES)
        new, over = "write new, sustained", "overwrite, sustained"
        c_order = replace(process, name=new, order="C")
        written_to_disk = replace(disk, name=new)
        partly, wholly = "of which it covers a part", "that it covers wholly"
        whole = replace(process, file_len=self._file_lens[-1])
        box = self._base.box
        slower = max(faster(written_to_disk, self._sink), faster(written_to_disk, self._file))
        for what, against, reach, reached in (
            (f"write {box} F order into new cube files, tcp, PROCESS, sustained", "gRPC sink", 0.85,
             faster(replace(process, name=new), self._sink)),
            (f"overwrite {box}, cube files {wholly}, tcp, PROCESS, sustained", "gRPC sink", 0.75,
             faster(replace(whole, name=over), self._sink)),
            (f"overwrite {box}, cube files {partly}, tcp, PROCESS, sustained", "gRPC sink", 0.75,
             faster(replace(process, name=over), self._sink)),
            (f"read {box}, tcp", "gRPC source", 0.85, faster(replace(self._base, name="read"), self._source)),
            (f"{READ_INTO}, {box}, tcp", "gRPC source", 0.85,
             faster(replace(self._base, name=READ_INTO), self._source)),
            (f"write {box} into new cube files, tcp, DISK, sustained", "slower of gRPC sink and file write + fdatasync",
             0.8, slower),
            (f"write {box} C order, tcp, PROCESS, sustained", "webknossos on local files", 2.0,
             faster(c_order, replace(self._webknossos, order="C"))),
        ):  # fmt: skip
            self._results.goals.append(Goal("daemon", GROUP, what, against, reach, reached))
        self._results.compare_memory(GROUP, budget_bytes)
