"""Server-sent events as LangServe writes them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Name and JSON data of each event, when it has come; None where an event carries no data."""
    name, data = "", None
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data = json.loads(value)
        elif not line and name:
            yield name, data
            name, data = "", None
