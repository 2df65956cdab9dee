"""Calls of gRPC, all alike: let in, run while they are wanted, failed in gRPC's way.

A service is an object with a coroutine for each method of its description. It gets the request and a ``Call``, and
returns the response; where the method streams, it sends responses with ``Call.send`` and returns nothing. gRPC cancels
the coroutine when the caller cancels, its deadline passes, or its connection is lost.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from app.errors import ShuttingDown
from app.grpc.errors import status_code, trailing_metadata
from app.grpc.services import Admit, admit_all
from app.guard.gate import request_id
from app.protocols.shapes import sentence
from app.responses import name_error
from app.shutdown import Shutdown

REQUEST_ID = "x-request-id"
"""In the caller's metadata its wish; at the end of every call the id that stands in the logs."""
MARGIN = 0.5
"""Seconds before a call's deadline at which waiting for a model ends, so that the answer says what was waited for."""


@dataclass(frozen=True)
class Call:
    """One call under way."""

    method: str
    """``/package.Service/Method``."""
    metadata: Mapping[str, str]
    """Names in lower case; the first of several of a name counts, binary ones are left out."""
    send: Callable[[Any], Awaitable[None]]
    """Sends a response of a stream; waits while the caller does not read."""
    remaining: Callable[[], float | None]
    """Seconds until the deadline; None: there is none."""
    owner: str | None = None
    """The key that calls; None where keys are off."""

    def wait(self, usual: float) -> float:
        """Seconds that this call waits for a model to get ready."""
        remaining = self.remaining()
        return usual if remaining is None else max(0.0, min(usual, remaining - MARGIN))


class Calls:
    """Makes gRPC's handlers of services.

    Args:
        admit: Lets calls in.
        shutdown: Ends them at its deadline.
        open_methods: Methods that are answered to everybody: health.
    """

    def __init__(self, admit: Admit, shutdown: Shutdown, open_methods: Collection[str]) -> None:
        self._admit = admit
        self._shutdown = shutdown
        self._open = open_methods

    def handler(self, description: ServiceDescriptor, service: object) -> grpc.GenericRpcHandler:
        """Return the handler of all methods of a service that ``service`` has."""
        methods = {
            method.name: self._method(method, getattr(service, snake(method.name))) for method in description.methods
        }
        return grpc.method_handlers_generic_handler(description.full_name, methods)

    def _method(self, method: MethodDescriptor, answer: Callable[..., Any]) -> grpc.RpcMethodHandler:
        name = f"/{method.containing_service.full_name}/{method.name}"
        make: Any = grpc.unary_unary_rpc_method_handler
        if method.server_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_stream_rpc_method_handler
            )

        async def run(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            return await self._run(name, answer, request, context)

        request_class: Any = GetMessageClass(method.input_type)
        response_class: Any = GetMessageClass(method.output_type)
        return cast("grpc.RpcMethodHandler", make(run, request_class.FromString, response_class.SerializeToString))

    async def _run(
        self, name: str, answer: Callable[..., Any], request: Any, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> Any:
        metadata = read_metadata(context.invocation_metadata())
        identity = metadata[REQUEST_ID] = request_id(metadata.get(REQUEST_ID))
        cast("Any", context).set_trailing_metadata(((REQUEST_ID, identity),))  # missing in its types
        admit = admit_all if name in self._open else self._admit
        try:
            async with until_deadline(self._shutdown), admit(name, metadata) as owner:
                send = one_by_one(context.write)
                return await answer(request, Call(name, metadata, send, context.time_remaining, owner))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 -- named, and told in gRPC's way
            named = name_error(error)
            trailing = (*trailing_metadata(named), (REQUEST_ID, identity))  # these take the place of those set before
            await context.abort(status_code(named), sentence(named), trailing)


def one_by_one(write: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Return ``write`` for several tasks at once: gRPC fails a second one that begins before the first has ended."""
    writing = asyncio.Lock()

    async def send(response: Any) -> None:
        async with writing:
            await write(response)

    return send


@contextlib.asynccontextmanager
async def until_deadline(shutdown: Shutdown) -> AsyncGenerator[None]:
    """Interrupt the block when the app's time is over.

    Raises:
        ShuttingDown: It was.
    """
    scope = asyncio.timeout(None)
    try:
        async with scope:
            with shutdown.on_deadline(lambda: scope.reschedule(0)):
                yield
    except TimeoutError:
        if scope.expired():
            raise ShuttingDown from None
        raise


def read_metadata(pairs: Any) -> dict[str, str]:
    """Return a call's metadata by name."""
    told: dict[str, str] = {}
    for name, value in pairs or ():
        if isinstance(value, str):
            told.setdefault(name.lower(), value)
    return told


def snake(name: str) -> str:
    """Return a method's name as Python writes it: ``ModelInfer`` as ``model_infer``."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
