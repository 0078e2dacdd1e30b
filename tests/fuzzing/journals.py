"""Fuzzing of the files of a journal, side files included.

The case is a whole journal: its kind says whether its records may be trusted, how many writes its newest HEAD promises,
and what the files are called. What must hold when it is recovered:

1. An error is DataLoss and names a file of the journal.
2. In a journal whose bytes were changed blindly, every write that comes back is one that was made, whole. All that the
   newest HEAD says to be on the disk come back, or recovery refuses.
3. In a forged one, whose records were changed and given checksums that fit, nothing holds but 1.
4. What was recovered can be taken over into a new epoch, and comes back from there as well.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from unittest.mock import patch

import numpy as np
import xxhash

from magd.acknowledgement import Durability, Revision
from magd.errors import DataLoss
from magd.geometry import Box
from magd.journal import journal_file
from magd.journal.format import HEADER_BYTES, MAGIC
from magd.journal.journal import Journal
from magd.journal.places import journal_folder
from magd.journal.recovery import Recovery, recover
from tests.fuzzing.cases import Case, mutate_bytes
from tests.fuzzing.fuzzer import Broken
from tests.journal.journal_data import FORMAT, make_head, make_write

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from types import TracebackType

    from magd.journal.scan import StoredWrite

WHOLE: Final = "whole"
BLIND: Final = "blind"
FORGED: Final = "forged"

_SIDE_BYTES: Final = 300
_LARGE: Final = (5, 5, 4)
_PROMISED: Final = 7
_WRITES: Final = 10
_MEMORY: Final = "/dev/shm"
_NUMBERS: Final = (-1, 0, 1, 2, 255, 2**31, 2**63, 2**64 - 1, 2**64, 10**30)
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    "",
    "x",
    "\ud800",
    1e308,
    -1.5,
    [],
    {},
    [1],
    [[[]]],
    [0, 0],
    {"a": 1},
    "9" * 5000,
)


class Journals:
    """The target."""

    name: str = "journals"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="magd-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self._small_side_files = patch.object(journal_file, "SIDE_BYTES", _SIDE_BYTES)

    def __enter__(self) -> Self:
        self._small_side_files.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._small_side_files.stop()
        shutil.rmtree(self._folder)

    def rest(self) -> None:
        """There is nothing to let go of."""

    def begin_with(self) -> Sequence[Case]:
        """A journal of three files: two were rotated away but not retired; the last ends with a record not synced."""
        mag = self._folder / "made"
        mag.mkdir()
        journal = Journal.begin(str(mag), recover(str(mag), FORMAT), make_head(1))
        for counter in range(1, _WRITES + 1):
            if counter in (4, _PROMISED + 1):
                journal.rotate(make_head(1, counter - 1))
            box = Box.of((counter, 0, 0), _LARGE) if counter in (2, 5, 9) else None
            journal.append(make_write(counter, box=box, durability=Durability.DISK))
            if counter != _WRITES:
                journal.sync()
        journal.close()
        names = sorted(os.listdir(journal_folder(str(mag))))
        pieces = tuple((Path(journal_folder(str(mag))) / name).read_bytes() for name in names)
        return [Case(" ".join([WHOLE, str(_PROMISED), *names]), pieces)]

    def mutate(self, case: Case, random: random.Random) -> Case:
        """Bytes of a file anywhere; or a record changed and given a checksum that fits."""
        words = case.kind.split(" ")
        if len(case.pieces) < len(words) - 2:
            return case
        index = random.randrange(len(case.pieces))
        forged = _forge(case.pieces[index], random) if random.random() < 0.4 else None
        kind = FORGED if forged is not None or words[0] == FORGED else BLIND
        piece = mutate_bytes(case.pieces[index], random) if forged is None else forged
        return Case(" ".join([kind, *words[1:]]), case.with_piece(index, piece).pieces)

    def run(self, case: Case) -> None:
        """Recover a mag with this journal, and go on with it."""
        trust, promised, *names = case.kind.split(" ")
        mag = self._folder / "mag"
        shutil.rmtree(mag, ignore_errors=True)
        folder = Path(journal_folder(str(mag)))
        folder.mkdir(parents=True)
        for name, piece in zip(names, case.pieces, strict=False):
            (folder / name).write_bytes(piece)
        is_complete = len(case.pieces) == len(names)
        try:
            recovery = recover(str(mag), FORMAT)
            found = _read(recovery)
        except DataLoss as error:
            if trust == WHOLE or not error.metadata.get("file", "").startswith(str(folder)):
                raise Broken(f"refused with {error}, {error.metadata}") from error
            return
        if trust != FORGED:
            _check(recovery, found, int(promised) if is_complete else 0, trust == WHOLE)
        self._go_on(mag, recovery, found)

    def _go_on(self, mag: Path, recovery: Recovery, found: Sequence[bytes]) -> None:
        head = recovery.head
        epoch = 1 if head is None else head.revision.epoch + 1
        try:
            journal = Journal.begin(str(mag), recovery, make_head(epoch, incarnation=head.incarnation if head else "i"))
        except DataLoss:
            raise Broken("what was recovered cannot be taken over") from None
        journal.close()
        again = _read(recover(str(mag), FORMAT))
        if again != found:
            raise Broken(f"{len(found)} writes were recovered, and after that {len(again)} others")


def _read(recovery: Recovery) -> list[bytes]:
    """The voxels of all recovered writes."""
    return [write.read().data.tobytes(order="F") for write in recovery.writes]


def _check(recovery: Recovery, found: Sequence[bytes], promised: int, all_of_them: bool) -> None:
    counters = [write.revision.counter for write in recovery.writes]
    if counters != sorted(set(counters)):
        raise Broken(f"writes come back as {counters}")
    for write, data in zip(recovery.writes, found, strict=True):
        _check_write(write, data)
    wanted = set(range(1, (_WRITES if all_of_them else promised) + 1))
    # Files that the newest HEAD does not count were retired; there are none of these here.
    if missing := wanted - set(counters):
        raise Broken(f"the writes {sorted(missing)} were on the disk, and are missing without an error")


def _check_write(write: StoredWrite, data: bytes) -> None:
    counter = write.revision.counter
    size = write.box.size if tuple(write.box.size) == _LARGE else (4, 3, 2)
    wanted = make_write(counter, box=Box.of((counter, 0, 0), size))
    is_right = (
        write.revision == Revision(1, counter)
        and write.request_id == wanted.request_id
        and write.box == wanted.box
        and write.fingerprint == wanted.fingerprint
        and data == np.full(wanted.data.shape, counter, wanted.data.dtype).tobytes()
    )
    if not is_right:
        raise Broken(f"a write that nobody made: {write}")


# -- forging -----------------------------------------------------------------------------------------------------------


def _forge(data: bytes, random: random.Random) -> bytes | None:
    """The same journal file with one record changed, and its checksum made to fit. None if it has no sound one."""
    starts = [at for at in range(len(data) - HEADER_BYTES) if data.startswith(MAGIC, at)]
    if not starts or starts[0] != 0:
        return None
    at = random.choice(starts)
    (meta_bytes,) = struct.unpack_from("<I", data, at + 12)
    end = at + HEADER_BYTES + meta_bytes
    try:
        head = json.loads(data[HEADER_BYTES : HEADER_BYTES + struct.unpack_from("<I", data, 12)[0]])
        meta = json.loads(data[at + HEADER_BYTES : end])
        salt = int(head["salt"]) if at else 0
    except (ValueError, KeyError, TypeError):
        return None
    front = bytearray(data[at : at + HEADER_BYTES - 8])
    if random.random() < 0.4:
        field = 16 + 8 * random.randrange(4)  # epoch, number, durable, bytes of the data
        value = int.from_bytes(front[field : field + 8], "little") + random.choice((-2, -1, 1, 2, 2**40))
        front[field : field + 8] = (value % 2**64).to_bytes(8, "little")
    elif isinstance(meta, dict) and meta:
        _change(meta, random)
    text = json.dumps(meta, separators=(",", ":")).encode()
    front[12:16] = len(text).to_bytes(4, "little")
    checksum = xxhash.xxh3_64_intdigest(bytes(front) + text, seed=salt % 2**64)
    return data[:at] + bytes(front) + checksum.to_bytes(8, "little") + text + data[end:]


def _change(meta: dict[str, Any], random: random.Random) -> None:
    key = random.choice(sorted(meta))
    value = meta[key]
    match random.randrange(4):
        case 0:
            del meta[key]
        case 1 if isinstance(value, list) and value:
            value[random.randrange(len(value))] = random.choice((*_NUMBERS, *_VALUES))
        case 2 if isinstance(value, int):
            meta[key] = random.choice(_NUMBERS)
        case _:
            meta[key] = random.choice(_VALUES)
