"""Fuzzing of datasource-properties.json: the bytes, and the values in it.

What must hold, whatever the file says:

1. Loading it gives properties or an error of magd that names the file.
2. A save that is refused leaves the file as it was, and nothing beside it.
3. A save of a larger bounding box changes that and nothing else, and can be read again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from magd.errors import Conflict, InvalidRequest, MagdError, NotAllowed, NotFound
from magd.geometry import BoundingBox, Vec3
from magd.properties.edits import ExtendBoundingBox
from magd.properties.file import PROPERTIES_NAME, PropertiesFile
from tests.fuzzing.cases import Case, mutate_bytes
from tests.fuzzing.fuzzer import Broken

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from types import TracebackType

KIND: Final = "json"

_MEMORY: Final = "/dev/shm"
_LONG_AGO: Final = 1_000_000_000
"""A file that was just modified would be read again and again, since somebody may be writing it."""
_BOX: Final = BoundingBox(Vec3(1, 2, 3), Vec3(1000, 1000, 1000))
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31 - 1, 2**31, 2**63, 2**64, 10**400),
    *(0.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", "x", "color", "uint8", "uint24", "wkw", "zarr3", "..", "/etc", "a/b", "\ud800", "\0", "ü" * 300, "1-1-1"),
    *([], {}, [1, 1, 1], [0, 0, 0], [[[[]]]], {"topLeft": [0, 0, 0], "width": 1}, {"factor": [1, 1, 1], "unit": ""}),
)


class Properties:
    """The target."""

    name: str = "properties"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="magd-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self._path = self._folder / PROPERTIES_NAME

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder)

    def rest(self) -> None:
        """There is nothing to let go of."""

    def begin_with(self) -> Sequence[Case]:
        """A file of today and a historic one."""
        return [Case(KIND, (json.dumps(tree).encode(),)) for tree in (tree_of_today(), historic_tree())]

    def mutate(self, case: Case, random: random.Random) -> Case:
        """Bytes anywhere, or a value of the tree."""
        if not case.pieces:
            return case
        if random.random() < 0.8 and (changed := mutate_json(case.pieces[0], random)) is not None:
            return case.with_piece(0, changed)
        return case.with_piece(0, mutate_bytes(case.pieces[0], random))

    def run(self, case: Case) -> None:
        """Load it, and save a larger bounding box."""
        data = case.pieces[0] if case.pieces else b""
        self._path.write_bytes(data)
        os.utime(self._path, (_LONG_AGO, _LONG_AGO))
        file = PropertiesFile(str(self._path))
        try:
            before = file.load()
        except MagdError as error:
            self._check_refusal(error, data)
            with self._refused(data):
                file.save([ExtendBoundingBox("color", _BOX)])
            return
        try:
            after = file.save([ExtendBoundingBox("color", _BOX)])
        except MagdError as error:
            self._check_refusal(error, data)
            return
        again = PropertiesFile(str(self._path)).load()
        if again.properties != after.properties or again.etag != after.etag:
            raise Broken("what was saved is not what is read")
        if _without_boxes(again.tree) != _without_boxes(before.tree):
            raise Broken("a save has changed more than a bounding box")
        self._check_alone()

    def _refused(self, data: bytes) -> _Refused:
        return _Refused(self, data)

    def _check_refusal(self, error: MagdError, data: bytes) -> None:
        if not isinstance(error, NotAllowed | NotFound | InvalidRequest | Conflict):
            raise Broken(f"refused with {error!r}") from error
        if isinstance(error, NotAllowed) and error.metadata.get("file", str(self._path)) != str(self._path):
            raise Broken(f"the error names another file: {error.metadata}") from error
        if self._path.read_bytes() != data:
            raise Broken("a refused save has changed the file") from error
        self._check_alone()

    def _check_alone(self) -> None:
        if names := set(os.listdir(self._folder)) - {PROPERTIES_NAME}:
            raise Broken(f"a save has left {names}")


class _Refused:
    """What happens inside of it must be refused."""

    def __init__(self, target: Properties, data: bytes) -> None:
        self._target = target
        self._data = data

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            raise Broken("a file that cannot be loaded was saved")
        if isinstance(error, MagdError):
            self._target._check_refusal(error, self._data)
            return True
        return False


def mutate_json(data: bytes, random: random.Random) -> bytes | None:
    """The same tree with another value, without one, or with one twice. None if it is no JSON."""
    try:
        tree = json.loads(data)
        places = list(_places(tree))
    except (ValueError, RecursionError):
        return None
    if not places:
        return None
    container, key = random.choice(places)
    # By way of text: the tree may be too deep to be copied otherwise.
    again = json.loads(data)
    match random.randrange(6):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.append(container[key])
        case 1:
            container[random.choice(("name", "mags", "path", "unknown", "version"))] = container[key]
        case 2:
            nested: Any = container[key]
            for _ in range(random.choice((1, 3, 900))):
                nested = [nested]
            container[key] = nested
        case 3:
            other, other_key = random.choice(list(_places(again)))
            container[key] = other[other_key]
        case _:
            container[key] = random.choice(_VALUES)
    try:
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):
        return None


def _places(node: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every place in a tree: what contains it, and the key or index."""
    if depth > 30:
        return
    keys: list[Any] = []
    if isinstance(node, dict):
        keys = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node)))
    for key in keys:
        yield node, key
        yield from _places(node[key], depth + 1)


def _without_boxes(tree: Any) -> str:
    """The tree as text, without the bounding boxes of its layers. Text, because NaN is not equal to itself."""
    layers = [layer for layer in tree["dataLayers"] if isinstance(layer, dict)]
    others = [layer for layer in tree["dataLayers"] if not isinstance(layer, dict)]
    kept = [{key: value for key, value in layer.items() if key != "boundingBox"} for layer in layers]
    return json.dumps([{**tree, "dataLayers": None}, kept, others])


def tree_of_today() -> dict[str, Any]:
    """What `webknossos` writes today, with keys that magd does not know."""
    mag = {"mag": [1, 1, 1], "path": "./color/1", "cubeLength": 64, "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}}
    color = {
        "name": "color",
        "category": "color",
        "elementClass": "uint8",
        "numChannels": 1,
        "boundingBox": {"topLeft": [0, 0, 0], "width": 10, "height": 10, "depth": 10},
        "dataFormat": "wkw",
        "mags": [mag],
        "defaultViewConfiguration": {"color": [255, 0, 0]},
        "adminViewConfiguration": {"unknown": True},
    }
    segmentation = {**color, "name": "segments", "category": "segmentation", "largestSegmentId": 7, "mags": []}
    return {
        "id": {"name": "d", "team": ""},
        "scale": {"factor": [11.24, 11.24, 28.0], "unit": "nanometer"},
        "dataLayers": [color, segmentation],
        "version": 1,
    }


def historic_tree() -> dict[str, Any]:
    """What WEBKNOSSOS wrote before it had `mags`."""
    layer = {
        "name": "color",
        "category": "color",
        "elementClass": "uint24",
        "boundingBox": {"topLeft": [5, 6, 7], "width": 0, "height": 1, "depth": 2},
        "wkwResolutions": [{"resolution": 1, "cubeLength": 1024}, {"resolution": [2, 2, 1], "cubeLength": 1024}],
    }
    return {"id": {"name": "d"}, "scale": [1, 1, 2.5], "dataLayers": [layer]}
