"""OpenAI's protocol in front of an engine that follows a script: what clients send, and what they get."""

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.unit.offering import (
    CALLS,
    CITY,
    DRAWS,
    EMBEDS,
    PICTURE,
    PIXEL,
    QUESTION,
    SEES,
    Offering,
    calling,
    engine,
    frames,
    replies,
    streams,
    usage,
)
from tests.unit.scripted import (
    MODEL,
    Exchange,
    ScriptedEngine,
    ScriptedLauncher,
    Stream,
    answer,
    chunk,
    refusal,
    says,
    server,
)

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": MODEL, "messages": QUESTION}
DRAW = "/v1/images/generations"
DRAWN: dict[str, Any] = {"model": DRAWS, "prompt": "a cat"}
TOO_LONG = "This model's maximum context length is 2048 tokens. However, your prompt contains 9000."


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Offering:
    """The app."""
    return Offering(tmp_path_factory.mktemp("app"))


# --- models --------------------------------------------------------------------------------


async def test_every_model_is_listed_by_its_chain_and_by_its_engine(stage: Offering) -> None:
    """Only engines that hold conversations may be asked raw."""
    async with stage.client(replies({})) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get(f"/v1/models/{MODEL}:raw")).json()
    assert [model["id"] for model in listed["data"]] == [MODEL, f"{MODEL}:raw", EMBEDS, DRAWS, SEES, f"{SEES}:raw"]
    assert one["id"] == f"{MODEL}:raw"
    assert one["object"] == "model"


async def test_a_missing_model_is_named_in_openais_shape(stage: Offering) -> None:
    """404, with the models that are near."""
    async with stage.client(replies({})) as client:
        asked = await client.post(CHAT, json={**ASKED, "model": "tinny"})
        described = await client.get("/v1/models/tinny")
    for response in (asked, described):
        assert response.status_code == 404
        told = response.json()["error"]
        assert (told["code"], told["type"], told["param"]) == ("model_not_found", "invalid_request_error", "model")
        assert MODEL in told["message"]


# --- whole answers -------------------------------------------------------------------------


async def test_a_chat_is_answered_by_the_chain(stage: Offering) -> None:
    """The chain's prompt and defaults reach the engine; the answer has OpenAI's fields."""
    scripted = replies(answer("Here."))
    async with stage.client(scripted) as client:
        told = (await client.post(CHAT, json=ASKED)).json()
    assert scripted.requests[0]["messages"] == [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert scripted.requests[0]["temperature"] == 0.5
    assert told["object"] == "chat.completion"
    assert told["model"] == MODEL
    assert told["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Here.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (3, 2)


async def test_options_reach_the_engine_by_its_names(stage: Offering) -> None:
    """What OpenAI calls otherwise, or has in another form, is translated."""
    scripted = replies(answer("x"))
    options = {
        "max_completion_tokens": 5,
        "stop": "end",
        "seed": 7,
        "top_k": 3,
        "logit_bias": {"9": -1},
        "reasoning_effort": "none",
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}},
        "service_tier": "auto",
        "user": "ada",
    }
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, **options})
    assert response.status_code == 200
    sent = scripted.requests[0]
    assert (sent.get("max_tokens") or sent["max_completion_tokens"], sent["stop"], sent["seed"]) == (5, ["end"], 7)
    assert (sent["top_k"], sent["logit_bias"], sent["top_logprobs"]) == (3, {"9": -1.0}, 2)
    assert sent["chat_template_kwargs"]["enable_thinking"] is False
    assert sent["response_format"]["json_schema"]["schema"] == CITY
    assert "service_tier" not in sent


async def test_tgis_form_of_a_schema_is_understood(stage: Offering) -> None:
    """huggingface_hub writes ``{"type": "json_object", "value": schema}``."""
    scripted = replies(answer("{}"))
    async with stage.client(scripted) as client:
        await client.post(CHAT, json={**ASKED, "response_format": {"type": "json_object", "value": CITY}})
    assert scripted.requests[0]["response_format"]["json_schema"]["schema"] == CITY


