"""Triton's own Python clients, unmodified, over HTTP and over gRPC: the same questions, the same answers."""

import asyncio
import json
import queue
from collections.abc import Iterator
from typing import Any, cast

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.processes import eventually

QUESTION = "What is the capital of France?"
STORY = "Tell me a long story about a lighthouse."
EXACT = {"temperature": "0", "max_tokens": "32"}
WITHIN = 60.0
"""Seconds that any answer may take."""


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, product: Any) -> Iterator[Any]:
    """A client and its module; ``client.wire`` is the module."""
    wire: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    address = product.grpc if request.param == "grpc" else product.url.removeprefix("http://")
    more = {"network_timeout": WITHIN} if request.param == "http" else {}
    client = wire.InferenceServerClient(address, **more)
    client.wire = wire
    yield client
    client.close()


@pytest.fixture
def streaming(product: Any) -> Iterator[Any]:
    """A gRPC client with an open stream, and the queue of what it gets: ``(result, error)``."""
    client: Any = tritonclient.grpc.InferenceServerClient(product.grpc)
    got: queue.Queue[Any] = queue.Queue()

    def receive(result: Any, error: Any) -> None:
        got.put((result, error))

    client.start_stream(callback=receive)
    yield client, got
    client.stop_stream(cancel_requests=True)
    client.close()


def put(wire: Any, name: str, value: Any, **how: Any) -> Any:
    """An input of one value."""
    datatype = "BOOL" if isinstance(value, bool) else "BYTES"
    array = np.array([value], dtype=bool if datatype == "BOOL" else np.object_)
    tensor = wire.InferInput(name, [1], datatype)
    tensor.set_data_from_numpy(array, **how)
    return tensor


def ask(wire: Any, text: Any = QUESTION, sampling: Any = None, **flags: bool) -> list[Any]:
    """The inputs of a question."""
    told = json.dumps(sampling or EXACT)
    inputs = [put(wire, "text_input", text), put(wire, "sampling_parameters", told)]
    return [*inputs, *(put(wire, name, value) for name, value in flags.items())]


def text_of(result: Any) -> str:
    """The answer."""
    text: Any = result.as_numpy("text_output")[0]
    return text if isinstance(text, str) else text.decode()


def field(told: Any, name: str) -> Any:
    """A field of metadata, which is JSON over HTTP and a message over gRPC."""
    return cast("dict[str, Any]", told)[name] if isinstance(told, dict) else getattr(told, name)


# --- what there is -------------------------------------------------------------------------


def test_server_and_models_tell_that_they_are_ready(client: Any) -> None:
    """And an unknown model that it is not there."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("smollm2")
    assert client.is_model_ready("smollm2", "1")


def test_metadata_names_inputs_and_outputs(client: Any) -> None:
    """Those of Triton's backend for vLLM among them."""
    assert field(client.get_server_metadata(), "name") == "langserve-vllm"
    told = client.get_model_metadata("smollm2")
    inputs = {field(tensor, "name"): field(tensor, "datatype") for tensor in field(told, "inputs")}
    outputs = {field(tensor, "name"): field(tensor, "datatype") for tensor in field(told, "outputs")}
    assert inputs["text_input"] == inputs["sampling_parameters"] == outputs["text_output"] == "BYTES"
    assert inputs["stream"] == inputs["exclude_input_in_output"] == "BOOL"


def test_the_index_tells_every_model_with_its_state(client: Any) -> None:
    """READY once its server has generated a token."""
    index = client.get_model_repository_index()
    models: Any = cast("Any", index) if isinstance(index, list) else index.models
    assert {field(model, "name"): field(model, "state") for model in models}["smollm2"] == "READY"


# --- answers -------------------------------------------------------------------------------


