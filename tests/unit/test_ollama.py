"""Ollama's protocol in front of an engine that follows a script."""

import json
from typing import Any

import httpx2
import pytest

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
    replies,
    streams,
    usage,
)
from tests.unit.scripted import MODEL, ScriptedEngine, ScriptedLauncher, answer, chunk, says, server

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

ASKED: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "stream": False}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NAMED = "tiny:latest"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Offering:
    """The app."""
    return Offering(tmp_path_factory.mktemp("app"))


def lines(text: str) -> list[Any]:
    """Return the JSON of every line."""
    return [json.loads(line) for line in text.splitlines()]


async def test_a_chat_is_answered_by_the_chain(stage: Offering) -> None:
    """With Ollama's counts and times, under the name that was asked for."""
    scripted = replies(answer("Here."))
    async with stage.client(scripted) as client:
        told = (await client.post("/api/chat", json={**ASKED, "model": NAMED})).json()
    assert scripted.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert told["message"] == {"role": "assistant", "content": "Here."}
    assert (told["model"], told["done"], told["done_reason"]) == (NAMED, True, "stop")
    assert (told["prompt_eval_count"], told["eval_count"]) == (3, 2)
    assert told["total_duration"] > 0


async def test_options_reach_the_engine_by_its_names(stage: Offering) -> None:
    """What is about loading is ignored: the plan decides that."""
    scripted = replies(answer("x"))
    options = {"num_predict": 5, "repeat_penalty": 1.1, "seed": 3, "stop": ["end"], "top_k": 4, "num_ctx": 999}
    async with stage.client(scripted) as client:
        response = await client.post(
            "/api/chat", json={**ASKED, "options": options, "format": CITY, "think": False, "keep_alive": "5m"}
        )
    assert response.status_code == 200, response.text
    sent = scripted.requests[0]
    assert sent.get("max_tokens") or sent["max_completion_tokens"] == 5
    assert (sent["repetition_penalty"], sent["seed"], sent["stop"], sent["top_k"]) == (1.1, 3, ["end"], 4)
    assert sent["response_format"]["json_schema"]["schema"] == CITY
    assert sent["chat_template_kwargs"]["enable_thinking"] is False
    assert "num_ctx" not in sent


async def test_no_limit_is_minus_one(stage: Offering) -> None:
    """``num_predict: -1`` asks for none."""
    scripted = replies(answer("x"))
    async with stage.client(scripted) as client:
        await client.post("/api/chat", json={**ASKED, "options": {"num_predict": -1}})
    assert "max_tokens" not in scripted.requests[0]


async def test_a_stream_is_lines_of_which_the_last_is_done(stage: Offering) -> None:
    """It is what comes unless ``stream`` is false."""
    scripted = streams(chunk("He"), chunk("\u2028re."), chunk("", "length"), usage(3, 2), "[DONE]")
    async with stage.client(scripted) as client:
        response = await client.post("/api/chat", json={"model": MODEL, "messages": QUESTION})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    first, second, last = lines(response.text)
    assert [each["message"]["content"] for each in (first, second, last)] == ["He", "\u2028re.", ""]
    assert [each["done"] for each in (first, second, last)] == [False, False, True]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("length", 3, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_come_whole(stage: Offering, stream: bool) -> None:  # noqa: FBT001 -- a parameter
    """With arguments as an object, and the thinking before them."""
    engine = streams(*CALLS) if stream else replies(calling())
    async with stage.client(engine) as client:
        told = lines((await client.post("/api/chat", json={**ASKED, "tools": [TOOL], "stream": stream})).text)
    calls = [call for each in told for call in each["message"].get("tool_calls", ())]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        ("weather", {"city": "Paris"}),
        ("clock", {}),
    ]
    assert "".join(each["message"].get("thinking", "") for each in told) == "Let me look."
    assert told[-1]["done"]


async def test_results_answer_calls_by_name(stage: Offering) -> None:
    """Ollama's calls have no ids; the engine's need them."""
    scripted = replies(answer("x"))
    calls: list[Any] = [{"function": {"name": name, "arguments": {}}} for name in ("weather", "clock")]
    turns: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": calls, "thinking": "Hm."},
        {"role": "tool", "tool_name": "clock", "content": "noon"},
        {"role": "tool", "content": "sunny"},
    ]
    async with stage.client(scripted) as client:
        response = await client.post("/api/chat", json={**ASKED, "messages": turns})
    assert response.status_code == 200, response.text
    *_, assistant, clock, weather = scripted.requests[0]["messages"]
    ids = {call["function"]["name"]: call["id"] for call in assistant["tool_calls"]}
    assert (clock["tool_call_id"], weather["tool_call_id"]) == (ids["clock"], ids["weather"])


