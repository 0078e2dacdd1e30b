"""Sources that are `.npy` files. The file is memory-mapped: an import needs no more memory than its pieces.

`--axes` names the axes of the array in their order: `xyz` (the default of three axes, what `magd export` writes), `zyx`
(a stack of images), `cxyz` (the default of four), `zyxc` and so on. `xy` and `yx` are one z-plane.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from magd.cli.failures import CommandError
from magd.cli.importing.source import ArraySource, Source, SourceInfo, voxel_format
from magd.geometry import Vec3

DEFAULT_AXES = {2: "xy", 3: "xyz", 4: "cxyz"}


def open_npy(path: str, axes: str | None) -> Source:
    """Open an `.npy` file.

    :param axes: a letter for each axis; None for the default of their number
    :raises CommandError: it is no such file, its axes do not fit, or WKW cannot hold its dtype
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise CommandError(f"{path}: not a .npy file that can be mapped: {error}", "INVALID_FIELD") from error
    label = f"{os.path.basename(path)}: {' x '.join(map(str, array.shape))} {array.dtype.name}"
    channels_first = in_channel_order(array, axes, path)
    num_channels, *size = channels_first.shape
    if 0 in channels_first.shape:
        raise CommandError(f"{path}: the array is empty, its shape is {array.shape}", "INVALID_FIELD")
    voxels = voxel_format(array.dtype, num_channels, path)
    return ArraySource(channels_first, SourceInfo(label=label, size=Vec3.of(size), voxels=voxels))


def in_channel_order(array: np.ndarray[Any, Any], axes: str | None, path: str) -> np.ndarray[Any, Any]:
    """A view of an array whose axes are (c, x, y, z).

    :raises CommandError: `axes` does not fit the array
    """
    if axes is None:
        axes = DEFAULT_AXES.get(array.ndim)
        if axes is None:
            raise CommandError(f"{path}: an array of shape {array.shape} has no x, y and z", "INVALID_FIELD")
    problem = problem_of_axes(axes)
    if problem is None and len(axes) != array.ndim:
        problem = f"the array has {array.ndim} axes, its shape is {array.shape}"
    if problem is not None:
        raise CommandError(f"{path}: axes {axes!r}: {problem}", "INVALID_FIELD")
    missing = [letter for letter in "cxyz" if letter not in axes]
    expanded = array[(None,) * len(missing)]
    return expanded.transpose(["".join([*missing, axes]).index(letter) for letter in "cxyz"])


def problem_of_axes(axes: str) -> str | None:
    """Why a text names no axes, or None."""
    if len(set(axes)) != len(axes) or not set(axes) <= set("cxyz"):
        return "each letter must be one of c, x, y, z, and only once"
    if not {"x", "y"} <= set(axes):
        return "x and y must be among them"
    return None
