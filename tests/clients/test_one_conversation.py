"""A chain with memory goes on with one conversation, whichever protocol the next turn comes by."""

import json
import queue
import uuid
from typing import Any, cast

import anthropic
import grpc
import httpx
import numpy as np
import ollama
import openai
import pytest
import tritonclient.grpc
import tritonclient.http
from huggingface_hub import InferenceClient
from langserve import RemoteRunnable  # noqa: TID251 -- a client under test

from app.generated.langserve_vllm.v1 import chat_pb2 as pb

WITHIN = 120.0
"""Seconds that a turn may take."""
pytestmark = pytest.mark.filterwarnings("ignore:.*model_fields.* attribute")  # langserve's client's own


def test_each_protocol_continues_what_the_one_before_said(product: Any) -> None:
    """The prompt grows with every turn by what was said, and the service has one conversation of them all."""
    session = f"clients-{uuid.uuid4().hex}"
    counts = [ask(product.url, session) for ask in (by_langserve, by_openai, by_anthropic, by_ollama, by_hugging_face)]
    counts.append(by_kserve_http(product.url, session))
    counts += [ask(product.grpc, session) for ask in (by_kserve_stream, by_chat_service)]
    assert counts == sorted(set(counts)), counts
    kept = httpx.get(f"{product.url}/sessions/smollm2/{session}", timeout=10).raise_for_status().text
    for said in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        assert f"Say {said}." in kept


def by_langserve(url: str, session: str) -> int:
    """Ask through RemoteRunnable; return the prompt's tokens."""
    chain: Any = cast("Any", RemoteRunnable)(f"{url}/smollm2", timeout=120)
    answer = chain.invoke("Say one.", {"configurable": {"session_id": session, "max_tokens": 4}})
    return answer.usage_metadata["input_tokens"]


def by_openai(url: str, session: str) -> int:
    """Ask through OpenAI's client."""
    asked: Any = [{"role": "user", "content": "Say two."}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        answer: Any = client.chat.completions.create(
            model="smollm2", messages=asked, max_tokens=4, metadata={"session_id": session}
        )
    return answer.usage.prompt_tokens


def by_anthropic(url: str, session: str) -> int:
    """Ask through Anthropic's client."""
    asked: Any = [{"role": "user", "content": "Say three."}]
    headers = {"x-session-id": session}
    with anthropic.Anthropic(base_url=url, api_key="unused", default_headers=headers) as client:
        return client.messages.create(model="smollm2", messages=asked, max_tokens=4).usage.input_tokens


def by_ollama(url: str, session: str) -> int:
    """Ask through Ollama's client."""
    client: Any = ollama.Client(host=url, headers={"x-session-id": session})
    asked = [{"role": "user", "content": "Say four."}]
    answer = client.chat("smollm2", messages=asked, options={"num_predict": 4})
    client.close()
    return answer.prompt_eval_count


def by_hugging_face(url: str, session: str) -> int:
    """Ask through Hugging Face's client."""
    headers = {"x-session-id": session}
    client: Any = InferenceClient(model=f"{url}/models/smollm2", token="unused", headers=headers)  # noqa: S106 -- none
    *_, last = client.text_generation("Say five.", max_new_tokens=4, stream=True, details=True)
    client.close()
    return last.details.input_length


def by_kserve_http(url: str, session: str) -> int:
    """Ask through Triton's client for HTTP, the session in a header."""
    wire: Any = tritonclient.http
    client = wire.InferenceServerClient(url.removeprefix("http://"), network_timeout=WITHIN)
    headers = {"x-session-id": session}
    answer = client.infer("smollm2", tensors(wire, "Say six."), headers=headers)
    client.close()
    return int(answer.as_numpy("num_input_tokens")[0])


def by_kserve_stream(address: str, session: str) -> int:
    """Ask through Triton's client for gRPC in a stream (ModelStreamInfer), the session in the request's parameters."""
    wire: Any = tritonclient.grpc
    client = wire.InferenceServerClient(address)
    got: queue.Queue[Any] = queue.Queue()

    def receive(result: Any, error: Any) -> None:
        got.put((result, error))

    client.start_stream(callback=receive)
    asked = tensors(wire, "Say seven.", stream=True)
    client.async_stream_infer("smollm2", asked, parameters={"session_id": session})
    while True:
        result, error = got.get(timeout=WITHIN)
        assert error is None, error
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    client.stop_stream()
    client.close()
    return int(result.as_numpy("num_input_tokens")[0])


def by_chat_service(address: str, session: str) -> int:
    """Ask our own gRPC service in a stream; return what its finish tells."""
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="Say eight.")])
    sampling = pb.Sampling(max_tokens=4)
    question = pb.Question(model="smollm2", session_id=session, sampling=sampling, messages=[message])
    library: Any = grpc
    with library.insecure_channel(address) as channel:
        ask = channel.unary_stream(
            "/langserve_vllm.v1.ChatService/StreamChat",
            pb.StreamChatRequest.SerializeToString,
            pb.StreamChatResponse.FromString,
        )
        events: list[Any] = [*ask(pb.StreamChatRequest(question=question), timeout=WITHIN)]
    return events[-1].finish.usage.input_tokens


def tensors(wire: Any, text: str, **flags: bool) -> list[Any]:
    """The inputs of a question to Triton's client, which asks for the prompt's tokens."""
    told = {"text_input": text, "sampling_parameters": json.dumps({"max_tokens": 4})}
    asked = {**told, "exclude_input_in_output": True, "return_num_input_tokens": True, **flags}
    inputs: list[Any] = []
    for name, value in asked.items():
        kind: Any = ("BOOL", np.bool_) if isinstance(value, bool) else ("BYTES", np.object_)
        tensor = wire.InferInput(name, [1], kind[0])
        tensor.set_data_from_numpy(np.array([value], dtype=kind[1]))
        inputs.append(tensor)
    return inputs