def test_a_question_is_answered_by_the_chain(client: Any) -> None:
    """Without its input where it is told so, and with the outputs that are asked for."""
    wishes = dict.fromkeys(("exclude_input_in_output", "return_finish_reason", "return_num_output_tokens"), True)
    result = client.infer("smollm2", ask(client.wire, QUESTION, None, **wishes), request_id="7")
    assert "Paris" in text_of(result)
    assert not text_of(result).startswith(QUESTION)
    assert result.as_numpy("finish_reason")[0] == b"stop"
    assert result.as_numpy("num_output_tokens")[0] > 3
    assert field(result.get_response(), "id") == "7"


def test_an_answer_begins_with_its_input_as_tritons_does(client: Any) -> None:
    """Clients of Triton's backend for vLLM cut it off."""
    assert text_of(client.infer("smollm2", ask(client.wire))).startswith(QUESTION)


def test_sampling_may_stand_in_the_requests_parameters(client: Any) -> None:
    """As numbers; two tokens are not enough for the answer."""
    inputs = [put(client.wire, "text_input", QUESTION), put(client.wire, "exclude_input_in_output", value=True)]
    result = client.infer("smollm2", inputs, parameters={"max_tokens": 2, "temperature": 0.0})
    assert 0 < len(text_of(result)) < 15


def test_a_conversation_is_json_in_a_tensor(client: Any) -> None:
    """The question needs the turns before it."""
    turns = [
        {"role": "user", "content": "What is the capital of Italy?"},
        {"role": "assistant", "content": "The capital of Italy is Rome."},
        {"role": "user", "content": "And of France?"},
    ]
    inputs = [
        put(client.wire, "messages", json.dumps(turns)),
        put(client.wire, "sampling_parameters", json.dumps(EXACT)),
    ]
    assert "Paris" in text_of(client.infer("smollm2", inputs))


def test_the_raw_model_continues_a_text(client: Any) -> None:
    """Without chain and chat template."""
    sampling = {"temperature": 0, "max_tokens": 4}
    assert "1, 2, 3, 4, 5" in text_of(client.infer("smollm2:raw", ask(client.wire, "1, 2, 3, 4,", sampling)))


def test_texts_become_vectors(client: Any) -> None:
    """Several at once; near texts are nearer than others."""
    texts = np.array([b"a cat", b"a kitten", b"the stock market"], dtype=np.object_)
    tensor = client.wire.InferInput("text_input", [3], "BYTES")
    tensor.set_data_from_numpy(texts)
    vectors = client.infer("minilm", [tensor]).as_numpy("embedding")
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


