"""Answers by a schema: on every chat chain by its config, and always on a chain that is made so."""

import copy
from pathlib import Path
from typing import Any

import pytest

from app.server import create_app
from tests.unit.city_chain import CITY
from tests.unit.scripted import (
    MODEL,
    REGISTRY,
    ScriptedEngine,
    ScriptedLauncher,
    caller,
    events,
    running,
    says,
    server,
    settings,
)

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own


def told(folder: Path, chain: Any) -> Any:
    """Settings with one model with this chain."""
    registry = copy.deepcopy(REGISTRY)
    registry["models"][0]["chain"] = chain
    return settings(folder, registry)


async def test_a_chain_may_always_answer_with_a_schema(tmp_path: Path) -> None:
    """The engine is told the schema; the answer is the object, whole and in a stream."""
    engine = ScriptedEngine(says('{"name": "Paris",', ' "people": 2}'))
    made = told(tmp_path, {"package": "tests.unit.city_chain", "memory": {"enabled": False}})
    app = create_app(made, launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        whole = await client.post(f"/{MODEL}/invoke", json={"input": "Paris?"})
        stream = await client.post(f"/{MODEL}/stream", json={"input": "Paris?"})
    assert whole.json()["output"] == {"name": "Paris", "people": 2}
    assert [data for name, data in events(stream.text) if name == "data"][-1] == {"name": "Paris", "people": 2}
    asked = [request["response_format"]["json_schema"]["schema"]["required"] for request in engine.requests]
    assert asked == [CITY["required"]] * 2


async def test_every_chat_chain_offers_the_schema_in_its_config(tmp_path: Path) -> None:
    """The field that the playground shows, and what the engine is told of it."""
    engine = ScriptedEngine(says('{"name": "Paris", "people": 2}'))
    app = create_app(
        told(tmp_path, {"package": "mixtral_chat"}), launcher=ScriptedLauncher(server()), connections=engine
    )
    async with running(app), caller(app) as client:
        shown = (await client.get(f"/{MODEL}/config_schema")).text
        config = {"configurable": {"response_format": CITY}}
        await client.post(f"/{MODEL}/invoke", json={"input": "Paris?", "config": config})
    assert '"response_format"' in shown
    assert engine.requests[0]["response_format"]["json_schema"]["schema"]["properties"] == CITY["properties"]
