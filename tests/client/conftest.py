"""A daemon whose failures a test chooses, and clients of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import magd_client
from magd_client import RetryPolicy, aio
from tests.client.fake_daemon import FakeDaemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUICK = RetryPolicy(first_seconds=0.001, max_seconds=0.01, connect_seconds=0.2)
"""Waits so short that tests of retries do not."""


@pytest.fixture
def fake() -> Iterator[FakeDaemon]:
    """The daemon."""
    with FakeDaemon() as daemon:
        yield daemon


@pytest.fixture
def client(fake: FakeDaemon) -> Iterator[magd_client.Client]:
    """A sync client of it."""
    with magd_client.connect(fake.address, timeout=10.0, retry=QUICK) as client:
        yield client


@pytest.fixture
def mag(client: magd_client.Client) -> magd_client.MagHandle:
    """Its mag."""
    return client.dataset("cortex").layer("color").mag(1)


@pytest.fixture
async def async_client(fake: FakeDaemon) -> AsyncIterator[aio.Client]:
    """An async client of it."""
    async with aio.connect(fake.address, timeout=10.0, retry=QUICK) as client:
        yield client


@pytest.fixture
async def async_mag(async_client: aio.Client) -> aio.MagHandle:
    """Its mag, for the async client."""
    return async_client.dataset("cortex").layer("color").mag(1)
