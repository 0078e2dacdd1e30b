"""Names as people type them.

`cortex`, `cortex/color` and `cortex/color/1` address a dataset, a layer and a mag. The full names of the RPC interface
(`datasets/cortex/layers/color/mags/1`) are taken as well, so that what one command prints can be given to the next.
A dataset named "datasets" keeps its short name unless the whole text has the form of a full name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from magd.geometry import Mag

_COLLECTIONS = ("datasets", "layers", "mags")


@dataclass(frozen=True, slots=True)
class Target:
    """A dataset, a layer or a mag."""

    dataset: str
    layer: str | None = None
    mag: Mag | None = None

    @property
    def depth(self) -> int:
        """1 for a dataset, 2 for a layer, 3 for a mag."""
        return 1 + (self.layer is not None) + (self.mag is not None)

    @property
    def kind(self) -> str:
        """What it addresses."""
        return ("dataset", "layer", "mag")[self.depth - 1]

    @property
    def resource(self) -> str:
        """The full name, as the RPC interface has it."""
        text = f"datasets/{self.dataset}"
        if self.layer is not None:
            text += f"/layers/{self.layer}"
        if self.mag is not None:
            text += f"/mags/{self.mag.name}"
        return text

    def __str__(self) -> str:
        parts = [self.dataset, self.layer, None if self.mag is None else self.mag.name]
        return "/".join(part for part in parts if part is not None)


def parse(text: str) -> Target:
    """Read a name.

    :raises ValueError: it has no part, an empty part or too many, or its mag is none
    """
    parts = text.strip("/").split("/")
    collections = parts[0::2]
    if len(parts) % 2 == 0 and tuple(collections) == _COLLECTIONS[: len(collections)]:
        parts = parts[1::2]
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise ValueError(f"{text!r} is not like dataset, dataset/layer or dataset/layer/mag")
    return Target(parts[0], parts[1] if len(parts) > 1 else None, Mag.of(parts[2]) if len(parts) > 2 else None)


def short(resource: str) -> str:
    """The short form of a full name; anything else as it is."""
    try:
        return str(parse(resource))
    except ValueError:
        return resource


class TargetType(click.ParamType):
    """An argument that names a dataset, a layer or a mag.

    :param depths: the kinds that are taken: 1 for a dataset, 2 for a layer, 3 for a mag
    """

    name = "name"

    def __init__(self, *depths: int) -> None:
        self.depths = depths or (1, 2, 3)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        try:
            target = parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if target.depth not in self.depths:
            wanted = " or ".join(("dataset", "dataset/layer", "dataset/layer/mag")[depth - 1] for depth in self.depths)
            self.fail(f"{value!r} names a {target.kind}; wanted is {wanted}", param, ctx)
        return target
