"""Clients that make, change and delete datasets, layers and mags, one step after the other.

Each client has a dataset of its own, and a model of it: what the steps so far must have made of it. After a power loss
the dataset is as after the last step that was acknowledged, or as after the one that was under way. Only the bounding
box may be ahead of its write: it is saved for a write that then had not been promised to anybody.

A mag that is there must hold the voxels that were written to it since it was made: one that was deleted and made again
never those of before.
"""

from __future__ import annotations

import copy
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import magd_client
from magd.geometry import BoundingBox, Box, Vec3
from magd_client import NotFound
from tests.guarantees.attempts import GuaranteeBroken, within
from tests.powerloss.boxes import check_sound
from tests.powerloss.workload import NEVER, Checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from magd_client import Client, Layer
    from magd_client.info import LayerInfo

CLIENTS: Final = 2
STEPS: Final = 22
EDGE: Final = 24
"""Of the voxels of a mag that are looked at; nothing is written beyond."""
LAYERS: Final = ("a", "b")
MAGS: Final = ("1", "2")

WEIGHTS: Final[Mapping[str, Mapping[str, int]]] = {
    "create": {"add_layer": 6, "add_mag": 8, "write": 2, "delete_dataset": 1},
    "properties": {
        "write": 6,
        "view_dataset": 3,
        "view_layer": 3,
        "shrink": 3,
        "add_layer": 3,
        "add_mag": 4,
        "rename_layer": 2,
    },
    "delete": {"delete_mag": 5, "delete_layer": 3, "delete_dataset": 2, "add_layer": 8, "add_mag": 8, "write": 6},
}
"""How often each kind of step is taken, where it can be taken."""


@dataclass(slots=True)
class MagModel:
    """A mag."""

    compressed: bool
    voxels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((EDGE, EDGE, EDGE), np.uint8))

    def __repr__(self) -> str:
        values, counts = np.unique(self.voxels, return_counts=True)
        kind = "compressed" if self.compressed else "raw"
        return f"<{kind}, voxels of each value {dict(zip(values.tolist(), counts.tolist(), strict=True))}>"


@dataclass(slots=True)
class LayerModel:
    """A layer."""

    view: dict[str, Any] | None = None
    box: BoundingBox = field(default_factory=BoundingBox.empty)
    mags: dict[str, MagModel] = field(default_factory=dict)


