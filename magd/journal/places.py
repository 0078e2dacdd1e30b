"""Where a journal lies, and what its files are called.

    <mag>/.magd/journal/<sequence>.journal        one journal file
    <mag>/.magd/journal/<sequence>.journal.new    one that is being made
    <mag>/.magd/journal/<number>.side             the data of the record with this number, where it is large
    <mag>/.magd/journal/<number>.part<n>          part n of the data of this record, which can become a cube file
    <mag>/.magd/journal/<number>.linked           the mark that the parts of this record may be cube files by now
    <mag>/.magd/journal/<number>.unsynced         the same, where the record was not on the disk before
    <mag>/.magd/journal/<drawn>.staged            data that arrives, and has no record yet; or may do so

Sequences and numbers only rise; none is used for a second file. The folder lies inside the mag's, so that rename,
delete and exchange take it along, and a mag that is made anew does not meet the journal of the one before.
"""

from __future__ import annotations

import os
import re
from typing import Final

MAGD_FOLDER: Final = ".magd"
"""The folder inside a mag's folder that belongs to magd."""

_JOURNAL_FOLDER: Final = "journal"
_DIGITS: Final = 16
_FILE: Final = re.compile(
    r"([0-9]{16}|[1-9][0-9]{16,19})\.(journal|journal\.new|side|part[0-7]|linked|unsynced|staged)", re.ASCII
)
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


def journal_folder(mag_folder: str) -> str:
    """The folder with the journal files of a mag."""
    return os.path.join(mag_folder, MAGD_FOLDER, _JOURNAL_FOLDER)


def dataset_folder(folder: str) -> str:
    """The folder of the dataset that a journal's folder belongs to."""
    mag = os.path.dirname(os.path.dirname(folder))
    return os.path.dirname(os.path.dirname(mag))


def journal_path(folder: str, sequence: int) -> str:
    """The journal file with this sequence."""
    return os.path.join(folder, f"{sequence:0{_DIGITS}d}.journal")


def new_journal_path(folder: str, sequence: int) -> str:
    """What the journal file with this sequence is called until it is complete."""
    return journal_path(folder, sequence) + ".new"


def side_path(folder: str, number: int) -> str:
    """The side file of the record with this number."""
    return os.path.join(folder, f"{number:0{_DIGITS}d}.side")


def is_side_path(path: str) -> bool:
    """Whether this is a side file."""
    parsed = parse_name(os.path.basename(path))
    return parsed is not None and parsed[0] == "side"


def part_path(folder: str, number: int, part: int) -> str:
    """A part of the data of the record with this number.

    :param part: from 0 to 7
    """
    return os.path.join(folder, f"{number:0{_DIGITS}d}.part{part}")


def linked_path(folder: str, number: int) -> str:
    """The mark of the record with this number."""
    return os.path.join(folder, f"{number:0{_DIGITS}d}.linked")


def unsynced_path(folder: str, number: int) -> str:
    """The mark of the record with this number, if it was not on the disk before."""
    return os.path.join(folder, f"{number:0{_DIGITS}d}.unsynced")


def staged_path(folder: str, drawn: int) -> str:
    """A file for data that arrives.

    :param drawn: a number of at most 16 digits that no other has
    """
    return os.path.join(folder, f"{drawn:0{_DIGITS}d}.staged")


def parse_name(name: str) -> tuple[str, int] | None:
    """What a name in the folder stands for.

    :return: what stands behind its point, and its sequence or number; None if it is none of the journal's
    """
    match = _FILE.fullmatch(name)
    return None if match is None else (match[2], int(match[1]))


def boot_id() -> str:
    """What tells one run of the machine from the next; empty where the system does not say."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
