"""A chain with memory goes on with one conversation, whichever protocol the next turn comes by."""

import uuid
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from huggingface_hub import InferenceClient
from langserve import RemoteRunnable  # noqa: TID251 -- a client under test

pytestmark = pytest.mark.filterwarnings("ignore:.*model_fields.* attribute")  # langserve's client's own


def test_each_protocol_continues_what_the_one_before_said(product: Any) -> None:
    """The prompt grows with every turn by what was said, and the service has one conversation of them all."""
    session = f"clients-{uuid.uuid4().hex}"
    counts = [ask(product.url, session) for ask in (by_langserve, by_openai, by_anthropic, by_ollama, by_hugging_face)]
    assert counts == sorted(set(counts)), counts
    kept = httpx.get(f"{product.url}/sessions/smollm2/{session}", timeout=10).raise_for_status().text
    for said in ("one", "two", "three", "four", "five"):
        assert f"Say {said}." in kept


def by_langserve(url: str, session: str) -> int:
    """Ask through RemoteRunnable; return the prompt's tokens."""
    chain: Any = RemoteRunnable(f"{url}/smollm2", timeout=120)
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
