"""`magd import`: the command. What it does is in `magd.cli.importing.copying`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from magd.cli.connection import DURABILITIES, connected, server_option
from magd.cli.failures import CommandError
from magd.cli.names import Target, TargetType
from magd.cli.output import json_option, note, print_json, progress_bar
from magd.cli.units import OFFSET, POWER_OF_TWO, SIZE, VOXEL_SIZE, format_seconds, format_size
from magd.geometry import Mag
from magd.voxels import VOXEL_DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.cli.importing.copying import Imported
    from magd.cli.importing.open import NamedSource


@click.command("import", short_help="Import TIFF, .npy, NIfTI or WKW.")
@click.argument("source")
@click.argument("target", type=TargetType())
@click.option("--voxel-size", type=VOXEL_SIZE, help="Of a mag-1 voxel, for a new dataset.  [default: the source's]")
@click.option("--unit", help="Of the voxel size.  [default: the source's, or nanometer with --voxel-size]")
@click.option("--category", type=click.Choice(["color", "segmentation"]), help="Of a new layer.  [default: color]")
@click.option("--dtype", type=click.Choice(VOXEL_DTYPES), help="Convert; a value that does not fit is an error.")
@click.option("--offset", type=OFFSET, help="Where the first voxel goes, in voxels of the mag.  [default: 0,0,0]")
@click.option("--axes", help="Axes of a .npy file, such as zyx or zyxc.  [default: xyz, or cxyz of four axes]")
@click.option("--volume", type=click.IntRange(0), help="Which volume of a time series (NIfTI, TIFF).")
@click.option("--apply-scaling", is_flag=True, help="Apply the scale and intercept of a NIfTI file; gives float32.")
@click.option("--block-len", type=POWER_OF_TWO, help="Of a new mag, in voxels.  [default: 32]")
@click.option("--file-len", type=POWER_OF_TWO, help="Of a new mag, in blocks.  [default: fits the volume, at most 32]")
@click.option("--compress", is_flag=True, help="Compress the mag when everything is there.")
@click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    default="process",
    show_default=True,
    help="Of each write. In the end one flush brings everything to the disk.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Pieces under way at once.")
@click.option(
    "--piece-size",
    type=SIZE,
    default="32MiB",
    show_default=True,
    help="Memory of one piece, or of one image if that is more.",
)
@json_option
@server_option
def import_command(source: str, target: Target, compress: bool, as_json: bool, server: str, **options: Any) -> None:
    """Import SOURCE into TARGET, which is DATASET/LAYER or DATASET/LAYER/MAG (mag 1 if it is left out).

    \b
    SOURCE is one of
      a folder of TIFF files, or a quoted pattern  one image each, in natural order; page = z, row = y, column = x
      a TIFF file with many pages                  page = z
      a .npy file                                  axes x, y, z unless --axes says otherwise
      a NIfTI file (.nii, .nii.gz)                 axes as in the file; voxel size and unit from its header
      a WKW mag, layer or dataset folder           offsets are kept; TARGET may be a layer, or a dataset for all layers

    Dataset, layer and mag are created where they are missing. Voxels that are there already are overwritten where the
    source has some. TIFF and NIfTI need: pip install "magd[import]"; WKW needs: pip install "magd[server]".

    \b
    Examples:
      magd import scan.nii.gz brain/mri
      magd import 'slices/*.tif' cortex/em --voxel-size 11.24,11.24,28
      magd import labels.npy cortex/ids --axes zyx --dtype uint32 --category segmentation --compress

    With --json: a list of {name, offset, size, dtype, num_channels, bytes, seconds}, one for each mag.
    """
    import time

    import numpy as np

    from magd.cli.importing.copying import Import, ImportOptions
    from magd.cli.importing.open import SourceOptions, open_sources

    started = time.monotonic()
    what = SourceOptions(options.pop("axes"), options.pop("volume"), options.pop("apply_scaling"))
    if options["unit"] is not None and options["voxel_size"] is None:
        raise click.UsageError("--unit is the unit of --voxel-size, which is missing")
    dtype = options.pop("dtype")
    piece_bytes = options.pop("piece_size")
    how = ImportOptions(dtype=None if dtype is None else np.dtype(dtype), piece_bytes=piece_bytes, **options)
    opened = open_sources(source, what)
    try:
        targets = targets_of(target, opened.sources)
        if how.offset is not None and len(targets) > 1:
            raise CommandError(f"--offset is for one mag, and the source has {len(targets)}", "INVALID_FIELD")
        for text in opened.left_out:
            note(text)
        with connected(server) as client:
            imports = [
                Import(client, named.source, where, how) for named, where in zip(opened.sources, targets, strict=True)
            ]
            for named in opened.sources:
                note(named.source.info.label)
                for text in named.source.info.notes:
                    note(text)
            total = sum(one.size_bytes for one in imports)
            with progress_bar(f"import {target}", total, show=not as_json) as bar:
                done = [one.run(bar.advance) for one in imports]
            seconds = time.monotonic() - started
            if compress:
                from magd.cli.converting import compress_and_wait

                for result in done:
                    compress_and_wait(client, result.target, show=not as_json)
    finally:
        opened.close()
    if as_json:
        print_json([_document(result, seconds) for result in done])
        return
    for result in done:
        size = result.box.size
        click.echo(
            f"imported {result.target}: {size.x} x {size.y} x {size.z} voxels of {result.voxels} at {result.box.offset}"
        )
    copied = sum(result.size_bytes for result in done)
    click.echo(f"{format_size(copied)} in {format_seconds(seconds)}, {format_size(copied / seconds)}/s, on disk")


def targets_of(target: Target, sources: Sequence[NamedSource]) -> list[Target]:
    """Where each source goes; those of a WKW dataset keep the layer and mag that the target leaves open.

    :raises CommandError: no layer is named, or two sources would go to the same mag
    """
    targets: list[Target] = []
    for named in sources:
        layer = target.layer or named.layer
        if layer is None:
            raise CommandError(f"{target} names a dataset: which layer? give it as {target}/LAYER", "INVALID_NAME")
        targets.append(Target(target.dataset, layer, target.mag or named.mag or Mag.of(1)))
    if len(set(targets)) < len(targets):
        raise CommandError(
            f"{len(targets)} mags would go to {targets[0]}: name fewer of them in the source, or less in the target",
            "INVALID_NAME",
        )
    return targets


def _document(result: Imported, seconds: float) -> dict[str, Any]:
    return {
        "name": str(result.target),
        "offset": list(result.box.offset),
        "size": list(result.box.size),
        "dtype": result.voxels.dtype.name,
        "num_channels": result.voxels.num_channels,
        "bytes": result.size_bytes,
        "seconds": round(seconds, 3),
    }
