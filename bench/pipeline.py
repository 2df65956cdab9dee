"""What vLLM is compared with: a transformers text-generation pipeline behind FastAPI, with the same weights."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import AsyncGenerator, Sequence

from bench.cpu import Meter, family
from bench.load import Connection, Got, Target
from bench.peers import ROOT, end, free_port, open_log
from bench.ratio import Pipeline

ANSWER_WITHIN = 600.0
TURNS, FEW = 3, 8
"""Few answers at once are asked for so many times: the median counts."""


async def ask_all(target: Target, requests: list[bytes]) -> tuple[list[Got], float]:
    """Ask everything at once; return the answers and the seconds until the last one was whole."""
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, "127.0.0.1", target.port))[1] for _ in requests]
    began = time.perf_counter()
    asking = [each.ask(request, ANSWER_WITHIN) for each, request in zip(connections, requests, strict=True)]
    answers = await asyncio.gather(*asking)
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.transport.close()
    return answers, seconds


@contextlib.asynccontextmanager
async def run_pipeline(python: str, weights: str) -> AsyncGenerator[tuple[Target, int]]:
    """Start the pipeline's server; yield where it is and its pid."""
    target = Target(free_port(), "openai")
    command = [python, str(ROOT / "bench/servers/transformers_pipeline.py"), str(target.port), weights]
    with open_log("pipeline") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 -- no clock runs yet
            command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            while True:
                if process.poll() is not None:
                    raise RuntimeError("the pipeline did not start; artifacts/bench/pipeline.log tells why")
                with contextlib.suppress(OSError):
                    await ask_all(target, [asking(target, "Hi", 2)])
                    break
                await asyncio.sleep(0.5)
        yield target, process.pid
    finally:
        await asyncio.to_thread(end, process, 2.0)


def asking(target: Target, prompt: str, tokens: int) -> bytes:
    """Return a request to the pipeline's server."""
    return target.post("/generate", {"prompt": prompt, "tokens": tokens})


async def measure_pipeline(python: str, weights: str, counts: Sequence[int], tokens: int) -> dict[int, Pipeline]:
    """Ask the pipeline for so many answers at once, one a stream."""
    found: dict[int, Pipeline] = {}
    async with run_pipeline(python, weights) as (target, pid):
        await ask_all(target, [asking(target, "Hi", tokens)])  # the first one pays for what is made once
        for count in counts:
            meter = Meter(family(pid))
            with meter.running():
                speeds = [await ask_once(target, count, tokens) for _ in range(TURNS if count <= FEW else 1)]
            found[count] = Pipeline(statistics.median(speeds), meter.memory)
            print(f"{count} at once, pipeline: {found[count].speed:.1f} tokens/s", flush=True)
    return found


async def ask_once(target: Target, count: int, tokens: int) -> float:
    """Ask for so many answers at once; return tokens a second.

    Raises:
        RuntimeError: It refused.
    """
    prompts = [f"Tell me about number {number}, and about the history of Paris." for number in range(count)]
    answers, seconds = await ask_all(target, [asking(target, each, tokens) for each in prompts])
    if wrong := [answer for answer in answers if answer.status != 200]:  # noqa: PLR2004
        raise RuntimeError(f"the pipeline answered {wrong[0].status}; artifacts/bench/pipeline.log tells why")
    return count * tokens / seconds
