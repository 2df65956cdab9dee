"""From an entry's names to tools: included ones, entry points and MCP servers, and the tool that reads the web."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from langchain_core.tools import ToolException
from tools_agent import ToolsUnavailable, calculator, clock

from app.guard.allow_list import AllowList
from app.tools.fetch import BYTES, Fetcher, fetch_tool
from app.tools.toolbox import limits_of, toolbox_of
from vllm_launcher.registry import ModelSpec

MCP_SERVER = """
from mcp.server.fastmcp import FastMCP

server = FastMCP("weather")

@server.tool()
def forecast(city: str) -> str:
    "Tell tomorrow's weather."
    return f"Rain in {city}."

server.run()
"""


def spec_of(**chain: Any) -> ModelSpec:
    """An entry with these tools."""
    entry = {"id": "m", "source": {"type": "hub", "repo": "a/b"}, "chain": {"package": "tools_agent", **chain}}
    return ModelSpec.model_validate(entry)


async def test_tools_are_found_by_name() -> None:
    """Included ones first, then entry points of installed packages."""
    included = fetch_tool(Fetcher(AllowList()))
    box = toolbox_of(spec_of(tools=["clock", "fetch", "calculator"]), {"fetch": lambda _spec: included})
    assert [*await box.load()] == [clock, included, calculator]


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({}, 'give its chain "tools"'),
        ({"tools": ["format_disk"]}, "no tool 'format_disk': there are calculator, clock"),
    ],
)
def test_tools_that_are_not_there_are_told_at_the_start(chain: dict[str, Any], message: str) -> None:
    """With those that are."""
    with pytest.raises(ValueError, match=message):
        toolbox_of(spec_of(**chain), {})


async def test_the_tools_of_an_mcp_server_are_called(tmp_path: Path) -> None:
    """A real one, over its standard input and output; its name stands before theirs."""
    script = tmp_path / "weather.py"
    script.write_text(MCP_SERVER)
    server = {"type": "stdio", "command": sys.executable, "args": [str(script)]}
    box = toolbox_of(spec_of(tools=["clock"], mcp_servers={"weather": server}), {})
    tools = {tool.name: tool for tool in await box.load()}
    assert [*tools] == ["clock", "weather_forecast"]
    result = await tools["weather_forecast"].ainvoke({"city": "Dresden"})
    assert "Rain in Dresden." in str(result)
    assert await box.load() is await box.load()  # asked again only when it has grown old


@pytest.mark.parametrize(
    "server", [{"type": "http", "url": "http://127.0.0.1:9/mcp"}, {"type": "stdio", "command": "/nowhere/at/all"}]
)
async def test_an_mcp_server_that_is_down_is_named(server: dict[str, Any]) -> None:
    """The agent cannot run without tools it was given."""
    with pytest.raises(ToolsUnavailable, match="'files'"):
        await toolbox_of(spec_of(mcp_servers={"files": server}), {}).load()


def test_the_limits_of_a_run_are_the_entrys() -> None:
    """Those it does not name keep their defaults."""
    limits = limits_of(spec_of(tools=["clock"], limits={"steps": 3}))
    assert (limits.steps, limits.tool_seconds) == (3, 30)


# --- fetch -----------------------------------------------------------------------------------


async def resolve(_host: str, _port: int) -> Sequence[str]:
    """Every name has this address."""
    return ["93.184.215.14"]


def fetcher(**answer: Any) -> tuple[Fetcher, list[httpx2.Request]]:
    """A fetcher of example.org, which answers so, and what it was asked."""
    asked: list[httpx2.Request] = []

    async def reply(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        status: int = answer.pop("status_code", 200)
        return httpx2.Response(status, **answer)

    return Fetcher(AllowList(("example.org",)), httpx2.MockTransport(reply), resolve), asked


async def test_a_page_is_read_as_text() -> None:
    """From the address that was checked, by its host's name."""
    made, asked = fetcher(html="<html><body><h1>News</h1><script>x()</script><p>It rains.</p></body></html>")
    assert await made.fetch("https://example.org/news") == "It rains."
    assert (asked[0].url.host, asked[0].headers["host"]) == ("93.184.215.14", "example.org")


@pytest.mark.parametrize(
    ("url", "answer", "message"),
    [
        ("https://evil.net/", {}, "not in the list"),
        ("http://127.0.0.1/", {}, "not in the list"),
        ("file:///etc/passwd", {}, "http"),
        ("https://example.org/", {"status_code": 302, "headers": {"location": "http://127.0.0.1/"}}, "not followed"),
        ("https://example.org/", {"status_code": 500}, "answered with 500"),
        ("https://example.org/", {"content": b"x", "headers": {"content-type": "image/png"}}, "no text"),
        ("https://example.org/", {"text": "x" * (BYTES + 1)}, "larger than"),
        ("https://example.org/", {"text": ""}, "cannot be read"),
    ],
)
async def test_what_may_not_or_cannot_be_read_is_told(url: str, answer: dict[str, Any], message: str) -> None:
    """In words for the model, without an address."""
    made, _ = fetcher(**answer)
    with pytest.raises(ToolException, match=message) as caught:
        await made.fetch(url)
    assert "93.184" not in str(caught.value)


async def test_a_host_that_does_not_answer_is_told() -> None:
    """Not how."""

    async def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection to 93.184.215.14 refused", request=request)

    made = Fetcher(AllowList(("example.org",)), httpx2.MockTransport(fail), resolve)
    with pytest.raises(ToolException, match="does not answer") as caught:
        await made.fetch("https://example.org/")
    assert "93.184" not in str(caught.value)