@dataclass(slots=True)
class DatasetModel:
    """A dataset. None stands for one that does not exist."""

    view: dict[str, Any] | None = None
    layers: dict[str, LayerModel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One change."""

    kind: str
    layer: str = ""
    target: str = ""
    """The mag, or the new name of the layer."""
    number: int = 0
    """A value that no other step has, within 255."""
    box: Box = field(default_factory=lambda: Box(Vec3(0, 0, 0), Vec3(0, 0, 0)))

    def act(self, client: Client, name: str) -> None:
        """Do it through the daemon."""
        if self.kind == "create_dataset":
            client.create_dataset(name, voxel_size=(1, 1, 1))
            return
        dataset = client.dataset(name)
        layer = dataset.layer(self.layer or LAYERS[0])
        match self.kind:
            case "delete_dataset":
                dataset.delete()
            case "view_dataset":
                dataset.update(default_view_configuration={"zoom": self.number})
            case "add_layer":
                dataset.add_layer(self.layer, category="color", dtype="uint8")
            case "delete_layer":
                layer.delete()
            case "rename_layer":
                layer.rename(self.target)
            case "view_layer":
                layer.update(default_view_configuration={"alpha": self.number})
            case "shrink":
                layer.set_bounding_box(_in_mag_1(self.box), etag=layer.get_info().etag)
            case "add_mag":
                layer.add_mag(self.target, block_len=8, file_len=2, compressed=self.number % 2 == 1)
            case "delete_mag":
                layer.mag(self.target).delete()
            case "write":
                data = np.full(tuple(self.box.size), self.number, np.uint8)
                layer.mag(self.target).write(data, self.box.offset)
            case _:
                raise AssertionError(self.kind)

    def apply(self, model: DatasetModel | None) -> DatasetModel | None:
        """What it makes of a dataset."""
        if self.kind == "create_dataset":
            return DatasetModel()
        if self.kind == "delete_dataset":
            return None
        assert model is not None
        model = copy.deepcopy(model)
        if self.kind == "view_dataset":
            model.view = {"zoom": self.number}
        elif self.kind == "add_layer":
            model.layers[self.layer] = LayerModel()
        elif self.kind == "delete_layer":
            del model.layers[self.layer]
        elif self.kind == "rename_layer":
            model.layers[self.target] = model.layers.pop(self.layer)
        else:
            self._apply_to_layer(model.layers[self.layer])
        return model

    def _apply_to_layer(self, layer: LayerModel) -> None:
        match self.kind:
            case "view_layer":
                layer.view = {"alpha": self.number}
            case "shrink":
                layer.box = _in_mag_1(self.box)
            case "add_mag":
                layer.mags[self.target] = MagModel(self.number % 2 == 1)
            case "delete_mag":
                del layer.mags[self.target]
            case "write":
                layer.mags[self.target].voxels[within(self.box)] = self.number
                layer.box = layer.box.union(self.box.in_mag_1(magd_client.Mag.of(self.target)))


@dataclass(slots=True)
class Taken:
    """A step with the positions of the log that belong to it."""

    step: Step
    after: DatasetModel | None
    began: int = NEVER
    ended: int = NEVER


class Steps:
    """A workload.

    :param kind: of `WEIGHTS`
    """

    def __init__(self, kind: str, seed: int) -> None:
        rng = random.Random(seed)
        self._plans = {f"d{number}": list(_draw_steps(WEIGHTS[kind], rng)) for number in range(CLIENTS)}
        self._is_shown: dict[str, DatasetModel | None] = {}

    def prepare(self, client: Client) -> None:
        """See Workload."""

    def act(self, address: str, position: Callable[[], int]) -> None:
        """See Workload."""

        def take(name: str, plan: Sequence[Taken]) -> None:
            with magd_client.connect(address) as client:
                for taken in plan:
                    taken.began = position()
                    taken.step.act(client, name)
                    taken.ended = position()

        with ThreadPoolExecutor(CLIENTS) as threads:
            futures = [threads.submit(take, name, plan) for name, plan in self._plans.items()]
        for future in futures:
            future.result()

    def acknowledged(self) -> Sequence[int]:
        """See Workload."""
        return [taken.ended for plan in self._plans.values() for taken in plan]

    def check(self, client: Client, cut: int) -> Checked:
        """See Workload."""
        checked = Checked()
        for name, plan in self._plans.items():
            done = [taken for taken in plan if taken.ended <= cut]
            under_way = next((taken for taken in plan if taken.began < cut < taken.ended), None)
            before = done[-1].after if done else None
            first_boxes = _boxes(client, name)
            seen = _observe(client, name)
            _check_first_boxes(first_boxes, before, under_way)
            checked.acknowledged += len(done)
            if under_way is not None and _is_same(seen, under_way.after):
                checked.whole += 1
            elif _is_same(seen, before) or (under_way is not None and _is_same(seen, _with_box_of(before, under_way))):
                checked.absent += under_way is not None
            else:
                raise GuaranteeBroken(
                    f"{name} is {seen}\n  after {[taken.step for taken in done[-3:]]}: {before}\n"
                    f"  under way: {under_way}"
                )
            self._is_shown[name] = seen
        check_sound(client)
        return checked

    def check_files(self, root: str) -> None:
        """See Workload."""
        import wkw  # an oracle that not every platform has

        for name, shown in self._is_shown.items():
            folder = os.path.join(root, name)
            if shown is None:
                if os.path.exists(folder):
                    raise GuaranteeBroken(f"{name} has a folder, though there is no such dataset")
                continue
            with open(os.path.join(folder, "datasource-properties.json"), encoding="utf-8") as file:
                layers = {layer["name"]: layer for layer in json.load(file)["dataLayers"]}
            if layers.keys() != shown.layers.keys():
                raise GuaranteeBroken(f"{name} has {layers.keys()} in its properties, and showed {shown.layers.keys()}")
            for layer, model in shown.layers.items():
                for mag, voxels in model.mags.items():
                    with wkw.Dataset.open(os.path.join(folder, layer, mag)) as files:
                        if (files.read((0, 0, 0), (EDGE, EDGE, EDGE))[0] != voxels.voxels).any():
                            raise GuaranteeBroken(f"the files of {name}/{layer}/{mag} hold something else")


def _draw_steps(weights: Mapping[str, int], rng: random.Random) -> Iterator[Taken]:
    model: DatasetModel | None = None
    for number in range(1, STEPS + 1):
        step = _draw_step(model, weights, rng, number)
        model = step.apply(model)
        yield Taken(step, model)


def _draw_step(model: DatasetModel | None, weights: Mapping[str, int], rng: random.Random, number: int) -> Step:
    if model is None:
        return Step("create_dataset")
    layers, mags = list(model.layers), [(name, mag) for name, layer in model.layers.items() for mag in layer.mags]
    no_layers = [name for name in LAYERS if name not in model.layers]
    no_mags = [(name, mag) for name in layers for mag in MAGS if (name, mag) not in mags]
    low = Vec3(*(rng.randint(0, EDGE - 2) for _ in range(3)))
    box = Box(low, Vec3(*(rng.randint(1, EDGE - at) for at in low)))
    possible: Mapping[str, Sequence[Sequence[str]]] = {
        "delete_dataset": [()],
        "view_dataset": [()],
        "add_layer": [(name,) for name in no_layers],
        "delete_layer": [(name,) for name in layers],
        "rename_layer": [(name, other) for name in layers for other in no_layers],
        "view_layer": [(name,) for name in layers],
        "shrink": [(name,) for name in layers],
        "add_mag": no_mags,
        "delete_mag": mags,
        "write": mags,
    }
    kinds = [kind for kind in weights if possible[kind]] or ["view_dataset"]
    kind = rng.choices(kinds, [weights.get(kind, 1) for kind in kinds])[0]
    layer, target, *_ = (*rng.choice(possible[kind]), "", "")
    return Step(kind, layer, target, number, box)


def _in_mag_1(box: Box) -> BoundingBox:
    return BoundingBox(box.offset, box.size)


def _boxes(client: Client, name: str) -> dict[str, BoundingBox]:
    """The bounding boxes of a dataset's layers."""
    try:
        info = client.dataset(name).get_info()
    except NotFound:
        return {}
    return {_own_name(layer): layer.bounding_box for layer in info.layers}


def _check_first_boxes(seen: Mapping[str, BoundingBox], before: DatasetModel | None, under_way: Taken | None) -> None:
    """What was acknowledged is in the bounding boxes before anything else is asked of the daemon. A write that was
    not may be found later, in the journal of its mag, and extend them then.

    :raises GuaranteeBroken: it is not
    """
    for layer, model in (before.layers if before is not None else {}).items():
        if under_way is not None and under_way.step.kind != "write":
            continue  # it may have changed them in any way, as is checked with everything else
        if layer not in seen or not _contains(seen[layer], model.box):
            raise GuaranteeBroken(f"the bounding box of {layer} is {seen.get(layer)} at first, and not {model.box}")


def _contains(box: BoundingBox, other: BoundingBox) -> bool:
    return box.union(other) == box


def _observe(client: Client, name: str) -> DatasetModel | None:
    """A dataset as it is, once all that was in journals is in its files."""
    dataset = client.dataset(name)
    try:
        info = dataset.get_info()
    except NotFound:
        return None
    voxels = {
        (_own_name(layer), str(mag.mag)): _voxels(dataset.layer(_own_name(layer)), str(mag.mag))
        for layer in info.layers
        for mag in layer.mags
    }
    dataset.flush()
    info = dataset.get_info()
    layers = {}
    for layer in info.layers:
        mags = {str(mag.mag): MagModel(mag.compressed, voxels[_own_name(layer), str(mag.mag)]) for mag in layer.mags}
        layers[_own_name(layer)] = LayerModel(layer.default_view_configuration, layer.bounding_box, mags)
    return DatasetModel(info.default_view_configuration, layers)


def _own_name(layer: LayerInfo) -> str:
    return layer.name.rpartition("/")[2]


def _voxels(layer: Layer, mag: str) -> npt.NDArray[np.uint8]:
    voxels: npt.NDArray[np.uint8] = layer.mag(mag).read((0, 0, 0), (EDGE, EDGE, EDGE))[0]
    return voxels


def _with_box_of(before: DatasetModel | None, under_way: Taken) -> DatasetModel | None:
    """As before, with the bounding box that a write under way needs."""
    if before is None or under_way.step.kind != "write" or under_way.after is None:
        return before
    model = copy.deepcopy(before)
    model.layers[under_way.step.layer].box = under_way.after.layers[under_way.step.layer].box
    return model


def _is_same(seen: DatasetModel | None, model: DatasetModel | None) -> bool:
    if seen is None or model is None:
        return seen is model
    return (
        seen.view == model.view
        and seen.layers.keys() == model.layers.keys()
        and all(_is_same_layer(layer, model.layers[name]) for name, layer in seen.layers.items())
    )


def _is_same_layer(seen: LayerModel, model: LayerModel) -> bool:
    return (
        seen.view == model.view
        and seen.box == model.box
        and seen.mags.keys() == model.mags.keys()
        and all(
            mag.compressed == model.mags[name].compressed and np.array_equal(mag.voxels, model.mags[name].voxels)
            for name, mag in seen.mags.items()
        )
    )
