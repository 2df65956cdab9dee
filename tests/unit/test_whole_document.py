"""Everything the OpenAPI document allows, asked of every operation in it: never a 5xx, never a hang.

schemathesis makes the requests from the document alone, the same ones in every run; the engine behind answers
properly, so that whatever fails is the app's own fault.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from tests.unit.offering import PIXEL, Offering, engine
from tests.unit.scripted import SOON, Stream, answer, chunk

pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute"),  # langserve's own
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
]

EXAMPLES = 3
"""Requests of each operation."""
ENDLESS = frozenset({("get", "/models/events")})
"""Streams that go on until their reader leaves; ``test_home.py`` reads them."""
PROBES = frozenset({("get", "/ready"), ("get", "/v2/health/ready")})
"""Whose 503 is an answer: not every model is ready."""
bounded = hypothesis_settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def reply(body: Mapping[str, Any]) -> Any:
    """Answer as an engine of every kind would."""
    if body.get("stream"):
        return Stream([chunk("x"), chunk("", "stop"), "[DONE]"])
    said = answer("{}")
    said["choices"][0]["text"] = "x"
    return 200, {
        **said,
        "data": [{"embedding": [1.0], "b64_json": PIXEL}],
        "count": 1,
        "max_model_len": 64,
        "tokens": [1],
        "prompt": "",
    }


def cases_of(operation: Any) -> list[Any]:
    """Return requests that schemathesis makes of an operation's description."""
    made: list[Any] = []

    @bounded
    @given(operation.as_strategy())
    def note(case: Any) -> None:
        made.append(case)

    note()
    return made


def frank(app: FastAPI) -> httpx.AsyncClient:
    """Return a client that gets the 500 of an error nobody foresaw, as over a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


async def test_whatever_the_document_allows_is_answered_without_a_failure(tmp_path: Any) -> None:
    """Every operation of the document is asked, and none fails, or keeps its caller waiting."""
    stage, asked, wrong = Offering(tmp_path), set[tuple[str, str]](), list[Any]()
    async with stage.app(engine(reply)) as app, frank(app) as client:
        document = (await client.get("/openapi.json")).json()
        schema: Any = schemathesis.openapi.from_dict(document)
        for found in schema.get_all_operations():
            operation: Any = found.ok()
            name = (operation.method.lower(), operation.path)
            if name in ENDLESS:
                continue
            asked.add(name)
            for case in await asyncio.to_thread(cases_of, operation):
                told = case.as_transport_kwargs(base_url="http://test")
                told.pop("cookies", None)
                async with asyncio.timeout(SOON):
                    response = await client.request(**told)
                if response.status_code >= 500 and name not in PROBES:
                    wrong.append((name, case.path_parameters, case.query, response.text[:200], str(case.body)[:2000]))
    declared = {(method, path) for path, item in document["paths"].items() for method in item}
    assert asked == declared - ENDLESS
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
