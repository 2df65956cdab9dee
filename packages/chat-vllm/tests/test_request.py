"""What ``ChatVLLM`` asks of an engine, and with which clients."""

import copy
from typing import Any

import httpx
import pydantic.v1
import pytest
from chat_vllm import ChatVLLM, NotAnAnswerError
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel


@tool
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


class City(BaseModel):
    """A city."""

    name: str


async def ask(engine: Any, prompt: Any = "hi", /, **params: Any) -> dict[str, Any]:
    """The body that a model with these settings sends."""
    await engine.llm(**params).ainvoke(prompt)
    return engine.asked


async def test_vllms_fields_are_sent_as_they_are(recorded: Any) -> None:
    """Fields that OpenAI doesn't know stand beside the others in the body."""
    asked = await ask(recorded("answer.json"), top_k=20, min_p=0.1, repetition_penalty=1.1, ignore_eos=True, seed=7)
    assert asked == {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "seed": 7,
    }


async def test_extra_body_is_folded_in(recorded: Any) -> None:
    """What the model has no field for still gets through, per instance and per call."""
    engine = recorded("answer.json")
    await engine.llm(extra_body={"length_penalty": 2.0}).ainvoke("hi", cache_salt="x")
    assert engine.asked["length_penalty"] == 2.0
    assert engine.asked["cache_salt"] == "x"
    assert "extra_body" not in engine.asked


async def test_options_of_http_are_no_part_of_the_body(recorded: Any) -> None:
    """Headers, query and time-out of one call go where they belong."""
    engine = recorded("answer.json")
    await engine.llm().ainvoke("hi", extra_headers={"x-trace": "7"}, extra_query={"q": "1"}, timeout=3)
    assert engine.asked.keys() == {"model", "messages", "stream"}
    assert engine.requests[-1].headers["x-trace"] == "7"
    assert engine.requests[-1].url.params["q"] == "1"


async def test_fields_that_vllm_ignores_are_refused(recorded: Any) -> None:
    """``guided_json`` of older versions would be dropped in silence."""
    with pytest.raises(ValueError, match="structured_outputs"):
        await recorded("answer.json").llm().ainvoke("hi", guided_json={})


async def test_reasoning_goes_back_to_the_model(recorded: Any) -> None:
    """A tool loop of a reasoning model needs what it thought before; its template decides what is shown."""
    earlier = AIMessage("4", additional_kwargs={"reasoning_content": "2 and 2"})
    asked = await ask(recorded("answer.json"), [HumanMessage("2+2?"), earlier, HumanMessage("+1?")])
    assert asked["messages"][1] == {"role": "assistant", "content": "4", "reasoning": "2 and 2"}


@pytest.mark.parametrize("choice", ["add", "any", "required", True])
async def test_a_forced_call_is_strict(recorded: Any, choice: Any) -> None:
    """Only then does vLLM hold the arguments to their schema."""
    engine = recorded("tool.json")
    await engine.llm().bind_tools([add], tool_choice=choice).ainvoke("hi")
    assert engine.asked["tools"][0]["function"]["strict"] is True


async def test_a_free_call_is_not_strict(recorded: Any) -> None:
    """Nothing is asked that the caller didn't ask for."""
    engine = recorded("tool.json")
    await engine.llm().bind_tools([add]).ainvoke("hi")
    assert "strict" not in engine.asked["tools"][0]["function"]


async def test_a_schema_is_enforced_while_sampling(recorded: Any) -> None:
    """Structured output is vLLM's response_format, also when it streams."""
    engine = recorded("answer.json")
    await engine.llm().with_structured_output(City, include_raw=True).ainvoke("hi")
    written = engine.asked["response_format"]
    assert written["type"] == "json_schema"
    assert written["json_schema"]["name"] == "City"
    assert written["json_schema"]["schema"]["required"] == ["name"]


async def test_a_structured_answer_is_parsed(recorded: Any) -> None:
    """A pydantic class gives instances, a JSON schema gives dicts."""
    engine = recorded("answer.json")
    engine.body = engine.body.replace(b"I'm glad to meet", rb"{\"name\": \"Paris\"}")
    assert await engine.llm().with_structured_output(City).ainvoke("hi") == City(name="Paris")
    assert await engine.llm().with_structured_output(City.model_json_schema()).ainvoke("hi") == {"name": "Paris"}
    assert await engine.llm().with_structured_output(None, method="json_mode").ainvoke("hi") == {"name": "Paris"}
    assert engine.asked["response_format"] == {"type": "json_object"}
    assert await engine.llm().with_structured_output(City, method="json_mode").ainvoke("hi") == City(name="Paris")
    assert engine.asked["response_format"]["json_schema"]["name"] == "City"


async def test_a_function_can_carry_the_structure(recorded: Any) -> None:
    """``function_calling`` forces the call and reads its arguments."""
    engine = recorded("tool.json")
    engine.body = engine.body.replace(b'"add"', b'"City"').replace(rb"\"a\": 1, \"b\": 2", rb"\"name\": \"Paris\"")
    assert await engine.llm().with_structured_output(City, method="function_calling").ainvoke("hi") == City(
        name="Paris"
    )
    assert engine.asked["tool_choice"] == {"type": "function", "function": {"name": "City"}}


