"""`magd ls` and `magd info`: what there is below the root."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from magd.cli.connection import connected, server_option
from magd.cli.describe import (
    cube_file_document,
    dataset_document,
    layer_document,
    mag_document,
    operation_document,
)
from magd.cli.failures import CommandError
from magd.cli.names import Target, TargetType, short
from magd.cli.operating import describe_blocks
from magd.cli.output import Column, json_option, note, print_details, print_json, print_json_line, print_table
from magd.cli.units import count, format_size

if TYPE_CHECKING:
    from magd.geometry import BoundingBox, Box
    from magd_client import Client, Dataset, Layer, MagHandle
    from magd_client.info import DatasetInfo, LayerInfo, MagInfo, OperationInfo

ROWS_AT_ONCE = 500
"""Cube files that are aligned with each other: a mag may have millions, and the first should show at once."""


@click.command("ls", short_help="List datasets, layers and mags, or cube files.")
@click.argument("name", type=TargetType(), required=False)
@click.option("--files", is_flag=True, help="List the cube files of the mag NAME.")
@json_option
@server_option
def ls_command(name: Target | None, files: bool, as_json: bool, server: str) -> None:
    """List datasets, or the layers and mags of the dataset or layer NAME, or cube files.

    \b
    Examples:
      magd ls
      magd ls cortex
      magd ls cortex/color/1 --files

    With --json: one list of datasets, layers or mags; cube files come one JSON object a line.
    """
    if files and (name is None or name.mag is None):
        raise click.UsageError("--files lists the cube files of a mag, such as cortex/color/1")
    with connected(server) as client:
        if name is None:
            _list_datasets(client, as_json)
        elif files:
            _list_cube_files(mag_handle(client, name), as_json)
        else:
            _list_mags(layers_of(client, name), name, as_json)


@click.command("info", short_help="Show everything about a dataset, layer or mag.")
@click.argument("name", type=TargetType())
@json_option
@server_option
def info_command(name: Target, as_json: bool, server: str) -> None:
    """Show everything about the dataset, layer or mag NAME.

    \b
    Examples:
      magd info cortex
      magd info cortex/color/1 --json
    """
    with connected(server) as client:
        dataset = client.dataset(name.dataset)
        if name.layer is None:
            found = dataset.get_info()
            print_json(dataset_document(found)) if as_json else print_details(_dataset_details(found))
        elif name.mag is None:
            layer = dataset.layer(name.layer).get_info()
            print_json(layer_document(layer)) if as_json else print_details(_layer_details(layer))
        else:
            mag = mag_handle(client, name).get_info()
            last = _last_conversion(client, mag)
            if as_json:
                print_json(mag_document(mag) | {"last_conversion": None if last is None else operation_document(last)})
            else:
                print_details(_mag_details(mag) | _conversion_details(last))


def _last_conversion(client: Client, mag: MagInfo) -> OperationInfo | None:
    """The last operation in this run of the daemon that has stored the mag in another way."""
    for info in client.list_operations(mag.name):
        if info.statistics is not None and info.statistics.blocks and info.result == mag.name:
            return info
    return None


def _conversion_details(info: OperationInfo | None) -> dict[str, str]:
    if info is None or info.statistics is None:
        return {}
    statistics = info.statistics
    stored = f"{format_size(statistics.raw_bytes)} of voxels took {format_size(statistics.stored_bytes)}"
    return {
        f"last {info.kind}": f"{stored}; {describe_blocks(statistics)}",
        **({"note": statistics.note} if statistics.note else {}),
    }


def mag_handle(client: Client, name: Target) -> MagHandle:
    """The handle of a mag that a user named."""
    assert name.layer is not None
    assert name.mag is not None
    return client.dataset(name.dataset).layer(name.layer).mag(name.mag)


def handle_of(client: Client, name: Target) -> Dataset | Layer | MagHandle:
    """The handle of what a user named."""
    dataset = client.dataset(name.dataset)
    if name.layer is None:
        return dataset
    layer = dataset.layer(name.layer)
    return layer if name.mag is None else layer.mag(name.mag)


def layers_of(client: Client, name: Target) -> list[LayerInfo]:
    """The layers of a dataset, or the one that a layer or mag belongs to."""
    dataset = client.dataset(name.dataset)
    if name.layer is None:
        return list(dataset.get_info().layers)
    return [dataset.layer(name.layer).get_info()]


def describe_box(box: Box | BoundingBox) -> str:
    """A box for people: where it begins and how large it is."""
    if box.is_empty:
        return "empty"
    return f"{box.offset.x},{box.offset.y},{box.offset.z} + {box.size.x} x {box.size.y} x {box.size.z}"


def _list_datasets(client: Client, as_json: bool) -> None:
    datasets = list(client.list_datasets())
    if as_json:
        print_json([dataset_document(info, with_layers=False) for info in datasets])
        return
    if not datasets:
        note("no datasets yet; try: magd demo")
        return
    rows = [[info.id, "" if info.unserved_reason else _voxel_size(info), info.unserved_reason] for info in datasets]
    _print_with_remarks([Column("DATASET"), Column("VOXEL SIZE"), Column("REMARK")], rows)


def _list_mags(layers: list[LayerInfo], name: Target, as_json: bool) -> None:
    if name.mag is not None:
        mags = [mag for layer in layers for mag in layer.mags if mag.mag == name.mag]
        if not mags:
            raise CommandError(f"there is no mag {name}", "MAG_NOT_FOUND")
        if as_json:
            print_json([mag_document(mag) for mag in mags])
            return
        rows = [_mag_row(layers[0], mag) for mag in mags]
    elif as_json:
        print_json([layer_document(layer) for layer in layers])
        return
    else:
        rows = [row for layer in layers for row in _layer_rows(layer)]
    if not rows:
        note(f"{name} has no layers yet")
        return
    columns = ["NAME", "CATEGORY", "VOXELS", "BLOCKS", "BOX IN VOXELS OF THE MAG", "REMARK"]
    _print_with_remarks([Column(title) for title in columns], rows)


def _layer_rows(layer: LayerInfo) -> list[list[str]]:
    if layer.mags and not layer.unserved_reason:
        return [_mag_row(layer, mag) for mag in layer.mags]
    remark = layer.unserved_reason or "no mags yet"
    return [[short(layer.name), layer.category, _voxels(layer.dtype, layer.num_channels), "", "", remark]]


def _mag_row(layer: LayerInfo, mag: MagInfo) -> list[str]:
    return [
        short(mag.name),
        layer.category,
        _voxels(mag.dtype or layer.dtype, mag.num_channels or layer.num_channels),
        "" if mag.unserved_reason else "compressed" if mag.compressed else "raw",
        "" if mag.unserved_reason else describe_box(mag.bounding_box),
        mag.unserved_reason,
    ]


def _list_cube_files(mag: MagHandle, as_json: bool) -> None:
    files = iter(mag.cube_files())
    if as_json:
        for file in files:
            print_json_line(cube_file_document(file))
        return
    columns = [Column("FILE"), Column("BOX"), Column("SIZE", True), Column("ON DISK", True), Column("BLOCKS")]
    number = size_bytes = allocated_bytes = 0
    while some := list(islice(files, ROWS_AT_ONCE)):
        rows = [
            [
                file.path,
                describe_box(file.box),
                format_size(file.size_bytes),
                format_size(file.allocated_bytes),
                file.block_type + (", pending" if file.pending else ""),
            ]
            for file in some
        ]
        print_table(columns, rows)
        number += len(some)
        size_bytes += sum(file.size_bytes for file in some)
        allocated_bytes += sum(file.allocated_bytes for file in some)
    note(f"{count(number, 'cube file')}, {format_size(size_bytes)}, {format_size(allocated_bytes)} on disk")


def _print_with_remarks(columns: list[Column], rows: list[list[str]]) -> None:
    """Print a table, without its last column if no row has a remark."""
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows)


def _dataset_details(info: DatasetInfo) -> dict[str, str]:
    if info.unserved_reason:
        return {"dataset": info.id, "not served": info.unserved_reason}
    layers = {f"layer {layer.id}": _layer_summary(layer) for layer in info.layers}
    return {"dataset": info.id, "voxel size": _voxel_size(info), **(layers or {"layers": "none yet"})}


def _layer_summary(layer: LayerInfo) -> str:
    if layer.unserved_reason:
        return f"not served: {layer.unserved_reason}"
    mags = ", ".join(mag.mag.name for mag in layer.mags) or "none yet"
    voxels = _voxels(layer.dtype, layer.num_channels)
    return f"{layer.category}, {voxels}, {describe_box(layer.bounding_box)} in mag-1 voxels, mags {mags}"


def _layer_details(layer: LayerInfo) -> dict[str, str]:
    details = {
        "layer": short(layer.name),
        "category": layer.category or "unknown",
        "voxels": _voxels(layer.dtype, layer.num_channels) or "unknown",
        "bounding box": f"{describe_box(layer.bounding_box)} (mag-1 voxels)",
        "mags": ", ".join(mag.mag.name for mag in layer.mags) or "none yet",
    }
    if layer.largest_segment_id is not None:
        details["largest segment id"] = str(layer.largest_segment_id)
    if layer.unserved_reason:
        details |= {"data format": layer.data_format, "not served": layer.unserved_reason}
    return details


def _mag_details(mag: MagInfo) -> dict[str, str]:
    if mag.unserved_reason:
        return {"mag": short(mag.name), "not served": mag.unserved_reason}
    return {
        "mag": short(mag.name),
        "voxels": _voxels(mag.dtype, mag.num_channels),
        "bounding box": f"{describe_box(mag.bounding_box)} (voxels of this mag)",
        "blocks": f"{mag.block_len} voxels along each edge, {'compressed' if mag.compressed else 'raw'}",
        "cube files": f"{mag.cube_len} voxels ({count(mag.file_len, 'block')}) along each edge",
        "folder": mag.folder,
        "revision": "not in use" if mag.revision is None else f"{mag.revision.epoch}.{mag.revision.counter}",
    }


def _voxels(dtype: str, num_channels: int) -> str:
    return f"{num_channels} x {dtype}" if dtype and num_channels > 1 else dtype


def _voxel_size(info: DatasetInfo) -> str:
    return f"{' x '.join(f'{factor:g}' for factor in info.voxel_size)} {info.unit}"
