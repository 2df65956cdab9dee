"""POSTs by their exact path, in front of the routes."""

from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.direct import Direct, exact_posts


async def direct(request: Request) -> Response:
    """Tell what it was sent."""
    return PlainTextResponse(f"direct {(await request.body()).decode()} {request.path_params}")


def behind(_: Request) -> Response:
    """Tell that it was a route."""
    return PlainTextResponse("route")


def client(root: str = "") -> AsyncClient:
    """A client of both, perhaps below a proxy's prefix."""
    routes = [Direct({"/m/invoke": direct}), Route("/{model}/invoke", behind, methods=["POST", "PUT"])]
    return AsyncClient(transport=ASGITransport(Starlette(routes=routes), root_path=root), base_url="http://test")


async def test_an_exact_path_is_answered_without_routes() -> None:
    """Below a proxy's prefix too."""
    async with client() as plain, client("/behind") as below:
        assert (await plain.post("/m/invoke", content="x")).text == "direct x {}"
        assert (await below.post("/behind/m/invoke", content="x")).text == "direct x {}"
        assert (await below.post("/m/invoke", content="x")).text == "direct x {}"


async def test_everything_else_goes_to_the_routes() -> None:
    """Another path, another method, another form of the path."""
    async with client() as plain:
        assert (await plain.post("/other/invoke")).text == "route"
        assert (await plain.put("/m/invoke")).text == "route"
        assert (await plain.get("/m/invoke")).status_code == 405
        assert (await plain.post("/m/invoke/")).status_code == 307


async def also_read(request: Request, depth: int = 1) -> Response:
    """FastAPI reads something for it."""
    return PlainTextResponse(f"{request.url} {depth}")


def test_only_posts_that_fastapi_does_nothing_for_are_found() -> None:
    """The first of a path counts, as among routes."""
    router, second = APIRouter(prefix="/m"), APIRouter()
    router.add_api_route("/a", direct, methods=["POST"], response_class=Response)
    router.add_api_route("/{name}", direct, methods=["POST"], response_class=Response)
    router.add_api_route("/b", also_read, methods=["POST"], response_class=Response)
    router.add_api_route("/c", direct, methods=["POST", "DELETE"], response_class=Response)
    router.add_api_route("/d", direct, response_class=Response)
    router.add_api_route("/e", direct, methods=["POST"])
    second.add_api_route("/m/a", behind, methods=["POST"], response_class=Response)
    assert exact_posts([router, second]) == {"/m/a": direct}
