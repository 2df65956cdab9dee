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


@pytest.mark.parametrize(
    ("peers", "scenarios"),
    [("ours,general", "smoke,first32"), ("ours,openai,anthropic,ollama,tgi,kserve,raw", "smoke")],
)
async def test_every_byte_comes_through(peers: str, scenarios: str) -> None:
    """Over real sockets and uvicorn, by both paths and in every protocol, whole streams are passed on."""
    report = ROOT / "artifacts" / "bench" / "report.json"
    report.unlink(missing_ok=True)
    command = (sys.executable, "-m", "bench", "--peers", peers, "--scenarios", scenarios, "--rounds", "1")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(WITHIN):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads(await asyncio.to_thread(Path.read_text, report))["table"]
    for peer in peers.split(","):
        assert all(figures["failures"] == 0 for figures in found[peer].values()), output.decode()
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
