"""Reading and saving datasource-properties.json beside programs that know no locks.

The WEBKNOSSOS server and the `webknossos` package write the same file whenever they like; the package
truncates it and writes it anew in place. A save therefore never assumes that the file is what it was a moment
ago. It puts the new file in place by exchanging two names, and looks at what came out:

1. Read the file as it is now. One that cannot be read as JSON is never replaced.
2. Apply the edits to it. If that changes nothing, make sure that what is there is on the disk, and be done.
3. Write the result to a hidden temporary in the same folder, with the mode of the old file, and sync it. The
   name of the temporary tells what was read and what was written.
4. Exchange temporary and file in one step. The temporary now has what was displaced.
5. If that is what was read in step 1, the edits are saved: remove it, sync the folder, be done.
6. Otherwise somebody wrote in between. Exchange again at once, so that theirs is the file again (and once
   more if what comes out is not what went in, since that is newer still), and begin again with step 1. A
   program that is still writing into the file it had opened goes on writing into the file.

Where the file system cannot exchange, steps 4 to 6 are: look at the file once more; if it is not the one that
was read, begin again; otherwise rename the temporary over it. An edit of others between the look and the
rename is lost.

A crash before step 4 leaves the old file and a temporary. A crash after step 4 leaves the new file, and in
the temporary what was displaced. `recover` tells the two apart by the name of the temporary, and if it was an
edit of somebody else that was displaced, puts it back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from magd import atomic
from magd.errors import (
    AlreadyExists,
    Conflict,
    NotAllowed,
    NotFound,
    Reason,
    from_os_error,
    os_errors_of,
)
from magd.properties.edits import Edit, apply_edits, etag_mismatch
from magd.properties.forms import MAX_DEPTH, is_deeper
from magd.properties.model import DatasetProperties, invalid_properties, parse_properties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magd.properties.forms import JsonObject

PROPERTIES_NAME: Final = "datasource-properties.json"
"""The file that makes a folder a dataset."""

MAX_PROPERTIES_BYTES: Final = 64 << 20
"""A larger file is not read: it is no description of a dataset, and would fill the memory."""

_SAVE_ATTEMPTS: Final = 10
_READ_PAUSES_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16)
_FRESH_NANOSECONDS: Final = 2_000_000_000
"""Younger modification times prove nothing: file systems keep them in steps of up to two seconds."""

_TEMPORARY: Final = re.compile(r"\.(.+)\.magd-([0-9a-f]{32})-([0-9a-f]{32})-[0-9a-f]{8}", re.DOTALL)

Stamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, modification time in nanoseconds, size in bytes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The properties as they were in the file at one moment."""

    properties: DatasetProperties
    tree: JsonObject
    """The whole JSON. Shared: not to be changed."""
    etag: str
    """Of the content of the file."""
    stamp: Stamp
    is_fresh: bool
    """The file was written so shortly before that a further write might leave the same stamp."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A file as it was read."""

    data: bytes
    state: os.stat_result

    @property
    def etag(self) -> str:
        return _etag(self.data)


