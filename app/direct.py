"""POSTs whose paths are known exactly: looked up, where routes are tried one after the other.

The same endpoints stand behind it as routes of FastAPI: for ``/docs``, for other methods, for other forms of the path.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

Endpoint = Callable[[Request], Awaitable[Response]]


def exact_posts(routers: Iterable[APIRouter]) -> dict[str, Endpoint]:
    """Return the endpoints of POSTs that are given the request and nothing else, by path.

    The first of a path counts, as among routes.
    """
    found: dict[str, Endpoint] = {}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.methods == {"POST"} and _is_plain(route):
                found.setdefault(route.path, route.endpoint)
    return found


def _is_plain(route: APIRoute) -> bool:
    """Whether FastAPI would do nothing but hand over the request and send the response."""
    needed = route.dependant
    read = (
        needed.path_params or needed.query_params or needed.header_params or needed.cookie_params or needed.body_params
    )
    alone = needed.request_param_name and not needed.dependencies and not read
    return bool(alone) and "{" not in route.path and route.response_class is Response


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
