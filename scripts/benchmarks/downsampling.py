"""Building coarser mags through a daemon, against `Layer.downsample` of the webknossos package.

The same data, made anew for both: an image (median) and a segmentation (mode), mag 1 to 2, 4 and 8, raw. webknossos
works in this process, one box after the other, and syncs nothing; magd works in the processes of its pool, and syncs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import magd_client
from scripts.benchmarks.measure import Probe, Results, Settings, Work
from scripts.benchmarks.volumes import BLOCK_LEN, image_or_segments, quiet, webknossos_library, webknossos_mag
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.benchmarks.measure import Sample
    from scripts.benchmarks.volumes import Category

GROUP: Final = "downsample"
MAGS: Final = (2, 4, 8)
METHODS: Final[dict[Category, str]] = {"color": "median", "segmentation": "mode"}
DATASET: Final = "benchmark"


def run(settings: Settings, results: Results) -> None:
    """Measure both categories."""
    edge = settings.edge // 2
    file_len = edge // BLOCK_LEN // 2
    for category, method in METHODS.items():
        data, source = image_or_segments(category, edge)
        work = Work(
            group=GROUP,
            name=f"mags 2, 4 and 8 by {method}",
            by="magd",
            box=f"{edge}^3",
            dtype=data.dtype.name,
            size_bytes=data.nbytes,
            block_len=BLOCK_LEN,
            file_len=file_len,
            data=source,
        )
        ours = replace(work, transport="tcp", durability="disk")
        theirs = replace(work, by="webknossos")
        for _ in range(min(2, settings.rounds)):
            for of_one in (ours, theirs):
                folder = settings.folder / GROUP
                mag = webknossos_mag(
                    folder / DATASET, "layer", data.dtype.name, file_len, edge, category=category
                )  # fmt: skip
                mag.write(data, absolute_offset=(0, 0, 0))
                sample = _by_magd(folder) if of_one is ours else _by_webknossos(folder, method)
                results.add(of_one, sample)
                shutil.rmtree(folder)
        faster = results.times_as_fast(ours, theirs)
        results.note(ours, f"{faster:.1f} times as fast as webknossos")


def _by_magd(root: Path) -> Sample:
    """From the call until it is in the files."""
    with Daemon(root, "--log-level", "warning") as daemon, magd_client.connect(daemon.grpc) as client:
        layer = client.dataset(DATASET).layer("layer")
        layer.get_info()
        probe = Probe(daemon.pid)
        layer.downsample(MAGS).wait()
        return probe.sample()


def _by_webknossos(root: Path, method: str) -> Sample:
    from cluster_tools import get_executor  # type: ignore[import-untyped]

    layer = webknossos_library().Dataset.open(root / DATASET).get_layer("layer")
    with get_executor("sequential") as executor, quiet():
        probe = Probe()
        layer.downsample(
            coarsest_mag=webknossos_library().Mag(MAGS[-1]),
            sampling_mode="isotropic",
            interpolation_mode=method,
            compress=False,
            executor=executor,
        )
        return probe.sample()
