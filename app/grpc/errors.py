"""Errors of this service as gRPC's: the status code of ``app/protocols/shapes.py``, with what is known in its details.

The details are a ``google.rpc.Status`` in the trailing metadata ``grpc-status-details-bin``, where gRPC's libraries
look for it (https://google.aip.dev/193): ``ErrorInfo`` with the error's type, ``RetryInfo`` where another try makes
sense, ``BadRequest`` with every place of an input that does not fit.
"""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from app.errors import ServiceError, meaning
from app.protocols.shapes import native, sentence

DETAILS = "grpc-status-details-bin"
DOMAIN = "langserve-vllm"


def status_code(error: ServiceError) -> StatusCode:
    """Return the status code of an error's kind."""
    return StatusCode[native(error).grpc]


def status_details(error: ServiceError) -> Status:
    """Return everything that is known of an error."""
    code: Any = status_code(error).value
    return Status(code=code[0], message=sentence(error), details=[_packed(part) for part in _parts(error)])


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """Return what is sent behind a failed call."""
    retry = [("retry-after", str(error.retry_after))] if error.retry_after else []
    return (*retry, (DETAILS, status_details(error).SerializeToString()))


def _parts(error: ServiceError) -> list[Message]:
    known = {"hint": error.hint, "param": error.param}
    metadata = {name: value for name, value in known.items() if value}
    parts: list[Message] = [ErrorInfo(reason=meaning(error).type.upper(), domain=DOMAIN, metadata=metadata)]
    if error.retry_after:
        parts.append(RetryInfo(retry_delay=Duration(seconds=error.retry_after)))
    problems: Any = error.details().get("problems")
    if problems:
        violations = [
            BadRequest.FieldViolation(field=".".join(map(str, problem["loc"])), description=problem["msg"])
            for problem in problems
        ]
        parts.append(BadRequest(field_violations=violations))
    return parts


def _packed(part: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(part)
    return packed
