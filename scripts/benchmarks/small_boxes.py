"""How many small boxes a second go through the daemon, beside `webknossos` and `wkw` on local files, an empty call, and
one that carries the bytes of a box to nowhere.

Boxes lie on the grid of their own size, uint8, in Fortran order. Each client is a process of its own with disjoint
boxes; all begin at the same moment (see clients.py for the ways). `wkw` and `webknossos` write and read the same boxes
in files of the same kind, in one process; neither syncs.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import magd_client
from scripts.benchmarks.bare import bare_server
from scripts.benchmarks.clients import Clients, Task, grid
from scripts.benchmarks.measure import Durability, Goal, Probe, Results, Settings, Work
from scripts.benchmarks.volumes import BLOCK_LEN, quiet, random_voxels, webknossos_mag, wkw_dataset
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.benchmarks.bare import BareServer
    from scripts.benchmarks.clients import Corner, Way

GROUP: Final = "small"
SPACE: Final = 1024
"""Edge of the space of one client, in voxels."""
MOST_CLIENTS: Final = 8
MAG: Final = ("benchmark", "color", "1")
_TRIAL: Final = 30
"""Boxes that say how many fill the time."""


def run(settings: Settings, results: Results) -> None:
    """Measure, over TCP and a unix socket."""
    with ExitStack() as stack:
        folder = settings.folder / GROUP
        folder.mkdir()
        small = _Small(settings, results, stack.enter_context(Clients(MOST_CLIENTS)))
        for transport in ("tcp", "unix"):
            root = folder / transport
            root.mkdir()
            address = "127.0.0.1:0" if transport == "tcp" else f"unix:{settings.sockets}/magd.sock"
            daemon = stack.enter_context(Daemon(root, "--log-level", "warning", grpc=address))
            _make_mag(daemon.grpc, settings.file_len)
            small.daemons[transport] = daemon
        bare = stack.enter_context(bare_server(f"unix:{settings.sockets}/bare.sock"))
        files = stack.enter_context(wkw_dataset(folder / "wkw", "uint8", settings.file_len))
        mag = webknossos_mag(folder / "webknossos", "color", "uint8", settings.file_len, SPACE)
        for number in range(settings.rounds + 1):
            small.round(bare, mag, files)
            if number == 0:
                results.forget(GROUP)
        with magd_client.connect(small.daemons["tcp"].grpc) as client:
            budget_bytes = client.get_server_info().limits.budget_bytes
    small.goals()
    results.compare_memory(GROUP, budget_bytes)


class _Small:
    def __init__(self, settings: Settings, results: Results, clients: Clients) -> None:
        self.daemons: dict[str, Daemon] = {}
        self._settings = settings
        self._results = results
        self._clients = clients
        self._counts: dict[Work, int] = {}
        self._empty = Work(GROUP, "empty call", "gRPC", "", "", 0, 0, 0, transport="unix")
        self._loaded = replace(self._work(64, "call that carries as much", "gRPC", "unix"), block_len=0, file_len=0)

    def round(self, bare: BareServer, mag: Any, files: Any) -> None:
        """Do every work once."""
        data = random_voxels(64)
        self._locally(self._empty, lambda _: bare.call(), bare.pid)
        self._locally(self._loaded, lambda _: bare.call(data.tobytes(order="F")), bare.pid)
        self._locally(self._work(64, "write", "wkw"), lambda at: files.write(at, data))
        self._locally(self._work(64, "read", "wkw"), lambda at: files.read(at, data.shape))
        self._locally(self._work(64, "write", "webknossos"), lambda at: mag.write(data, absolute_offset=at))
        self._locally(self._work(64, "read", "webknossos"), lambda at: mag.read(absolute_offset=at, size=data.shape))
        for transport in self.daemons:
            self._by_clients(64, "one by one", transport)
            self._by_clients(64, "one by one", transport, is_write=False)
            self._by_clients(32, "WriteBoxes", transport)
        for clients in (1, MOST_CLIENTS) if self._settings.is_quick else (1, 2, 4, MOST_CLIENTS):
            self._by_clients(64, "batch", "tcp", clients=clients)
        self._by_clients(64, "batch", "tcp", is_write=False)

    def goals(self) -> None:
        """Compare."""
        faster = self._results.times_as_fast
        one = {name: self._work(64, "write, one by one", "magd", name, "process") for name in self.daemons}
        many = self._work(32, "write, WriteBoxes", "magd", "tcp", "process")
        batch = self._work(64, "write, batch", "magd", "tcp", "process")
        rate = 1 / self._results.seconds(many)
        eight = replace(batch, clients=MOST_CLIENTS)
        self._results.goals += [
            Goal(
                "daemon", GROUP, "one 64^3 write, one client waiting for each, tcp, PROCESS",
                "webknossos on local files", 3.0, faster(one["tcp"], self._work(64, "write", "webknossos")),
            ),
            Goal(
                "daemon", GROUP, "the same over the unix socket", "time of an empty call over a unix socket", 1.5,
                faster(self._empty, one["unix"]), is_at_most=True,
            ),
            Goal("daemon", GROUP, "32^3 boxes through WriteBoxes, one client, tcp, PROCESS", "", 5000, rate, unit="/s"),
            Goal(
                "daemon", GROUP, "8 clients on disjoint 64^3 boxes of one mag, tcp, PROCESS, total", "1 client", 1.0,
                faster(eight, batch),
            ),
        ]  # fmt: skip

    def _work(self, edge: int, name: str, by: str, transport: str = "", durability: Durability | None = None) -> Work:
        return Work(
            group=GROUP,
            name=name,
            by=by,
            box=f"{edge}^3",
            dtype="uint8",
            size_bytes=edge**3,
            block_len=BLOCK_LEN,
            file_len=self._settings.file_len,
            durability=durability,
            transport=transport,
        )

    def _locally(self, work: Work, call: Callable[[Corner], object], server: int | None = None) -> None:
        corners = grid(64, SPACE, (SPACE // 64) ** 3)
        with quiet():
            call(corners[0])
            probe = Probe(server)
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < self._settings.seconds:
                call(corners[done % len(corners)])
                done += 1
            self._results.add(work, probe.sample(done))

    def _by_clients(self, edge: int, way: Way, transport: str, *, is_write: bool = True, clients: int = 1) -> None:
        kind = "write" if is_write else "read"
        work = self._work(edge, f"{kind}, {way}", "magd", transport, "process" if is_write else None)
        work = replace(work, clients=clients)
        daemon = self.daemons[transport]

        def tasks(count: int) -> list[Task]:
            return [
                Task(
                    daemon.grpc, MAG, way, is_write, "process", "uint8", edge,
                    grid(edge, SPACE, count, (SPACE * number, 0, 0)),
                )
                for number in range(clients)
            ]  # fmt: skip

        if work not in self._counts:
            trial, _ = self._clients.run(tasks(_TRIAL), daemon.pid)
            fitting = int(_TRIAL * self._settings.seconds / trial.seconds)
            self._counts[work] = max(_TRIAL, min(fitting, (SPACE // edge) ** 3))
        sample, _ = self._clients.run(tasks(self._counts[work]), daemon.pid)
        self._results.add(work, sample)


def _make_mag(address: str, file_len: int) -> None:
    with magd_client.connect(address) as client:
        layer = client.create_dataset(MAG[0], voxel_size=(1.0, 1.0, 1.0)).add_layer(MAG[1], dtype="uint8")
        mag = layer.add_mag(MAG[2], block_len=BLOCK_LEN, file_len=file_len)
        # The bounding box does not grow while boxes are timed: that is the cost of the first write only.
        mag.write(random_voxels(1), (SPACE * MOST_CLIENTS - 1, SPACE - 1, SPACE - 1))
