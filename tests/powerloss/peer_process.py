"""A process that writes and reads boxes with one library. It may crash on a damaged dataset, as some do.

    python -m tests.powerloss.peer_process NAME

Commands come on stdin, one a line, and each gets one line of JSON as its answer:

- `create ROOT`: make a dataset there
- `write N`: write the box with this number; the answer comes when the library says that it is written
- `check ROOT COUNT`: open the dataset, and say of the boxes below COUNT how many are whole, lost (nothing of them is
  there), torn (something is), or cannot be read
- `end`: end without closing anything, as a power loss would
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

import magd_client
from tests.powerloss.local_server import LocalServer
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    Voxels = npt.NDArray[np.uint8]
    Offset = tuple[int, int, int]

BOXES: Final = 64
SIZE: Final = (20, 20, 20)
EXTENT: Final = 128
"""Edge of what is written in all."""
_PITCH: Final = 24
_ROW: Final = 4
BLOCK: Final = 16
FILE: Final = 32
"""Edges of what is stored as one piece, and of a file, in voxels: a box is in several of both."""


class Peer(Protocol):
    """A library that writes voxels."""

    def create(self, root: str) -> Callable[[Offset, Voxels], object]:
        """Make a dataset.

        :return: what writes a box, and returns when it is written
        """

    def open(self, root: str) -> Any:
        """A context: what is entered reads the box of `SIZE` at an offset. Nothing is open after it."""

    def end(self) -> None:
        """End every process of it."""


def offset_of(number: int) -> Offset:
    """Where a box is. No two boxes overlap."""
    return (
        7 + _PITCH * (number % _ROW),
        7 + _PITCH * (number // _ROW % _ROW),
        7 + _PITCH * (number // _ROW**2),
    )


class Wkw:
    """`wkw`, raw files."""

    def create(self, root: str) -> Callable[[Offset, Voxels], object]:
        """See Peer."""
        import wkw

        dataset = wkw.Dataset.create(
            os.path.join(root, "wkw"), wkw.Header(np.uint8, block_len=BLOCK, file_len=FILE // BLOCK)
        )
        write: Callable[[Offset, Voxels], object] = dataset.write
        return write

    @contextmanager
    def open(self, root: str) -> Iterator[Callable[[Offset], Voxels]]:
        """See Peer."""
        import wkw

        with wkw.Dataset.open(os.path.join(root, "wkw")) as dataset:
            yield lambda offset: dataset.read(offset, SIZE)[0]

    def end(self) -> None:
        """See Peer."""


class WebknossosPeer:
    """`webknossos`, with one of its formats, not compressed.

    :param data_format: "wkw" or "zarr3"
    """

    def __init__(self, data_format: str) -> None:
        self._format = data_format

    def create(self, root: str) -> Callable[[Offset, Voxels], object]:
        """See Peer."""
        webknossos: Any = importlib.import_module("webknossos")

        dataset = webknossos.Dataset(os.path.join(root, "dataset"), voxel_size=(1, 1, 1))
        layer = dataset.add_layer("layer", "color", dtype="uint8", num_channels=1, data_format=self._format)
        mag = layer.add_mag(1, chunk_shape=BLOCK, shard_shape=FILE, compress=False)
        return lambda offset, data: mag.write(data, absolute_offset=offset, allow_resize=True, allow_unaligned=True)

    @contextmanager
    def open(self, root: str) -> Iterator[Callable[[Offset], Voxels]]:
        """See Peer."""
        webknossos: Any = importlib.import_module("webknossos")

        mag = webknossos.Dataset.open(os.path.join(root, "dataset")).get_layer("layer").get_mag(1)
        yield lambda offset: mag.read(absolute_offset=offset, size=SIZE)[0]

    def end(self) -> None:
        """See Peer."""


class TensorStorePeer:
    """TensorStore: Zarr 3 in its file store, with its defaults. A write has ended when its commit has."""

    def create(self, root: str) -> Callable[[Offset, Voxels], object]:
        """See Peer."""
        import tensorstore

        store = tensorstore.open(
            self._spec(root),
            create=True,
            dtype=tensorstore.uint8,
            shape=[EXTENT] * 3,
            chunk_layout=tensorstore.ChunkLayout(chunk_shape=[BLOCK] * 3),
        ).result()

        def write(offset: Offset, data: Voxels) -> None:
            place = tuple(slice(start, start + extent) for start, extent in zip(offset, data.shape, strict=True))
            store[place].write(data).commit.result()

        return write

    @contextmanager
    def open(self, root: str) -> Iterator[Callable[[Offset], Voxels]]:
        """See Peer."""
        import tensorstore

        store = tensorstore.open(self._spec(root), open=True).result()

        def read(offset: Offset) -> Voxels:
            place = tuple(slice(start, start + extent) for start, extent in zip(offset, SIZE, strict=True))
            return np.asarray(store[place].read().result())

        yield read

    def end(self) -> None:
        """See Peer."""

    @staticmethod
    def _spec(root: str) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": os.path.join(root, "array")}}


class MagdPeer:
    """magd, with its default: a write has ended when it is on the disk.

    :param compressed: the mag
    """

    def __init__(self, *, compressed: bool) -> None:
        self._compressed = compressed
        self._folder = tempfile.TemporaryDirectory(prefix="magd-peer-")
        self._daemon: Daemon | None = None

    def create(self, root: str) -> Callable[[Offset, Voxels], object]:
        """See Peer."""
        self._daemon = Daemon(root, "--workers", "1", grpc=f"unix:{self._folder.name}/socket")
        dataset = magd_client.connect(self._daemon.grpc).create_dataset("d", voxel_size=(1, 1, 1))
        mag = dataset.add_layer("l", category="color", dtype="uint8").add_mag(
            "1", block_len=BLOCK, file_len=FILE // BLOCK, compressed=self._compressed
        )
        return lambda offset, data: mag.write(data, offset)

    @contextmanager
    def open(self, root: str) -> Iterator[Callable[[Offset], Voxels]]:
        """See Peer."""
        with LocalServer(self._folder.name) as server, server.serving(root) as client:
            mag = client.dataset("d").layer("l").mag("1")
            yield lambda offset: mag.read(offset, SIZE)[0]

    def end(self) -> None:
        """See Peer."""
        if self._daemon is not None:
            self._daemon.kill()
        self._folder.cleanup()


PEERS: Final[Mapping[str, Callable[[], Peer]]] = {
    "magd, raw": lambda: MagdPeer(compressed=False),
    "magd, compressed": lambda: MagdPeer(compressed=True),
    "wkw": Wkw,
    "webknossos, wkw": lambda: WebknossosPeer("wkw"),
    "webknossos, zarr3": lambda: WebknossosPeer("zarr3"),
    "tensorstore, zarr3": TensorStorePeer,
}


def check(peer: Peer, root: str, count: int) -> dict[str, int]:
    """:return: how many boxes below `count` are "whole", "lost", "torn" or "unreadable"; {"closed": 1} if the dataset
    does not open
    """
    seen: Counter[str] = Counter()
    try:
        with peer.open(root) as read:
            for number in range(count):
                seen[_state_of(read, number)] += 1
    except Exception as error:  # noqa: BLE001  # whatever a library raises
        return {"closed": 1, "why": f"{type(error).__name__}: {error}"[:200]}  # type: ignore[dict-item]
    return seen


def _state_of(read: Callable[[Offset], Voxels], number: int) -> str:
    try:
        data = read(offset_of(number))
    except Exception:  # noqa: BLE001  # whatever a library raises
        return "unreadable"
    is_there = data == number + 1
    return "whole" if is_there.all() else "torn" if data.any() else "lost"


def main(name: str) -> None:
    """Do what comes on stdin."""
    peer = PEERS[name]()
    write: Callable[[Offset, Voxels], object] | None = None
    for line in sys.stdin:
        command, *arguments = line.split()
        answer: object = None
        if command == "create":
            write = peer.create(*arguments)
        elif command == "write":
            assert write is not None
            number = int(arguments[0])
            write(offset_of(number), np.full(SIZE, number + 1, np.uint8, order="F"))
        elif command == "check":
            answer = check(peer, arguments[0], int(arguments[1]))
        else:
            peer.end()
            os._exit(0)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
