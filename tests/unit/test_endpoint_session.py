"""The session of a conversation reaches the engine's side, for the router that keeps it at one replica."""

from pathlib import Path

import httpx2
import pytest

from tests.unit.scripted import MODEL, ScriptedEngine, says, served

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own


class Listening(httpx2.AsyncBaseTransport):
    """Connections to an engine that notes which sessions it hears of."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self._engine = ScriptedEngine(says("Hello."))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer; it has no tokenizer to ask."""
        if request.url.path.endswith("/tokenize"):
            return httpx2.Response(404, json={"detail": "Not Found"})
        self.heard.append(request.headers.get("x-session-id"))
        return await self._engine.handle_async_request(request)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sessions_requests_carry_the_same_mark_and_not_its_name(tmp_path: Path, *, stream: bool) -> None:
    """Two of one session, one of another, one of none."""
    engine = Listening()
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    async with served(tmp_path, engine) as client:
        for session in ("ann", "ann", "bob", None):
            headers = {"x-session-id": session} if session else {}
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200
    ann, again, bob, none = engine.heard
    assert ann == again
    assert len({ann, bob, none}) == 3
    assert none is None
    assert "ann" not in (ann or "")
