"""Hugging Face's protocols in front of an engine that follows a script."""

import base64
from typing import Any

import httpx2
import pytest

from tests.unit.offering import CITY, DRAWS, EMBEDS, PICTURE, PIXEL, SEES, Offering, frames, replies, streams, usage
from tests.unit.scripted import MODEL, ScriptedEngine, ScriptedLauncher, answer, chunk, refusal, says, server

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own

ASKED: dict[str, Any] = {"inputs": "Where is Paris?", "parameters": {"max_new_tokens": 5}}
GENERATES = ("/generate", f"/models/{MODEL}/generate")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Offering:
    """The app."""
    return Offering(tmp_path_factory.mktemp("app"))


def told(*tokens: tuple[int, str, float]) -> dict[str, Any]:
    """Return what an engine adds to a choice that tells its tokens."""
    content: list[Any] = [
        {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []} for _, text, logprob in tokens
    ]
    return {"token_ids": [number for number, _, _ in tokens], "logprobs": {"content": content}}


def piece(finish: str | None, *tokens: tuple[int, str, float], text: str | None = None) -> dict[str, Any]:
    """Return a chunk with its tokens."""
    made = chunk("".join(each for _, each, _ in tokens) if text is None else text, finish)
    made["choices"][0] |= told(*tokens)
    return made


@pytest.mark.parametrize("path", GENERATES)
async def test_a_prompt_is_answered_by_the_chain(stage: Offering, path: str) -> None:
    """At the root by the first model that chats, as TGI serves one."""
    scripted = replies(answer("Here."))
    async with stage.client(scripted) as client:
        response = await client.post(path, json=ASKED)
    assert response.json() == {"generated_text": "Here."}
    assert [turn["content"] for turn in scripted.requests[0]["messages"]] == ["Be brief.", "Where is Paris?"]


@pytest.mark.parametrize("path", ["/", f"/models/{MODEL}"])
async def test_a_models_url_gives_a_list_of_one(stage: Offering, path: str) -> None:
    """As TGI's root and Hugging Face's API do."""
    async with stage.client(replies(answer("Here."))) as client:
        response = await client.post(path, json={**ASKED, "parameters": {"return_full_text": True}})
    assert response.json() == [{"generated_text": "Where is Paris?Here."}]


async def test_details_tell_the_tokens(stage: Offering) -> None:
    """With ids and likelihoods, and why the answer ended."""
    whole = answer("Here.")
    whole["choices"][0] |= {**told((4, "He", -0.5), (7, "re.", -0.25)), "stop_reason": "end"}
    async with stage.client(replies(whole)) as client:
        response = await client.post("/generate", json={**ASKED, "parameters": {"details": True, "seed": 3}})
    details = response.json()["details"]
    assert [(token["id"], token["text"], token["logprob"]) for token in details["tokens"]] == [
        (4, "He", -0.5),
        (7, "re.", -0.25),
    ]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("stop_sequence", 2, 3)


async def test_a_stream_is_tokens_of_which_the_last_has_the_text(stage: Offering) -> None:
    """Half a character is no text yet: the texts add up to the answer."""
    steps = [
        piece(None, (4, "He", -0.5)),
        piece(None, (5, "\ufffd", -0.1), (6, "\ufffd", -0.1), text="é"),
        piece("length", (7, "re", -0.25)),
    ]
    async with stage.client(streams(*steps, usage(3, 4), "[DONE]")) as client:
        response = await client.post("/generate_stream", json=ASKED)
    events = frames(response.text)
    assert [event["token"]["id"] for event in events] == [4, 5, 6, 7]
    assert "".join(event["token"]["text"] for event in events) == "Heére" == events[-1]["generated_text"]
    assert [event["generated_text"] for event in events[:-1]] == [None] * 3
    details = {"finish_reason": "length", "generated_tokens": 4, "input_length": 3, "seed": None}
    assert events[-1]["details"] == details
    assert [event["index"] for event in events] == [1, 2, 3, 4]


async def test_a_chain_that_tells_no_tokens_streams_too(stage: Offering) -> None:
    """Each piece is a token without an id."""
    async with stage.client(streams(chunk("He"), chunk("re."), chunk("", "stop"), "[DONE]")) as client:
        events = frames((await client.post(f"/models/{MODEL}", json={**ASKED, "stream": True})).text)
    assert [event["token"]["text"] for event in events] == ["He", "re."]
    assert (events[-1]["generated_text"], events[-1]["details"]["finish_reason"]) == ("Here.", "eos_token")


