"""Protocols that change files, with what must hold when one was cut short at any point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from magd.geometry import BoundingBox, Box, Vec3
from magd_client import NotFound
from tests.guarantees.attempts import GuaranteeBroken, within

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from magd_client import Client, Layer, MagHandle
    from tests.guarantees.syscalls import Change

    Voxels = npt.NDArray[np.uint16]

EDGE: Final = 32
"""Of what is there before: eight cube files."""
WRITTEN: Final = Box(Vec3(8, 8, 8), Vec3(28, 28, 28))
"""Over the borders of those, of cube files that do not exist yet, and of the bounding box."""
REQUEST_ID: Final = "00000000-0000-4000-8000-000000000001"


def before() -> Voxels:
    """What is there before, in an array that is large enough for what comes."""
    voxels = np.zeros((40, 40, 40), "uint16")
    voxels[:EDGE, :EDGE, :EDGE] = np.arange(1, EDGE**3 + 1, dtype="uint16").reshape((EDGE, EDGE, EDGE)) // 7
    return voxels


def after_write() -> Voxels:
    """What is there after a write."""
    voxels = before()
    voxels[within(WRITTEN)] = 60000
    return voxels


def make_mag(client: Client, name: str, *, compressed: bool = False) -> MagHandle:
    """A mag with something in it, all of it in its files."""
    layer = client.create_dataset(name, voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint16")
    mag = layer.add_mag("1", block_len=8, file_len=2, compressed=compressed)
    mag.write(before()[:EDGE, :EDGE, :EDGE])
    mag.flush()
    return mag


def read(mag: MagHandle) -> Voxels:
    """All of it."""
    voxels: Voxels = mag.read((0, 0, 0), (40, 40, 40))[0]
    return voxels


def require(condition: object, what: str) -> None:
    """:raises GuaranteeBroken: the condition does not hold"""
    if not condition:
        raise GuaranteeBroken(what)


def layer_of(client: Client, name: str) -> Layer:
    """The layer of `make_mag`."""
    return client.dataset(name).layer("l")


@dataclass(frozen=True, slots=True)
class WriteAndFlush:
    """A write over many cube files that extends the bounding box, then a flush to the files."""

    compressed: bool

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name, compressed=self.compressed)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        self._write(client, name)
        layer_of(client, name).mag("1").flush()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        layer = layer_of(client, name)
        seen = read(layer.mag("1"))
        is_there = np.array_equal(seen, after_write())
        require(is_there or np.array_equal(seen, before()), "the box is torn")
        require(is_there or not acknowledged, "the box is lost")
        box = layer.get_bounding_box()
        if is_there:
            require(Box(box.offset, box.size).contains(WRITTEN), f"the bounding box {box} does not cover {WRITTEN}")
        self._write(client, name)
        require(np.array_equal(read(layer.mag("1")), after_write()), "a retry did not write the box")
        box = layer.get_bounding_box()
        require(Box(box.offset, box.size).contains(WRITTEN), f"the bounding box {box} does not cover {WRITTEN}")

    @staticmethod
    def _write(client: Client, name: str) -> None:
        data = np.full(tuple(WRITTEN.size), 60000, "uint16")
        layer_of(client, name).mag("1").write(data, WRITTEN.offset, request_id=REQUEST_ID)


@dataclass(frozen=True, slots=True)
class WriteLarge:
    """A large write over what is there, then a flush to the files.

    :ivar size: of its box. Over parts of cube files, its voxels have a side file; over whole ones they have files that
        take the place of these
    """

    size: tuple[int, int, int]

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        layer = client.create_dataset(name, voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint16")
        layer.add_mag("1", block_len=32, file_len=4)
        self._write(client, name, 1, "00000000-0000-4000-8000-000000000002")
        layer.mag("1").flush()

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        self._write(client, name, 2, REQUEST_ID)
        layer_of(client, name).mag("1").flush()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        require((seen := self._read(client, name)) in ({1}, {2}), f"the box is torn: it has the values {seen}")
        require(seen == {2} or not acknowledged, "the box is lost")
        self._write(client, name, 2, REQUEST_ID)
        require(self._read(client, name) == {2}, "a retry did not write the box")

    def _write(self, client: Client, name: str, value: int, request_id: str) -> None:
        data = np.full(self.size, value, "uint16", order="F")
        layer_of(client, name).mag("1").write(data, request_id=request_id)

    def _read(self, client: Client, name: str) -> set[int]:
        """The values that there are."""
        data = layer_of(client, name).mag("1").read((0, 0, 0), self.size)
        return {int(value) for value in np.unique(data)}


@dataclass(frozen=True, slots=True)
class Create:
    """A dataset, a layer and a mag."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        self._create(client, name, exist_ok=False)

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        if acknowledged:
            require(layer_of(client, name).mag("1").get_info().compressed is False, "it is compressed")
        mag = self._create(client, name, exist_ok=True)
        require(not read(mag).any(), "a new mag is not empty")
        mag.write(after_write())
        require(np.array_equal(read(mag), after_write()), "a new mag does not keep what is written")

    @staticmethod
    def _create(client: Client, name: str, *, exist_ok: bool) -> MagHandle:
        dataset = client.create_dataset(name, voxel_size=(1, 1, 1), exist_ok=exist_ok)
        layer = dataset.add_layer("l", category="color", dtype="uint16", exist_ok=exist_ok)
        return layer.add_mag("1", block_len=8, file_len=2, exist_ok=exist_ok)


