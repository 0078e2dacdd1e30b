# Generated from _async/layer.py by scripts/unasync: change it there.
"""A handle of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from magd.v1 import dataset_pb2, operation_pb2, types_pb2
from magd_client import answers, convert, methods, names
from magd_client._sync.connection import Connection, all_pages, new_request_id
from magd_client._sync.mag import MagHandle
from magd_client._sync.operation import Operation
from magd_client.unchanged import UNCHANGED, Unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magd.acknowledgement import Revision
    from magd.geometry import BoundingBox, MagLike
    from magd_client.convert import DownsamplingMethod, FlushLevel, SamplingMode
    from magd_client.info import LayerInfo, MagInfo


class Layer:
    """One volume of a dataset. A handle: making it does no I/O, and the layer need not exist."""

    def __init__(self, connection: Connection, dataset: str, layer: str) -> None:
        self._connection: Final = connection
        self._dataset: Final = dataset
        self.name: Final = names.layer_name(dataset, layer)
        """The full resource name."""

    def __repr__(self) -> str:
        return f"<magd_client.Layer {self.name!r} at {self._connection.address}>"

    def mag(self, mag: MagLike) -> MagHandle:
        """A handle of one of its mags.

        :param mag: `1`, "1", "2-2-1", (2, 2, 1)
        :raises InvalidRequest: it is no mag
        """
        return MagHandle(self._connection, self.name, names.mag_of(mag))

    def get_info(self, *, timeout: float | None = None) -> LayerInfo:
        """What it is, with its mags.

        :raises NotFound: there is no such layer
        """
        request = dataset_pb2.GetLayerRequest(name=self.name)
        response = self._connection.call(methods.GET_LAYER, request, timeout)
        return answers.layer_info(response.layer)

    def list_mags(self, *, timeout: float | None = None) -> list[MagInfo]:
        """Its mags, finest first.

        :param timeout: seconds for each page
        :raises NotFound: there is no such layer
        """

        def page(token: str) -> tuple[list[MagInfo], str]:
            request = dataset_pb2.ListMagsRequest(parent=self.name, page_token=token)
            response = self._connection.call(methods.LIST_MAGS, request, timeout)
            return [answers.mag_info(mag) for mag in response.mags], response.next_page_token

        return all_pages(page)

    def add_mag(
        self,
        mag: MagLike,
        *,
        block_len: int = 32,
        file_len: int = 32,
        compressed: bool = False,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> MagHandle:
        """Create an empty mag.

        :param mag: `1`, "1", "2-2-1", (2, 2, 1)
        :param block_len: edge of a block in voxels, a power of two up to 128
        :param file_len: edge of a cube file in blocks, a power of two up to 128
        :param compressed: whether its blocks are compressed from the start
        :param exist_ok: returns the mag if it exists with the same parameters
        :raises AlreadyExists: it exists; with `exist_ok`: with other parameters
        :raises InvalidRequest: a parameter is not possible
        """
        handle = self.mag(mag)
        request = dataset_pb2.CreateMagRequest(
            parent=self.name,
            factor=convert.vec3_to_proto(handle.mag.factor),
            block_len=convert.int32("block_len", block_len),
            file_len=convert.int32("file_len", file_len),
            block_type=types_pb2.BLOCK_TYPE_LZ4HC if compressed else types_pb2.BLOCK_TYPE_RAW,
            exist_ok=exist_ok,
            request_id=new_request_id(),
        )
        self._connection.call(methods.CREATE_MAG, request, timeout)
        return handle

    def downsample(
        self,
        mags: Sequence[MagLike] = (),
        *,
        source: MagLike | None = None,
        sampling_mode: SamplingMode = "anisotropic",
        coarsest: MagLike | None = None,
        method: DownsamplingMethod = "default",
        update: bool = False,
        region: BoundingBox | None = None,
        changed_since: Revision | None = None,
        timeout: float | None = None,
    ) -> Operation:
        """Start to build coarser mags, or to bring them up to date. Reads and writes go on meanwhile.

        :param mags: which ones, finest first, each a multiple of the one before; empty: by `sampling_mode`, or with
            `update` all coarser ones that exist
        :param source: the mag to start from; None: the finest one
        :param sampling_mode: "anisotropic" halves the axes that make voxels as isotropic as possible, "isotropic" all
            of them, "constant_z" x and y
        :param coarsest: no mag gets coarser than this one; None: until the longest edge has about 100 voxels
        :param method: "median", "mean", "mode" or "nearest"; "default": mode for segmentations, else median
        :param update: brings mags that exist up to date, by writes like those of any client
        :param region: with `update`: only what this box touches, in mag-1 voxels
        :param changed_since: with `update`: only what was written to the source after this revision of it
        :return: the operation
        :raises AlreadyExists: one of the mags exists, without `update`
        :raises NotFound: there is no such layer or source, or with `update` no such mag
        :raises InvalidRequest: the mags cannot be made one from the other
        :raises OutOfBounds: the daemon does not remember all writes since `changed_since`
        :raises Conflict: another operation runs on the layer
        """
        request = operation_pb2.DownsampleLayerRequest(
            name=self.name,
            source_mag="" if source is None else names.mag_of(source).name,
            target_mags=[names.mag_of(mag).name for mag in mags],
            sampling_mode=convert.sampling_mode_to_proto(sampling_mode),
            coarsest_mag="" if coarsest is None else names.mag_of(coarsest).name,
            method=convert.downsampling_method_to_proto(method),
            update=update,
            region=None if region is None else convert.bounding_box_to_proto(region),
            changed_since=convert.revision_to_proto(changed_since),
            request_id=new_request_id(),
        )
        response = self._connection.call(methods.DOWNSAMPLE_LAYER, request, timeout)
        return Operation(self._connection, response.operation.name)

    def get_bounding_box(self, *, timeout: float | None = None) -> BoundingBox:
        """Its extent in mag-1 voxels; empty if it has no data yet.

        :raises NotFound: there is no such layer
        """
        return (self.get_info(timeout=timeout)).bounding_box

    def set_bounding_box(self, bounding_box: BoundingBox, *, etag: str, timeout: float | None = None) -> LayerInfo:
        """Replace the bounding box, which may shrink it. Voxels outside of it stay in the cube files.

        :param bounding_box: in mag-1 voxels
        :param etag: of the `get_info` on which the new box is based: an extension since then is not undone
        :raises Conflict: the layer has changed since
        """
        request = dataset_pb2.UpdateLayerRequest(
            name=self.name,
            etag=etag,
            bounding_box=convert.bounding_box_to_proto(bounding_box),
            request_id=new_request_id(),
        )
        return self._update(request, timeout)

    def update(
        self,
        *,
        default_view_configuration: Mapping[str, Any] | Unchanged | None = UNCHANGED,
        largest_segment_id: int | None = None,
        etag: str = "",
        timeout: float | None = None,
    ) -> LayerInfo:
        """Change properties. What is left out stays.

        :param default_view_configuration: None removes it
        :param largest_segment_id: of a segmentation
        :param etag: refuses the change if the layer has another; empty: no condition
        :raises Conflict: the layer has another etag
        """
        request = dataset_pb2.UpdateLayerRequest(name=self.name, etag=etag, request_id=new_request_id())
        if not isinstance(default_view_configuration, Unchanged):
            request.default_view_configuration_json = convert.json_object_to_text(default_view_configuration)
        if largest_segment_id is not None:
            request.largest_segment_id = convert.uint64("largest_segment_id", largest_segment_id)
        return self._update(request, timeout)

    def rename(self, new_name: str, *, etag: str = "", timeout: float | None = None) -> Layer:
        """Rename it, and its folder.

        :param etag: refuses if the layer has another; empty: no condition
        :return: a handle with the new name; this one names nothing any more
        :raises AlreadyExists: the dataset has a layer of that name
        :raises Conflict: the layer has another etag, or an operation runs on it
        """
        renamed = Layer(self._connection, self._dataset, new_name)
        request = dataset_pb2.RenameLayerRequest(
            name=self.name, new_layer_id=new_name, etag=etag, request_id=new_request_id()
        )
        self._connection.call(methods.RENAME_LAYER, request, timeout)
        return renamed

    def delete(self, *, etag: str = "", timeout: float | None = None) -> str:
        """Remove it from the dataset, and move its folder to the trash.

        :param etag: refuses if the layer has another; empty: no condition
        :return: where it went, relative to the root; empty if it had no folder
        :raises NotFound: there is no such layer
        :raises Conflict: the layer has another etag, or an operation runs on it
        """
        request = dataset_pb2.DeleteLayerRequest(name=self.name, etag=etag, request_id=new_request_id())
        response = self._connection.call(methods.DELETE_LAYER, request, timeout)
        return response.trash_path

    def flush(self, level: FlushLevel = "files", *, timeout: float | None = None) -> None:
        """Bring everything that was acknowledged before to the disk: see `MagHandle.flush`."""
        self._connection.flush(self.name, level, timeout)

    def _update(self, request: dataset_pb2.UpdateLayerRequest, timeout: float | None) -> LayerInfo:
        response = self._connection.call(methods.UPDATE_LAYER, request, timeout)
        return answers.layer_info(response.layer)
