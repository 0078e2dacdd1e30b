"""Changing the dtype of voxels, without changing what they say.

A cast happens only when it was asked for. Values that the new dtype cannot hold are an error: wrapped-around segment
ids or intensities would look like data. Fractions are rounded to the nearest whole number, since that is what a cast to
an integer asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magd.cli.failures import CommandError

if TYPE_CHECKING:
    from magd.voxels import VoxelArray


def cast(data: VoxelArray, dtype: np.dtype[Any], where: str) -> VoxelArray:
    """Voxels in another dtype.

    :param data: (c, x, y, z)
    :param where: for the message
    :return: the same array if it has the dtype already, else a new one in Fortran order
    :raises CommandError: a value does not fit
    """
    if data.dtype == dtype:
        return data
    if data.size and dtype.kind in "iu":
        _check_range(data, np.iinfo(dtype), where)
        if data.dtype.kind == "f":
            data = np.rint(data)
    elif data.size and dtype.kind == "f":
        _check_precision(data, dtype, where)
    return np.asfortranarray(data.astype(dtype))


def _check_range(data: VoxelArray, limits: np.iinfo[Any], where: str) -> None:
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise CommandError(f"{where}: a value that is not finite does not fit {limits.dtype}", "DATA_TYPE_MISMATCH")
    # Python numbers compare exactly; numpy would round a large integer to a float first.
    for value in (data.min().item(), data.max().item()):
        if not limits.min <= round(value) <= limits.max:
            raise CommandError(f"{where}: value {value} does not fit {limits.dtype}", "DATA_TYPE_MISMATCH")


def _check_precision(data: VoxelArray, dtype: np.dtype[Any], where: str) -> None:
    """Whole numbers must stay what they are; fractions may lose digits but not become infinite."""
    if data.dtype.kind == "f":
        with np.errstate(over="ignore"):
            overflows = np.isfinite(data) & ~np.isfinite(data.astype(dtype))
        if overflows.any():
            raise CommandError(f"{where}: value {data[overflows][0]} does not fit {dtype.name}", "DATA_TYPE_MISMATCH")
        return
    largest = 2 ** (np.finfo(dtype).nmant + 1)
    for value in (data.min().item(), data.max().item()):
        if abs(value) > largest:
            raise CommandError(
                f"{where}: {value} is beyond {largest}, up to which {dtype.name} holds every whole number",
                "DATA_TYPE_MISMATCH",
            )
