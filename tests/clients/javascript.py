"""Runs the JavaScript clients: one operation of one script, whose printed JSON lines are what the client got."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.surroundings import missing, node

FOLDER = Path(__file__).parent / "js"
WITHIN = 150.0


async def run_client(package: str, url: str, operation: str) -> list[Any]:
    """Return what ``<package>.mjs`` prints; a skip (a failure in CI) where the client is not installed."""
    if not (FOLDER / "node_modules" / package).exists():
        missing(f"{package} for JavaScript (make dev installs it)")
    process = await asyncio.create_subprocess_exec(
        node(),
        f"{package}.mjs",
        url,
        operation,
        cwd=FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]
