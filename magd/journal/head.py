"""The head of a mag: its epoch, generation and incarnation, durably.

A mag's revision is (epoch, counter). The counter lives in memory, so the epoch has to rise with each start of the
actor that writes; and the file that says so has to be on the disk before the first write of that epoch is committed.

1. `load` reads `<mag>/.magd/head.json`; without one the mag was never written through magd, and all numbers are 0.
2. `save` replaces the file as a whole and syncs it and its folder.

An actor that only reads saves nothing, so a mag that is only read keeps no trace of magd. The epoch it shows, one above
the stored one, may be shown again by the next actor: no write lies between, so it means the same data.

The folder moves with the mag when it is renamed or deleted, and a mag that is made anew has a new incarnation, so the
two cannot be mistaken for each other.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Final

from magd.atomic import fsync_folder, write_file_atomically
from magd.errors import DataLoss, from_os_error

FOLDER: Final = ".magd"
"""The folder inside a mag's folder that belongs to magd."""

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Head:
    """What `<mag>/.magd/head.json` says."""

    epoch: int = 0
    """The last epoch that may have committed a write."""
    generation: int = 0
    """How often the mag's files were exchanged as a whole."""
    incarnation: str = ""
    """Drawn when the mag was made by magd, or first written by it."""

    def started(self, epoch: int) -> Head:
        """The head once an epoch has begun."""
        return replace(self, epoch=epoch, incarnation=self.incarnation or uuid.uuid4().hex)

    def exchanged(self) -> Head:
        """The head once the files were exchanged as a whole."""
        return replace(self, generation=self.generation + 1)


def load(mag_folder: str) -> Head:
    """Read the head of a mag.

    :raises DataLoss: the file cannot be read or is not a head
    """
    path = os.path.join(mag_folder, FOLDER, "head.json")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return Head()
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        fields = json.loads(text)
        epoch, generation, incarnation = fields["epoch"], fields["generation"], fields["incarnation"]
        if fields["format"] != _FORMAT:
            raise ValueError(f"unknown format {fields['format']!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise _no_head(path, repr(error)) from error
    if not (isinstance(epoch, int) and isinstance(generation, int) and isinstance(incarnation, str)):
        raise _no_head(path, "a field has the wrong type")
    return Head(epoch, generation, incarnation)


def save(mag_folder: str, head: Head) -> None:
    """Replace the head of a mag, and return when it is on the disk.

    :raises DiskFull, DataLoss: it could not be written; the old head is still there
    """
    folder = os.path.join(mag_folder, FOLDER)
    text = json.dumps({"format": _FORMAT, **asdict(head)}) + "\n"
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder)
            fsync_folder(mag_folder)
        write_file_atomically(os.path.join(folder, "head.json"), text.encode())
    except OSError as error:
        raise from_os_error(error, folder) from error


def _no_head(path: str, why: str) -> DataLoss:
    return DataLoss(f"{path} is not the head of a mag: {why}", metadata={"file": path})
