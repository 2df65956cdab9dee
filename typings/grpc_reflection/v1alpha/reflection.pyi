from collections.abc import Sequence

from google.protobuf.descriptor_pool import DescriptorPool
from grpc.aio import Server

def enable_server_reflection(
    service_names: Sequence[str], server: Server, pool: DescriptorPool | None = None
) -> None: ...
