"""The voxel size of a TIFF file, where the file says it: ImageJ hyperstacks and OME-TIFF do.

The resolution tags alone do not count. Cameras, scanners and image editors fill them with 72 or 300 dots per inch of
paper, and they know no z.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from magd.cli.importing.source import VoxelSizeInUnit

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS: Final = {
    "nm": "nanometer",
    "nanometer": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "micrometer": "micrometer",
    "mm": "millimeter",
    "millimeter": "millimeter",
    "cm": "centimeter",
    "centimeter": "centimeter",
    "m": "meter",
}


def voxel_size_of(tiff: Any) -> VoxelSizeInUnit | None:
    """The voxel size that an open `tifffile.TiffFile` states completely, or None."""
    if tiff.is_ome and tiff.ome_metadata:
        return _of_ome(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        return _of_imagej(tiff.imagej_metadata, tiff.pages[0].resolution)
    return None


def _of_imagej(metadata: Mapping[str, Any], pixels_per_unit: tuple[float, float]) -> VoxelSizeInUnit | None:
    unit = _UNITS.get(str(metadata.get("unit", "")))
    spacing = metadata.get("spacing")
    if unit is None or not isinstance(spacing, int | float) or not all(pixels_per_unit):
        return None
    return _size((1 / pixels_per_unit[0], 1 / pixels_per_unit[1], abs(float(spacing))), unit)


def _of_ome(xml: str) -> VoxelSizeInUnit | None:
    try:
        pixels = ET.fromstring(xml).find(".//{*}Pixels")
    except ET.ParseError:
        return None
    if pixels is None:
        return None
    # The schema says micrometer where no unit is given.
    units = {_UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"}
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"]
    unit = units.pop()
    if units or unit is None or None in sizes:
        return None
    try:
        x, y, z = (float(size) for size in sizes if size is not None)
    except ValueError:
        return None
    return _size((x, y, z), unit)


def _size(factor: tuple[float, float, float], unit: str) -> VoxelSizeInUnit | None:
    if not all(math.isfinite(number) and number > 0 for number in factor):
        return None
    # Resolutions are fractions: 1 / (2 / 1) is exact, 1 / (10 / 3) should not become 0.30000000000000004.
    x, y, z = (float(f"{number:.6g}") for number in factor)
    return VoxelSizeInUnit((x, y, z), unit)
