"""Compressing mags in place: magd through its pool against webknossos, on the same data, in one run.

    python scripts/benchmarks/compression.py [--edge 1024] [--rounds 3]

The real color and segmentation layers (below MAGD_TEST_DATA, default ../shared/data) are repeated to a cube of this
edge in one cube file for each 1024 voxels, or one of 512 with --file-len 16. In each round every mag is compressed from
a fresh raw copy, by magd and by webknossos in turn. magd is a daemon, and what is timed is the call of a client until
the operation has ended: everything is on the disk then. webknossos gets as many processes as magd has workers, and what
it wrote is synced in its time too; its own time, without that, is printed beside it.

Printed for each: seconds, voxels in a second, seconds of CPU (which hardly depend on what else the machine does, while
magd's processes, with their low priority, stand back for everything else), bytes in the files, peak resident memory of
all its processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import wkw

import magd_client
from magd.cubes.encode import BlockEncoder
from tests.support.daemon import Daemon
from tests.support.data import real_dataset

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = {
    "color": ("2-2-1", (1340, 2112, 1719), (128, 128, 150)),
    "segmentation": ("1", (2679, 4224, 1719), (256, 256, 150)),
}
BLOCK_LEN = 32


def real_voxels(layer: str, edge: int) -> npt.NDArray[Any]:
    """Voxels of a real layer, repeated to a cube of this edge."""
    mag, offset, size = LAYERS[layer]
    with wkw.Dataset.open(str(real_dataset() / layer / mag)) as files:
        data = files.read(offset, size)[0]
    times = [-(-edge // extent) for extent in data.shape]
    return np.asfortranarray(np.tile(data, times)[:edge, :edge, :edge])


def make_dataset(folder: Path, layer: str, voxels: npt.NDArray[Any], file_len: int) -> None:
    """A dataset with one raw mag, written by `wkw`."""
    edge = voxels.shape[0]
    with wkw.Dataset.create(
        str(folder / layer / "1"), wkw.Header(voxels.dtype.type, block_len=BLOCK_LEN, file_len=file_len)
    ) as files:
        files.write((0, 0, 0), voxels)
    box = {"topLeft": [0, 0, 0], "width": edge, "height": edge, "depth": edge}
    properties = {
        "id": {"name": folder.name, "team": ""},
        "scale": {"factor": [11.24, 11.24, 28.0], "unit": "nanometer"},
        "dataLayers": [
            {
                "name": layer,
                "category": "color" if layer == "color" else "segmentation",
                "boundingBox": box,
                "dataFormat": "wkw",
                "elementClass": voxels.dtype.name,
                "numChannels": 1,
                "mags": [{"mag": [1, 1, 1], "path": f"./{layer}/1", "cubeLength": BLOCK_LEN * file_len}],
            }
            | ({"largestSegmentId": int(voxels.max())} if layer != "color" else {})
        ],
        "version": 1,
    }
    (folder / "datasource-properties.json").write_text(json.dumps(properties))


def bytes_below(folder: Path) -> int:
    """Bytes of all cube files."""
    return sum(path.stat().st_size for path in folder.glob("z*/y*/x*.wkw"))


class Watched:
    """Watches a process and its children while the context lasts.

    :ivar bytes: the most resident memory that all of them had together
    :ivar cpu_seconds: what they took together
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.cpu_seconds = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> Self:
        self.cpu_seconds = -sum(_cpu_seconds(pid) for pid in _family(self._pid))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu_seconds += sum(_cpu_seconds(pid) for pid in _family(self._pid))

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.bytes = max(self.bytes, sum(_resident(pid) for pid in _family(self._pid)))


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting.extend(int(child) for child in children.read_text().split())
            except FileNotFoundError:
                continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def by_magd(root: Path, workers: int, layer: str) -> dict[str, float]:
    """Compress with a daemon."""
    daemon = Daemon(str(root), "--workers", str(workers))
    try:
        with magd_client.connect(daemon.grpc) as client:
            mag = client.dataset("data").layer(layer).mag("1")
            mag.get_info()
            with Watched(daemon.pid) as watched:
                began = time.perf_counter()
                operation = mag.compress()
                info = operation.wait()
                seconds = time.perf_counter() - began
        assert info.statistics is not None
        hold = info.statistics.longest_hold_seconds
        return {"seconds": seconds, "cpu": watched.cpu_seconds, "peak": watched.bytes, "hold": hold}
    finally:
        daemon.stop()