async def test_calls_and_reasoning_are_told(stage: Offering) -> None:
    """Both names of reasoning; the content of an answer of calls alone is null."""
    async with stage.client(replies(calling())) as client:
        told = (await client.post(CHAT, json={**ASKED, "tools": [TOOL]})).json()["choices"][0]
    message = told["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == message["reasoning"] == "Let me look."
    assert [(call["id"], call["function"]["name"]) for call in message["tool_calls"]] == [
        ("call-1", "weather"),
        ("call-2", "clock"),
    ]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
    assert told["finish_reason"] == "tool_calls"


TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


async def test_a_turn_of_calls_and_results_goes_back_to_the_engine(stage: Offering) -> None:
    """With the ids that bind them, and the reasoning that led to them."""
    scripted = replies(answer("x"))
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        {"role": "developer", "content": "Be kind."},
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Let me look."},
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny"},
    ]
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, "messages": turns})
    assert response.status_code == 200, response.text
    system, _, assistant, tool = scripted.requests[0]["messages"]
    assert system == {"role": "system", "content": "Be kind."}
    assert assistant["reasoning"] == "Let me look."
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "call-1"


async def test_several_answers_are_several_choices(stage: Offering) -> None:
    """Each has a seed of its own, or all would be the same; what was given counts once."""
    scripted = replies(answer("x"))
    async with stage.client(scripted) as client:
        told = (await client.post(CHAT, json={**ASKED, "n": 3, "seed": 10})).json()
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert sorted(request["seed"] for request in scripted.requests) == [10, 11, 12]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (3, 6)


async def test_completions_answer_every_prompt(stage: Offering) -> None:
    """A chain takes each as a user's turn."""
    scripted = engine(lambda body: (200, answer(body["messages"][-1]["content"].upper())))
    async with stage.client(scripted) as client:
        told = (await client.post("/v1/completions", json={"model": MODEL, "prompt": ["a", "b"]})).json()
    assert told["object"] == "text_completion"
    assert [choice["text"] for choice in told["choices"]] == ["A", "B"]
    assert told["usage"]["prompt_tokens"] == 6


# --- streams -------------------------------------------------------------------------------


async def test_a_stream_tells_pieces_the_end_and_the_tokens(stage: Offering) -> None:
    """Role first, one reason of the end, the usage where asked for, and [DONE]."""
    scripted = streams(chunk("He"), chunk("re."), chunk("", "stop"), usage(3, 2), "[DONE]")
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, counted, done = frames(response.text)
    assert [each["choices"][0]["delta"].get("content") for each in chunks] == ["He", "re.", None]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None, None, "stop"]
    assert counted["choices"] == []
    assert (counted["usage"]["prompt_tokens"], counted["usage"]["completion_tokens"]) == (3, 2)
    assert done == "[DONE]"
    assert len({each["id"] for each in [*chunks, counted]}) == 1


async def test_a_stream_without_the_wish_tells_no_usage(stage: Offering) -> None:
    """As OpenAI's: clients that do not ask break on a chunk without a choice."""
    async with stage.client(streams(chunk("a"), chunk("", "stop"), usage(1, 1), "[DONE]")) as client:
        *chunks, _ = frames((await client.post(CHAT, json={**ASKED, "stream": True})).text)
    assert all(each["choices"] and "usage" not in each for each in chunks)


