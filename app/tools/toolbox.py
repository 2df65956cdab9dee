"""From the names in an entry to tools."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from langchain_core.tools import BaseTool
from tools_agent.errors import ToolsUnavailable

from app.settings import read_secret
from vllm_launcher.registry.entries import McpServer, McpUrl, ModelSpec

if TYPE_CHECKING:
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from tools_agent import RunLimits

GROUP = "langserve_vllm.tools"
"""Entry points: each a BaseTool, a list of them, or a function that returns one of these."""
Included = Mapping[str, Callable[[ModelSpec], BaseTool]]
"""What the app itself brings, made for an entry; raises ValueError where the entry lacks what it needs."""

MCP_SECONDS = 20.0
"""For a server to tell its tools."""
MCP_FRESH = 300.0
"""Seconds after which it is asked again."""
MOST_TOOLS = 128


class Toolbox:
    """The tools of one entry: those with a name at once, an MCP server's when they are first needed.

    Args:
        named: Tools that are there already.
        servers: MCP servers by name; their tools carry it in front.
        patience: Seconds for a server to tell its tools.
        now: Tells seconds.
    """

    def __init__(
        self,
        named: Sequence[BaseTool],
        servers: Mapping[str, McpServer],
        patience: float = MCP_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._named = [*named]
        self._client = _client(servers) if servers else None
        self._servers = tuple(servers)
        self._patience = patience
        self._now = now
        self._loading = asyncio.Lock()
        self._loaded: list[BaseTool] = self._named
        self._until = float("-inf") if servers else float("inf")

    async def load(self) -> Sequence[BaseTool]:
        """Return all tools.

        Raises:
            ToolsUnavailable: An MCP server does not answer, or offers too many.
        """
        if self._now() < self._until:
            return self._loaded
        async with self._loading:
            if self._now() >= self._until:
                told = await asyncio.gather(*(self._ask(name) for name in self._servers))
                tools = [*self._named, *(tool for each in told for tool in each)]
                if len(tools) > MOST_TOOLS:
                    raise ToolsUnavailable(f"There are {len(tools)} tools, more than {MOST_TOOLS}.")
                self._loaded, self._until = tools, self._now() + MCP_FRESH
        return self._loaded

    async def _ask(self, name: str) -> list[BaseTool]:
        client = self._client
        assert client, "only servers are asked"  # noqa: S101 -- for the types
        try:
            async with asyncio.timeout(self._patience):
                return await client.get_tools(server_name=name)
        except Exception as error:
            raise ToolsUnavailable(f"The MCP server '{name}' does not answer.", "Is it running?") from error


def _client(servers: Mapping[str, McpServer]) -> "MultiServerMCPClient":
    from langchain_mcp_adapters.client import MultiServerMCPClient  # noqa: PLC0415 -- a quarter of a second, for few

    return MultiServerMCPClient({name: _connection(server) for name, server in servers.items()}, tool_name_prefix=True)


def _connection(server: McpServer) -> Any:
    if isinstance(server, McpUrl):
        key = read_secret(server.api_key_env) if server.api_key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return {"transport": "streamable_http", "url": server.url, "headers": headers}
    return {"transport": "stdio", "command": server.command, "args": list(server.args), "env": dict(server.env) or None}


def toolbox_of(spec: ModelSpec, included: Included, patience: float = MCP_SECONDS) -> Toolbox:
    """Return the tools that an entry names. ``patience``: seconds for an MCP server to tell its own.

    Raises:
        ValueError: There is no such tool, or it cannot be made.
    """
    chain = spec.chain
    if chain is None or not (chain.tools or chain.mcp_servers):
        raise ValueError('it calls tools: give its chain "tools", or "mcp_servers"')
    installed = {point.name: point for point in entry_points(group=GROUP)}
    named: list[BaseTool] = []
    for name in chain.tools:
        if name in included:
            named.append(included[name](spec))
        elif name in installed:
            named.extend(_loaded(installed[name]))
        else:
            raise ValueError(f"there is no tool '{name}': there are {', '.join(sorted({*included, *installed}))}")
    return Toolbox(named, chain.mcp_servers, patience)


def _loaded(point: EntryPoint) -> list[BaseTool]:
    try:
        found: Any = point.load()
        if callable(found) and not isinstance(found, BaseTool):
            found = found()
    except Exception as error:
        raise ValueError(f"the tool '{point.name}' of {point.value} cannot be loaded: {error!r}") from error
    tools = cast("list[Any]", [*found]) if isinstance(found, list | tuple) else [found]
    if not all(isinstance(each, BaseTool) for each in tools):
        raise ValueError(f"the entry point '{point.name}' of {point.value} is no tool")
    return tools


def limits_of(spec: ModelSpec) -> "RunLimits":
    """Return what one run of an entry's chain may take."""
    from tools_agent import RunLimits  # noqa: PLC0415 -- it brings LangGraph, 15 MiB, for chains with tools alone

    return RunLimits(**spec.chain.limits.model_dump()) if spec.chain else RunLimits()


def tool_calling_of(spec: ModelSpec) -> str:
    """Return how an entry's model is asked for calls."""
    return spec.chain.tool_calling if spec.chain else "native"
