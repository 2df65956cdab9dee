"""The benchmark itself, small: its engine, its load, and the product between them as real processes."""

import asyncio
import json
import sys
from pathlib import Path

from tests.surroundings import ROOT, environment

WITHIN = 120.0


async def test_every_byte_comes_through_both_paths() -> None:
    """Over real sockets and uvicorn, the fast path and the general one pass on whole streams and whole answers."""
    report = ROOT / "artifacts" / "bench" / "report.json"
    report.unlink(missing_ok=True)
    command = (
        sys.executable,
        "-m",
        "bench",
        "--peers",
        "ours,general",
        "--scenarios",
        "smoke,first32",
        "--rounds",
        "1",
    )
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(WITHIN):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads(await asyncio.to_thread(Path.read_text, report))["table"]
    for peer in ("ours", "general"):
        assert [figures["failures"] for figures in found[peer].values()] == [0, 0], output.decode()
        assert found[peer]["smoke"]["tokens"] == 2 * 3 * 2 * 20
        assert found[peer]["smoke"]["cpu"][0] > 0