def by_webknossos(root: Path, workers: int, layer: str) -> dict[str, float]:
    """Compress with the webknossos package, in processes of its own that are there already."""
    from cluster_tools import get_executor  # type: ignore[import-untyped]
    from webknossos.dataset.dataset import Dataset

    dataset = Dataset.open(root / "data")
    with get_executor("multiprocessing", max_workers=workers) as executor:
        list(executor.map(abs, range(workers)))
        with Watched(os.getpid()) as watched:
            began = time.perf_counter()
            dataset.get_layer(layer).get_mag("1").compress(executor=executor)
            alone = time.perf_counter() - began
            os.sync()
            seconds = time.perf_counter() - began
    return {"seconds": seconds, "cpu": watched.cpu_seconds, "alone": alone, "peak": watched.bytes}


def measure(folder: Path, layer: str, edge: int, file_len: int, rounds: int, workers: int) -> None:
    """All rounds of one layer, and what came of them."""
    voxels = real_voxels(layer, edge)
    original = folder / "original"
    original.mkdir()
    make_dataset(original, layer, voxels, file_len)
    os.sync()
    raw_bytes = voxels.nbytes
    del voxels
    ways: dict[str, Callable[[Path, int, str], dict[str, float]]] = {"magd": by_magd, "webknossos": by_webknossos}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            root = folder / "root"
            shutil.copytree(original, root / "data")
            os.sync()
            result = way(root, workers, layer)
            result["size"] = bytes_below(root / "data" / layer / "1")
            results[name].append(result)
            shutil.rmtree(root)
    print(f"{layer}: {edge}^3 voxels, {raw_bytes / 2**20:.0f} MiB, files of {BLOCK_LEN * file_len}^3, {rounds} rounds")
    for name, of_way in results.items():
        best = min(of_way, key=lambda result: result["seconds"])
        middle = statistics.median(result["seconds"] for result in of_way)
        more = f", {best['alone']:.2f} s without sync" if "alone" in best else f", hold {best['hold'] * 1000:.0f} ms"
        print(
            f"  {name:10} {middle:7.2f} s (best {best['seconds']:.2f}{more}), {raw_bytes / middle / 1e6:6.0f} MB/s, "
            f"{min(result['cpu'] for result in of_way):.2f} s of CPU, "
            f"{best['size'] / 2**20:8.2f} MiB in files, {max(r['peak'] for r in of_way) / 2**20:5.0f} MiB resident"
        )
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(results["magd"], results["webknossos"], strict=True)]
    alone = [b["alone"] / a["seconds"] for a, b in zip(results["magd"], results["webknossos"], strict=True)]
    cpu = [b["cpu"] / a["cpu"] for a, b in zip(results["magd"], results["webknossos"], strict=True)]
    size = results["magd"][0]["size"] / results["webknossos"][0]["size"]
    print(
        f"  magd is {statistics.median(ratios):.1f} times as fast ({statistics.median(alone):.1f} times if webknossos "
        f"need not sync) and takes a {statistics.median(cpu):.1f}th of its CPU; its files have {size:.1%} of the size"
    )
    shutil.rmtree(original)


def levels(layer: str) -> None:
    """Speed and ratio of each level on one core, in memory."""
    mag, offset, size = LAYERS[layer]
    with wkw.Dataset.open(str(real_dataset() / layer / mag)) as files:
        data = files.read(offset, tuple(extent // BLOCK_LEN * BLOCK_LEN for extent in size))[0]
    blocks = [
        np.ascontiguousarray(data[x : x + 32, y : y + 32, z : z + 32].T).reshape(-1).view(np.uint8)
        for x in range(0, data.shape[0], 32)
        for y in range(0, data.shape[1], 32)
        for z in range(0, data.shape[2], 32)
    ]
    told = []
    for level in ("auto", "fast", 3, 5, 9, 10):
        encoder = BlockEncoder(level, blocks[0].nbytes)
        began = time.process_time()
        encoded = sum(len(encoder.encode(block)) for block in blocks)
        speed = data.nbytes / max(time.process_time() - began, 1e-9) / 1e6
        told.append(f"{level} {speed:.0f} MB/s at ratio {data.nbytes / encoded:.2f}")
    print(f"{layer}, one core: {'; '.join(told)}")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=1024)
    parser.add_argument("--file-len", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    for layer in options.layers:
        levels(layer)
        with tempfile.TemporaryDirectory(prefix="magd-benchmark-") as folder:
            measure(Path(folder), layer, options.edge, options.file_len, options.rounds, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
