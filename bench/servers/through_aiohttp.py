"""A byte pass-through: Starlette and aiohttp's client; ``python through_aiohttp.py PORT URL``."""

import contextlib
import sys

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PORT, URL = int(sys.argv[1]), sys.argv[2]


@contextlib.asynccontextmanager
async def lifespan(app: Starlette):  # noqa: ANN201
    """Hold the connections."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        app.state.session = session
        yield


async def forward(request: Request) -> StreamingResponse:
    """Pass on a request and its answer."""
    answer = await request.app.state.session.post(
        URL + request.url.path, data=await request.body(), headers={"content-type": "application/json"}
    )

    async def pieces():  # noqa: ANN202
        async with answer:
            async for piece in answer.content.iter_any():
                yield piece

    return StreamingResponse(pieces(), answer.status, media_type=answer.headers["content-type"])


app = Starlette(routes=[Route("/{path:path}", forward, methods=["POST"])], lifespan=lifespan)
uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning", loop="uvloop", http="httptools")
