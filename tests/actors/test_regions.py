"""Regions of shared memory: whose they are, how much there is, and what is left of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from magd.actors import region_files
from magd.actors.budget import MemoryBudget
from magd.actors.region_files import PREFIX, RegionFolder, open_place, remove_leftovers
from magd.actors.regions import GRAIN_BYTES, Regions
from magd.actors.threads import Threads
from magd.errors import InvalidRequest
from magd.shared_files import open_shared, shared_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LIMIT = 8 * GRAIN_BYTES
TOTAL = 64 * GRAIN_BYTES


class Where:
    """Where the files of regions are.

    :param folder: None: they are sealed
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.parent = "" if folder is None else str(folder)

    @property
    def is_sealed(self) -> bool:
        return self.folder is None

    def names(self) -> list[str]:
        """Of the regions whose files are there."""
        if self.folder is not None:
            return sorted(name for _, _, names in os.walk(self.folder) for name in names)
        found = (re.fullmatch(r"/memfd:magd-([0-9a-f]+) \(deleted\)", link) for link in self._links())
        return sorted({match[1] for match in found if match is not None})

    @staticmethod
    def _links() -> Iterator[str]:
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                yield os.readlink(f"/proc/self/fd/{fd}")


@pytest.fixture(params=["sealed", "in a folder"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    return Where(None if request.param == "sealed" else tmp_path)


@asynccontextmanager
async def open_regions(where: Where, *, limit: int = LIMIT, total: int = TOTAL) -> AsyncIterator[Regions]:
    """Regions; when they are closed nothing is left, neither files nor memory nor descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    budget, threads = MemoryBudget(total), Threads(2)
    regions = Regions(budget, threads, limit_bytes=limit, parent=where.parent)
    await regions.open()
    yield regions
    await regions.close()
    threads.close()
    assert (budget.used_bytes, regions.used_bytes) == (0, 0)
    assert where.names() == []
    assert where.folder is None or os.listdir(where.folder) == []
    assert len(os.listdir("/proc/self/fd")) <= before


async def settled(regions: Regions, used_bytes: int) -> None:
    """Wait until so much is left."""
    async with asyncio.timeout(10):
        while regions.used_bytes != used_bytes:  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


async def test_only_the_daemons_user_can_enter_the_folder_and_open_a_file(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as sharer:
            file = await sharer.lease(1)
            assert file is not None
            assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
            assert where.is_sealed or stat.S_IMODE(os.stat(os.path.dirname(file.path)).st_mode) == 0o700
            assert os.stat(file.path).st_size == file.size_bytes == GRAIN_BYTES
            assert os.stat(file.path).st_blocks * 512 >= GRAIN_BYTES, "it has all of its memory"
            assert len(file.name) == 32


async def test_a_region_that_was_given_back_is_leased_again_but_only_to_the_same_client(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as one, regions.sharer() as other:
            first = await one.lease(2 * GRAIN_BYTES)
            assert first is not None
            one.release(first.name)
            second = await other.lease(GRAIN_BYTES)
            assert second is not None
            assert second.name != first.name
            again = await one.lease(GRAIN_BYTES + 1)
            assert again is first
            assert where.names() == sorted([first.name, second.name])
        await settled(regions, 0)
        assert where.names() == []


async def test_one_client_gets_half_and_all_together_the_limit_and_idle_regions_make_room(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as one, regions.sharer() as two, regions.sharer() as three:
            assert await one.lease(LIMIT // 2 + 1) is None
            first = await one.lease(LIMIT // 2)
            assert first is not None
            assert await one.lease(1) is None
            assert await two.lease(LIMIT // 2) is not None
            assert await three.lease(1) is None
            one.release(first.name)
            assert await three.lease(LIMIT // 2) is not None, "the region that nobody leases has gone"
            assert regions.used_bytes == LIMIT


async def test_regions_are_part_of_the_budget_and_go_when_others_wait(where: Where) -> None:
    async with open_regions(where, total=4 * GRAIN_BYTES) as regions:
        budget = regions._budget
        with regions.sharer() as sharer:
            file = await sharer.lease(3 * GRAIN_BYTES)
            assert file is not None
            assert budget.used_bytes == 3 * GRAIN_BYTES
            assert await sharer.lease(GRAIN_BYTES) is None, "the budget has not so much"
            waiting = asyncio.create_task(budget.lease(GRAIN_BYTES))
            await asyncio.sleep(0)
            assert budget.waiting == 1
            sharer.release(file.name)
            regions.drop_idle()
            (await waiting).release()


async def test_a_call_keeps_its_region_when_the_client_goes(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.uses() as uses:
            with regions.sharer() as sharer:
                file = await sharer.lease(GRAIN_BYTES)
                assert file is not None
                part = uses.range(file.name, 10, 5)
                file.write(memoryview(b"hello"), 10)
            with regions.uses() as others, pytest.raises(InvalidRequest, match="not leased"):
                others.range(file.name, 0, 1)
            buffer = bytearray(5)
            with await regions._budget.lease(5) as lease:
                await part.read_into(memoryview(buffer), 0, lease)
            assert buffer == b"hello"
            assert regions.used_bytes == GRAIN_BYTES
        await settled(regions, 0)


async def test_a_region_that_is_given_back_while_a_call_uses_it_is_never_leased_again(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as sharer:
            with regions.uses() as uses:
                first = await sharer.lease(GRAIN_BYTES)
                assert first is not None
                uses.range(first.name, 0, 1)
                sharer.release(first.name)
                second = await sharer.lease(GRAIN_BYTES)
                assert second is not None
                assert second.name != first.name
            await settled(regions, GRAIN_BYTES)
            assert where.names() == [second.name]


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, GRAIN_BYTES + 1), (GRAIN_BYTES, 1), (1, -1)])
async def test_a_range_that_a_region_does_not_have_is_refused(where: Where, offset: int, size: int) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as sharer, regions.uses() as uses:
            file = await sharer.lease(1)
            assert file is not None
            with pytest.raises(InvalidRequest) as refused:
                uses.range(file.name, offset, size)
            assert refused.value.metadata["field"] == "shared_memory"


async def test_what_a_client_does_to_a_file_in_a_folder_is_an_error_of_its_call_and_nothing_worse(
    tmp_path: Path,
) -> None:
    async with open_regions(Where(tmp_path)) as regions:
        with regions.sharer() as sharer, regions.uses() as uses:
            file = await sharer.lease(1)
            assert file is not None
            os.truncate(file.path, 100)
            part = uses.range(file.name, 0, 200)
            assert part.place(0, 200) is None, "it is never mapped"
            with await regions._budget.lease(200) as lease:
                with pytest.raises(InvalidRequest, match="cut short"):
                    await part.read_into(memoryview(bytearray(200)), 0, lease)
                await part.write(memoryview(bytes(200)), 0, lease)
                os.unlink(file.path)
                await part.read_into(memoryview(bytearray(200)), 0, lease)


async def test_a_client_cannot_cut_a_sealed_file_short_and_who_gives_its_memory_away_reads_zeros() -> None:
    async with open_regions(Where(None)) as regions:
        with regions.sharer() as sharer, regions.uses() as uses:
            file = await sharer.lease(1)
            assert file is not None
            fd = open_shared(file.path, file.name)
            for size in (0, 100, GRAIN_BYTES + 1):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            part = uses.range(file.name, 0, GRAIN_BYTES)
            buffer = bytearray(b"x" * GRAIN_BYTES)
            with await regions._budget.lease(GRAIN_BYTES) as lease:
                await part.write(memoryview(buffer), 0, lease)
                shared_file(fd, GRAIN_BYTES).free()  # as nothing but a client that is broken does
                await part.read_into(memoryview(buffer), 0, lease)
            assert bytes(buffer) == bytes(GRAIN_BYTES)
            os.close(fd)


async def test_a_region_is_used_until_the_last_reader_of_a_call_that_ended_is_done(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as sharer:
            file = await sharer.lease(GRAIN_BYTES)
            assert file is not None
            lease = await regions._budget.lease(10)
            with regions.uses() as uses, lease:
                part = uses.range(file.name, 0, 10)
                part.keep(lease)
                lease.keep()  # as work does that outlives the call
            sharer.release(file.name)
            second = await sharer.lease(GRAIN_BYTES)
            assert second is not None
            assert second.name != file.name, "somebody may write into the first one still"
            assert (part.place(2, 8) is None) == (not where.is_sealed)
            assert part.place(3, 8) is None, "it has no such part"
            lease.release()
            await settled(regions, GRAIN_BYTES)
            assert where.names() == [second.name]


async def test_the_memory_of_a_region_that_was_given_back_is_freed_although_the_client_has_it_mapped() -> None:
    async with open_regions(Where(None)) as regions:
        with regions.sharer() as sharer:
            released, kept = await sharer.lease(GRAIN_BYTES), await sharer.lease(2 * GRAIN_BYTES)
            assert released is not None
            assert kept is not None
            here = [shared_file(open_shared(file.path, file.name), file.size_bytes) for file in (released, kept)]
            for file in here:
                file.write(memoryview(b"hello"), 0)
            sharer.release(released.name)
        await settled(regions, 0)
        seen = [bytearray(5), bytearray(5)]
        for file, buffer in zip(here, seen, strict=True):
            file.read_into(memoryview(buffer), 0)
            file.close()
        assert seen == [bytes(5), b"hello"], "whose client has only gone may be reading an answer"


async def test_a_lease_that_is_cancelled_while_it_is_made_leaves_nothing(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as sharer:
            for _ in range(20):
                leasing = asyncio.create_task(sharer.lease(GRAIN_BYTES))
                await asyncio.sleep(0)
                leasing.cancel()
                await asyncio.wait([leasing])
            await settled(regions, sum(region.file.size_bytes for region in regions._regions.values()))


async def test_without_memory_for_the_file_there_is_no_region(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "no space")

    async with open_regions(where) as regions:
        with regions.sharer() as sharer:
            monkeypatch.setattr(os, "posix_fallocate", refuse)
            assert await sharer.lease(1) is None
            assert (regions.used_bytes, where.names()) == (0, [])


async def test_a_region_of_another_client_cannot_be_released(where: Where) -> None:
    async with open_regions(where) as regions:
        with regions.sharer() as one, regions.sharer() as other:
            file = await one.lease(1)
            assert file is not None
            with pytest.raises(InvalidRequest):
                other.release(file.name)
            with pytest.raises(InvalidRequest):
                one.release("")
            for size in (0, -5):
                with pytest.raises(InvalidRequest):
                    await one.lease(size)


async def test_a_folder_that_cannot_be_made_means_no_shared_memory(tmp_path: Path) -> None:
    async with open_regions(Where(tmp_path)) as regions:
        assert regions.limit_bytes == LIMIT
    nowhere = Regions(MemoryBudget(TOTAL), Threads(1), limit_bytes=LIMIT, parent=str(tmp_path / "nowhere"))
    await nowhere.open()
    assert nowhere.limit_bytes == 0
    with nowhere.sharer() as sharer:
        assert await sharer.lease(1) is None


def test_where_files_cannot_be_sealed_they_are_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "no such call")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(region_files, "IN_MEMORY", str(tmp_path))
    place = open_place("")
    assert place.path.startswith(str(tmp_path))
    file = place.make(GRAIN_BYTES)
    assert file.path.startswith(place.path)
    assert file.view(0, 1) is None
    file.remove(free=True)
    place.close()
    assert os.listdir(tmp_path) == []


def test_folders_of_daemons_that_died_are_removed_and_no_others(tmp_path: Path) -> None:
    dead, foreign = tmp_path / f"{PREFIX}dead", tmp_path / "else"
    for folder in (dead, foreign):
        folder.mkdir()
        (folder / "region").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(foreign)
    (tmp_path / f"{PREFIX}file").touch()
    living = RegionFolder.create(str(tmp_path))
    kept = living.make(GRAIN_BYTES)
    remove_leftovers(str(tmp_path))
    assert not dead.exists()
    assert os.path.exists(kept.path)
    assert os.listdir(foreign) == ["region"]
    assert sorted(os.listdir(tmp_path)) == sorted(
        [os.path.basename(living.path), "else", f"{PREFIX}link", f"{PREFIX}file"]
    )
    kept.remove(free=False)
    living.close()
    assert not os.path.exists(living.path)


def test_a_new_folder_that_another_daemon_takes_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir
    made: list[str] = []

    def make_and_lose(path: str, mode: int) -> None:
        mkdir(path, mode)
        made.append(path)
        if len(made) == 1:
            # Another daemon looks at it before it is locked; it is removed when this one has opened it.
            monkeypatch.setattr(fcntl, "flock", remove_then_lock)

    flock = fcntl.flock

    def remove_then_lock(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        os.rmdir(made[0])
        flock(fd, how)

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    folder = RegionFolder.create(str(tmp_path))
    assert len(made) == 2
    assert folder.path == made[1]
    folder.close()
