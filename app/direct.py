"""POSTs that are many and whose paths are known exactly: looked up, where routes are tried one after the other.

The same endpoints stand behind it as routes of FastAPI: for ``/docs``, for other methods, for other forms of the path.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct(BaseRoute):
    """One route for all of them.

    Args:
        endpoints: What answers, by path.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "POST":
            return Match.NONE, {}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        endpoint = self._endpoints.get(path)
        return (Match.NONE, {}) if endpoint is None else (Match.FULL, {"endpoint": endpoint, "path_params": {}})

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint: Endpoint = scope["endpoint"]
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
