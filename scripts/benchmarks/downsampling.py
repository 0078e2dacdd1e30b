#!/usr/bin/env python3
"""Building coarser mags through a daemon, against `Layer.downsample` of the webknossos package.

    python scripts/benchmarks/downsampling.py [--folder DIR] [--edge VOXELS]

The same data, made anew for both: an image (uint8, noise on a gradient; median) and a segmentation (uint32, segments of
some ten voxels; mode), mag 1 to 2, 4 and 8, raw. webknossos works in this process, one box after the other; magd in
the processes of its pool, and it syncs what it makes. `ratio` is the time of webknossos by that of magd.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import magd_client

MAGS = (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description="Coarser mags: magd against webknossos.")
    parser.add_argument("--folder", help="where the datasets are made; default: a temporary folder")
    parser.add_argument("--edge", type=int, default=256, help="of the layers, in voxels")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # webknossos tells of optional packages
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print("data          magd s   webknossos s   ratio   magd MiB")
        for category, method, data in volumes(arguments.edge):
            make(Path(folder) / "ours" / category, category, data)
            make(Path(folder) / "theirs" / category, category, data)
            ours, peak = magd_seconds(Path(folder) / "ours", category)
            theirs = webknossos_seconds(Path(folder) / "theirs" / category, method)
            print(f"{category:13} {ours:6.2f} {theirs:14.2f} {theirs / ours:7.1f} {peak:10}", flush=True)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak memory of this process, with webknossos and the data in it: {own} MiB")


def volumes(edge: int) -> list[tuple[str, str, Any]]:
    """Category, method and voxels (x, y, z)."""
    generator = np.random.default_rng(1)
    image = generator.integers(0, 128, (edge, edge, edge), dtype=np.uint8) + np.arange(edge, dtype=np.uint8) // 4
    seeds = generator.integers(1, 10_000, (edge // 16,) * 3, dtype=np.uint32)
    segments = seeds.repeat(16, 0).repeat(16, 1).repeat(16, 2)
    # Borders that do not lie on the grid of a coarser mag.
    return [("color", "median", image), ("segmentation", "mode", np.roll(segments, (5, 3, 7), (0, 1, 2)))]


def make(folder: Path, category: str, data: Any) -> None:
    """A dataset with one layer and mag 1."""
    wk: Any = importlib.import_module("webknossos")
    folder.parent.mkdir(parents=True, exist_ok=True)
    more = {"largest_segment_id": 10_000} if category == "segmentation" else {}
    dataset = wk.Dataset(folder, voxel_size=(10, 10, 10))
    layer = dataset.add_layer(
        "layer",
        category,
        data_format="wkw",
        dtype=data.dtype,
        num_channels=1,
        bounding_box=wk.BoundingBox((0, 0, 0), data.shape),
        **more,
    )
    layer.add_mag(1, chunk_shape=32, shard_shape=256, compress=False).write(data, absolute_offset=(0, 0, 0))


def magd_seconds(root: Path, dataset: str) -> tuple[float, int]:
    """From the call until it is in the files, in a daemon that runs; and the peak memory of its processes in MiB."""
    command = [
        sys.executable,
        "-m",
        "magd.cli.main",
        "serve",
        str(root),
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            address = daemon.stdout.readline().split("grpc=")[1].split()[0]
            with magd_client.connect(address) as client:
                layer = client.dataset(dataset).layer("layer")
                began = time.perf_counter()
                layer.downsample(MAGS).wait()
                return time.perf_counter() - began, peak_mib(daemon.pid)
        finally:
            daemon.terminate()


def peak_mib(pid: int) -> int:
    """The sum of the peaks of a process and its children."""
    children: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    total = 0
    for process in {str(pid), *children}:
        status = Path(f"/proc/{process}/status").read_text()
        total += int(status.split("VmHWM:")[1].split()[0]) >> 10
    return total


def webknossos_seconds(folder: Path, method: str) -> float:
    """The same by webknossos, which syncs nothing."""
    wk: Any = importlib.import_module("webknossos")
    cluster_tools: Any = importlib.import_module("cluster_tools")
    layer = wk.Dataset.open(folder).get_layer("layer")
    with cluster_tools.get_executor("sequential") as executor:
        began = time.perf_counter()
        layer.downsample(
            coarsest_mag=wk.Mag(MAGS[-1]),
            sampling_mode="isotropic",
            interpolation_mode=method,
            compress=False,
            executor=executor,
        )
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
