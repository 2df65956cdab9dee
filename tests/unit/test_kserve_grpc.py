"""KServe over gRPC in front of a scripted engine: messages in, messages out. No port is opened."""

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from app.errors import InvalidInput, ServiceError, TooLarge, UnknownModel
from app.generated.inference import inference_pb2 as pb
from app.grpc.calls import Call
from app.protocols.kserve.grpc_service import InferenceService, read_request, write_parameter
from app.protocols.kserve.service import KServe
from tests.unit.scripted import MODEL, ScriptedEngine, ScriptedLauncher, Stage, answer, says, server

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The app."""
    return Stage(tmp_path_factory.mktemp("app"))


@pytest.fixture
async def app(stage: Stage) -> AsyncGenerator[FastAPI]:
    """The app with a ready model that says two words."""
    async with stage.app(ScriptedEngine(says("Ho ", "ho"))) as app:
        yield app


def service(app: FastAPI, together: int = 4) -> InferenceService:
    """The service of that app."""
    return InferenceService(KServe(app.state.grpc.chats), together)


def call(sent: list[Any] | None = None, metadata: dict[str, str] | None = None) -> Call:
    """A call whose responses are kept in ``sent``."""
    kept: list[Any] = [] if sent is None else sent

    async def send(response: Any) -> None:
        kept.append(response)
        await asyncio.sleep(0)

    return Call("/inference.GRPCInferenceService/ModelStreamInfer", metadata or {}, send, lambda: None)


def ask(model: str = MODEL, id: str = "", **inputs: Any) -> pb.ModelInferRequest:  # noqa: A002 -- the protocol's name
    """A question, its values raw as tritonclient sends them."""
    request = pb.ModelInferRequest(model_name=model, id=id)
    for name, value in {"text_input": "Hi", "exclude_input_in_output": True, **inputs}.items():
        datatype = "BOOL" if isinstance(value, bool) else "BYTES"
        request.inputs.append(pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[1]))
        text = str(value).encode()
        raw = bytes([value]) if isinstance(value, bool) else struct.pack("<I", len(text)) + text
        request.raw_input_contents.append(raw)
    return request


async def each(*requests: pb.ModelInferRequest) -> AsyncIterator[pb.ModelInferRequest]:
    """Requests of a stream."""
    for request in requests:
        yield request
        await asyncio.sleep(0)


def text_of(response: pb.ModelInferResponse) -> str:
    """The text of an answer."""
    return response.raw_output_contents[0][4:].decode()


# --- what comes in -------------------------------------------------------------------------


def test_values_come_raw_or_in_contents() -> None:
    """Both are the same question."""
    plain = pb.ModelInferRequest(model_name="m", parameters={"seed": write_parameter(7)})
    contents = pb.InferTensorContents(bytes_contents=[b"Hi"])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1], contents=contents)
    plain.inputs.append(tensor)
    read = read_request(plain)
    assert [*read.inputs["text_input"].values] == [*read_request(ask()).inputs["text_input"].values] == [b"Hi"]
    assert read.parameters == {"seed": 7}


@pytest.mark.parametrize("value", [True, 3, 0.5, "x"])
def test_a_parameter_comes_back_as_it_went(value: Any) -> None:
    """Truth values, numbers and texts."""
    request = pb.ModelInferRequest(parameters={"a": write_parameter(value)})
    assert read_request(request).parameters == {"a": value}


def test_what_is_no_inference_is_refused() -> None:
    """Raw values for some inputs only, shared memory, half floats that are not raw, too many tensors."""
    half = ask()
    del half.raw_input_contents[0]
    shared = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1])
    shared.parameters["shared_memory_region"].string_param = "r"
    floats = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP16", shape=[1])
    for request in (half, pb.ModelInferRequest(inputs=[shared]), pb.ModelInferRequest(inputs=[floats])):
        with pytest.raises(InvalidInput):
            read_request(request)
    with pytest.raises(TooLarge):
        read_request(pb.ModelInferRequest(inputs=[floats] * 65))


# --- what goes out -------------------------------------------------------------------------


async def test_a_question_is_answered(app: FastAPI) -> None:
    """Whole, with its id."""
    response = await service(app).model_infer(ask(id="7"), call())
    assert (response.model_name, response.model_version, response.id, text_of(response)) == (MODEL, "1", "7", "Ho ho")


async def test_a_stream_carries_many_questions_each_with_its_id(app: FastAPI) -> None:
    """In pieces or whole; an error is a message of its own, and the others go on."""
    sent: list[pb.ModelStreamInferResponse] = []
    asked = (ask(id="a", stream=True, exclude_input_in_output=True), ask(id="b"), ask("nobody", id="c"))
    await service(app).model_stream_infer(each(*asked), call(sent))
    texts: dict[str, list[str]] = {}
    for response in sent:
        if not response.error_message:
            texts.setdefault(response.infer_response.id, []).append(text_of(response.infer_response))
    assert texts == {"a": ["Ho ", "ho", ""], "b": ["Ho ho"]}
    (error,) = [response for response in sent if response.error_message]
    assert error.error_message.startswith("There is no model 'nobody'")
    assert error.infer_response.id == "c"
    assert error.infer_response.parameters["error_type"].string_param == "unknown_model"
    finals = [response.infer_response.parameters["triton_final_response"].bool_param for response in sent]
    assert sum(finals) == 3


async def test_an_error_ends_the_stream_where_its_caller_wants_that(app: FastAPI) -> None:
    """As a status, by Triton's metadata."""
    with pytest.raises(UnknownModel):
        await service(app).model_stream_infer(each(ask("nobody")), call([], {"triton_grpc_error": "true"}))


