"""Inputs of the fuzzer: how they are kept, and how one is made from another.

A case is what one run of a target gets: a word that says what it is, and pieces of bytes (the contents of a file, of
several files, the messages of a stream). The corpus has one JSON file for each case, with the reason why it is there.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

CORPUS: Final = Path(__file__).parent / "corpus"

_EDGES: Final = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
_WIDTHS: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Case:
    """One input."""

    kind: str
    """What it is; what words there are is the target's."""
    pieces: tuple[bytes, ...]

    def with_piece(self, index: int, piece: bytes) -> Case:
        """The same, but for one piece."""
        return Case(self.kind, (*self.pieces[:index], piece, *self.pieces[index + 1 :]))

    def to_json(self, why: str) -> str:
        """As a file of the corpus."""
        pieces = [base64.b64encode(piece).decode() for piece in self.pieces]
        return json.dumps({"why": why, "kind": self.kind, "pieces": pieces}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Case:
        """From a file of the corpus."""
        fields = json.loads(text)
        return cls(fields["kind"], tuple(base64.b64decode(piece) for piece in fields["pieces"]))


def corpus_of(target: str) -> dict[str, Case]:
    """The kept cases of a target, by the name of their file."""
    return {path.stem: Case.from_json(path.read_text()) for path in sorted((CORPUS / target).glob("*.json"))}


# -- changes of bytes --------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, random: random.Random, times: int | None = None) -> bytes:
    """The same bytes with one to four changes."""
    for _ in range(times or random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_CHANGES)(data, random)
    return data


def _flip_a_bit(data: bytes, random: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[_place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set_a_number(data: bytes, random: random.Random) -> bytes:
    """A number at the edge of something, or near the one that is there."""
    width = random.choice(_WIDTHS)
    if len(data) < width:
        return data
    at = min(_place(data, random), len(data) - width)
    there = int.from_bytes(data[at : at + width], "little")
    number = random.choice(_EDGES) if random.random() < 0.6 else there + random.choice((-8, -1, 1, 8))
    return data[:at] + (number % (1 << 8 * width)).to_bytes(width, "little") + data[at + width :]


def _cut(data: bytes, random: random.Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(data: bytes, random: random.Random) -> bytes:
    start, end = _range(data, random)
    return data[:start] + data[end:]


def _repeat(data: bytes, random: random.Random) -> bytes:
    start, end = _range(data, random)
    return data[:end] + data[start:end] + data[end:]


def _move(data: bytes, random: random.Random) -> bytes:
    """Copy one range over another place."""
    start, end = _range(data, random)
    at = random.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at + end - start :]


def _fill(data: bytes, random: random.Random) -> bytes:
    start, end = _range(data, random)
    return data[:start] + bytes([random.choice((0, 0, 255, 0x80))]) * (end - start) + data[end:]


def _scramble(data: bytes, random: random.Random) -> bytes:
    start, end = _range(data, random)
    return data[:start] + random.randbytes(end - start) + data[end:]


def _append(data: bytes, random: random.Random) -> bytes:
    return data + random.randbytes(random.choice((1, 8, 100)))


_CHANGES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _flip_a_bit,
    _flip_a_bit,
    _set_a_number,
    _set_a_number,
    _cut,
    _remove,
    _repeat,
    _move,
    _fill,
    _scramble,
    _append,
)


def _place(data: bytes, random: random.Random) -> int:
    """A position; often near the front, where formats say what they are."""
    return random.randrange(min(len(data), 80) if random.random() < 0.5 else len(data))


def _range(data: bytes, random: random.Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 8, 16, 64, 1 + len(data) // 4)))
