"""The benchmark itself, small: its engine, its load, and the product between them as real processes."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_stops_when_it_is_told_to_and_leaves_nothing(number: signal.Signals) -> None:
    """In the middle of a round, with the engine, the launcher and the app running; the status is an interruption's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "--peers", "ours", "--scenarios", "A", "--rounds", "9"),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN):
        while b"ours: up" not in await process.stdout.readline():
            assert process.returncode is None
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 2
        process.send_signal(number)
        rest = await process.stdout.read()
        assert await process.wait() == 130, rest.decode()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, started, 5)
    assert not alive, gone
