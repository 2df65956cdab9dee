"""Our own gRPC service of conversations: ``langserve_vllm.v1.ChatService`` (``proto/langserve_vllm/v1/chat.proto``).

Two pure halves, ``read_question`` and ``write_message`` with ``write_events``, and the service that joins them.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from app.errors import InvalidInput
from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from app.grpc.calls import Call
from app.guard.bodies import parse_json
from app.protocols.chat_request import ChatRequest
from app.protocols.chat_service import ChatService

SERVICE = pb.DESCRIPTOR.services_by_name["ChatService"]
JSON_DEPTH = 64
CHOICES = {pb.TOOL_CHOICE_NONE: "none", pb.TOOL_CHOICE_AUTO: "auto", pb.TOOL_CHOICE_REQUIRED: "required"}
FORCED = (pb.TOOL_CHOICE_REQUIRED, pb.TOOL_CHOICE_NAMED)
"""Only with ``strict`` does vLLM hold the arguments of a forced call to their schema, and small models need it."""
REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
}


class GrpcChats:
    """The service's methods; errors are raised, and told by who runs them."""

    def __init__(self, chats: ChatService) -> None:
        self._chats = chats

    async def list_models(self, _request: pb.ListModelsRequest, _call: Call) -> pb.ListModelsResponse:
        """Those that answer conversations, in the order of models.json."""
        specs = [model.spec for model in self._chats.catalogue.all() if model.chain is not None]
        return pb.ListModelsResponse(
            models=[
                pb.Model(
                    id=spec.id,
                    display_name=spec.display_name,
                    description=spec.metadata.description,
                    ready=self._chats.table.endpoint(spec.id) is not None,
                )
                for spec in specs
            ]
        )

    async def chat(self, request: pb.ChatRequest, call: Call) -> pb.ChatResponse:
        """One answer."""
        (message,) = await self._chats.answer(self._read(request.question, call, stream=False))
        return pb.ChatResponse(
            message=write_message(message),
            finish_reason=finish_reason(message) or pb.FINISH_REASON_UNSPECIFIED,
            usage=usage(message),
        )

    async def stream_chat(self, request: pb.StreamChatRequest, call: Call) -> None:
        """One answer in pieces."""
        finish = pb.Finish()
        async with aclosing(self._chats.stream(self._read(request.question, call, stream=True))) as chunks:
            async for chunk in chunks:
                for event in write_events(chunk):
                    await call.send(event)
                note_finish(finish, chunk)
        await call.send(pb.StreamChatResponse(finish=finish))

    def _read(self, question: pb.Question, call: Call, *, stream: bool) -> ChatRequest:
        return read_question(question, stream=stream, wait=call.wait(self._chats.settings.wait_ready), owner=call.owner)


# --- what comes in -------------------------------------------------------------------------


def read_question(question: pb.Question, **known: Any) -> ChatRequest:
    """Return what is asked; ``known`` are fields of the request that stand elsewhere.

    Raises:
        InvalidInput: A part does not fit; ``param`` says which.
    """
    messages = [_read_message(message, f"messages.{index}") for index, message in enumerate(question.messages)]
    return ChatRequest(
        question.model, messages, options=_options(question), session=question.session_id or None, **known
    )


def _read_message(message: pb.Message, place: str) -> BaseMessage:
    content: Any = [_read_part(part, f"{place}.parts.{index}") for index, part in enumerate(message.parts)]
    if all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    match message.role:
        case pb.ROLE_SYSTEM:
            return SystemMessage(content)
        case pb.ROLE_USER:
            return HumanMessage(content)
        case pb.ROLE_TOOL:
            return ToolMessage(content, tool_call_id=message.tool_call_id)
        case pb.ROLE_ASSISTANT:
            calls = [_read_call(call, f"{place}.tool_calls.{index}") for index, call in enumerate(message.tool_calls)]
            kept = {"reasoning_content": message.reasoning} if message.reasoning else {}
            return AIMessage(content, tool_calls=calls, additional_kwargs=kept)
        case _:
            raise InvalidInput(f"{place}: a role is needed.", param=f"{place}.role")


def _read_part(part: pb.Part, place: str) -> dict[str, Any]:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "image":
            encoded = base64.b64encode(part.image.data).decode()
            url = f"data:{part.image.media_type or 'image/png'};base64,{encoded}"
            return {"type": "image_url", "image_url": {"url": url}}
        case _:
            raise InvalidInput(f"{place}: a text or an image is needed.", param=place)


def _read_call(call: pb.ToolCall, place: str) -> Any:
    arguments = _object(call.arguments_json or "{}", f"{place}.arguments_json")
    return {"type": "tool_call", "id": call.id, "name": call.name, "args": arguments}