async def test_a_raw_model_continues_the_text(stage: Offering) -> None:
    """At the engine's completions, with its form of likelihoods."""
    said: dict[str, Any] = {"text": " Paris", "finish_reason": "stop", "token_ids": [9]}
    said["logprobs"] = {"tokens": [" Paris"], "token_logprobs": [-0.5]}
    scripted = replies({"choices": [said], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})
    async with stage.client(scripted) as client:
        response = await client.post(f"/models/{MODEL}:raw/generate", json={**ASKED, "parameters": {"details": True}})
    assert response.json()["generated_text"] == " Paris"
    assert response.json()["details"]["tokens"] == [{"id": 9, "text": " Paris", "logprob": -0.5, "special": False}]
    assert scripted.requests[0]["prompt"] == "Where is Paris?"
    assert scripted.requests[0]["logprobs"] == 1


async def test_parameters_reach_the_engine_by_its_names(stage: Offering) -> None:
    """Greedy where no sampling is asked for in so many words."""
    scripted = replies(answer("x"))
    parameters = {
        "max_new_tokens": 5,
        "do_sample": False,
        "repetition_penalty": 1.1,
        "top_k": 4,
        "stop": ["a"],
        "stop_sequences": ["b"],
        "grammar": {"type": "json", "value": CITY},
        "best_of": 1,
        "watermark": False,
    }
    async with stage.client(scripted) as client:
        response = await client.post("/generate", json={**ASKED, "parameters": parameters})
        await client.post("/generate", json={**ASKED, "parameters": {"grammar": {"type": "regex", "value": "a+"}}})
    assert response.status_code == 200, response.text
    sent, constrained = scripted.requests
    assert (sent["temperature"], sent["repetition_penalty"], sent["top_k"], sent["stop"]) == (0, 1.1, 4, ["a", "b"])
    assert sent["response_format"]["json_schema"]["schema"] == CITY
    assert constrained["structured_outputs"] == {"regex": "a+"}


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": PIXEL, "text": "What is it?"},
        {"images": [PICTURE], "text": "What is it?"},
        f"![]({PICTURE})What is it?",
    ],
)
async def test_pictures_come_beside_or_inside_the_text(stage: Offering, inputs: Any) -> None:
    """As the task image-text-to-text has them, or as TGI does."""
    scripted = replies(answer("A pixel."))
    async with stage.client(scripted) as client:
        response = await client.post(f"/models/{SEES}", json={"inputs": inputs})
    assert response.json() == [{"generated_text": "A pixel."}]
    picture, text = scripted.requests[0]["messages"][0]["content"]
    assert (picture["image_url"]["url"], text["text"]) == (PICTURE, "What is it?")


@pytest.mark.parametrize("path", [f"/models/{EMBEDS}", f"/models/{EMBEDS}/pipeline/feature-extraction"])
async def test_features_are_a_list_of_vectors(stage: Offering, path: str) -> None:
    """Of one text too."""
    scripted = replies({"data": [{"embedding": [0.5, 1.0]}]})
    async with stage.client(scripted) as client:
        response = await client.post(path, json={"inputs": "a", "normalize": True, "truncate": True})
    assert response.json() == [[0.5, 1.0]]
    assert scripted.requests[0]["truncate_prompt_tokens"] == -1


async def test_a_drawing_is_the_picture_itself(stage: Offering) -> None:
    """Bytes of the kind that is accepted."""
    scripted = replies({"data": [{"b64_json": PIXEL}]})
    parameters = {"width": 16, "height": 16, "seed": 3, "negative_prompt": "dogs"}
    async with stage.client(scripted) as client:
        asked = {"inputs": "a cat", "parameters": parameters}
        png = await client.post(f"/models/{DRAWS}", json=asked, headers={"Accept": "image/png"})
        jpeg = await client.post(f"/models/{DRAWS}", json=asked, headers={"Accept": "image/jpeg"})
    assert png.content.startswith(base64.b64decode(PIXEL)[:20])
    assert png.headers["content-type"] == "image/png"
    assert jpeg.status_code == 200
    assert [sent["output_format"] for sent in scripted.requests] == ["png", "jpeg"]
    assert (scripted.requests[0]["size"], scripted.requests[0]["negative_prompt"]) == ("16x16", "dogs")


async def test_conversations_are_openais_whatever_the_body_names(stage: Offering) -> None:
    """InferenceClient sends a name of its own; errors have OpenAI's shape there."""
    path = f"/models/{MODEL}/v1/chat/completions"
    async with stage.client(replies(answer("Here."))) as client:
        good = await client.post(path, json={"model": "dummy", "messages": [{"role": "user", "content": "a"}]})
        bad = await client.post(path, json={"model": "dummy", "messages": []})
    assert good.json()["choices"][0]["message"]["content"] == "Here."
    assert bad.json()["error"]["type"] == "invalid_request_error"