def test_classes_of_the_first_pydantic_are_taken_too(recorded: Any) -> None:
    """LangChain's users still have some."""
    old: Any = type("City", (pydantic.v1.BaseModel,), {"__annotations__": {"name": str}, "__doc__": "A city."})
    engine = recorded("answer.json")
    engine.body = engine.body.replace(b"I'm glad to meet", rb"{\"name\": \"Paris\"}")
    assert engine.llm().with_structured_output(old).invoke("hi") == old(name="Paris")


def test_a_schema_is_required(recorded: Any) -> None:
    """Only a JSON object of any kind needs none."""
    with pytest.raises(ValueError, match="needs a schema"):
        recorded("answer.json").llm().with_structured_output()
    with pytest.raises(ValueError, match="not 'magic'"):
        recorded("answer.json").llm().with_structured_output(City, method="magic")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_openais_variables_stay_at_home(
    recorded: Any,
    monkeypatch: pytest.MonkeyPatch,
    asynchronous: bool,  # noqa: FBT001
) -> None:
    """A key, an address or a header that is meant for OpenAI never reaches an engine."""
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "ORGANIZATION", "PROJECT_ID", "API_BASE", "BASE_URL", "PROXY"):
        monkeypatch.setenv(f"OPENAI_{name}", "http://secret.example/")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: http://secret.example/")
    monkeypatch.setenv("LANGSMITH_GATEWAY", "http://secret.example/")
    engine = recorded("answer.json")
    llm = engine.llm(default_headers={"x-ours": "1"})
    _ = await llm.ainvoke("hi") if asynchronous else llm.invoke("hi")
    request = engine.requests[-1]
    assert request.url == "http://engine.test/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer EMPTY"
    assert request.headers["x-ours"] == "1"
    assert "secret" not in str(request.headers)


async def test_a_key_that_is_given_is_sent(recorded: Any) -> None:
    """An engine of somebody else may want one."""
    engine = recorded("answer.json")
    await engine.llm(api_key="sk-engine").ainvoke("hi")
    assert engine.requests[-1].headers["authorization"] == "Bearer sk-engine"


async def test_a_request_is_tried_once_unless_told_otherwise(recorded: Any) -> None:
    """Who routes between servers decides about retries; here they would only hide a fault."""
    engine = recorded("overflow.json", 500)
    with pytest.raises(Exception, match="2048"):
        await engine.llm().ainvoke("hi")
    assert len(engine.requests) == 1


async def test_clients_of_httpx_are_taken_too(recorded: Any) -> None:
    """Both generations of the HTTP library work below the SDK."""
    answer = recorded("answer.json").body

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "application/json"}, content=answer)

    old = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    assert (await ChatVLLM(model="m", http_async_client=old).ainvoke("hi")).content == "I'm glad to meet"


def test_building_a_model_opens_nothing() -> None:
    """Clients are made at the first request; a copy shares them."""
    llm = ChatVLLM(model="m")
    assert repr(llm.root_async_client) == "Lazy(not made yet)"
    assert copy.deepcopy(llm).root_async_client is llm.root_async_client


def test_a_proxy_never_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY means other machines."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    near, far = ChatVLLM(model="m"), ChatVLLM(model="m", base_url="http://gpu.example:8000/v1")
    assert not near.root_client._client.trust_env  # noqa: SLF001  # the SDK shows its HTTP client nowhere else
    assert far.root_client._client.trust_env  # noqa: SLF001


async def test_tokens_are_counted_by_the_engine(recorded: Any) -> None:
    """``/tokenize`` beside ``/v1`` counts with the model's own tokenizer and template."""
    engine = recorded("answer.json")
    engine.body = b'{"count": 31, "max_model_len": 2048, "tokens": [1, 2]}'
    llm = engine.llm()
    assert await llm.aget_num_tokens_from_messages([HumanMessage("hi")]) == 31
    assert engine.requests[-1].url == "http://engine.test/tokenize"
    assert engine.asked == {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}
    assert llm.get_num_tokens_from_messages([HumanMessage("hi")], tools=[add]) == 31
    assert engine.asked["tools"][0]["function"]["name"] == "add"
    assert llm.get_num_tokens("hi there") == 2
    assert engine.asked["prompt"] == "hi there"


@pytest.mark.parametrize("body", [b'{"count": 31}', b'{"count": "many", "max_model_len": 5}', b"[]", b"null"])
async def test_an_engine_that_cannot_count_is_a_model_error(recorded: Any, body: bytes) -> None:
    """A server that is compatible with OpenAI's chats may have a ``/tokenize`` of its own form."""
    engine = recorded("answer.json")
    engine.body = body
    llm = engine.llm()
    with pytest.raises(NotAnAnswerError, match=r"no (count|max_model_len)"):
        await llm.acount_tokens([HumanMessage("hi")])
    with pytest.raises(NotAnAnswerError, match="no tokens"):
        await llm.arender([HumanMessage("hi")])
    with pytest.raises(NotAnAnswerError, match="no tokens"):
        llm.get_num_tokens("hi")


def test_errors_are_retried_where_asked(recorded: Any) -> None:
    """``max_retries`` is the SDK's."""
    engine = recorded("overflow.json", 500)
    with pytest.raises(Exception, match="2048"):
        engine.llm(max_retries=1).invoke("hi", extra_headers={"retry-after": "0"})
    assert len(engine.requests) == 2
