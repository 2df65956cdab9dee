from typing import ClassVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class ServingStatus(int): ...

class HealthCheckRequest(Message):
    def __init__(self, service: str = ...) -> None: ...

class HealthCheckResponse(Message):
    UNKNOWN: ClassVar[ServingStatus]
    SERVING: ClassVar[ServingStatus]
    NOT_SERVING: ClassVar[ServingStatus]
    status: ServingStatus
