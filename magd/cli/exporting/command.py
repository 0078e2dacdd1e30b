"""`magd export`: the command. The file formats are in `magd.cli.exporting.writers`."""

from __future__ import annotations

import os
import time

import click

from magd.cli.connection import connected, server_option
from magd.cli.failures import CommandError
from magd.cli.listing import mag_handle
from magd.cli.names import Target, TargetType
from magd.cli.output import json_option, print_json, progress_bar
from magd.cli.transfer import PIECE_BYTES
from magd.cli.units import EXTENT, OFFSET, SIZE, format_seconds, format_size
from magd.geometry import Box, Vec3


@click.command("export", short_help="Export a box to .npy or TIFF.")
@click.argument("name", type=TargetType(3))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option("--offset", type=OFFSET, help="First voxel, in voxels of the mag.  [default: that of the bounding box]")
@click.option("--size", type=EXTENT, help="Extent in voxels of the mag.  [default: to the end of the bounding box]")
@click.option(
    "--compression", type=click.Choice(["none", "zlib"]), default="none", show_default=True, help="Of a TIFF."
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Pieces under way at once.")
@click.option(
    "--piece-size", type=SIZE, default=f"{PIECE_BYTES >> 20}MiB", show_default=True, help="Memory of one piece."
)
@json_option
@server_option
def export_command(
    name: Target,
    target: str,
    offset: Vec3 | None,
    size: Vec3 | None,
    compression: str,
    overwrite: bool,
    jobs: int,
    piece_size: int,
    as_json: bool,
    server: str,
) -> None:
    """Export a box of the mag NAME to the file TARGET: .npy, .tif or .tiff.

    \b
    .npy   shape (x, y, z), or (c, x, y, z) with several channels; magd import reads it back as it is
    .tif   one page for each z, rows are y, columns x, channels are samples; needs: pip install "magd[import]"

    The bounding box is exported unless --offset and --size say otherwise. What was never written is 0. The file
    appears under its name when it is complete. Voxels that are written during an export may be in it or not.

    \b
    Examples:
      magd export cortex/color/1 cortex.npy
      magd export cortex/color/1 cut.tif --offset 1000,1000,200 --size 512x512x64 --compression zlib

    With --json: {file, offset, size, dtype, num_channels, bytes, seconds}.
    """
    from magd.cli.exporting.writers import exporter_of

    started = time.monotonic()
    export = exporter_of(target, compression)
    if os.path.exists(target) and not overwrite:
        raise CommandError(f"{target} exists; --overwrite replaces it", "ALREADY_EXISTS")
    with connected(server) as client:
        mag = mag_handle(client, name)
        info = mag.get_info()
        if info.unserved_reason:
            raise CommandError(f"{name} is not served: {info.unserved_reason}", "UNSUPPORTED_DATA_FORMAT")
        box = box_to_export(info.bounding_box, offset, size, name)
        voxels = info.voxels
        partial = f"{target}.partial-{os.getpid()}"
        try:
            with progress_bar(f"export {name}", voxels.nbytes(box), show=not as_json) as bar:
                export(mag, box, info, partial, jobs, piece_size, bar.advance)
            os.replace(partial, target)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
    seconds = time.monotonic() - started
    if as_json:
        print_json(
            {
                "file": target,
                "offset": list(box.offset),
                "size": list(box.size),
                "dtype": info.dtype,
                "num_channels": info.num_channels,
                "bytes": voxels.nbytes(box),
                "seconds": round(seconds, 3),
            }
        )
        return
    click.echo(f"exported {name}: {box.size.x} x {box.size.y} x {box.size.z} voxels of {voxels} at {box.offset}")
    click.echo(f"{target}: {format_size(os.path.getsize(target))} in {format_seconds(seconds)}")


def box_to_export(bounding_box: Box, offset: Vec3 | None, size: Vec3 | None, name: Target) -> Box:
    """The box that was asked for, as far as it was.

    :param bounding_box: in voxels of the mag
    :raises CommandError: there is none to take the rest from, or nothing of it is left
    """
    if bounding_box.is_empty and (offset is None or size is None):
        raise CommandError(f"{name} holds no data; --offset and --size read a box of zeros", "INVALID_BOX")
    start = offset if offset is not None else bounding_box.offset
    box = Box(start, size) if size is not None else Box.between(start, bounding_box.end)
    if problem := box.problem():
        raise CommandError(f"the box cannot be exported: {problem}", "INVALID_BOX")
    return box
