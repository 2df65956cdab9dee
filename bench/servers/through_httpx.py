"""A byte pass-through: Starlette and httpx; ``python through_httpx.py PORT URL``."""

import contextlib
import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PORT, URL = int(sys.argv[1]), sys.argv[2]
client = httpx.AsyncClient(
    timeout=600, limits=httpx.Limits(max_connections=2000, max_keepalive_connections=20), trust_env=False
)


async def forward(request: Request) -> StreamingResponse:
    """Pass on a request and its answer."""
    asked = client.build_request(
        "POST", URL + request.url.path, content=await request.body(), headers={"content-type": "application/json"}
    )
    answer = await client.send(asked, stream=True)

    async def pieces():  # noqa: ANN202
        async with contextlib.aclosing(answer):
            async for piece in answer.aiter_raw():
                yield piece

    return StreamingResponse(pieces(), answer.status_code, media_type=answer.headers["content-type"])


app = Starlette(routes=[Route("/{path:path}", forward, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning", loop="uvloop", http="httptools")
