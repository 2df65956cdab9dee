"""Each protocol's stream as its documents describe it: what is asked, which event ends it, how an error is named."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import aiohttp
import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from app.generated.inference import inference_pb2 as pb

NAME_LENGTH = 60
"""Characters of an error's sentence, where a protocol gives errors no name."""


@dataclass(frozen=True)
class Seen:
    """What an event is: a piece of the answer, its end, an error by its name, or nothing that counts."""

    kind: Literal["piece", "end", "error", "other"]
    name: str = ""


PIECE, END, OTHER = Seen("piece"), Seen("end"), Seen("other")


@dataclass(frozen=True)
class HttpWire:
    """A protocol over HTTP.

    Args:
        path: Of its streams; ``{model}`` stands for the model.
        body: Makes a request of model, prompt and tokens.
        read: Tells what an event is, by its name (empty where events have none) and its data.
        name: Tells the name of an error's body.
        end: What an event ends with.
    """

    path: str
    body: Callable[[str, str, int], Mapping[str, Any]]
    read: Callable[[str, str], Seen]
    name: Callable[[Mapping[str, Any]], str]
    end: bytes = b"\n\n"

    async def stream(
        self, session: aiohttp.ClientSession, url: str, asked: tuple[str, str, int]
    ) -> AsyncGenerator[Seen, None]:
        """Ask, and yield every event of the answer; an answer that is no stream is one error.

        Raises:
            aiohttp.ClientError, ValueError: It broke off, or is nothing that its protocol knows.
        """
        path = self.path.format(model=asked[0])
        async with session.post(url + path, json=self.body(*asked)) as response:
            if response.status != 200:  # noqa: PLR2004
                told: Any = await response.json()
                yield Seen("error", f"{response.status} {self.name(told)}")
                return
            buffer = b""
            async for piece in response.content.iter_any():
                *frames, buffer = (buffer + piece).replace(b"\r\n", b"\n").split(self.end)
                for frame in frames:
                    yield self.read(*_parts(frame.decode()))
            if buffer.strip():
                raise ValueError(f"half an event: {buffer[:100]!r}")


def _parts(frame: str) -> tuple[str, str]:
    """Return name and data of an event; a line of JSON is all data."""
    if frame.startswith("{"):
        return "", frame
    lines = (line.partition(": ") for line in frame.splitlines())
    fields = {name: value for name, _, value in lines}
    return fields.get("event", ""), fields.get("data", "")


def _nested(field: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda body: str(body["error"][field])


def _sentence(body: Mapping[str, Any]) -> str:
    return str(body["error"])[:NAME_LENGTH]


def _turn(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


# --- what events are ---------------------------------------------------------------------------


def _langserve(name: str, data: str) -> Seen:
    if name == "error":
        return Seen("error", str(json.loads(data)["type"]))
    if name != "data":
        return END if name == "end" else OTHER
    output: Any = json.loads(data)
    text = cast("dict[str, Any]", output)["content"] if isinstance(output, dict) else output
    return PIECE if text else OTHER


def _openai(_name: str, data: str) -> Seen:
    if data == "[DONE]":
        return END
    told = json.loads(data or "{}")
    if "error" in told:
        return Seen("error", str(told["error"]["code"]))
    return PIECE if any(choice["delta"].get("content") for choice in told.get("choices", ())) else OTHER


def _anthropic(name: str, data: str) -> Seen:
    if name == "error":
        return Seen("error", str(json.loads(data)["error"]["type"]))
    return {"content_block_delta": PIECE, "message_stop": END}.get(name, OTHER)


def _ollama(_name: str, data: str) -> Seen:
    told = json.loads(data or "{}")
    if "error" in told:
        return Seen("error", _sentence(told))
    return END if told.get("done") else PIECE if told.get("message", {}).get("content") else OTHER


def _tgi(_name: str, data: str) -> Seen:
    told = json.loads(data or "{}")
    if "error" in told:
        return Seen("error", str(told["error_type"]))
    return END if told.get("generated_text") is not None else PIECE if told else OTHER


def _kserve(_name: str, data: str) -> Seen:
    told = json.loads(data or "{}")
    if "error" in told:
        return Seen("error", str(told["type"]))
    return END if told.get("triton_final_response") else PIECE if told.get("text_output") else OTHER


HTTP: Mapping[str, HttpWire] = {
    "LangServe": HttpWire(
        "/{model}/stream",
        lambda _model, prompt, tokens: {
            "input": {"messages": [{"type": "human", "content": prompt}]},
            "config": {"configurable": {"max_tokens": tokens}},
        },
        _langserve,
        _nested("type"),
    ),
    "OpenAI": HttpWire(
        "/v1/chat/completions",
        lambda model, prompt, tokens: {
            "model": model,
            "messages": _turn(prompt),
            "max_tokens": tokens,
            "stream": True,
        },
        _openai,
        _nested("code"),
    ),
    "Anthropic": HttpWire(
        "/v1/messages",
        lambda model, prompt, tokens: {
            "model": model,
            "messages": _turn(prompt),
            "max_tokens": tokens,
            "stream": True,
        },
        _anthropic,
        _nested("type"),
    ),
    "Ollama": HttpWire(
        "/api/chat",
        lambda model, prompt, tokens: {
            "model": model,
            "messages": _turn(prompt),
            "options": {"num_predict": tokens},
        },
        _ollama,
        _sentence,
        b"\n",
    ),
    "TGI": HttpWire(
        "/models/{model}/generate_stream",
        lambda _model, prompt, tokens: {"inputs": prompt, "parameters": {"max_new_tokens": tokens}},
        _tgi,
        lambda body: str(body["error_type"]),
    ),
    "KServe": HttpWire(
        "/v2/models/{model}/generate_stream",
        lambda _model, prompt, tokens: {"text_input": prompt, "parameters": {"max_tokens": tokens}},
        _kserve,
        lambda body: str(body["type"]),
    ),
}
"""Every protocol over HTTP that streams."""


async def stream_grpc(channel: grpc.aio.Channel, asked: tuple[str, str, int]) -> AsyncGenerator[Seen, None]:
    """Ask by ``ModelStreamInfer``; yield every message, and a status with a reason as an error.

    Raises:
        grpc.aio.AioRpcError: A status without a reason of ours: the connection's own.
    """
    make: Any = channel.stream_stream
    method = make(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelStreamInferResponse.FromString,
    )
    try:
        async for message in method(iter([_infer(*asked)])):
            yield _grpc(message)
    except grpc.aio.AioRpcError as error:
        reason = _reason(error)
        if reason is None:
            raise
        yield Seen("error", f"{error.code().name} {reason}")


def _infer(model: str, prompt: str, tokens: int) -> pb.ModelInferRequest:
    text = pb.InferTensorContents(bytes_contents=[prompt.encode()])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1], contents=text)
    flag = pb.InferTensorContents(bool_contents=[True])
    stream = pb.ModelInferRequest.InferInputTensor(name="stream", datatype="BOOL", shape=[1], contents=flag)
    parameters = {"max_tokens": pb.InferParameter(int64_param=tokens)}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor, stream], parameters=parameters)


def _grpc(message: pb.ModelStreamInferResponse) -> Seen:
    if message.error_message:
        return Seen("error", message.infer_response.parameters["error_type"].string_param)
    final = message.infer_response.parameters["triton_final_response"].bool_param
    return END if final else PIECE


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    trailing: dict[str, Any] = dict(cast("Any", error.trailing_metadata() or ()))
    details = trailing.get("grpc-status-details-bin")
    info = ErrorInfo()
    return info.reason if details and Status.FromString(details).details[0].Unpack(info) else None