async def test_calls_are_streamed_in_pieces(stage: Offering) -> None:
    """Id and name once, arguments as they come, each call with its index."""
    async with stage.client(streams(*CALLS)) as client:
        *chunks, _ = frames((await client.post(CHAT, json={**ASKED, "stream": True, "tools": [TOOL]})).text)
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert next(each["reasoning_content"] for each in deltas if "reasoning_content" in each) == "Let me look."
    pieces = [piece for each in deltas for piece in each.get("tool_calls", ())]
    assert [piece["id"] for piece in pieces if "id" in piece] == ["call-1", "call-2"]
    assert "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 0) == '{"city": "Paris"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_several_answers_are_streamed_side_by_side(stage: Offering) -> None:
    """Every chunk says whose it is, and each answer ends once."""
    scripted = engine(lambda body: Stream([chunk(str(body["seed"])), chunk("", "stop"), "[DONE]"]))
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": True, "n": 2, "seed": 5})
    *chunks, _ = frames(response.text)
    choices = [each["choices"][0] for each in chunks]
    texts = {choice["index"]: choice["delta"]["content"] for choice in choices if choice["delta"].get("content")}
    assert texts == {0: "5", 1: "6"}
    ends = [each["choices"][0]["index"] for each in chunks if each["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1]


async def test_an_error_before_the_first_piece_has_a_status(stage: Offering) -> None:
    """Not a stream that begins with 200 and then apologises."""
    async with stage.client(replies(refusal(TOO_LONG, code=400, param="input_tokens"), 400)) as client:
        response = await client.post(CHAT, json={**ASKED, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:raw"])
async def test_an_error_after_the_first_piece_is_an_event(stage: Offering, model: str) -> None:
    """The SDK raises it; no [DONE] follows, so nobody takes the part for the whole."""
    async with stage.client(streams(chunk("He"), httpx2.ReadError("gone"))) as client:
        told = frames((await client.post(CHAT, json={**ASKED, "model": model, "stream": True})).text)
    assert told[0]["choices"][0]["delta"]["content"] == "He"
    assert told[-1]["error"]["code"] == "engine_died"
    assert "[DONE]" not in told


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:raw"])
async def test_leaving_a_stream_closes_the_engines(stage: Offering, model: str) -> None:
    """Whoever closes the connection frees the engine."""
    stream = Stream([chunk("He"), asyncio.Event()])
    async with stage.app(ScriptedEngine(lambda _body: stream)) as app:
        exchange = Exchange(app, CHAT, {**ASKED, "model": model, "stream": True})
        assert await exchange.start() == 200
        await exchange.until("He")
        exchange.leave()
        await exchange.end()
        async with asyncio.timeout(20):
            await stream.closed.wait()


# --- raw -----------------------------------------------------------------------------------


async def test_raw_answers_pass_byte_for_byte(stage: Offering) -> None:
    """Nothing of the chain is added to the question, and nothing of the answer is changed."""
    odd = {"id": "x", "choices": [{"index": 0, "delta": {"content": "é\u2028"}, "surprise": 1}]}
    lines = [json.dumps(odd, ensure_ascii=False), "[DONE]"]
    scripted = streams(*lines)
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, "model": f"{MODEL}:raw", "stream": True, "min_p": 0.1})
    assert response.content == "".join(f"data: {line}\n\n" for line in lines).encode()
    assert scripted.requests[0] == {**ASKED, "stream": True, "min_p": 0.1}


async def test_a_raw_completion_passes_too(stage: Offering) -> None:
    """The body as the engine wrote it, at the engine's path."""
    scripted = replies({"surprise": [1.0, None]})
    async with stage.client(scripted) as client:
        response = await client.post("/v1/completions", json={"model": f"{MODEL}:raw", "prompt": [1, 2], "echo": True})
    assert response.json() == {"surprise": [1.0, None]}
    assert scripted.urls[0].endswith("/v1/completions")


async def test_an_engines_refusal_keeps_its_meaning_and_loses_its_addresses(stage: Offering) -> None:
    """Raw or not: the sentence stays, paths and addresses do not."""
    told = refusal("cannot open /root/secret/file at http://127.0.0.1:9", code=400)
    async with stage.client(replies(told, 400)) as client:
        for model in (MODEL, f"{MODEL}:raw"):
            response = await client.post(CHAT, json={**ASKED, "model": model})
            assert response.status_code == 400
            assert response.json()["error"]["message"] == "cannot open <path> at <address>"


@pytest.mark.parametrize(
    "extra",
    [
        {"kv_transfer_params": {"remote_host": "10.0.0.1"}},
        {"chat_template": "{{ x }}"},
        {"n": 99},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://10.0.0.1/"}}]}]},
    ],
)
async def test_raw_is_no_way_to_make_the_engine_reach_out(stage: Offering, extra: dict[str, Any]) -> None:
    """What names other machines is refused before the engine sees it."""
    scripted = replies(answer("x"))
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={**ASKED, "model": f"{MODEL}:raw", **extra})
    assert response.status_code == 400
    assert scripted.requests == []


# --- embeddings and images -----------------------------------------------------------------


async def test_embeddings_pass_with_the_engines_name_for_the_model(stage: Offering) -> None:
    """base64 or numbers: as the engine writes them."""
    scripted = replies({"data": [{"embedding": "AAAA"}]})
    async with stage.client(scripted) as client:
        response = await client.post(
            "/v1/embeddings", json={"model": EMBEDS, "input": ["a"], "encoding_format": "base64"}
        )
    assert response.json() == {"data": [{"embedding": "AAAA"}]}
    assert scripted.requests == [{"model": EMBEDS, "input": ["a"], "encoding_format": "base64"}]


async def test_drawing_takes_the_entrys_defaults(stage: Offering) -> None:
    """What the request says wins."""
    scripted = replies({"data": [{"b64_json": PIXEL}]})
    async with stage.client(scripted) as client:
        response = await client.post(DRAW, json={**DRAWN, "guidance_scale": 3.0, "seed": 5, "n": 2, "quality": "hd"})
    assert len(response.json()["data"]) == 2
    assert [sent["seed"] for sent in scripted.requests] == [5, 6]
    sent = scripted.requests[0]
    assert (sent["prompt"], sent["size"], sent["guidance_scale"], sent["n"]) == ("a cat", "32x32", 3.0, 1)
    assert "quality" not in sent


async def test_a_drawing_is_kept_where_its_address_is_asked_for(stage: Offering) -> None:
    """For a while, at the service's own address."""
    async with stage.client(replies({"data": [{"b64_json": PIXEL}]})) as client:
        kept = (await client.post(DRAW, json={**DRAWN, "response_format": "url"})).json()["data"][0]
        picture = await client.get(kept["url"])
    assert "b64_json" not in kept
    assert picture.headers["content-type"] == "image/png"


async def test_a_drawing_says_inside_what_it_was_made_from(stage: Offering) -> None:
    """As base64 and at its address: the PNG's own texts."""
    async with stage.client(replies({"data": [{"b64_json": PIXEL}]})) as client:
        sent = (await client.post(DRAW, json={**DRAWN, "seed": 5})).json()["data"][0]["b64_json"]
        kept = (await client.post(DRAW, json={**DRAWN, "seed": 5, "response_format": "url"})).json()["data"][0]
        picture = (await client.get(kept["url"])).content
    for png in (base64.b64decode(sent), picture):
        texts: Any = Image.open(io.BytesIO(png)).info
        assert texts["Description"] == "a cat"
        assert json.loads(texts["parameters"])["seed"] == 5


@pytest.mark.parametrize(
    ("path", "body"),
    [(DRAW, {**DRAWN, "n": 3}), (f"/models/{DRAWS}", {"inputs": "a cat"})],
)
async def test_whoever_leaves_a_drawing_frees_the_engine(stage: Offering, path: str, body: Any) -> None:
    """The picture at hand is given up, and no other is asked for."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(_: Mapping[str, Any]) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    scripted = ScriptedEngine(endless)
    async with stage.app(scripted) as app:
        exchange = Exchange(app, path, body)
        async with asyncio.timeout(20):
            await begun.wait()
            exchange.leave()
            await ended.wait()
        await exchange.end()
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
async def test_pictures_are_not_edited(stage: Offering, path: str) -> None:
    """The client's upload is answered in a sentence, and no engine hears of it."""
    scripted = replies({})
    async with stage.client(scripted) as client:
        response = await client.post(path, data={"prompt": "bluer"}, files={"image": ("a.png", b"x", "image/png")})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_route")
    assert response.json()["error"]["message"].endswith(".")
    assert scripted.requests == []


async def test_an_engine_that_draws_may_be_asked_raw(stage: Offering) -> None:
    """Its picture as it is: without what the chain writes into it."""
    scripted = replies({"data": [{"b64_json": PIXEL}]})
    async with stage.client(scripted) as client:
        told = (await client.post(DRAW, json={**DRAWN, "model": f"{DRAWS}:raw"})).json()
    assert told["data"] == [{"b64_json": PIXEL}]
    assert scripted.requests[0]["size"] == "32x32"


async def test_a_model_that_draws_answers_conversations_with_pictures(stage: Offering) -> None:
    """In the field that OpenRouter's clients read, whole and streamed."""
    asked = {"model": DRAWS, "messages": [{"role": "user", "content": "a cat"}]}
    async with stage.client(replies({"data": [{"b64_json": PIXEL}]})) as client:
        whole = (await client.post(CHAT, json=asked)).json()["choices"][0]
        streamed = frames((await client.post(CHAT, json={**asked, "stream": True})).text)
    pictures = [picture for each in streamed[:-1] for picture in each["choices"][0]["delta"].get("images", ())]
    assert whole["message"]["content"] == ""
    assert [len(whole["message"]["images"]), len(pictures)] == [1, 1]
    assert pictures[0]["image_url"]["url"].startswith("data:image/png;base64,")


# --- refusals ------------------------------------------------------------------------------


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    (CHAT, {**ASKED, "temperature": 9}, 400, "temperature"),
    (CHAT, {**ASKED, "temperature": "hot"}, 400, "temperature"),
    (CHAT, {**ASKED, "max_completion_tokens": 0}, 400, "max_completion_tokens"),
    (CHAT, {**ASKED, "surprise": 1}, 400, "surprise"),
    (CHAT, {**ASKED, "functions": [{}]}, 400, "functions"),
    (CHAT, {**ASKED, "audio": {}}, 400, "audio"),
    (CHAT, {**ASKED, "n": 99}, 400, "n"),
    (CHAT, {**ASKED, "n": 2, "metadata": {"session_id": "s"}}, 400, "n"),
    (CHAT, {**ASKED, "metadata": {"session_id": 5}}, 400, "session_id"),
    (CHAT, {**ASKED, "messages": []}, 400, "messages"),
    (CHAT, {**ASKED, "messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0"),
    (CHAT, {**ASKED, "messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.tool_call_id"),
    (CHAT, {**ASKED, "response_format": {"type": "xml"}}, 400, "response_format"),
    (CHAT, {"messages": QUESTION}, 400, "model"),
    (CHAT, {**ASKED, "model": EMBEDS}, 400, "model"),
    ("/v1/completions", {"model": MODEL, "prompt": "a", "echo": True}, 400, "echo"),
    ("/v1/completions", {"model": MODEL, "prompt": ["a", "b"], "stream": True}, 400, "prompt"),
    ("/v1/completions", {"model": MODEL, "prompt": ["a"] * 65}, 400, "prompt"),
    ("/v1/embeddings", {"model": MODEL, "input": "a"}, 400, "model"),
    ("/v1/embeddings", {"model": EMBEDS, "input": []}, 400, "input"),
    ("/v1/embeddings", {"model": EMBEDS, "input": ["a"] * 2049}, 413, "input"),
    (DRAW, {**DRAWN, "size": "999x999"}, 413, "size"),
    (DRAW, {**DRAWN, "size": "big"}, 400, "size"),
    (DRAW, {**DRAWN, "size": "\u0663x\u0663"}, 400, "size"),
    (DRAW, {**DRAWN, "size": "9" * 5000 + "x1"}, 400, "size"),
    (DRAW, {**DRAWN, "size": 32}, 400, "size"),
    (DRAW, {**DRAWN, "num_inference_steps": 0}, 400, "num_inference_steps"),
    (DRAW, {**DRAWN, "guidance_scale": -1}, 400, "guidance_scale"),
    (DRAW, {**DRAWN, "seed": 2**63}, 400, "seed"),
    (DRAW, {**DRAWN, "output_format": "exe"}, 400, "output_format"),
    (DRAW, {**DRAWN, "prompt": ["a"]}, 400, "prompt"),
    (DRAW, {**DRAWN, "prompt": " "}, 400, "prompt"),
    (DRAW, {**DRAWN, "n": 9}, 400, "n"),
    (DRAW, {**DRAWN, "model": f"{DRAWS}:raw", "response_format": "url"}, 400, "response_format"),
    (DRAW, {**DRAWN, "stream": True}, 400, "stream"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), WRONG)
async def test_what_does_not_fit_is_named(stage: Offering, path: str, body: Any, status: int, param: str) -> None:
    """In OpenAI's shape, with the field; the engine is not asked."""
    scripted = replies({})
    async with stage.client(scripted) as client:
        response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    told = response.json()["error"]
    assert (told["type"], told["param"]) == ("invalid_request_error", param)
    assert scripted.requests == []


def looking_at(url: str) -> list[dict[str, Any]]:
    """Return a turn with a picture."""
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize("model", [SEES, f"{SEES}:raw"])
async def test_pictures_come_with_the_request(stage: Offering, model: str) -> None:
    """A data: URL passes, an address is refused with the way out."""
    scripted = replies(answer("A pixel."))
    async with stage.client(scripted) as client:
        good = await client.post(CHAT, json={"model": model, "messages": looking_at(PICTURE)})
        bad = await client.post(CHAT, json={"model": model, "messages": looking_at("https://example.org/x.png")})
    assert good.status_code == 200, good.text
    assert scripted.requests[0]["messages"][0]["content"][0]["image_url"]["url"] == PICTURE
    assert bad.status_code == 400
    assert bad.json()["error"]["param"] == "messages.0.content.0"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:raw"])
async def test_a_model_of_texts_sees_no_pictures(stage: Offering, model: str) -> None:
    """It says so, rather than answer as if there were none."""
    scripted = replies(answer("x"))
    async with stage.client(scripted) as client:
        response = await client.post(CHAT, json={"model": model, "messages": looking_at(PICTURE)})
    assert response.status_code == 400
    assert "sees no pictures" in response.json()["error"]["message"]
    assert scripted.requests == []


async def test_what_is_no_json_or_no_route_is_told_in_openais_shape(stage: Offering) -> None:
    """Whoever found it."""
    async with stage.client(replies({})) as client:
        broken = await client.post(CHAT, content=b"{")
        route = await client.post("/v1/responses", json={})
        method = await client.get(CHAT)
    assert [response.status_code for response in (broken, route, method)] == [400, 404, 405]
    for response in (broken, route, method):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_model_that_loads_is_told_with_retry_after(stage: Offering) -> None:
    """503 in OpenAI's shape, so the SDK tries again when it makes sense."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server("fetching"))) as client:
        response = await client.post(CHAT, json=ASKED)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "30"
    assert response.json()["error"]["code"] == "model_not_ready"
