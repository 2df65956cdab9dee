"""gRPC's streams say the same, message for message, whether LangChain runs a chain or its answer is pulled past it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.errors import ServiceError, meaning
from app.generated.inference import inference_pb2 as infer
from app.generated.langserve_vllm.v1 import chat_pb2 as chat
from app.grpc.calls import Call
from app.protocols.chat_grpc import GrpcChats
from app.protocols.kserve.grpc_service import InferenceService
from app.protocols.kserve.service import KServe
from tests.unit.engine_streams import CORPUS, REFUSALS
from tests.unit.scripted import MODEL, ScriptedEngine, Stage, Stream

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

RAISE = {"triton_grpc_error": "true"}
"""Errors of ``ModelStreamInfer`` are raised, as those of every other method."""


@pytest.fixture(scope="module")
async def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """The app by both ways."""
    return {way: Stage(tmp_path_factory.mktemp(way), way=way) for way in ("short", "fast")}


async def infer_stream(chats: Any, call: Call) -> None:
    """Ask by ``ModelStreamInfer``, for everything that a stream can tell."""
    contents = infer.InferTensorContents(bytes_contents=[b"Hi"])
    text = infer.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1], contents=contents)
    wishes = ("stream", "return_finish_reason", "return_num_output_tokens", "return_cumulative_logprob")
    parameters = {name: infer.InferParameter(bool_param=True) for name in wishes}

    async def requests() -> AsyncIterator[infer.ModelInferRequest]:
        yield infer.ModelInferRequest(model_name=MODEL, inputs=[text], parameters=parameters)

    await InferenceService(KServe(chats), 4).model_stream_infer(requests(), call)


async def chat_stream(chats: Any, call: Call) -> None:
    """Ask by ``StreamChat``."""
    said = chat.Message(role=chat.ROLE_USER, parts=[chat.Part(text="Hi")])
    await GrpcChats(chats).stream_chat(
        chat.StreamChatRequest(question=chat.Question(model=MODEL, messages=[said])), call
    )


async def told(stage: Stage, ask: Any, reply: Any) -> tuple[list[bytes], str]:
    """Return what was sent, and the error at the end."""
    sent: list[bytes] = []

    async def send(response: Any) -> None:
        sent.append(response.SerializeToString(deterministic=True))

    async with stage.app(ScriptedEngine(lambda _: reply())) as app:
        try:
            await ask(app.state.grpc.chats, Call("/m", RAISE, send, lambda: None))
        except ServiceError as error:
            return sent, f"{meaning(error).type}: {error.message}"
    return sent, ""


@pytest.mark.parametrize("cut", [0, 7])
@pytest.mark.parametrize("ask", [infer_stream, chat_stream])
async def test_both_ways_send_the_same_messages(stages: dict[str, Stage], ask: Any, cut: int) -> None:
    """Whatever the engine sends, and in whatever pieces it arrives."""
    stages["fast"].network.cut = stages["short"].network.cut = cut
    replies: dict[str, Any] = {name: lambda s=steps: Stream(s) for name, steps in CORPUS.items()}
    replies |= {name: lambda r=reply: r for name, reply in REFUSALS.items()}
    failed = 0
    for name, reply in replies.items():
        answers = {way: await told(stage, ask, reply) for way, stage in stages.items()}
        assert answers["fast"] == answers["short"], name
        failed += bool(answers["fast"][1])
    assert len(REFUSALS) < failed < len(replies)