async def test_pictures_are_base64(stage: Offering) -> None:
    """Their first bytes tell their kind."""
    scripted = replies(answer("x"))
    turns = [{"role": "user", "content": "What is it?", "images": [PIXEL]}]
    async with stage.client(scripted) as client:
        response = await client.post("/api/chat", json={**ASKED, "model": SEES, "messages": turns})
        generated = await client.post(
            "/api/generate", json={"model": SEES, "prompt": "What?", "images": [PIXEL], "stream": False}
        )
    assert (response.status_code, generated.status_code) == (200, 200)
    for sent in scripted.requests:
        assert sent["messages"][0]["content"][1]["image_url"]["url"] == PICTURE


async def test_a_generation_is_a_turn_of_its_own(stage: Offering) -> None:
    """With its system prompt in place of the chain's."""
    scripted = replies(answer("Here."))
    async with stage.client(scripted) as client:
        asked = {"model": MODEL, "prompt": "Where?", "system": "Be kind.", "stream": False}
        told = (await client.post("/api/generate", json=asked)).json()
    assert [turn["content"] for turn in scripted.requests[0]["messages"]] == ["Be kind.", "Where?"]
    assert (told["response"], told["done"]) == ("Here.", True)


async def test_a_raw_generation_continues_the_text(stage: Offering) -> None:
    """Without template and prompt, at the engine's completions; whole or in lines."""
    counts = {"prompt_tokens": 2, "completion_tokens": 1}
    whole: dict[str, Any] = {"choices": [{"text": " Paris", "finish_reason": "stop"}], "usage": counts}
    scripted = replies(whole)
    asked = {"model": MODEL, "prompt": "The capital is", "raw": True}
    async with stage.client(scripted) as client:
        told = (await client.post("/api/generate", json={**asked, "stream": False})).json()
    assert (told["response"], told["eval_count"]) == (" Paris", 1)
    assert scripted.urls[0].endswith("/v1/completions")
    assert scripted.requests[0]["prompt"] == "The capital is"
    steps = [{"choices": [{"text": each, "finish_reason": None}]} for each in (" Pa", "ris")]
    end = {"choices": [{"text": "", "finish_reason": "length"}]}
    async with stage.client(streams(*steps, end, {"choices": [], "usage": counts}, "[DONE]")) as client:
        *pieces, last = lines((await client.post("/api/generate", json=asked)).text)
    assert "".join(each["response"] for each in pieces) == " Paris"
    assert (last["done_reason"], last["eval_count"]) == ("length", 1)


@pytest.mark.parametrize("end", [[], [{"choices": [{"text": "", "finish_reason": "abort"}]}, "[DONE]"]])
async def test_a_cut_raw_generation_ends_in_an_error(stage: Offering, end: list[Any]) -> None:
    """A stream that ends without a reason, or given up by the engine, is no whole answer."""
    asked = {"model": MODEL, "prompt": "The capital is", "raw": True}
    async with stage.client(streams({"choices": [{"text": " Pa", "finish_reason": None}]}, *end)) as client:
        told = lines((await client.post("/api/generate", json=asked)).text)
    assert "error" in told[-1]


async def test_a_raw_generation_that_the_engine_gave_up_is_an_error(stage: Offering) -> None:
    """Whole, under HTTP 200: the finish reason alone tells."""
    asked = {"model": MODEL, "prompt": "The capital is", "raw": True, "stream": False}
    async with stage.client(replies({"choices": [{"text": " Pa", "finish_reason": "abort"}]})) as client:
        response = await client.post("/api/generate", json=asked)
    assert response.status_code == 502


async def test_nothing_asked_means_load(stage: Offering) -> None:
    """Ollama's clients load a model so."""
    launcher = ScriptedLauncher(server("absent"))
    async with stage.client(replies({})) as client:
        told = (await client.post("/api/generate", json={"model": MODEL})).json()
        assert (await client.post("/api/chat", json={"model": MODEL, "messages": []})).json()["done_reason"] == "load"
    assert (told["done"], told["done_reason"]) == (True, "load")
    async with stage.client(replies({}), launcher) as client:
        response = await client.post("/api/generate", json={"model": MODEL})
        assert response.status_code == 503
    assert launcher.asked == [MODEL]


