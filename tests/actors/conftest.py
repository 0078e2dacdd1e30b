"""A storage with real files and a real pool, without the edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magd.actors.storage import Storage
from magd.actors.types import StorageConfig
from magd.catalog.root import Root
from magd.compression.pool import CompressionPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CONFIG = StorageConfig(budget_bytes=256 << 20, io_threads=4)


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressionPool]:
    pool = CompressionPool(workers=2)
    pool.start()
    yield pool
    pool.close()


@pytest.fixture
async def storage(tmp_path: Path, pool: CompressionPool) -> AsyncIterator[Storage]:
    root = tmp_path / "root"
    root.mkdir()
    async with Storage(Root(str(root)), CONFIG, pool) as storage:
        yield storage
