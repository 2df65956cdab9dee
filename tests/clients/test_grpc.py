"""gRPC's own client: our chat service, health and reflection."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from tests.processes import eventually

SERVICE = pb.DESCRIPTOR.services_by_name["ChatService"]
WEATHER = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'


@pytest.fixture
async def channel(product: Any) -> AsyncGenerator[grpc.aio.Channel]:
    """A connection."""
    async with grpc.aio.insecure_channel(product.grpc) as channel:
        yield channel


def method(channel: grpc.aio.Channel, name: str) -> Any:
    """A method of our chat service, as generated code would have it."""
    told = SERVICE.methods_by_name[name]
    make = channel.unary_stream if told.server_streaming else channel.unary_unary
    request_class: Any = GetMessageClass(told.input_type)
    response_class: Any = GetMessageClass(told.output_type)
    return make(f"/{SERVICE.full_name}/{name}", request_class.SerializeToString, response_class.FromString)


def question(text: str = "What is the capital of France?", **fields: Any) -> pb.Question:
    """A question of a user."""
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text=text)])
    usual: dict[str, Any] = {"model": "smollm2", "sampling": pb.Sampling(temperature=0, max_tokens=48)}
    return pb.Question(messages=[message], **{**usual, **fields})


async def test_models_that_chat_are_listed(channel: grpc.aio.Channel) -> None:
    """With their readiness; models that embed are not among them."""
    told = await method(channel, "ListModels")(pb.ListModelsRequest())
    models = {model.id: model.ready for model in told.models}
    assert models["smollm2"] is True
    assert "minilm" not in models


async def test_a_question_is_answered(channel: grpc.aio.Channel) -> None:
    """With the reason of its end and its tokens."""
    told = await method(channel, "Chat")(pb.ChatRequest(question=question()))
    assert "Paris" in told.message.parts[0].text
    assert told.finish_reason == pb.FINISH_REASON_STOP
    assert told.usage.input_tokens > 10
    assert told.usage.output_tokens > 3


async def test_a_stream_is_the_answer_in_pieces_and_a_finish(channel: grpc.aio.Channel) -> None:
    """One event a piece; the last is the finish."""
    events = [event async for event in method(channel, "StreamChat")(pb.StreamChatRequest(question=question()))]
    assert [event.WhichOneof("event") for event in events] == ["text"] * (len(events) - 1) + ["finish"]
    assert len(events) > 4
    assert "Paris" in "".join(event.text for event in events)
    assert events[-1].finish.usage.output_tokens > 3


async def test_a_named_tool_is_called(channel: grpc.aio.Channel) -> None:
    """Its arguments follow its schema."""
    tool = pb.Tool(name="weather", description="The weather of a city.", parameters_json=WEATHER)
    named: dict[str, Any] = {"tools": [tool], "tool_choice": pb.TOOL_CHOICE_NAMED, "tool_name": "weather"}
    named["sampling"] = pb.Sampling(temperature=0, max_tokens=160)
    told = await method(channel, "Chat")(pb.ChatRequest(question=question("Weather in Paris?", **named)))
    (call,) = told.message.tool_calls
    assert call.name == "weather"
    assert '"city"' in call.arguments_json


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        (question(model="nobody"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        (question(sampling=pb.Sampling(temperature=9)), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"),
        (question("hello " * 20_000), grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"),
        (question(model="minilm"), grpc.StatusCode.INVALID_ARGUMENT, "REFUSED"),
    ],
)
@pytest.mark.parametrize("way", ["Chat", "StreamChat"])
async def test_an_error_has_its_status_and_details(
    channel: grpc.aio.Channel, asked: pb.Question, code: grpc.StatusCode, reason: str, way: str
) -> None:
    """In every way of asking."""
    request = pb.ChatRequest(question=asked) if way == "Chat" else pb.StreamChatRequest(question=asked)
    call = method(channel, way)(request)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (call if way == "Chat" else anext(aiter(call)))
    assert error.value.code() is code
    trailing: dict[str, Any] = dict(error.value.trailing_metadata())
    info = ErrorInfo()
    assert Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info.reason == reason


async def test_a_message_beyond_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    """Before anybody reads it."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await method(channel, "Chat")(pb.ChatRequest(question=question("x" * 9_000_000)))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_leaving_a_stream_frees_the_engine(channel: grpc.aio.Channel, product: Any) -> None:
    """The engine's own metrics say so."""

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    await eventually(count, lambda running: running == 0, within=60)
    long = question("Tell me a long story about a lighthouse.", sampling=pb.Sampling(max_tokens=1500))
    call = method(channel, "StreamChat")(pb.StreamChatRequest(question=long))
    await anext(aiter(call))
    await eventually(count, lambda running: running > 0, within=60)
    call.cancel()
    await eventually(count, lambda running: running == 0, within=2)


async def test_health_follows_readiness(channel: grpc.aio.Channel) -> None:
    """Of the whole, and of each service."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    for service in ("", SERVICE.full_name, "inference.GRPCInferenceService"):
        told = await check(health_pb2.HealthCheckRequest(service=service))
        assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_describes_every_service(channel: grpc.aio.Channel) -> None:
    """So that grpcurl and its kind need no files."""
    ask: Any = reflection_pb2
    info = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ask.ServerReflectionRequest.SerializeToString,
        ask.ServerReflectionResponse.FromString,
    )()
    await info.write(ask.ServerReflectionRequest(list_services=""))
    listed = {service.name for service in (await info.read()).list_services_response.service}
    assert {SERVICE.full_name, "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= listed
    for name in sorted(listed):
        await info.write(ask.ServerReflectionRequest(file_containing_symbol=name))
        assert (await info.read()).file_descriptor_response.file_descriptor_proto, name
    await info.done_writing()