async def test_texts_are_embedded(stage: Offering) -> None:
    """Cut to what the model takes, unless that is not wished."""
    scripted = replies({"data": [{"embedding": [0.5]}, {"embedding": [1.0]}], "usage": {"prompt_tokens": 4}})
    async with stage.client(scripted) as client:
        told = (await client.post("/api/embed", json={"model": EMBEDS, "input": ["a", "b"]})).json()
        old = (await client.post("/api/embeddings", json={"model": EMBEDS, "prompt": "a"})).json()
        await client.post("/api/embed", json={"model": EMBEDS, "input": "a", "truncate": False, "dimensions": 8})
    assert (told["embeddings"], told["prompt_eval_count"]) == ([[0.5], [1.0]], 4)
    assert old == {"embedding": [0.5]}
    assert scripted.requests[0]["truncate_prompt_tokens"] == -1
    assert "truncate_prompt_tokens" not in scripted.requests[2]
    assert scripted.requests[2]["dimensions"] == 8


async def test_a_model_that_draws_generates_a_picture(stage: Offering) -> None:
    """In the field that Ollama has for it."""
    scripted = replies({"data": [{"b64_json": PIXEL}]})
    async with stage.client(scripted) as client:
        asked = {"model": DRAWS, "prompt": "a cat", "width": 16, "height": 16, "steps": 2, "stream": False}
        told = (await client.post("/api/generate", json=asked)).json()
    assert told["image"].startswith(PIXEL[:20])
    assert (scripted.requests[0]["size"], scripted.requests[0]["num_inference_steps"]) == ("16x16", 2)


async def test_models_are_listed_shown_and_seen_running(stage: Offering) -> None:
    """By the names that Ollama's clients use."""
    async with stage.client(replies({}), ScriptedLauncher(server(), server(model=EMBEDS, state="absent"))) as client:
        listed = (await client.get("/api/tags")).json()["models"]
        running = (await client.get("/api/ps")).json()["models"]
        shown = (await client.post("/api/show", json={"model": NAMED})).json()
        version = (await client.get("/api/version")).json()
    assert [model["name"] for model in listed] == [f"{name}:latest" for name in (MODEL, EMBEDS, DRAWS, SEES)]
    assert [model["name"] for model in running] == [NAMED]
    assert shown["capabilities"] == ["completion"]
    assert shown["details"]["family"] == "chat"
    assert version["version"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/chat", {**ASKED, "model": "none"}, 404, "There is no model 'none'."),
        ("/api/chat", {**ASKED, "options": {"mirostat": 1}}, 400, "options.mirostat"),
        ("/api/chat", {**ASKED, "options": {"temperature": 9}}, 400, "options.temperature"),
        ("/api/chat", {**ASKED, "surprise": 1}, 400, "surprise"),
        ("/api/chat", {**ASKED, "model": EMBEDS}, 400, "does not chat"),
        ("/api/chat", {**ASKED, "messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0"),
        ("/api/chat", {**ASKED, "messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}, 400, "images.0"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "suffix": "b"}, 400, "suffix"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "template": "b"}, 400, "template"),
        ("/api/generate", {"model": MODEL, "prompt": "a", "context": [1]}, 400, "context"),
        ("/api/embed", {"model": MODEL, "input": "a"}, 400, "not for embedding"),
        ("/api/pull", {"model": MODEL}, 400, "models.json"),
        ("/api/push", {"model": MODEL}, 400, "models.json"),
        ("/api/create", {"model": MODEL}, 400, "models.json"),
        ("/api/copy", {"source": MODEL}, 400, "models.json"),
        ("/api/blobs/x", {}, 404, "no such route"),
    ],
)
async def test_what_does_not_fit_is_told_in_one_sentence(
    stage: Offering, path: str, body: Any, status: int, said: str
) -> None:
    """In Ollama's shape; the engine is not asked."""
    scripted = replies({})
    async with stage.client(scripted) as client:
        response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert said in response.json()["error"]
    assert scripted.requests == []


async def test_an_error_in_a_stream_is_its_last_line(stage: Offering) -> None:
    """Ollama's clients raise it."""
    async with stage.client(streams(chunk("He"), httpx2.ReadError("gone"))) as client:
        told = lines((await client.post("/api/chat", json={"model": MODEL, "messages": QUESTION})).text)
    assert told[0]["message"]["content"] == "He"
    assert set(told[-1]) == {"error"}


async def test_a_model_that_loads_is_told(stage: Offering) -> None:
    """503 with the phase."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server("fetching", phase="40 %"))) as client:
        response = await client.post("/api/chat", json=ASKED)
    assert response.status_code == 503
    assert "40 %" in response.json()["error"]
