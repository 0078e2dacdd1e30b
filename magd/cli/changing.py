"""`magd create`, `magd rename` and `magd rm`: what there is below the root, changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from magd.cli.connection import connected, server_option
from magd.cli.failures import CommandError
from magd.cli.listing import handle_of
from magd.cli.names import Target, TargetType
from magd.cli.output import json_option, print_json
from magd.cli.units import POWER_OF_TWO, VOXEL_SIZE
from magd.errors import NotFound
from magd.voxels import VOXEL_DTYPES

if TYPE_CHECKING:
    from magd_client import Client

_DATASET_OPTIONS = ("voxel_size", "unit")
_LAYER_OPTIONS = ("category", "dtype", "channels")
_MAG_OPTIONS = ("block_len", "file_len", "compressed")


@click.command("create", short_help="Create a dataset, a layer or a mag.")
@click.argument("name", type=TargetType())
@click.option("--parents", "-p", is_flag=True, help="Also create the dataset and the layer that NAME lies in.")
@click.option("--exist-ok", is_flag=True, help="Do nothing if it exists with the same parameters.")
@click.option("--voxel-size", type=VOXEL_SIZE, help="Dataset: size of a mag-1 voxel, such as 11.24,11.24,28.")
@click.option("--unit", help="Dataset: unit of the voxel size.  [default: nanometer]")
@click.option(
    "--category", type=click.Choice(["color", "segmentation"]), help="Layer: what it holds.  [default: color]"
)
@click.option("--dtype", type=click.Choice(VOXEL_DTYPES), help="Layer: of one channel.  [default: uint8]")
@click.option("--channels", type=click.IntRange(1, 255), help="Layer: channels of a voxel.  [default: 1]")
@click.option("--block-len", type=POWER_OF_TWO, help="Mag: edge of a block in voxels.  [default: 32]")
@click.option("--file-len", type=POWER_OF_TWO, help="Mag: edge of a cube file in blocks.  [default: 32]")
@click.option("--compressed", is_flag=True, default=None, help="Mag: compress blocks as they are written.")
@server_option
def create_command(name: Target, parents: bool, exist_ok: bool, server: str, **options: Any) -> None:
    """Create a dataset, a layer or a mag: NAME says which.

    \b
    Examples:
      magd create cortex --voxel-size 11.24,11.24,28
      magd create cortex/color --dtype uint8
      magd create cortex/color/1 --block-len 32 --file-len 32
      magd create -p brain/ids/1 --voxel-size 4,4,40 --category segmentation --dtype uint32

    A raw cube file is as long as all its voxels, also where few are written: for small volumes choose a small
    --file-len.
    """
    given = {option: value for option, value in options.items() if value is not None}
    kinds = {
        "dataset": _DATASET_OPTIONS,
        "layer": _LAYER_OPTIONS,
        "mag": _MAG_OPTIONS,
    }
    created = list(kinds)[: name.depth] if parents else [name.kind]
    for kind, names in kinds.items():
        if kind not in created and (wrong := [option for option in names if option in given]):
            flag = "--" + wrong[0].replace("_", "-")
            parent = " (with --parents, the parents too)" if list(kinds).index(kind) < name.depth else ""
            raise click.UsageError(f"{flag} describes a {kind}, but {name} names a {name.kind}{parent}")
    with connected(server) as client:
        if name.layer is None or parents:
            _create_dataset(client, name, given, exist_ok or name.layer is not None)
        if name.layer is not None and (name.mag is None or parents):
            _create_layer(client, name, given, exist_ok or name.mag is not None)
        if name.layer is not None and name.mag is not None:
            client.dataset(name.dataset).layer(name.layer).add_mag(
                name.mag,
                block_len=given.get("block_len", 32),
                file_len=given.get("file_len", 32),
                compressed=bool(given.get("compressed")),
                exist_ok=exist_ok,
            )
    click.echo(f"created {name.kind} {name}")


@click.command("rename", short_help="Rename a layer.")
@click.argument("name", type=TargetType(2))
@click.argument("new_name")
@server_option
def rename_command(name: Target, new_name: str, server: str) -> None:
    """Rename the layer NAME. NEW_NAME is the layer's new name alone.

    \b
    Example:
      magd rename cortex/color em
    """
    assert name.layer is not None
    # "cortex/em" is what one types after "cortex/color"; another dataset cannot be meant.
    new_name = new_name.removeprefix(f"{name.dataset}/")
    with connected(server) as client:
        client.dataset(name.dataset).layer(name.layer).rename(new_name)
    click.echo(f"renamed {name} to {name.dataset}/{new_name}")


@click.command("rm", short_help="Move a dataset, layer or mag to the trash.")
@click.argument("name", type=TargetType())
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@server_option
def rm_command(name: Target, yes: bool, as_json: bool, server: str) -> None:
    """Move the dataset, layer or mag NAME to the trash.

    Nothing is erased: the files stay on the disk, in a hidden trash folder below the root, until somebody removes them
    there.

    \b
    Example:
      magd rm cortex/old --yes
    """
    with connected(server) as client:
        handle = handle_of(client, name)
        handle.get_info()
        if not yes:
            _confirm(f"Move {name.kind} {name} to the trash?")
        trash_path = handle.delete()
    if as_json:
        print_json({"name": str(name), "trash_path": trash_path or None})
    else:
        click.echo(
            f"moved {name.kind} {name} to {trash_path}" if trash_path else f"removed {name}, which had no folder"
        )


def _confirm(question: str) -> None:
    """Ask, and raise unless the answer is yes."""
    if not click.confirm(question, err=True):
        raise CommandError("nothing was changed", "CANCELLED")


def _create_dataset(client: Client, name: Target, given: dict[str, Any], exist_ok: bool) -> None:
    if "voxel_size" not in given:
        # As a parent, a dataset that exists needs no description.
        if name.layer is not None and _exists(client, name.dataset):
            return
        raise click.UsageError(f"--voxel-size X,Y,Z is needed to create the dataset {name.dataset}")
    client.create_dataset(
        name.dataset,
        voxel_size=given["voxel_size"],
        unit=given.get("unit", "nanometer"),
        exist_ok=exist_ok,
    )


def _exists(client: Client, dataset: str) -> bool:
    try:
        client.dataset(dataset).get_info()
    except NotFound:
        return False
    return True


def _create_layer(client: Client, name: Target, given: dict[str, Any], exist_ok: bool) -> None:
    assert name.layer is not None
    dataset = client.dataset(name.dataset)
    described = any(option in given for option in _LAYER_OPTIONS)
    if name.mag is not None and not described and any(info.id == name.layer for info in dataset.get_info().layers):
        return
    dataset.add_layer(
        name.layer,
        category=given.get("category", "color"),
        dtype=given.get("dtype", "uint8"),
        num_channels=given.get("channels", 1),
        exist_ok=exist_ok,
    )
