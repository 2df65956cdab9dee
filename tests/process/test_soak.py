"""The soak itself, small: the real app, an engine that dies, and a server that cuts its streams off."""

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web

from tests.process.app_process import EndlessEngine, free_port, ready_app
from tests.surroundings import ROOT, environment

PROTOCOLS = ("LangServe", "OpenAI", "Anthropic", "Ollama", "TGI", "KServe", "gRPC")
WITHIN = 60.0
ENGINE_GONE = ("engine_died", "engine_unreachable", "api_error", "generation", "ended", "closed")
"""How each protocol names an engine that has gone, before or after the first piece."""


class BriefEngine(EndlessEngine):
    """Streams three words and ends as vLLM does; or, not ``whole``, closes before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = True

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            finish = "stop" if self.whole and number == 2 else None
            choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": finish}
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        if self.whole:
            await response.write(b"data: [DONE]\n\n")
        elif request.transport is not None:
            request.transport.close()
        return response


async def soak(*told: str) -> tuple[int | None, str, dict[str, list[str]]]:
    """Run the soak; return its exit status, what it said, and its table by protocol."""
    command = (sys.executable, "-m", "bench.soak", "--model", "tiny", "--streams", "14", *told)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(WITHIN):
        output, _ = await process.communicate()
    said = output.decode()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line[:1] == "|"]
    return process.returncode, said, {name: cells for name, *cells in lines[2:]}


async def test_streams_of_every_protocol_end_or_are_told_why_not(tmp_path: Path) -> None:
    """Each ends in its protocol's own last event; where the engine dies, each ends in an error with a name."""
    port, engine = free_port(), BriefEngine()
    async with ready_app(tmp_path, engine, LANGSERVE_VLLM_GRPC_PORT=str(port)) as app:
        where = ("--url", app.url, "--grpc", f"127.0.0.1:{port}")
        status, said, table = await soak(*where, "--seconds", "2", "--pid", str(app.process.pid), "--calm", "0")
        assert status == 0, said
        assert "PSS in MiB" in said
        assert tuple(table) == PROTOCOLS, said
        for streams, complete, pieces, _first, errors, cut in table.values():
            assert (int(streams), errors, cut) == (int(complete), "0", "0"), said
            assert int(pieces) >= 2 * int(complete) >= 4, said
        engine.whole = False
        status, said, table = await soak(*where, "--seconds", "0.1")
    assert status == 1, "no stream was complete"
    for streams, complete, _pieces, _first, errors, cut in table.values():
        assert (complete, cut) == ("0", "0"), said
        assert int(streams) >= 2, said
        assert any(word in errors for word in ENGINE_GONE), said


async def test_a_stream_that_breaks_off_is_counted() -> None:
    """A server that ends its streams with nothing: every stream is cut off, and the soak fails."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"event: metadata\ndata: {}\n\n")
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        status, said, table = await soak("--url", f"http://127.0.0.1:{runner.addresses[0][1]}", "--seconds", "0.1")
    finally:
        await runner.cleanup()
    assert status == 1
    assert tuple(table) == PROTOCOLS[:-1]
    for streams, _complete, *_rest, cut in table.values():
        assert int(streams) == int(cut) >= 2, said