WRONG = {
    "unknown model": ("nobody", QUESTION, EXACT, ("404", "NOT_FOUND"), "no model 'nobody'"),
    "unknown parameter": ("smollm2", QUESTION, {"temprature": 1}, ("400", "INVALID_ARGUMENT"), "temprature"),
    "out of range": ("smollm2", QUESTION, {"temperature": 9}, ("400", "INVALID_ARGUMENT"), "temperature"),
    "too long": ("smollm2", "hello " * 20_000, EXACT, ("400", "INVALID_ARGUMENT"), "context length"),
    "no UTF-8": ("smollm2", b"\xff", EXACT, ("400", "INVALID_ARGUMENT"), "UTF-8"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_an_error_has_status_and_sentence(client: Any, mistake: str) -> None:
    """What is wrong, and where; nothing of the inside."""
    model, text, sampling, codes, message = WRONG[mistake]
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, ask(client.wire, text, sampling))
    assert any(code in error.value.status() for code in codes)
    assert message in error.value.message()


@pytest.mark.parametrize("how", ["gzip", "deflate", "json"])
def test_http_bodies_may_be_compressed_or_plain_json(product: Any, how: str) -> None:
    """As the client offers."""
    wire: Any = tritonclient.http
    client = wire.InferenceServerClient(product.url.removeprefix("http://"), network_timeout=WITHIN)
    compression = None if how == "json" else how
    text = put(wire, "text_input", QUESTION, binary_data=how != "json")
    outputs = [wire.InferRequestedOutput("text_output", binary_data=how != "json")]
    result = client.infer(
        "smollm2",
        [text],
        outputs=outputs,
        parameters={"max_tokens": 8},
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert text_of(result).startswith(QUESTION)
    client.close()


# --- streams -------------------------------------------------------------------------------


def until_final(got: "queue.Queue[Any]") -> list[Any]:
    """Every result of one request, up to the last."""
    results: list[Any] = []
    while not results or not results[-1].get_response().parameters["triton_final_response"].bool_param:
        result, error = got.get(timeout=WITHIN)
        assert error is None, error
        results.append(result)
    return results


def test_a_stream_comes_in_pieces_and_says_its_end(streaming: Any) -> None:
    """The pieces are the answer, without its input."""
    client, got = streaming
    client.async_stream_infer("smollm2", ask(tritonclient.grpc, stream=True), request_id="s")
    results = until_final(got)
    assert len(results) > 4
    assert "Paris" in "".join(map(text_of, results))
    assert {result.get_response().id for result in results} == {"s"}


def test_many_questions_share_a_stream(streaming: Any) -> None:
    """Their answers come as they are ready, each with its id; an error ends its own request alone."""
    client, got = streaming
    for index in range(3):
        client.async_stream_infer("smollm2", ask(tritonclient.grpc, stream=index > 0), request_id=str(index))
    client.async_stream_infer("nobody", ask(tritonclient.grpc, stream=True), request_id="wrong")
    texts: dict[str, str] = {}
    final = 0
    errors: list[str] = []
    while final < 3 or not errors:
        result, error = got.get(timeout=WITHIN)
        if error is not None:
            errors.append(error.message())
            continue
        response = result.get_response()
        texts[response.id] = texts.get(response.id, "") + text_of(result)
        final += response.parameters["triton_final_response"].bool_param
    assert all("Paris" in text for text in texts.values())
    assert texts.keys() == {"0", "1", "2"}
    assert [message.startswith("There is no model 'nobody'") for message in errors] == [True]


def test_generate_stream_is_server_sent_events(product: Any) -> None:
    """Each a piece of the answer; the last says that it is."""
    body = {"text_input": QUESTION, "parameters": {"temperature": 0, "max_tokens": 32}}
    url = f"{product.url}/v2/models/smollm2/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=WITHIN) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert "Paris" in "".join(event["text_output"] for event in events)
    assert [event.get("triton_final_response", False) for event in events] == [False] * (len(events) - 1) + [True]


def test_generate_answers_flat(product: Any) -> None:
    """Names and values, as Triton's generate does."""
    body = {"text_input": QUESTION, "temperature": 0, "max_tokens": 32, "exclude_input_in_output": True}
    told = httpx.post(f"{product.url}/v2/models/smollm2/generate", json=body, timeout=WITHIN).json()
    assert "Paris" in told["text_output"]
    assert told["model_name"] == "smollm2"


async def test_cancelling_a_stream_frees_the_engine(product: Any, streaming: Any) -> None:
    """Within a second or two, as the engine's own metrics say."""
    client, got = streaming

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    await eventually(count, lambda running: running == 0, within=60)
    client.async_stream_infer("smollm2", ask(tritonclient.grpc, STORY, {"max_tokens": 1500}, stream=True))
    await asyncio.to_thread(got.get, timeout=WITHIN)
    await eventually(count, lambda running: running > 0, within=60)
    client.stop_stream(cancel_requests=True)
    await eventually(count, lambda running: running == 0, within=2)


async def test_a_deadline_frees_the_engine(product: Any) -> None:
    """The client has given up; the engine does too."""
    client: Any = tritonclient.grpc.InferenceServerClient(product.grpc)

    async def count() -> float:
        return (await asyncio.to_thread(product.metrics))["vllm:num_requests_running"]

    question = ask(tritonclient.grpc, STORY, {"max_tokens": 1500})
    with pytest.raises(InferenceServerException, match="Deadline"):
        await asyncio.to_thread(client.infer, "smollm2", question, client_timeout=1.5)
    await eventually(count, lambda running: running == 0, within=2)
    client.close()