class PropertiesFile:
    """One datasource-properties.json. For one thread at a time, and one magd at a time; other programs may
    come and go.

    :param path: of the file
    :param root: the folder that a link in place of the file must not leave; None: the folder of the file
    """

    def __init__(self, path: str, *, root: str | None = None) -> None:
        self.path: Final = path
        self._root = os.path.realpath(os.path.dirname(path) if root is None else root)
        self._durable_etag: str | None = None
        self._sync_failed = False
        self._settled: tuple[Stamp, str] | None = None

    def load(self) -> Snapshot:
        """Read the file.

        While another program truncates and rewrites the file it is not JSON for a moment. There is no lock to
        wait for, so a file that was modified in the last seconds is read a few times more before it counts as
        broken.

        :raises NotFound: DATASET_NOT_FOUND: there is no such file
        :raises NotAllowed: INVALID_PROPERTIES: it does not describe a dataset; OUTSIDE_ROOT: a link leads out
        """
        return self._load()[1]

    def changed(self, snapshot: Snapshot) -> bool:
        """Whether the file is another than the one of the snapshot, or gone.

        Costs one stat; for a snapshot of a file that was just written, which a further write need not give
        another stamp, also reading the file.
        """
        try:
            if _stamp(os.stat(self.path)) != snapshot.stamp:
                return True
            if not snapshot.is_fresh or self._settled == (snapshot.stamp, snapshot.etag):
                return False
            content = self._read(self._target())
        except OSError:
            return True  # the load that follows says what is wrong
        if not _is_fresh(content.state):
            self._settled = (_stamp(content.state), content.etag)
        return content.etag != snapshot.etag

    def create(self, tree: JsonObject) -> Snapshot:
        """Make the file, durably. A crash leaves no file or the whole file, and perhaps a temporary.

        :raises AlreadyExists: DATASET_EXISTS
        """
        data = _encode(tree)
        properties = parse_properties(tree, file=self.path)
        temporary = self._temporary_name(self.path, _etag(b""), _etag(data))
        with os_errors_of(self.path):
            state = atomic.write_new_file(temporary, data)
            try:
                atomic.rename_no_replace(temporary, self.path)
            except FileExistsError:
                os.unlink(temporary)
                raise AlreadyExists(
                    f"{self.path} exists", reason=Reason.DATASET_EXISTS, metadata={"file": self.path}
                ) from None
            except BaseException:
                os.unlink(temporary)
                raise
            self._sync_folder(self.path, _etag(data))
        return Snapshot(properties, tree, _etag(data), _stamp(state), is_fresh=True)

    def save(self, edits: Sequence[Edit], *, expected_etag: str | None = None) -> Snapshot:
        """Apply edits to the file as it is now, all or none, durably.

        :param expected_etag: refuse unless the file has this etag when the edits are applied
        :return: the file after it, with what others wrote
        :raises Conflict: ETAG_MISMATCH; or others wrote the file again and again, so that no save came
            through
        :raises MagdError: an edit is not possible, or the file cannot be read or written. After an error of
            the system the file is the old or the new one; the next save sets it right
        """
        target = self._target()
        for _ in range(_SAVE_ATTEMPTS):
            base, before = self._load()
            if expected_etag is not None and before.etag != expected_etag:
                raise etag_mismatch(self.path, expected_etag, before.etag)
            tree = apply_edits(before.tree, edits)
            with os_errors_of(self.path):
                if _encode(tree) == _encode(before.tree) and not self._sync_failed:
                    self._make_durable(target, before.etag)
                    return before
                after = self._replace(target, base, tree)
            if after is not None:
                return after
        raise self._too_busy()

    def recover(self) -> None:
        """Clean up after a crash: remove temporaries of ours, and put back an edit of others that a save
        displaced.

        To be called before the first save, by whoever holds the lock of the dataset.
        """
        target = self._target()
        folder, name = os.path.split(target)
        with os_errors_of(self.path):
            for entry in sorted(os.listdir(folder)):
                match = _TEMPORARY.fullmatch(entry)
                if match is None or match[1] != name:
                    continue
                temporary = os.path.join(folder, entry)
                if self._is_json(temporary):
                    self._put_back_if_of_others(target, temporary, base=match[2], ours=match[3])
                os.unlink(temporary)
                atomic.fsync_folder(folder)

    # -- reading
    # -------------------------------------------------------------------------------------------------

    def _load(self) -> tuple[_Content, Snapshot]:
        target = self._target()
        pauses = iter(_READ_PAUSES_SECONDS)
        while True:
            content = self._read(target)
            try:
                tree = self._decode(content.data)
                properties = parse_properties(tree, file=self.path)
            except NotAllowed:
                pause = next(pauses, None) if _is_fresh(content.state) else None
                if pause is None:
                    raise
                time.sleep(pause)
                continue
            stamp, is_fresh = _stamp(content.state), _is_fresh(content.state)
            return content, Snapshot(properties, tree, content.etag, stamp, is_fresh)

    def _read(self, path: str) -> _Content:
        try:
            # Not blocking: a named pipe in place of the file must not hold the thread.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"{self.path} does not exist", reason=Reason.DATASET_NOT_FOUND, metadata={"file": self.path}
            ) from None
        except OSError as error:
            raise from_os_error(error, self.path) from error
        try:
            with os_errors_of(self.path):
                state = os.fstat(descriptor)
                if not stat.S_ISREG(state.st_mode):
                    raise invalid_properties(self.path, "it is not a regular file")
                parts: list[bytes] = []
                size = 0
                while part := os.read(descriptor, 1 << 20):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_PROPERTIES_BYTES:
                        raise invalid_properties(self.path, f"it has more than {MAX_PROPERTIES_BYTES} bytes")
        finally:
            os.close(descriptor)
        return _Content(b"".join(parts), state)

    def _decode(self, data: bytes) -> JsonObject:
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise invalid_properties(self.path, f"it is not JSON: {error}") from None
        if not isinstance(tree, dict):
            raise invalid_properties(self.path, "it is not a JSON object")
        if is_deeper(tree, MAX_DEPTH):
            raise invalid_properties(self.path, f"it is nested more than {MAX_DEPTH} levels deep")
        return tree

    def _target(self) -> str:
        """The file itself, where `path` is a link."""
        target = os.path.realpath(self.path)
        if os.path.commonpath([self._root, target]) != self._root:
            raise NotAllowed(
                f"{self.path} is a link to {target}, which is outside of {self._root}",
                reason=Reason.OUTSIDE_ROOT,
                metadata={"file": self.path},
            )
        return target

    # -- writing
    # -------------------------------------------------------------------------------------------------

    def _replace(self, target: str, base: _Content, tree: JsonObject) -> Snapshot | None:
        """Steps 3 to 6. None: somebody wrote in between, and theirs is the file."""
        data = _encode(tree)
        properties = parse_properties(tree, file=self.path)
        temporary = self._temporary_name(target, base.etag, _etag(data))
        state = atomic.write_new_file(temporary, data, like=base.state)
        try:
            is_ours = self._put_in_place(target, temporary, base, _etag(data))
        except BaseException:
            self._put_back_if_of_others(target, temporary, base=base.etag, ours=_etag(data))
            atomic.unlink_if_there(temporary)
            raise
        if not is_ours:
            return None
        self._sync_folder(target, _etag(data))
        return Snapshot(properties, tree, _etag(data), _stamp(state), is_fresh=True)

    def _put_in_place(self, target: str, temporary: str, base: _Content, ours: str) -> bool:
        """Steps 4 to 6. False: somebody wrote in between, and theirs is the file. The temporary is gone in
        any case.
        """
        placed, expected = ours, base.etag
        for _ in range(_SAVE_ATTEMPTS):
            if not atomic.exchange(temporary, target):
                return self._rename_over(target, temporary, base)
            displaced = self._etag_on_disk(temporary)
            if displaced == expected:
                os.unlink(temporary)
                return placed == ours
            # It is put back at once; then what comes out should be what was put in.
            placed, expected = displaced, placed
        raise self._too_busy()

    def _rename_over(self, target: str, temporary: str, base: _Content) -> bool:
        """Steps 4 to 6 where the file system cannot exchange."""
        if _stamp(os.stat(target)) != _stamp(base.state):
            os.unlink(temporary)
            return False
        os.rename(temporary, target)
        return True

    def _put_back_if_of_others(self, target: str, temporary: str, *, base: str, ours: str) -> None:
        """If a save has displaced what it had not read, exchange again.

        The file is what a save put there, but the temporary is not what that save had read: it is of others.
        """
        held = self._etag_on_disk(temporary)
        if held not in (base, ours) and self._etag_on_disk(target) == ours:
            atomic.exchange(temporary, target)

    def _etag_on_disk(self, path: str) -> str:
        """The etag of a file as it is now; empty if there is none, or one that cannot be read."""
        try:
            return self._read(path).etag
        except (NotFound, NotAllowed):
            return ""

    def _is_json(self, path: str) -> bool:
        try:
            self._decode(self._read(path).data)
        except NotAllowed:
            return False
        return True

    def _make_durable(self, target: str, etag: str) -> None:
        """Sync a file that is right already: a save may have been cut short, or others have written it."""
        if self._durable_etag == etag:
            return
        self._sync_failed = True
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._sync_folder(target, etag)

    def _sync_folder(self, target: str, etag: str) -> None:
        """Make the name of the file last. Until that has worked, the next save writes the file anew in any
        case.
        """
        self._durable_etag, self._sync_failed = None, True
        atomic.fsync_folder(os.path.dirname(target))
        self._durable_etag, self._sync_failed = etag, False

    def _too_busy(self) -> Conflict:
        return Conflict(
            f"{self.path} is written by other programs all the time; {_SAVE_ATTEMPTS} saves were in vain",
            reason=Reason.CHANGED_ON_DISK,
            metadata={"file": self.path},
        )

    @staticmethod
    def _temporary_name(target: str, base: str, ours: str) -> str:
        folder, name = os.path.split(target)
        return os.path.join(folder, f".{name}.magd-{base}-{ours}-{secrets.token_hex(4)}")


def _encode(tree: JsonObject) -> bytes:
    return (json.dumps(tree, indent=4) + "\n").encode()


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _stamp(state: os.stat_result) -> Stamp:
    return (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size)


def _is_fresh(state: os.stat_result) -> bool:
    return time.time_ns() - state.st_mtime_ns < _FRESH_NANOSECONDS
