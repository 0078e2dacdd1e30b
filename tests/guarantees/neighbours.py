"""Changes of folders and properties beside a mag that is under load: layers of the same dataset come and go.

Each layer is made, gets a mag, is filled, gets a coarser mag, is renamed, and is deleted, in this order. After a kill
it must be as after the last change that was acknowledged, or as after the one that was under way; never between them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.guarantees.attempts import GuaranteeBroken
from tests.guarantees.writers import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magd_client import Client, Dataset, Layer, MagHandle
    from tests.guarantees.writers import Death, Load

EDGE: Final = 24
"""Of a layer, in voxels: over the borders of its cube files."""
KEPT: Final = 0.3
"""The share of layers that are not deleted."""


@dataclass(frozen=True, slots=True)
class State:
    """What there is of one layer."""

    name: str = ""
    """Empty: it is not there."""
    mags: tuple[str, ...] = ()
    value: int = 0
    """Of all its voxels."""


class Neighbour(Loader):
    """Makes layers and takes them away until the daemon dies.

    :param prefix: of the names of its layers, which nobody had before
    """

    def __init__(self, prefix: str, seed: int, address: str, load: Load, death: Death) -> None:
        super().__init__("neighbour", address, load, death)
        self.changes = 0
        """That were acknowledged."""
        self._prefix = prefix
        self._random = random.Random(seed)
        self._known: dict[int, State] = {}
        """What was acknowledged, by the number of the layer."""
        self._next: dict[int, State] = {}
        """What is under way."""

    def _act(self, client: Client) -> None:
        number = len(self._known)
        self._known[number] = State()
        dataset = client.dataset(self._load.dataset)
        for state in self._states(number):
            if self._death.has_come:
                return
            self._next[number] = state
            _change(dataset, self._known[number], state)
            self._known[number] = self._next.pop(number)
            self.changes += 1

    def _states(self, number: int) -> Iterator[State]:
        state = State(f"{self._prefix}-{number}")
        yield state
        yield (state := replace(state, mags=("1",)))
        yield (state := replace(state, value=next(self._load.values)))
        yield (state := replace(state, mags=("1", "2")))
        yield replace(state, name=f"{self._prefix}-{number}-renamed")
        if self._random.random() >= KEPT:
            yield State()

    def check(self, client: Client) -> None:
        """See that each layer is as it was promised, and remove those that are left.

        :raises GuaranteeBroken: one is not
        """
        dataset = client.dataset(self._load.dataset)
        found = {layer.name.rpartition("/")[2] for layer in dataset.list_layers()}
        for number, known in self._known.items():
            allowed = {known, self._next.get(number, known)}
            own = f"{self._prefix}-{number}"
            names = sorted(found & {own, f"{own}-renamed"})
            if len(names) > 1:
                raise GuaranteeBroken(f"one layer is there twice: {names}")
            seen = _look(dataset.layer(names[0])) if names else State()
            if seen not in allowed:
                raise GuaranteeBroken(f"a layer is {seen} after a kill, and should be one of {allowed}")
            if names:
                dataset.layer(names[0]).delete()


def _change(dataset: Dataset, before: State, after: State) -> None:
    """Bring one layer from one state to the next."""
    if not before.name:
        dataset.add_layer(after.name, category="segmentation", dtype="uint32")
    elif not after.name:
        dataset.layer(before.name).delete()
    elif before.name != after.name:
        dataset.layer(before.name).rename(after.name)
    elif before.value != after.value:
        mag = dataset.layer(after.name).mag("1")
        mag.write(np.full((EDGE, EDGE, EDGE), after.value, "uint32"), durability="disk")
    elif not before.mags:
        dataset.layer(after.name).add_mag("1", block_len=8, file_len=2)
    else:
        dataset.layer(after.name).downsample(["2"]).wait()


def _look(layer: Layer) -> State:
    mags = tuple(sorted(info.name.rpartition("/")[2] for info in layer.list_mags()))
    values = {_value_of(layer.mag(name), EDGE // int(name)) for name in mags}
    if len(values) > 1:
        raise GuaranteeBroken(f"the mags {mags} of {layer} hold different values: {values}")
    return State(layer.name.rpartition("/")[2], mags, *values)


def _value_of(mag: MagHandle, edge: int) -> int:
    values = np.unique(mag.read((0, 0, 0), (edge, edge, edge)))
    if len(values) > 1:
        raise GuaranteeBroken(f"a box is torn: {mag} holds {values}")
    return int(values[0])
