"""One import: making the dataset, layer and mag where they are missing, and copying a source into the mag.

1. Everything that can be refused is refused before anything is created: names, dtype, channels, voxel size.
2. Dataset, layer and mag are created where they are missing. What exists must fit and keeps its parameters.
3. The pieces are read, cast if that was asked for, and written, several at a time (see `magd.cli.transfer`).
4. One flush at the end brings everything to the disk and into the cube files. A write before it only has to survive a
   crash of the daemon: an import that fails is run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magd.acknowledgement import Durability
from magd.cli.failures import CommandError
from magd.cli.importing.plan import piece_shape, pieces, sensible_file_len
from magd.cli.importing.source import Source, VoxelSizeInUnit
from magd.cli.importing.values import cast
from magd.cli.transfer import PIECE_BYTES, copy_pieces
from magd.errors import AlreadyExists, NotFound
from magd.geometry import Box, Mag, Vec3
from magd.voxels import VoxelFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from magd.cli.names import Target
    from magd_client import Client, MagHandle
    from magd_client.info import Category

DEFAULT_BLOCK_LEN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked for; None where the source or a default decides."""

    voxel_size: tuple[float, float, float] | None = None
    unit: str | None = None
    category: Category | None = None
    dtype: np.dtype[Any] | None = None
    offset: Vec3 | None = None
    """In voxels of the mag."""
    block_len: int | None = None
    file_len: int | None = None
    durability: str = "process"
    jobs: int = 4
    piece_bytes: int = PIECE_BYTES


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    target: Target
    box: Box
    """In voxels of the mag."""
    voxels: VoxelFormat
    size_bytes: int
    """Of the voxels."""


class Import:
    """One source on its way into one mag.

    :param target: a mag
    """

    def __init__(self, client: Client, source: Source, target: Target, options: ImportOptions) -> None:
        assert target.layer is not None
        assert target.mag is not None
        self._client = client
        self._source = source
        self._target = target
        self._options = options
        self._mag_name: Mag = target.mag
        self._layer_name: str = target.layer
        self.voxels = VoxelFormat.of(options.dtype or source.info.voxels.dtype, source.info.voxels.num_channels)
        self.box = Box(options.offset if options.offset is not None else source.info.offset, source.info.size)

    @property
    def size_bytes(self) -> int:
        """Of the voxels that are written."""
        return self.voxels.nbytes(self.box)

    def run(self, advance: Callable[[int], None]) -> Imported:
        """Do it.

        :param advance: told the bytes of each piece that is written
        :raises CommandError: the source cannot be read, or does not fit what exists
        :raises MagdError: the daemon refuses
        """
        if problem := self.box.problem():
            raise CommandError(f"the volume cannot lie there: {problem}", "INVALID_BOX")
        mag = self._prepare()
        info = mag.get_info()
        if info.unserved_reason:
            raise CommandError(f"{self._target} is not served: {info.unserved_reason}", "UNSUPPORTED_DATA_FORMAT")
        shape = piece_shape(
            self.box,
            cube_len=info.block_len * info.file_len,
            block_len=info.block_len,
            bytes_per_voxel=self.voxels.bytes_per_voxel,
            max_bytes=self._options.piece_bytes,
            whole_pages=self._source.info.whole_pages,
        )

        durability = Durability[self._options.durability.upper()]

        def copy(piece: Box) -> int:
            data = self._source.read(Box(piece.offset - self.box.offset, piece.size))
            data = cast(data, self.voxels.dtype, f"voxels at {piece.offset}")
            mag.write(data, offset=piece.offset, durability=durability)
            return data.nbytes

        size_bytes = copy_pieces(pieces(self.box, shape), copy, self._options.jobs, advance)
        mag.flush()
        return Imported(self._target, self.box, self.voxels, size_bytes)

    def _prepare(self) -> MagHandle:
        """Find or make the mag."""
        options, info = self._options, self._source.info
        dataset = self._client.dataset(self._target.dataset)
        layer = dataset.layer(self._layer_name)
        mag = layer.mag(self._mag_name)
        try:
            dataset_info = dataset.get_info()
        except NotFound:
            size = self._voxel_size()
            layer_info = None
            self._ensure(lambda: self._client.create_dataset(self._target.dataset, size.factor, size.unit))
        else:
            layer_info = next((one for one in dataset_info.layers if one.id == self._layer_name), None)
        if layer_info is None:
            category: Category = options.category or info.category or "color"
            voxels = self.voxels
            self._ensure(
                lambda: dataset.add_layer(
                    self._layer_name, category=category, dtype=voxels.dtype, num_channels=voxels.num_channels
                )
            )
        elif layer_info.unserved_reason:
            raise CommandError(
                f"{self._target.dataset}/{self._layer_name} is not served: {layer_info.unserved_reason}",
                "UNSUPPORTED_DATA_FORMAT",
            )
        elif (there := VoxelFormat.of(layer_info.dtype, layer_info.num_channels)) != self.voxels:
            advice = (
                f"; --dtype {there.dtype.name} converts them" if there.num_channels == self.voxels.num_channels else ""
            )
            raise CommandError(
                f"{self._target.dataset}/{self._layer_name} has voxels of {there}, the source of {self.voxels}{advice}",
                "DATA_TYPE_MISMATCH",
            )
        if layer_info is None or all(one.mag != self._mag_name for one in layer_info.mags):
            block_len = options.block_len or DEFAULT_BLOCK_LEN
            file_len = options.file_len or sensible_file_len(self.box, block_len)
            self._ensure(lambda: layer.add_mag(self._mag_name, block_len=block_len, file_len=file_len))
        if info.largest_segment_id is not None and (options.category or info.category) == "segmentation":
            layer.update(largest_segment_id=info.largest_segment_id)
        return mag

    def _ensure(self, create: Callable[[], object]) -> None:
        """Create something that was not there a moment ago; another import may be faster, and then it is there."""
        try:
            create()
        except AlreadyExists:
            pass

    def _voxel_size(self) -> VoxelSizeInUnit:
        options, known = self._options, self._source.info.voxel_size
        if options.voxel_size is not None:
            return VoxelSizeInUnit(options.voxel_size, options.unit or "nanometer")
        if known is None:
            raise CommandError(
                f"the dataset {self._target.dataset} is to be created, and the source does not say how large a voxel "
                "is: give --voxel-size X,Y,Z and --unit",
                "INVALID_FIELD",
            )
        # The dataset wants the size of a mag-1 voxel; the source knows that of its own, which are voxels of the mag.
        x, y, z = (size / factor for size, factor in zip(known.factor, self._mag_name.factor, strict=True))
        return VoxelSizeInUnit((x, y, z), known.unit)
