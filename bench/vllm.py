"""``python -m bench.vllm``: a real vLLM, directly and through this project; and a transformers pipeline beside it.

The engine is one that runs already (``--engine URL``, serving ``--model``), for example ``make serve``'s.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from bench.cpu import Meter, family, memory_bytes
from bench.load import Connection, Got, Target
from bench.peers import ROOT, end, free_port, known, open_log, run_peer

QUESTION = "Tell me about the history of Paris, number {number}."
ANSWER_WITHIN = 600.0


@dataclass
class Throughput:
    """One way to ask at one number of streams, a value per round."""

    speed: list[float] = field(default_factory=list[float])
    """Tokens a second, all streams together."""
    cpu: list[float] = field(default_factory=list[float])
    """Of the app, microseconds per token."""


def question(target: Target, number: int, tokens: int) -> bytes:
    """Return a request for exactly so many tokens, always the same ones."""
    message, asked = QUESTION.format(number=number), {"temperature": 0, "max_tokens": tokens, "ignore_eos": True}
    if target.speaks == "langserve":
        return target.post(f"/{target.model}/stream", {"input": message, "config": {"configurable": asked}})
    messages = [
        {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
        {"role": "user", "content": message},
    ]
    body = {"model": target.model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    return target.post("/v1/chat/completions", {**body, **asked})


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


async def measure(target: Target, streams: int, tokens: int, pids: list[int], into: Throughput) -> list[str]:
    """Run one round; return the texts."""
    meter = Meter(pids)
    with meter.running():
        answers, seconds = await ask_all(target, [question(target, number, tokens) for number in range(streams)])
    texts = ["".join(text for _, text in answer.moments(target.speaks)) for answer in answers]
    into.speed.append(streams * tokens / seconds)
    if pids:
        into.cpu.append(meter.cpu * 1e6 / (streams * tokens))
    return texts


async def compare(engine: str, model: str, counts: list[int], tokens: int, rounds: int) -> str:
    """Measure direct and through the app, in turn; return a table."""
    direct = Target(int(engine.rsplit(":", 1)[1]), "openai", model)
    table: dict[int, tuple[Throughput, Throughput]] = {count: (Throughput(), Throughput()) for count in counts}
    equal = everything = 0
    async with run_peer("ours", known()["ours"], engine, None, []) as running:
        for count in counts:
            alone, through = table[count]
            for turn in range(rounds):
                ways = [(direct, list[int](), alone), (running.target, running.pids, through)]
                texts = [await measure(way[0], count, tokens, way[1], way[2]) for way in ways[:: 1 - turn % 2 * 2]]
                everything += count
                equal += sum(one == other for one, other in zip(*texts, strict=True))
                print(f"{count} streams: {alone.speed[-1]:.0f} and {through.speed[-1]:.0f} tokens/s", flush=True)
    rows = ["| streams | direct, tokens/s | through, tokens/s | ratio | app CPU, µs a token |", "|---|---|---|---|---|"]
    rows += [row(count, *table[count]) for count in counts]
    return "\n".join([*rows, "", f"{equal} of {everything} answers had the same text both ways, at temperature 0."])


def row(count: int, alone: Throughput, through: Throughput) -> str:
    """Return one line of the table: medians, and the ratio with its range over the rounds."""
    ratios = sorted(there / here for here, there in zip(alone.speed, through.speed, strict=True))
    cells = (statistics.median(alone.speed), statistics.median(through.speed))
    told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"| {count} | {cells[0]:.0f} | {cells[1]:.0f} | {told} | {statistics.median(through.cpu):.0f} |"


# --- the pipeline ------------------------------------------------------------------------------


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
                with contextlib.suppress(OSError):
                    await ask_all(target, [target.post("/generate", {"prompt": "Hi", "tokens": 2})])
                    break
                await asyncio.sleep(0.5)
        yield target, process.pid
    finally:
        await asyncio.to_thread(end, process)


async def measure_pipeline(python: str, weights: str, counts: list[int], tokens: int) -> str:
    """Return a table of what the pipeline does."""
    rows = ["| requests at once | pipeline, tokens/s |", "|---|---|"]
    async with run_pipeline(python, weights) as (target, pid):
        for count in counts:
            requests = [
                target.post("/generate", {"prompt": QUESTION.format(number=number), "tokens": tokens})
                for number in range(count)
            ]
            answers, seconds = await ask_all(target, requests)
            if any(answer.status != 200 for answer in answers):  # noqa: PLR2004
                raise RuntimeError(f"the pipeline answered {answers[0].pieces}")
            rows.append(f"| {count} | {count * tokens / seconds:.0f} |")
            print(rows[-1], flush=True)
        memory = memory_bytes(family(pid)) / 2**20
    return "\n".join([*rows, "", f"The pipeline's process took {memory:.0f} MiB."])


async def run_all(asked: argparse.Namespace) -> str:
    """Measure everything that was asked for."""
    counts = [int(count) for count in asked.streams.split(",")]
    parts = [await compare(asked.engine, asked.model, counts, asked.tokens, asked.rounds)]
    if asked.python:
        parts.append(await measure_pipeline(asked.python, asked.weights, counts, asked.tokens))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.vllm", description=__doc__)
    parser.add_argument("--engine", required=True, help="URL of a running vLLM, without /v1")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--streams", default="1,8,16,32")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--python", help="of an environment with transformers and FastAPI: an engine's has both")
    parser.add_argument("--weights", help="a checkpoint's folder, for the pipeline")
    asked = parser.parse_args()
    text = asyncio.run(run_all(asked))
    print(text)
    folder = ROOT / "artifacts" / "bench"
    Path(folder).mkdir(parents=True, exist_ok=True)
    (folder / "vllm.json").write_text(json.dumps({"table": text}))


if __name__ == "__main__":
    main()