async def test_no_more_than_so_many_are_answered_at_once(stage: Stage) -> None:
    """The others wait for their turn: a stream of thousands holds no memory."""
    gate, begun = asyncio.Event(), asyncio.Queue[None]()

    async def slow(_: Any) -> Any:
        begun.put_nowait(None)
        await gate.wait()
        return 200, answer("late")

    engine, sent = ScriptedEngine(slow), list[Any]()
    async with stage.app(engine) as app:
        stream = service(app, together=2).model_stream_infer(each(*(ask(id=str(n)) for n in range(6))), call(sent))
        running = asyncio.create_task(stream)
        async with asyncio.timeout(20):
            await begun.get()
            await begun.get()
            gate.set()
            await running
    assert (len(sent), engine.most) == (6, 2)


async def test_readiness_is_the_tables(stage: Stage) -> None:
    """Of the whole and of a model; Triton's words for the states."""
    async with stage.app(ScriptedEngine(says()), ScriptedLauncher(server("warming", restarts=1))) as app:
        told = service(app)
        assert not (await told.server_ready(pb.ServerReadyRequest(), call())).ready
        assert not (await told.model_ready(pb.ModelReadyRequest(name=MODEL), call())).ready
        index = await told.repository_index(pb.RepositoryIndexRequest(), call())
        assert [(model.name, model.state) for model in index.models] == [(MODEL, "LOADING")]
        assert not (await told.repository_index(pb.RepositoryIndexRequest(ready=True), call())).models
        assert (await told.server_live(pb.ServerLiveRequest(), call())).live


async def test_metadata_names_tensors_and_versions(app: FastAPI) -> None:
    """A model or a version that is not there is an error."""
    told = service(app)
    metadata = await told.model_metadata(pb.ModelMetadataRequest(name=MODEL), call())
    assert [*metadata.versions] == ["1"]
    assert json.dumps([tensor.name for tensor in metadata.outputs]).startswith('["text_output"')
    for wrong in (pb.ModelMetadataRequest(name="x"), pb.ModelMetadataRequest(name=MODEL, version="2")):
        with pytest.raises(ServiceError):
            await told.model_metadata(wrong, call())