async def test_a_model_tells_what_it_is_and_whether_it_is_ready(stage: Offering) -> None:
    """TGI's info and health."""
    async with stage.client(replies({}), ScriptedLauncher(server(), server(model=EMBEDS, state="absent"))) as client:
        info = (await client.get(f"/models/{EMBEDS}/info")).json()
        root = (await client.get("/info")).json()
        health = [(await client.get(f"/models/{model}/health")).status_code for model in (MODEL, EMBEDS)]
    assert (info["model_id"], info["model_pipeline_tag"]) == (EMBEDS, "feature-extraction")
    assert root["model_id"] == MODEL
    assert health == [200, 503]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/models/none", ASKED, 404, "There is no model 'none'."),
        ("/generate", {"inputs": 5}, 400, "inputs"),
        ("/generate", {**ASKED, "surprise": 1}, 400, "surprise"),
        ("/generate", {**ASKED, "parameters": {"surprise": 1}}, 400, "parameters.surprise"),
        ("/generate", {**ASKED, "parameters": {"max_new_tokens": 0}}, 400, "parameters.max_new_tokens"),
        ("/generate", {**ASKED, "parameters": {"temperature": 9}}, 400, "parameters.temperature"),
        ("/generate", {**ASKED, "parameters": {"best_of": 2}}, 400, "parameters.best_of"),
        ("/generate", {**ASKED, "parameters": {"watermark": True}}, 400, "parameters.watermark"),
        ("/generate", {**ASKED, "parameters": {"typical_p": 0.5}}, 400, "parameters.typical_p"),
        ("/generate", {**ASKED, "parameters": {"truncate": 5}}, 400, "parameters.truncate"),
        ("/generate", {**ASKED, "parameters": {"top_n_tokens": 5}}, 400, "parameters.top_n_tokens"),
        ("/generate", {**ASKED, "parameters": {"adapter_id": "x"}}, 400, "parameters.adapter_id"),
        (
            "/generate",
            {**ASKED, "parameters": {"decoder_input_details": True}},
            400,
            "parameters.decoder_input_details",
        ),
        ("/generate", {**ASKED, "parameters": {"grammar": {"type": "ebnf"}}}, 400, "parameters.grammar"),
        (f"/models/{SEES}", {"inputs": "![](http://10.0.0.1/x.png)What?"}, 400, "not fetched"),
        (f"/models/{SEES}", {"inputs": {"image": "AAAA", "text": "x"}}, 400, "inputs.images.0"),
        (f"/models/{EMBEDS}", {"inputs": "a", "prompt_name": "query"}, 400, "prompt_name"),
        (f"/models/{EMBEDS}", {"inputs": "a", "normalize": False}, 400, "normalize"),
        (f"/models/{EMBEDS}/pipeline/text-generation", {"inputs": "a"}, 400, "feature-extraction"),
        (f"/models/{DRAWS}", {"inputs": "a", "parameters": {"scheduler": "x"}}, 400, "parameters.scheduler"),
        (f"/models/{DRAWS}", {"inputs": "a", "parameters": {"width": 5}}, 400, "parameters.width"),
        (f"/models/{DRAWS}", {"inputs": "a", "parameters": {"width": 0, "height": 32}}, 400, "parameters.width"),
        (f"/models/{DRAWS}", {"inputs": "a", "parameters": {"width": 999, "height": 999}}, 413, "size"),
    ],
)
async def test_what_does_not_fit_is_named(stage: Offering, path: str, body: Any, status: int, said: str) -> None:
    """In TGI's shape, so that InferenceClient raises its ValidationError; the engine is not asked."""
    scripted = replies({})
    async with stage.client(scripted) as client:
        response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error_type"] == "validation"
    assert said in response.json()["error"]
    assert scripted.requests == []


async def test_errors_of_a_stream_come_before_it_or_as_its_last_event(stage: Offering) -> None:
    """A status while nothing was sent, an event with its type afterwards."""
    async with stage.client(replies(refusal("no", code=400), 400)) as client:
        early = await client.post("/generate_stream", json=ASKED)
    async with stage.client(streams(chunk("He"), chunk("re"), httpx2.ReadError("gone"))) as client:
        late = frames((await client.post("/generate_stream", json=ASKED)).text)
    assert (early.status_code, early.json()["error_type"]) == (400, "validation")
    assert late[-1]["error_type"] == "generation"


async def test_a_model_that_loads_is_overloaded(stage: Offering) -> None:
    """InferenceClient raises its OverloadedError."""
    async with stage.client(ScriptedEngine(says("x")), ScriptedLauncher(server("fetching"))) as client:
        response = await client.post("/generate", json=ASKED)
    assert (response.status_code, response.json()["error_type"]) == (503, "overloaded")
