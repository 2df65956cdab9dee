"""The app's gRPC as a client of another process meets it: TLS, a port that is taken, the end of the app."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from tests.certificates import make_certificate
from tests.process.test_app_process import DEADLINE, EndlessEngine, free_port, ready_app, start

CANNOT_START = 3
QUESTION = pb.Question(model="tiny", messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="Hi")])])


def health(channel: grpc.aio.Channel, how: str = "Check") -> Any:
    """The method that tells health, once or with every change."""
    make = channel.unary_unary if how == "Check" else channel.unary_stream
    return make(
        f"/grpc.health.v1.Health/{how}",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )


async def test_a_port_that_is_taken_is_told_in_words(tmp_path: Path) -> None:
    """The app ends, in a way that its supervisor does not repeat."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        process = await start(tmp_path, free_port(), LANGSERVE_VLLM_GRPC_PORT=str(other.getsockname()[1]))
        async with asyncio.timeout(DEADLINE):
            _, said = await process.communicate()
    assert process.returncode == CANNOT_START
    assert "LANGSERVE_VLLM_GRPC_PORT" in said.decode()
    assert "Traceback" not in said.decode()


async def test_tls_is_spoken_until_the_app_says_goodbye(tmp_path: Path) -> None:
    """Who trusts the certificate is answered, who speaks without TLS is not.

    Told to stop, health turns at once; a stream may go on for its time of grace, and then ends with its reason.
    """
    port, engine, (shown, key) = free_port(), EndlessEngine(), make_certificate(tmp_path)
    told = {"GRPC_PORT": str(port), "GRPC_CERTIFICATE": str(shown), "GRPC_KEY": str(key), "DRAIN": "1"}
    credentials = grpc.ssl_channel_credentials(shown.read_bytes())
    async with (
        ready_app(tmp_path, engine, **{f"LANGSERVE_VLLM_{name}": value for name, value in told.items()}) as app,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health(plain)(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        watched = aiter(health(channel, "Watch")(health_pb2.HealthCheckRequest(), timeout=DEADLINE))
        assert (await anext(watched)).status == health_pb2.HealthCheckResponse.SERVING
        stream = channel.unary_stream(
            "/langserve_vllm.v1.ChatService/StreamChat",
            pb.StreamChatRequest.SerializeToString,
            pb.StreamChatResponse.FromString,
        )(pb.StreamChatRequest(question=QUESTION), timeout=DEADLINE)
        pieces = aiter(stream)
        assert (await anext(pieces)).text
        app.process.send_signal(signal.SIGTERM)
        assert (await anext(watched)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down") as error:
            async for _ in pieces:
                pass
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "x-request-id" in dict(error.value.trailing_metadata() or ())
        async with asyncio.timeout(DEADLINE):
            await engine.left.wait()
            assert await app.process.wait() in (0, -signal.SIGTERM)
