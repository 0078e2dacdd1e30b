"""`magd demo`: a small volume through a running daemon, written by several writers at once, and checked."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import click

from magd.cli.connection import connected, server_option
from magd.cli.failures import CommandError
from magd.cli.names import Target, TargetType
from magd.cli.output import json_option, print_json
from magd.cli.units import count, format_seconds, format_size
from magd.geometry import Box, Mag, Vec3


@click.command("demo", short_help="Write with several writers at once, and check.")
@click.option("--dataset", type=TargetType(1), default="demo", show_default=True, help="Where the volume goes.")
@click.option("--writers", type=click.IntRange(1, 64), default=4, show_default=True, help="Writers at once.")
@click.option("--writes", type=click.IntRange(1, 1000), default=25, show_default=True, help="Boxes of each writer.")
@json_option
@server_option
def demo_command(dataset: Target, writers: int, writes: int, as_json: bool, server: str) -> None:
    """Write a small volume with several writers at once, read it back, and check every voxel.

    The writers do not know of each other and their boxes overlap. The volume stays: it can be listed, compressed,
    exported, and removed with magd rm demo.

    \b
    Examples:
      magd demo
      magd demo --writers 16 --writes 100

    With --json: {name, writers, writes, retried, overlapping_pairs, bytes, seconds, revision}.
    """
    import numpy as np

    from magd.cli.exercise import overlaps, replay, write_boxes
    from magd.voxels import VoxelFormat

    target = Target(dataset.dataset, "noise", Mag.of(1))
    box = Box(Vec3(5, 7, 3), Vec3(128, 128, 64))
    voxels = VoxelFormat.of("uint8", 1)
    with connected(server) as client:
        made = client.create_dataset(target.dataset, voxel_size=(10.0, 10.0, 30.0), unit="nanometer", exist_ok=True)
        layer = made.add_layer("noise", category="color", dtype=voxels.dtype, num_channels=1, exist_ok=True)
        mag = layer.add_mag("1", block_len=16, file_len=4, exist_ok=True)
        before = mag.read(offset=box.offset, size=box.size)
        started = time.monotonic()
        with ThreadPoolExecutor(writers) as threads:
            jobs = [
                threads.submit(write_boxes, mag, box, voxels, writer=writer, count=writes) for writer in range(writers)
            ]
            written = [write for job in jobs for write in job.result()]
        seconds = time.monotonic() - started
        wrong = int(
            np.count_nonzero(mag.read(offset=box.offset, size=box.size) != replay(before, box, written, voxels))
        )
        if wrong:
            raise CommandError(f"{count(wrong, 'voxel')} of {target} not as written; please report this", "DATA_LOSS")
        files = sum(1 for _ in mag.cube_files())
    retried = sum(write.retried for write in written)
    copied = sum(voxels.nbytes(write.box) for write in written)
    last = max(write.revision for write in written)
    if as_json:
        print_json(
            {
                "name": str(target),
                "writers": writers,
                "writes": len(written),
                "retried": retried,
                "overlapping_pairs": overlaps(written),
                "bytes": copied,
                "seconds": round(seconds, 3),
                "revision": [last.epoch, last.counter],
            }
        )
        return
    click.echo(
        f"{count(writers, 'writer')} at once wrote {count(len(written), 'box', 'boxes')} into {target}, "
        f"{format_size(copied)} in {format_seconds(seconds)}"
    )
    click.echo(
        f"{overlaps(written):,} pairs of boxes overlap, {retried} writes were sent twice, {count(files, 'cube file')}"
    )
    click.echo("read back: every voxel is what the last writer of it wrote, in the order of the revisions")
    click.echo(f"next: magd info {target}   magd ls {target} --files   magd compress {target}")
