"""`magd downsample`: coarser mags of a layer, built or brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from magd.cli.connection import connected, server_option
from magd.cli.names import Target, TargetType
from magd.cli.operating import run_operation
from magd.cli.output import json_option
from magd.geometry import BoundingBox, Mag, Vec3

if TYPE_CHECKING:
    from typing import Any

    from magd_client.convert import DownsamplingMethod, SamplingMode


class MagType(click.ParamType):
    """A mag."""

    name = "mag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mag:
        if isinstance(value, Mag):
            return value
        try:
            return Mag.of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("downsample", short_help="Build the coarser mags of a layer, or update them.")
@click.argument("name", type=TargetType(2))
@click.argument("mags", type=MagType(), nargs=-1, metavar="[MAG]...")
@click.option("--source", type=MagType(), metavar="MAG", help="Start from this mag instead of the finest.")
@click.option(
    "--sampling-mode",
    type=click.Choice(["anisotropic", "isotropic", "constant_z"]),
    default="anisotropic",
    show_default=True,
    help="Which axes are halved from mag to mag, where no MAG is named.",
)
@click.option("--coarsest", type=MagType(), metavar="MAG", help="Build no mag coarser than this one.")
@click.option(
    "--method",
    type=click.Choice(["default", "median", "mean", "mode", "nearest"]),
    default="default",
    show_default=True,
    help="The default is mode for segmentations, else median.",
)
@click.option("--update", is_flag=True, help="Bring mags that exist up to date.")
@click.option(
    "--region",
    type=(int, int, int, int, int, int),
    metavar="X Y Z W H D",
    help="With --update: only what this box touches, corner and size in mag-1 voxels.",
)
@click.option("--no-wait", is_flag=True, help="Start it, print its name and return.")
@json_option
@server_option
def downsample_command(
    name: Target,
    mags: tuple[Mag, ...],
    source: Mag | None,
    sampling_mode: SamplingMode,
    coarsest: Mag | None,
    method: DownsamplingMethod,
    update: bool,
    region: tuple[int, int, int, int, int, int] | None,
    no_wait: bool,
    as_json: bool,
    server: str,
) -> None:
    """Build coarser mags of the layer NAME, each from the one before. Reads and writes go on meanwhile.

    Without a MAG, it goes on until the layer is about 100 voxels long. The daemon does the work and goes on with it
    when this command is interrupted.

    \b
    Examples:
      magd downsample cortex/color
      magd downsample cortex/segmentation 2-2-1 4-4-2 --method mode
      magd downsample cortex/color --update --region 100 200 0 64 64 64
    """
    if region is not None and not update:
        raise click.UsageError("--region goes with --update")
    box = None if region is None else BoundingBox(Vec3(*region[:3]), Vec3(*region[3:]))
    with connected(server) as client:
        assert name.layer is not None, "it names a layer"
        layer = client.dataset(name.dataset).layer(name.layer)
        operation = layer.downsample(
            mags,
            source=source,
            sampling_mode=sampling_mode,
            coarsest=coarsest,
            method=method,
            update=update,
            region=box,
        )
        run_operation(operation, wait=not no_wait, as_json=as_json)
