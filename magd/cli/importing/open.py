"""Which kind of source a path is."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magd.cli.failures import CommandError
from magd.cli.importing.tiff import SUFFIXES as TIFF_SUFFIXES

if TYPE_CHECKING:
    from magd.cli.importing.source import Source
    from magd.geometry import Mag

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the user said about the source; each fits some kinds only."""

    axes: str | None = None
    volume: int | None = None
    apply_scaling: bool = False


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A source, and how it is called in the WKW dataset it comes from; None elsewhere."""

    source: Source
    layer: str | None = None
    mag: Mag | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found at a path."""

    sources: list[NamedSource]
    left_out: list[str]
    """In words."""

    def close(self) -> None:
        """Close all sources."""
        for named in self.sources:
            named.source.close()


def open_sources(path: str, options: SourceOptions) -> Opened:
    """Open what lies at a path. All but a WKW dataset or layer is one source.

    :param path: of a file or folder, or a pattern of files
    :raises CommandError: there is nothing, it is of no kind that is known, or an option does not fit its kind
    """
    lower = path.lower()
    if os.path.isdir(path):
        from magd.cli.importing.wkw_folder import find_wkw, open_wkw

        found = find_wkw(path)
        if found:
            _refuse("a WKW folder", options, axes=False, volume=False, scaling=False)
            mags, left_out = open_wkw(found)
            return Opened([NamedSource(mag.source, mag.layer, mag.mag) for mag in mags], left_out)
        return _only(_open_stack(path, options))
    if not os.path.exists(path):
        if glob.has_magic(path):
            return _only(_open_stack(path, options))
        raise CommandError(f"{path}: no such file or folder", "NOT_FOUND")
    if lower.endswith(TIFF_SUFFIXES):
        from magd.cli.importing.tiff import open_tiff_file

        _refuse("TIFF", options, axes=False, volume=True, scaling=False)
        return _only(open_tiff_file(path, volume=options.volume))
    if lower.endswith(".npy"):
        from magd.cli.importing.npy import open_npy

        _refuse(".npy", options, axes=True, volume=False, scaling=False)
        return _only(open_npy(path, options.axes))
    if lower.endswith(NIFTI_SUFFIXES):
        from magd.cli.importing.nifti import NiftiSource

        _refuse("NIfTI", options, axes=False, volume=True, scaling=True)
        return _only(NiftiSource(path, volume=options.volume, apply_scaling=options.apply_scaling))
    raise CommandError(
        f"{path}: not a source that is known; known are TIFF (.tif, .tiff, a folder or pattern of them), .npy, NIfTI "
        "(.nii, .nii.gz) and WKW folders",
        "INVALID_FIELD",
    )


def _only(source: Source) -> Opened:
    return Opened([NamedSource(source)], [])


def _open_stack(path: str, options: SourceOptions) -> Source:
    from magd.cli.importing.tiff import open_tiff_stack

    _refuse("a stack of TIFF files", options, axes=False, volume=False, scaling=False)
    return open_tiff_stack(path)


def _refuse(kind: str, options: SourceOptions, *, axes: bool, volume: bool, scaling: bool) -> None:
    """Refuse options that a kind of source does not have."""
    for given, fits, flag in (
        (options.axes is not None, axes, "--axes"),
        (options.volume is not None, volume, "--volume"),
        (options.apply_scaling, scaling, "--apply-scaling"),
    ):
        if given and not fits:
            raise CommandError(f"{flag} does not apply to {kind}", "INVALID_FIELD")
