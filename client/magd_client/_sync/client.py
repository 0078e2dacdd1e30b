# Generated from _async/client.py by scripts/unasync: change it there.
"""The client: where everything begins."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final, Self

from magd.v1 import dataset_pb2, maintenance_pb2, operation_pb2, watch_pb2
from magd_client import answers, convert, methods
from magd_client._sync.connection import Connection, all_pages, new_request_id
from magd_client._sync.dataset import Dataset
from magd_client._sync.operation import Operation
from magd_client._sync.watch import Watch
from magd_client.address import Address
from magd_client.names import Resource, resource_name
from magd_client.retry import DEFAULT_TIMEOUT_SECONDS, RetryPolicy
from magd_client.settings import Encoding, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from magd.acknowledgement import Revision
    from magd_client.convert import DurabilityLike, FlushLevel
    from magd_client.info import CheckProgress, DatasetInfo, OperationInfo, ServerInfo, ServerStatus


def connect(
    address: str | None = None,
    *,
    durability: DurabilityLike = "disk",
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    encoding: Encoding = "auto",
    shared_memory: bool = True,
    name: str | None = None,
    retry: RetryPolicy | None = None,
) -> Client:
    """A client of a daemon. Nothing is sent before the first call.

        with connect("127.0.0.1:7733") as client:
            mag = client.dataset("cortex").layer("color").mag("1")
            data = mag.read(offset=(0, 0, 0), size=(64, 64, 64))

    :param address: "host:port" or "unix:/path"; None: the environment variable MAGD_SERVER, or 127.0.0.1:7733
    :param durability: of writes that do not say: "none", "process" or "disk"
    :param timeout: seconds for a call that does not say, all its attempts together; boxes get more, by size
    :param encoding: how the bytes of boxes travel: "raw", as they are; "lz4", each part compressed where that pays, by
        which segmentation gains much; "auto", as "lz4" if the daemon is on another machine, else "raw"
    :param shared_memory: over a unix socket, have large boxes go through memory that the daemon shares with this user's
        programs, where it offers that; else they go through the socket
    :param name: of the program, for the daemon's log
    :param retry: how long to wait between attempts
    :raises InvalidRequest: the address, the durability or the encoding is not one
    """
    settings = Settings(
        durability=convert.durability_of(durability),
        timeout=timeout,
        encoding=convert.encoding_of(encoding),
        shared_memory=shared_memory,
        name=name,
        retry=retry or RetryPolicy(),
    )
    return Client(Connection(Address.of(address), settings))


class Client:
    """A connection to a daemon; made by `connect`.

    Every call has a deadline. One that fails because the daemon is away, starts, drains or is full is repeated
    until then; changes carry an id, so that a repeated one is applied once.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection: Final = connection

    def __repr__(self) -> str:
        return f"<magd_client.Client of {self._connection.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Later calls of this client and its handles raise RuntimeError."""
        self._connection.close()

    @property
    def address(self) -> str:
        """Of the daemon."""
        return self._connection.address.text

    # Datasets.

    def dataset(self, dataset: str) -> Dataset:
        """A handle of a dataset.

        :raises InvalidRequest: it cannot be the name of a dataset
        """
        return Dataset(self._connection, dataset)

    def list_datasets(self, *, timeout: float | None = None) -> list[DatasetInfo]:
        """The datasets below the root by name, without their layers; also those that cannot be served.

        :param timeout: seconds for each page
        """

        def page(token: str) -> tuple[list[DatasetInfo], str]:
            request = dataset_pb2.ListDatasetsRequest(page_token=token)
            response = self._connection.call(methods.LIST_DATASETS, request, timeout)
            return [answers.dataset_info(dataset) for dataset in response.datasets], response.next_page_token

        return all_pages(page)

    def create_dataset(
        self,
        dataset: str,
        voxel_size: Sequence[float],
        unit: str = "nanometer",
        *,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> Dataset:
        """Create an empty dataset.

        :param voxel_size: of a mag-1 voxel, along x, y and z; each above 0
        :param unit: of the voxel size, as WEBKNOSSOS spells it
        :param exist_ok: returns the dataset if it exists with the same voxel size
        :raises AlreadyExists: it exists; with `exist_ok`: with another voxel size
        :raises InvalidRequest: a parameter is not possible
        """
        handle = self.dataset(dataset)
        request = dataset_pb2.CreateDatasetRequest(
            dataset_id=dataset,
            voxel_size=convert.voxel_size_to_proto(voxel_size, unit),
            exist_ok=exist_ok,
            request_id=new_request_id(),
        )
        self._connection.call(methods.CREATE_DATASET, request, timeout)
        return handle

    # Operations and events.

    def operation(self, name: str) -> Operation:
        """A handle of an operation, by its name or its id; also of one that another program started.

        :raises InvalidRequest: it cannot be the name of an operation
        """
        return Operation(self._connection, name)

    def list_operations(self, resource: Resource | None = None, *, timeout: float | None = None) -> list[OperationInfo]:
        """The operations of this run of the daemon, newest first.

        :param resource: only those on this dataset, layer or mag and below it; None: all
        :param timeout: seconds for each page
        """

        def page(token: str) -> tuple[list[OperationInfo], str]:
            request = operation_pb2.ListOperationsRequest(resource=resource_name(resource), page_token=token)
            response = self._connection.call(methods.LIST_OPERATIONS, request, timeout)
            infos = [answers.operation_info(operation) for operation in response.operations]
            return infos, response.next_page_token

        return all_pages(page)

    def watch(
        self,
        resource: Resource | None = None,
        *,
        after_revision: Revision | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Be told of commits, changed properties and operations: a context manager to iterate over.

        :param resource: a dataset, layer or mag, and all below it; None: everything
        :param after_revision: for a mag: begin with what came after this revision; None: with what happens from
            now on
        :param timeout: seconds for the whole watch; None: no end
        """
        request = watch_pb2.WatchRequest(
            name=resource_name(resource), after_revision=convert.revision_to_proto(after_revision)
        )
        return Watch(self._connection, request, timeout)

    # The daemon.

    def get_server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Version, capabilities and every limit of the daemon."""
        return self._connection.get_server_info(timeout=timeout)

    def get_status(self, *, timeout: float | None = None) -> ServerStatus:
        """What the daemon is doing now."""
        request = maintenance_pb2.GetStatusRequest()
        return answers.server_status(self._connection.call(methods.GET_STATUS, request, timeout))

    def flush(self, level: FlushLevel = "files", *, timeout: float | None = None) -> None:
        """Bring everything in use to the disk: see `MagHandle.flush`."""
        self._connection.flush("", level, timeout)

    def check(
        self,
        resource: Resource | None = None,
        *,
        deep: bool = False,
        repair: bool = False,
        timeout: float | None = None,
    ) -> Iterator[CheckProgress]:
        """Look for structural damage. What is found comes as it is found; the last item has the totals.

        :param resource: a dataset, layer or mag; None: everything
        :param deep: also decodes every compressed block
        :param repair: first removes what the daemon itself left behind; data, files of others and what is in use are
            never touched
        :param timeout: seconds for the whole check; None: an hour
        """
        request = maintenance_pb2.CheckRequest(name=resource_name(resource), deep=deep, repair=repair)
        with closing(self._connection.stream(methods.CHECK, request, timeout)) as responses:
            for response in responses:
                yield answers.check_progress(response)