def _options(question: pb.Question) -> dict[str, Any]:
    """Return sampling, tools and schema as ``ChatVLLM`` takes them: only what the question says."""
    sampling = question.sampling
    said: dict[str, Any] = {field.name: value for field, value in sampling.ListFields() if field.name != "stop"}
    if sampling.stop:
        said["stop"] = [*sampling.stop]
    if question.tools:
        forced = question.tool_choice in FORCED
        said["tools"] = [_read_tool(tool, f"tools.{index}", strict=forced) for index, tool in enumerate(question.tools)]
    if question.tool_choice == pb.TOOL_CHOICE_NAMED:
        said["tool_choice"] = {"type": "function", "function": {"name": question.tool_name}}
    elif question.tool_choice:
        said["tool_choice"] = CHOICES.get(question.tool_choice, "auto")
    if question.json_schema:
        schema = _object(question.json_schema, "json_schema")
        named = {"name": "answer", "schema": schema, "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": named}
    return said


def _read_tool(tool: pb.Tool, place: str, *, strict: bool) -> dict[str, Any]:
    if not tool.name:
        raise InvalidInput(f"{place}: a tool needs a name.", param=f"{place}.name")
    parameters = _object(tool.parameters_json or '{"type": "object"}', f"{place}.parameters_json")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": {**function, "strict": True} if strict else function}


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = parse_json(text.encode(), JSON_DEPTH)
    except InvalidInput as error:
        raise InvalidInput(error.message.replace("The body", place), param=place) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{place}: a JSON object is needed.", param=place)
    return cast("dict[str, Any]", value)


# --- what goes out -------------------------------------------------------------------------


def write_message(message: AIMessage) -> pb.Message:
    """Return a whole answer."""
    text = str(message.text)
    parts = [pb.Part(text=text)] if text else []
    whole = [(call["id"], call["name"], json.dumps(call["args"])) for call in message.tool_calls]
    cut = [(call["id"], call["name"], call["args"]) for call in message.invalid_tool_calls]
    calls = [
        pb.ToolCall(id=id_ or "", name=name or "", arguments_json=args or "") for id_, name, args in [*whole, *cut]
    ]
    return pb.Message(
        role=pb.ROLE_ASSISTANT,
        parts=[*parts, *(pb.Part(image=image) for image in _images(message))],
        tool_calls=calls,
        reasoning=_reasoning(message),
    )


def write_events(chunk: AIMessageChunk) -> Iterator[pb.StreamChatResponse]:
    """Yield what a piece of an answer shows."""
    if reasoning := _reasoning(chunk):
        yield pb.StreamChatResponse(reasoning=reasoning)
    if text := str(chunk.text):
        yield pb.StreamChatResponse(text=text)
    for call in chunk.tool_call_chunks:
        index = call["index"] if isinstance(call["index"], int) else 0
        piece = pb.ToolCallPiece(
            index=index, id=call["id"] or "", name=call["name"] or "", arguments_json=call["args"] or ""
        )
        yield pb.StreamChatResponse(tool_call=piece)
    for image in _images(chunk):
        yield pb.StreamChatResponse(image=image)


def note_finish(finish: pb.Finish, chunk: AIMessage) -> None:
    """Keep what a piece says of the end."""
    if reason := finish_reason(chunk):
        finish.reason = reason
    if chunk.usage_metadata:
        finish.usage.CopyFrom(usage(chunk))


def finish_reason(message: AIMessage) -> pb.FinishReason | None:
    """Return why an answer ended; None where it does not say."""
    return REASONS.get(str(cast("dict[str, Any]", message.response_metadata).get("finish_reason")))


def usage(message: AIMessage) -> pb.Usage:
    """Return the tokens of an answer."""
    counted = message.usage_metadata
    if not counted:
        return pb.Usage()
    return pb.Usage(input_tokens=counted["input_tokens"], output_tokens=counted["output_tokens"])


def _reasoning(message: AIMessage) -> str:
    return str(cast("dict[str, Any]", message.additional_kwargs).get("reasoning_content") or "")


def _images(message: AIMessage) -> Iterator[pb.Image]:
    if isinstance(message.content, str):
        return
    for block in message.content:
        told = cast("dict[str, Any]", block) if isinstance(block, dict) else {}
        if told.get("type") == "image" and isinstance(told.get("base64"), str):
            try:
                data = base64.b64decode(told["base64"])
            except binascii.Error:
                continue
            yield pb.Image(data=data, media_type=str(told.get("mime_type") or "image/png"))