@dataclass(frozen=True, slots=True)
class CreateDataset:
    """A dataset without layers."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        client.create_dataset(name, voxel_size=(1, 2, 3))

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        names = [info.name.rpartition("/")[2] for info in client.list_datasets()]
        require(name in names or not acknowledged, "it is not there")
        client.create_dataset(name, voxel_size=(1, 2, 3), exist_ok=True)
        require(not client.dataset(name).list_layers(), "it has layers")


@dataclass(frozen=True, slots=True)
class CreateLayer:
    """A layer without mags."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        client.dataset(name).add_layer("new", category="color", dtype="uint8")

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        dataset = client.dataset(name)
        layers = [info.name.rpartition("/")[2] for info in dataset.list_layers()]
        require(layers in (["l"], ["l", "new"]), f"the layers are {layers}")
        require("new" in layers or not acknowledged, "it is not there")
        if "new" not in layers:
            dataset.add_layer("new", category="color", dtype="uint8")
        mag = dataset.layer("new").add_mag("1", block_len=8, file_len=2)
        require(not read(mag).any(), "a new mag is not empty")
        require(np.array_equal(read(dataset.layer("l").mag("1")), before()), "another layer has lost voxels")


@dataclass(frozen=True, slots=True)
class CompressInto:
    """A compression into another dataset, which does not exist yet. The source stays as it is."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        self._compress(client, name)

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        require(np.array_equal(read(layer_of(client, name).mag("1")), before()), "the source has lost voxels")
        target = f"{name}-copy"
        try:
            is_there = any(layer.mags for layer in client.dataset(target).list_layers())
        except NotFound:
            is_there = False
        require(is_there or not acknowledged, "the target is not there")
        if not is_there:
            self._compress(client, name)
        mag = layer_of(client, target).mag("1")
        require(mag.get_info().compressed, "the target is not compressed")
        require(np.array_equal(read(mag), before()), "the target has other voxels")
        box = layer_of(client, target).get_bounding_box()
        require(tuple(box.size) == (EDGE, EDGE, EDGE), f"the target has the bounding box {box}")
        damage = [
            finding.message
            for progress in client.check(client.dataset(target), deep=True)
            for finding in progress.findings
        ]
        require(not damage, f"the target is not sound: {damage}")

    @staticmethod
    def _compress(client: Client, name: str) -> None:
        layer_of(client, name).mag("1").compress(target=f"{name}-copy").wait()


@dataclass(frozen=True, slots=True)
class Compress:
    """A compression in place of a mag that has writes which are not in its files yet."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        mag = make_mag(client, name)
        mag.write(np.full(tuple(WRITTEN.size), 60000, "uint16"), WRITTEN.offset, durability="process")

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).mag("1").compress().wait()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        mag = layer_of(client, name).mag("1")
        require(np.array_equal(read(mag), after_write()), "voxels differ")
        require(mag.get_info().compressed or not acknowledged, "it is not compressed")
        mag.compress().wait()
        require(np.array_equal(read(mag), after_write()), "voxels differ after another compression")
        require(mag.get_info().compressed, "it is not compressed after another compression")


@dataclass(frozen=True, slots=True)
class Decompress:
    """The way back, of a mag that has writes which are not in its files yet."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        mag = make_mag(client, name, compressed=True)
        mag.write(np.full(tuple(WRITTEN.size), 60000, "uint16"), WRITTEN.offset, durability="process")

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).mag("1").decompress().wait()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        mag = layer_of(client, name).mag("1")
        require(np.array_equal(read(mag), after_write()), "voxels differ")
        require(not (mag.get_info().compressed and acknowledged), "it is still compressed")
        mag.decompress().wait()
        require(np.array_equal(read(mag), after_write()), "voxels differ after another attempt")
        require(not mag.get_info().compressed, "it is compressed after another attempt")


@dataclass(frozen=True, slots=True)
class Rechunk:
    """A mag gets cube files of other lengths, with another `cubeLength` in the properties."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        mag = make_mag(client, name)
        mag.write(np.full(tuple(WRITTEN.size), 60000, "uint16"), WRITTEN.offset, durability="process")

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).mag("1").rechunk(block_len=4, file_len=8).wait()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        mag = layer_of(client, name).mag("1")
        info = mag.get_info()
        require((info.block_len, info.file_len) in ((8, 2), (4, 8)), f"it has the lengths {info}")
        require(info.cube_len == 32 or not acknowledged, "it has the lengths of before")
        require(np.array_equal(read(mag), after_write()), "voxels differ")
        mag.rechunk(block_len=4, file_len=8).wait()
        require(np.array_equal(read(mag), after_write()), "voxels differ after another attempt")
        require(mag.get_info().cube_len == 32, "it has the lengths of before after another attempt")


