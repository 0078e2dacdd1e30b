"""How the methods of VolumeService are reached: as generated, but messages with voxels are framed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from google.protobuf.message_factory import GetMessageClass

from magd.framing import ReadBatchFrame, ReadBoxesFrame, ReadFrame, WriteBatchFrame, WriteBoxesFrame, WriteFrame
from magd.v1 import volume_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from magd.rpc.volume import VolumeService

Parser: TypeAlias = Callable[[bytes], Any]
Serializer: TypeAlias = Callable[[Any], bytes]

FRAMED_REQUESTS: Final[dict[str, Parser]] = {
    "WriteBox": WriteFrame.decode,
    "WriteBoxes": WriteBoxesFrame.decode,
    "WriteBoxBatch": WriteBatchFrame.decode,
}
"""Methods whose requests carry voxels."""
FRAMED_RESPONSES: Final[dict[str, Serializer]] = {
    "ReadBox": ReadFrame.encode,
    "ReadBoxes": ReadBoxesFrame.encode,
    "ReadBoxBatch": ReadBatchFrame.encode,
}
"""Methods whose responses carry voxels."""

_SERVICE: Final = volume_pb2.DESCRIPTOR.services_by_name["VolumeService"]


def add_volume_service(service: VolumeService, server: grpc.aio.Server) -> None:
    """Serve a volume service. Methods of the proto that it does not have are answered with UNIMPLEMENTED."""
    handlers = {
        method.name: _handler(method, behavior)
        for method in _SERVICE.methods
        if (behavior := getattr(service, method.name, None)) is not None
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers),))


def _handler(method: MethodDescriptor, behavior: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = {False: "unary", True: "stream"}
    make = getattr(grpc, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}_rpc_method_handler")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    handler: grpc.RpcMethodHandler[Any, Any] = make(
        behavior,
        request_deserializer=FRAMED_REQUESTS.get(method.name, request.FromString),
        response_serializer=FRAMED_RESPONSES.get(method.name, response.SerializeToString),
    )
    return handler
