"""A disk that remembers every change, and what may be on it after the process or the machine died.

While `recording`, the functions of `os` that change files write down what they do. From the log, up to any point,
`after_kill` and `after_power_loss` build a folder as a crash may leave it:

- The end of a process loses nothing that was done; the call under way may have written the front of its bytes.
- A power loss keeps what was synced: the bytes of a file by fsync or fdatasync of it, names by fsync of their folder.
  Of everything else, each sector of 512 bytes of each write, each cut and each change of a name may be there or not,
  independent of the others. Where a file has its new length but not its new bytes there are zeros, or what was in
  files before.
- After a sync that failed nothing written before it can be relied on any more, also when a later sync succeeds. What is
  written over it later, and synced, counts. Descriptors that were open when it failed hear of it, each once.

Faults make chosen calls fail, but no sync of the folder that is recorded: its names go through the journal of the file
system, which has ended if it cannot write them.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECTOR = 512


@dataclass(eq=False)
class Inode:
    """A file, whatever it is called."""


@dataclass(frozen=True)
class Write:
    inode: Inode
    offset: int
    data: bytes


@dataclass(frozen=True)
class Cut:
    inode: Inode
    size: int


@dataclass(frozen=True)
class Name:
    """A path has come to stand for a file (or a folder), or for nothing."""

    path: str
    inode: Inode | None
    before: str | None = None
    """What it was called until now."""
    is_folder: bool = False


@dataclass(frozen=True)
class Sync:
    inode: Inode


@dataclass(frozen=True)
class SyncFolder:
    path: str


@dataclass(frozen=True)
class FailedSync:
    inode: Inode


@dataclass(frozen=True)
class FailedSyncFolder:
    path: str


@dataclass(frozen=True)
class Event:
    """Something the test wants to know the time of."""

    what: Any


@dataclass
class RecordedDisk:
    """The log of what happened below one folder."""

    root: str
    log: list[Any] = field(default_factory=list)
    faults: dict[int, int] = field(default_factory=dict)
    """Number of a call -> errno it fails with. A write that fails by EIO has written all its bytes, by another one half
    of them; 0 makes it short, which is no failure."""
    calls: list[str] = field(default_factory=list)
    _fds: dict[int, Inode | str] = field(default_factory=dict)
    _names: dict[str, Inode] = field(default_factory=dict)
    _unheard: set[int] = field(default_factory=set)
    """Descriptors that have to be told of a failed sync by another one."""

    def note(self, what: Any) -> None:
        self.log.append(Event(what))

    @contextmanager
    def recording(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in _RECORDED}
        with pytest.MonkeyPatch.context() as patch:
            for name in _RECORDED:
                patch.setattr(os, name, self._recorder(name, real[name], real))
            yield

    def start_from(self, folder: Path) -> None:
        """Take the files of a folder as what is on the disk for sure. The folder is the root from now on."""
        self.root = str(folder)
        self.log.clear()
        self._fds.clear()
        self._names.clear()
        self._unheard.clear()
        known: dict[int, Inode] = {}
        for parent, folders, files in os.walk(folder):
            self.log += [Name(os.path.join(parent, name), None, is_folder=True) for name in folders]
            for name in files:
                path = os.path.join(parent, name)
                number = os.stat(path).st_ino
                if number not in known:
                    known[number] = Inode()
                    with open(path, "rb") as file:
                        self.log += [Write(known[number], 0, file.read()), Sync(known[number])]
                inode = self._names[path] = known[number]
                self.log.append(Name(path, inode))
            self.log.append(SyncFolder(parent))

    def _fails(self, name: str) -> int | None:
        number = len(self.calls)
        self.calls.append(name)
        return self.faults.get(number)

    def _recorder(self, name: str, real: Callable[..., Any], all_real: dict[str, Any]) -> Callable[..., Any]:
        def is_below(path: object) -> bool:
            return isinstance(path, str) and path.startswith(self.root)

        def fail(code: int) -> OSError:
            return OSError(code, os.strerror(code))

        def record_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if not is_below(path):
                return real(path, flags, *arguments, **options)  # type: ignore[no-any-return]
            if code := self._fails("open"):
                raise fail(code)
            is_new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
            fd: int = real(path, flags, *arguments, **options)
            if is_new:
                self._names[path] = Inode()
                self.log.append(Name(path, self._names[path]))
            self._fds[fd] = (
                path if flags & os.O_DIRECTORY or os.path.isdir(path) else self._names.setdefault(path, Inode())
            )
            return fd

        def record_pwritev(fd: int, buffers: Any, offset: int, *flags: Any) -> int:
            inode = self._fds.get(fd)
            if not isinstance(inode, Inode):
                return all_real["pwritev"](fd, buffers, offset, *flags)  # type: ignore[no-any-return]
            code = self._fails("pwritev")
            data = b"".join(bytes(buffer) for buffer in buffers)
            if code is not None and code != errno.EIO:
                data = data[: len(data) // 2 or 1]
            all_real["pwritev"](fd, [data], offset)
            self.log.append(Write(inode, offset, data))
            if code:
                raise fail(code)
            return len(data)

        def record_pwrite(fd: int, data: Any, offset: int) -> int:
            return record_pwritev(fd, [data], offset)

        def record_ftruncate(fd: int, size: int) -> None:
            inode = self._fds.get(fd)
            if isinstance(inode, Inode):
                if code := self._fails("ftruncate"):
                    raise fail(code)
                self.log.append(Cut(inode, size))
            real(fd, size)

        def record_sync(fd: int) -> None:
            what = self._fds.get(fd)
            if what is None:
                real(fd)
                return
            code = None if what == self.root else self._fails(name)
            if fd in self._unheard:
                self._unheard.discard(fd)
                code = code or errno.EIO
            elif code and isinstance(what, Inode):
                self._unheard.update(other for other, inode in self._fds.items() if inode is what and other != fd)
            if isinstance(what, Inode):
                self.log.append(FailedSync(what) if code else Sync(what))
            else:
                self.log.append(FailedSyncFolder(what) if code else SyncFolder(what))
            if code:
                raise fail(code)

        def record_rename(source: str, target: str) -> None:
            if not is_below(source):
                real(source, target)
                return
            if code := self._fails("rename"):
                raise fail(code)
            real(source, target)
            inode = self._names[target] = self._names.pop(source)
            self.log.append(Name(target, inode, before=source))

        def record_link(source: str, target: str) -> None:
            if not is_below(source):
                real(source, target)
                return
            if code := self._fails("link"):
                raise fail(code)
            real(source, target)
            inode = self._names[target] = self._names[source]
            self.log.append(Name(target, inode))

        def record_unlink(path: str) -> None:
            if not is_below(path):
                real(path)
                return
            if code := self._fails("unlink"):
                raise fail(code)
            real(path)
            self._names.pop(path)
            self.log.append(Name(path, None))

        def record_mkdir(path: str, *arguments: Any) -> None:
            if is_below(path) and (code := self._fails("mkdir")):
                raise fail(code)
            real(path, *arguments)
            if is_below(path):
                self.log.append(Name(path, None, is_folder=True))

        def record_close(fd: int) -> None:
            self._fds.pop(fd, None)
            self._unheard.discard(fd)
            real(fd)

        recorders: dict[str, Callable[..., Any]] = {
            "open": record_open,
            "pwritev": record_pwritev,
            "pwrite": record_pwrite,
            "link": record_link,
            "ftruncate": record_ftruncate,
            "fdatasync": record_sync,
            "fsync": record_sync,
            "rename": record_rename,
            "unlink": record_unlink,
            "mkdir": record_mkdir,
            "close": record_close,
        }
        return recorders[name]


_RECORDED = (
    "open",
    "pwritev",
    "pwrite",
    "link",
    "ftruncate",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "mkdir",
    "close",
)


def after_kill(disk: RecordedDisk, end: int, into: Path, rng: random.Random) -> None:
    """Build what is there when the process dies at `end` of the log."""
    log = list(disk.log[:end])
    if end < len(disk.log) and isinstance(disk.log[end], Write):
        under_way = disk.log[end]
        log.append(Write(under_way.inode, under_way.offset, under_way.data[: rng.randrange(len(under_way.data))]))
    contents: dict[Inode, bytearray] = {}
    names: dict[str, Inode | None] = {}
    for done in log:
        match done:
            case Write(inode, offset, data):
                _put(contents.setdefault(inode, bytearray()), offset, data)
            case Cut(inode):
                _apply(contents.setdefault(inode, bytearray()), done)
            case Name():
                _rename(names, done)
            case _:
                pass
    _build(disk.root, into, names, contents)


def after_power_loss(disk: RecordedDisk, end: int, into: Path, rng: random.Random, chance: float) -> None:
    """Build what may be there when the machine dies at `end` of the log.

    :param chance: of each thing that was not synced to be there
    """
    files: dict[Inode, bytearray] = {}
    waiting: dict[Inode, list[Write | Cut]] = {}
    doubtful: set[int] = set()
    names: dict[str, Inode | None] = {}
    waiting_names: dict[str, list[Name]] = {}
    former: list[bytes] = []
    for done in disk.log[:end]:
        match done:
            case Write(inode) | Cut(inode):
                waiting.setdefault(inode, []).append(done)
            case Sync(inode):
                rest: list[Write | Cut] = []
                for change in waiting.pop(inode, []):
                    if id(change) in doubtful:
                        rest.append(change)
                    else:
                        _apply(files.setdefault(inode, bytearray()), change)
                        rest = [left for older in rest for left in _left_beside(older, change)]
                doubtful.update(map(id, rest))
                waiting[inode] = rest
            case FailedSync(inode):
                doubtful.update(id(change) for change in waiting.get(inode, []))
            case Name(path, inode):
                waiting_names.setdefault(os.path.dirname(path), []).append(done)
                if inode is not None:
                    former.append(b"".join(c.data for c in waiting.get(inode, []) if isinstance(c, Write)))
                    former.append(bytes(files.get(inode, b"")))
            case SyncFolder(path):
                rest_names: list[Name] = []
                for name in waiting_names.pop(path, []):
                    if id(name) in doubtful:
                        rest_names.append(name)
                    else:
                        _rename(names, name)
                        # What the folder says of this name now is younger.
                        rest_names = [older for older in rest_names if older.path != name.path]
                waiting_names[path] = rest_names
            case FailedSyncFolder(path):
                doubtful.update(id(name) for name in waiting_names.get(path, []))
            case _:
                pass
    former += [bytes(content) for content in files.values()]
    for inode, changes in waiting.items():
        content = files.setdefault(inode, bytearray())
        for change in changes:
            if isinstance(change, Cut):
                if rng.random() < chance:
                    _apply(content, change)
                continue
            _put_some_sectors(content, change, rng, chance, former)
    for changes_of_names in waiting_names.values():
        for name in changes_of_names:
            if rng.random() < chance:
                _rename(names, name)
    _build(disk.root, into, names, files)


def _apply(content: bytearray, change: Write | Cut) -> None:
    if isinstance(change, Cut):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    else:
        _put(content, change.offset, change.data)


def _left_beside(older: Write | Cut, newer: Write | Cut) -> Iterator[Write | Cut]:
    """What may still happen to a file by an older change, when a newer one is on the disk."""
    if isinstance(older, Cut) or isinstance(newer, Cut):
        yield older
        return
    end, newer_end = older.offset + len(older.data), newer.offset + len(newer.data)
    if older.offset < min(end, newer.offset):
        yield Write(older.inode, older.offset, older.data[: newer.offset - older.offset])
    if max(older.offset, newer_end) < end:
        start = max(older.offset, newer_end)
        yield Write(older.inode, start, older.data[start - older.offset :])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


def _put_some_sectors(content: bytearray, write: Write, rng: random.Random, chance: float, former: list[bytes]) -> None:
    end = write.offset + len(write.data)
    stale = rng.choice(former) if former and rng.random() < 0.5 else b""
    start = write.offset
    kept = [(first, min(first - first % SECTOR + SECTOR, end)) for first in _sectors(start, end)]
    there = [sector for sector in kept if rng.random() < chance]
    # The length of a file may reach the disk without its bytes.
    size = end if rng.random() < chance else max((stop for _, stop in there), default=0)
    if len(content) < size:
        grown = len(content)
        content.extend(bytes(size - grown))
        piece = stale[grown:size]
        content[grown : grown + len(piece)] = piece
    for first, stop in there:
        content[first:stop] = write.data[first - start : stop - start]


def _sectors(start: int, end: int) -> Iterator[int]:
    while start < end:
        yield start
        start = start - start % SECTOR + SECTOR


def _rename(names: dict[str, Inode | None], name: Name) -> None:
    if name.before is not None:
        names.pop(name.before, None)
    if name.inode is None and not name.is_folder:
        names.pop(name.path, None)
    else:
        names[name.path] = name.inode


def _build(root: str, into: Path, names: dict[str, Inode | None], contents: dict[Inode, bytearray]) -> None:
    into.mkdir()
    made: dict[Inode, str] = {}
    for path in sorted(names):
        target = os.path.join(into, os.path.relpath(path, root))
        if not os.path.isdir(os.path.dirname(target)):
            continue  # its folder was lost
        inode = names[path]
        if inode is None:
            os.mkdir(target)
        elif inode in made:
            os.link(made[inode], target)
        else:
            made[inode] = target
            with open(target, "wb") as file:
                file.write(contents.get(inode, b""))
