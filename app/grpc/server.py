"""The gRPC server: in the same process and event loop as HTTP, on a port of its own.

It starts and stops with the app (``docs/adr``). Health follows readiness; reflection describes every service.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from app.generated.pool import POOL
from app.grpc.calls import Calls
from app.grpc.services import GrpcServices
from app.guard.certificate import read_pair
from app.protocols import chat_grpc
from app.protocols.chat_service import ChatService
from app.protocols.kserve import grpc_service as kserve_grpc
from app.protocols.kserve.service import KServe
from app.settings import Settings

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
FRAME = 64 * 1024
"""Bytes that a message has around the body it carries, at most."""
IDLE = 600_000
"""Milliseconds after which a connection without a call is closed."""
PINGS = 10_000
"""Milliseconds between two pings of a caller at least."""
LAST_WORDS = 3.0
"""Seconds that interrupted calls have to send their error."""


@contextlib.asynccontextmanager
async def serve_grpc(
    settings: Settings, services: GrpcServices, *, together: bool = False
) -> AsyncGenerator[int | None]:
    """Serve while the block runs; gives the port, or None where gRPC is off.

    Several workers listen ``together``: the kernel gives each connection to one of them.

    Raises:
        OSError: Its certificate cannot be used.
        RuntimeError: Its port is taken.
    """
    if not settings.grpc_port:
        yield None
        return
    server = grpc.aio.server(
        options=_options(settings, together=together),
        maximum_concurrent_rpcs=settings.engine_connections + settings.limits.waiting_in_all,
    )
    calls = Calls(services.admit, services.shutdown, kserve_grpc.OPEN_METHODS)
    served = _served(services.chats)
    server.add_generic_rpc_handlers([calls.handler(description, service) for description, service in served.items()])
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = [description.full_name for description in served]
    _describe([*names, HEALTH, REFLECTION], server)
    port = _bind(server, settings)
    await server.start()
    following = asyncio.create_task(_follow(servicer, ["", *names], services), name="gRPC health")
    try:
        yield port
    finally:
        following.cancel()
        await asyncio.wait([following])
        await servicer.enter_graceful_shutdown()
        await server.stop(settings.drain + LAST_WORDS)


def _served(chats: ChatService) -> Mapping[ServiceDescriptor, object]:
    """Return every service by its description."""
    together = chats.settings.limits.batch_concurrency
    return {
        kserve_grpc.SERVICE: kserve_grpc.InferenceService(KServe(chats), together),
        chat_grpc.SERVICE: chat_grpc.GrpcChats(chats),
    }


def _options(settings: Settings, *, together: bool) -> list[tuple[str, Any]]:
    most = settings.limits.body_bytes + FRAME
    return [
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.so_reuseport", int(together)),
        ("grpc.max_connection_idle_ms", IDLE),
        ("grpc.http2.min_ping_interval_without_data_ms", PINGS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _describe(names: list[str], server: grpc.aio.Server) -> None:
    """Let callers ask what there is; our pool gets to know the descriptions that others made."""
    for described in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(described.serialized_pb)
    reflection.enable_server_reflection(names, server, pool=POOL)


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    pair = read_pair(*settings.grpc_files)
    if pair is not None:
        return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    return server.add_insecure_port(address)


async def _follow(servicer: health.aio.HealthServicer, names: list[str], services: GrpcServices) -> None:
    """Keep health what readiness is, until the app begins to end."""
    ending = asyncio.Event()
    with services.shutdown.on_begin(ending.set):
        changes = asyncio.create_task(_tell(servicer, names, services), name="gRPC health changes")
        try:
            await ending.wait()
        finally:
            changes.cancel()
            await asyncio.wait([changes])
        await servicer.enter_graceful_shutdown()


async def _tell(servicer: health.aio.HealthServicer, names: list[str], services: GrpcServices) -> None:
    async for _ in services.chats.table.changes():
        ready = services.ready()
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in names:
            await servicer.set(name, status)
