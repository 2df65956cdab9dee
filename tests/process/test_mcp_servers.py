"""Real MCP servers, over HTTP and over standard input and output: that answer, die, hang, and are left."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from aiohttp import web
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from mcp.server.fastmcp import FastMCP
from tools_agent import ToolsUnavailable, build_chain

from app.tools.toolbox import toolbox_of
from tests.process.app_process import MODELS, EndlessEngine, ready_app
from tests.processes import eventually
from vllm_launcher.registry import ModelSpec

DEADLINE = 30.0
ENDS = """
import os
from pathlib import Path
from mcp.server.fastmcp import FastMCP

server = FastMCP("ends")

@server.tool()
def end() -> str:
    "End the server in the middle of a call."
    os._exit(3)

server.run()
"""
HANGS = """
import os, sys, time
from pathlib import Path

Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


def spec_of(**servers: Any) -> ModelSpec:
    """An entry with these MCP servers."""
    chain = {"package": "tools_agent", "mcp_servers": servers}
    return ModelSpec.model_validate({"id": "m", "source": {"type": "hub", "repo": "a/b"}, "chain": chain})


async def tools_of(patience: float = DEADLINE, **servers: Any) -> dict[str, BaseTool]:
    """Their tools by name."""
    return {tool.name: tool for tool in await toolbox_of(spec_of(**servers), {}, patience).load()}


class Waiting:
    """An MCP server with a tool that waits for ever, and notes whether it is cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()
        self.keys: list[str] = []

    async def wait(self) -> str:
        """Wait for ever."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return ""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen on a free port; yields the URL."""
        served = FastMCP("patient", log_level="ERROR")
        served.tool()(self.wait)
        served.tool()(echo)
        inner = served.streamable_http_app()

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            self.keys += [value.decode() for name, value in scope.get("headers", ()) if name == b"authorization"]
            await inner(scope, receive, send)

        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            config = uvicorn.Config(noting, log_level="error", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve([listening]))
            try:
                await eventually(lambda: _value(server.started), bool, within=DEADLINE)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
            finally:
                server.should_exit = True
                await task


async def _value(value: bool) -> bool:  # noqa: FBT001
    return value


def echo(said: str) -> str:
    """Say it again."""
    return said


async def test_the_tools_of_an_mcp_server_are_called_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bearer token that the entry names."""
    patient = Waiting()
    monkeypatch.setenv("MCP_KEY", "sesame")
    async with asyncio.timeout(DEADLINE), patient.serve() as url:
        tools = await tools_of(files={"type": "http", "url": url, "api_key_env": "MCP_KEY"})
        assert sorted(tools) == ["files_echo", "files_wait"]
        assert "hello" in str(await tools["files_echo"].ainvoke({"said": "hello"}))
        assert set(patient.keys) == {"Bearer sesame"}


async def test_a_call_that_is_cancelled_is_cancelled_at_the_mcp_server() -> None:
    """Its tool does not run on for nobody."""
    patient = Waiting()
    async with asyncio.timeout(DEADLINE), patient.serve() as url:
        tools = await tools_of(files={"type": "http", "url": url})
        calling = asyncio.create_task(tools["files_wait"].ainvoke({}))
        await patient.begun.wait()
        calling.cancel()
        await patient.cancelled.wait()


class Calls(BaseChatModel):
    """Calls a tool once, then answers."""

    name_of: str
    arguments: dict[str, Any]

    @property
    def _llm_type(self) -> str:
        return "calls"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """They are known."""
        _ = tools, kwargs
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        call = {"name": self.name_of, "args": self.arguments, "id": "1", "type": "tool_call"}
        answered = any(isinstance(each, ToolMessage) for each in messages)
        message = AIMessage("Well.") if answered else AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])


async def test_an_mcp_server_that_has_ended_fails_its_call_alone(tmp_path: Path) -> None:
    """In the middle of a call, or before: the model is told, soon; the run goes on."""
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    patient = Waiting()
    async with asyncio.timeout(DEADLINE):
        async with patient.serve() as url:
            tools = await tools_of(
                files={"type": "http", "url": url},
                ends={"type": "stdio", "command": sys.executable, "args": [str(script)]},
            )
        called = {"files_echo": {"said": "hello"}, "ends_end": dict[str, str]()}
        for name, arguments in called.items():
            model = Calls(name_of=name, arguments=arguments)
            output = await build_chain(model, tools=[tools[name]]).ainvoke("go")
            (step,) = output.response_metadata["steps"]
            assert (output.text, step["error"]) == ("Well.", True)
            assert step["result"].startswith(f"{name} failed: ")
            assert "127.0.0.1" not in step["result"]


async def test_an_mcp_server_that_hangs_at_its_start_is_named(tmp_path: Path) -> None:
    """When its time is up; a process that was started for it is gone."""
    script, noted = tmp_path / "hangs.py", tmp_path / "pid"
    script.write_text(HANGS)
    command = {"type": "stdio", "command": sys.executable, "args": [str(script), str(noted)]}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"type": "http", "url": f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"}
        for server in (command, address):
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(ToolsUnavailable, match="'slow' does not answer"):
                    await tools_of(patience=2.0, slow=server)
    assert not psutil.pid_exists(int(noted.read_text()))


class CallsATool(EndlessEngine):
    """Always calls the tool ``files_wait``."""

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        call = {"index": 0, "id": "1", "type": "function", "function": {"name": "files_wait", "arguments": "{}"}}
        for delta, finish in (({"role": "assistant", "content": "", "tool_calls": [call]}, None), ({}, "tool_calls")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


REQUESTS = {
    "agent/stream": {"input": "go"},
    "v1/chat/completions": {"model": "agent", "messages": [{"role": "user", "content": "go"}], "stream": True},
    "v1/messages": {
        "model": "agent", "messages": [{"role": "user", "content": "go"}], "max_tokens": 64, "stream": True,
    },
    "api/chat": {"model": "agent", "messages": [{"role": "user", "content": "go"}]},
}  # fmt: skip


async def test_a_client_that_leaves_cancels_a_run_in_the_middle_of_a_tool(tmp_path: Path) -> None:
    """By every protocol: the client has seen the call, goes away, and the tool at the MCP server is cancelled."""
    patient = Waiting()
    async with patient.serve() as url:
        chain = {"package": "tools_agent", "mcp_servers": {"files": {"type": "http", "url": url}}}
        agent = {"id": "agent", "engine": {"type": "shared", "model": "tiny"}, "chain": chain}
        models = {"models": [*MODELS["models"], agent]}
        async with ready_app(tmp_path, CallsATool(), models) as app, asyncio.timeout(DEADLINE):
            for path, body in REQUESTS.items():
                patient.begun.clear()
                patient.cancelled.clear()
                async with app.session.post(f"{app.url}/{path}", json=body) as response:
                    assert response.status == 200, await response.text()
                    async for line in response.content:
                        if b"files_wait" in line:
                            break
                    await patient.begun.wait()
                    assert not patient.cancelled.is_set()
                    response.close()
                await patient.cancelled.wait()
