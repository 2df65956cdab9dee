"""A tool that reads a page of the web: of hosts that the operator named, and of the open internet only."""

from collections.abc import Mapping
from typing import Annotated

import httpx2
from langchain_core.tools import BaseTool, ToolException, tool
from pydantic import Field
from rag_chat.errors import RetrievalError
from rag_chat.parsing import Limits
from rag_chat.reading import read

from app.guard.allow_list import AllowList, NotAllowed, Resolve

BYTES = 1 << 20
"""Of one page; more are not read."""
READABLE: Mapping[str, str] = {
    **dict.fromkeys(("text/html", "application/xhtml+xml"), "page.html"),
    **dict.fromkeys(("text/plain", "text/csv", "text/xml", "application/xml", "application/json"), "page.txt"),
    "text/markdown": "page.md",
    "application/pdf": "page.pdf",
}
"""Media types, and what kind of document each is read as."""
LIMITS = Limits(pages=50, characters=BYTES, seconds=10, memory=512 << 20)


class Fetcher:
    """Reads pages.

    Args:
        allowed: The hosts.
        connections: To them; by default real ones, made for each request: pages are rare, and nothing is kept open.
        resolve: Looks names up; by default the system does.
    """

    def __init__(
        self,
        allowed: AllowList,
        connections: httpx2.AsyncBaseTransport | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._allowed = allowed
        self._connections = connections
        self._resolve = resolve

    async def fetch(self, url: str) -> str:
        """Return a page's text.

        Raises:
            ToolException: It may not, or cannot, be read; says which, and no address.
        """
        try:
            located = await self._allowed.locate(url, self._resolve)
        except NotAllowed as error:
            raise ToolException(str(error)) from error
        request = located.request(headers={"Accept": ", ".join(READABLE), "User-Agent": "langserve-vllm"})
        try:
            kind, content = await self._read(request)
        except httpx2.HTTPError as error:
            raise ToolException("The page cannot be fetched: its host does not answer.") from error
        try:
            parsed = await read(READABLE[kind], content, limits=LIMITS)
        except RetrievalError as error:
            raise ToolException(f"The page cannot be read: {error.message}") from error
        return "\n\n".join(block.text for block in parsed.blocks)

    async def _read(self, request: httpx2.Request) -> tuple[str, bytes]:
        connections = self._connections or httpx2.AsyncHTTPTransport()
        try:
            response = await connections.handle_async_request(_with_timeout(request))
            try:
                kind = _readable(response)
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > BYTES:
                        raise ToolException(f"The page is larger than {BYTES} bytes.")
                return kind, bytes(content)
            finally:
                await response.aclose()
        finally:
            if self._connections is None:
                await connections.aclose()


def _with_timeout(request: httpx2.Request) -> httpx2.Request:
    request.extensions = {**request.extensions, "timeout": httpx2.Timeout(10.0).as_dict()}
    return request


def _readable(response: httpx2.Response) -> str:
    if response.is_redirect:
        raise ToolException("The page has moved elsewhere; it is not followed there.")
    if response.status_code != 200:  # noqa: PLR2004
        raise ToolException(f"The page's host answered with {response.status_code}.")
    kind = response.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if kind not in READABLE:
        raise ToolException("The page is no text.")
    return kind


def fetch_tool(fetcher: Fetcher) -> BaseTool:
    """Return the tool."""
    example = {"question": "What does https://example.org/ say?", "arguments": {"url": "https://example.org/"}}

    @tool(extras={"examples": [example]})
    async def fetch(
        url: Annotated[str, Field(max_length=2048, description="Of the page, with https://.")],
    ) -> str:
        """Read a page of the web."""
        return await fetcher.fetch(url)

    return fetch
