"""The async client: the names of `magd_client`, and whatever does I/O is awaited.

    from magd_client import aio

    async with aio.connect("127.0.0.1:7733") as client:
        mag = client.dataset("cortex").layer("color").mag("1")
        await mag.write(data, offset=(10, 20, 30))
        data = await mag.read(offset=(0, 0, 0), size=(64, 64, 64))
        cut = await mag[5:9, 5:9, 5]
        await mag.write_at(np.s_[5:9, 5:9, 5], cut)       # an assignment cannot be awaited

What differs from the sync client:

- A client belongs to the event loop of its first call; connect once in each loop.
- It cannot be used in a forked child of a process that used it before the fork.
- Cancelling a call gives up waiting. A write whose last byte was sent goes on in the daemon.

Errors, infos and geometry are those of `magd_client`.
"""

from magd_client._async.batch import Batch
from magd_client._async.client import Client, connect
from magd_client._async.dataset import Dataset
from magd_client._async.layer import Layer
from magd_client._async.mag import MagHandle
from magd_client._async.operation import Operation
from magd_client._async.view import View
from magd_client._async.watch import Watch

__all__ = ["Batch", "Client", "Dataset", "Layer", "MagHandle", "Operation", "View", "Watch", "connect"]