@dataclass(frozen=True, slots=True)
class DeleteMag:
    """A mag is deleted; one that is made in its place is empty."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).mag("1").delete()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        layer = layer_of(client, name)
        if layer.list_mags():
            require(not acknowledged, "it is there still")
            require(np.array_equal(read(layer.mag("1")), before()), "it was not deleted, but has lost voxels")
            layer.mag("1").delete()
        mag = layer.add_mag("1", block_len=8, file_len=2)
        require(not read(mag).any(), "a new mag has voxels of the one before")


@dataclass(frozen=True, slots=True)
class DeleteLayer:
    """A layer is deleted; its name is free afterwards."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).delete()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        dataset = client.dataset(name)
        if dataset.list_layers():
            require(not acknowledged, "it is there still")
            require(np.array_equal(read(layer_of(client, name).mag("1")), before()), "it has lost voxels")
            layer_of(client, name).delete()
        mag = dataset.add_layer("l", category="color", dtype="uint16").add_mag("1", block_len=8, file_len=2)
        require(not read(mag).any(), "a new mag has voxels of the one before")


@dataclass(frozen=True, slots=True)
class RenameLayer:
    """A layer gets another name."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer_of(client, name).rename("new")

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        dataset = client.dataset(name)
        layers = [info.name.rpartition("/")[2] for info in dataset.list_layers()]
        require(layers in (["l"], ["new"]), f"the layers are {layers}")
        require(layers == ["new"] or not acknowledged, "it has its old name")
        require(np.array_equal(read(dataset.layer(layers[0]).mag("1")), before()), "voxels differ")
        if layers == ["l"]:
            dataset.layer("l").rename("new")
            require(np.array_equal(read(dataset.layer("new").mag("1")), before()), "voxels differ in the end")


@dataclass(frozen=True, slots=True)
class DeleteDataset:
    """A dataset is deleted; its name is free afterwards."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        client.dataset(name).delete()

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        try:
            client.dataset(name).get_info()
        except NotFound:
            pass
        else:
            require(not acknowledged, "it is there still")
            require(np.array_equal(read(layer_of(client, name).mag("1")), before()), "it has lost voxels")
            client.dataset(name).delete()
        require(not read(self._make_empty(client, name)).any(), "a new one has voxels of the one before")

    @staticmethod
    def _make_empty(client: Client, name: str) -> MagHandle:
        layer = client.create_dataset(name, voxel_size=(1, 1, 1)).add_layer("l", category="color", dtype="uint16")
        return layer.add_mag("1", block_len=8, file_len=2)


@dataclass(frozen=True, slots=True)
class Shrink:
    """A bounding box is made smaller, and stays so."""

    def prepare(self, client: Client, name: str) -> None:
        """See Change."""
        make_mag(client, name)

    def act(self, client: Client, name: str) -> None:
        """See Change."""
        layer = layer_of(client, name)
        layer.set_bounding_box(BoundingBox(Vec3(0, 0, 0), Vec3(8, 8, 8)), etag=layer.get_info().etag)

    def check(self, client: Client, name: str, *, acknowledged: bool) -> None:
        """See Change."""
        layer = layer_of(client, name)
        edge = layer.get_bounding_box().size.x
        require(edge in (8, EDGE), f"the bounding box has the edge {edge}")
        require(edge == 8 or not acknowledged, "it has its old size")
        require(np.array_equal(read(layer.mag("1")), before()), "voxels differ")
        require(layer.get_bounding_box().size.x == edge, "it has changed again")


CHANGES: Final[Mapping[str, Change]] = {
    "write-raw": WriteAndFlush(compressed=False),
    "write-compressed": WriteAndFlush(compressed=True),
    "write-large": WriteLarge((160, 160, 160)),  # over the borders of eight cube files
    "replace-large": WriteLarge((256, 128, 128)),  # two cube files
    "create": Create(),
    "create-dataset": CreateDataset(),
    "create-layer": CreateLayer(),
    "compress": Compress(),
    "compress-into": CompressInto(),
    "decompress": Decompress(),
    "rechunk": Rechunk(),
    "delete-mag": DeleteMag(),
    "delete-layer": DeleteLayer(),
    "rename-layer": RenameLayer(),
    "shrink": Shrink(),
    "delete-dataset": DeleteDataset(),
}
