"""``python -m bench.vllm``: a real vLLM, directly and through this project, and a transformers pipeline beside it.

Alone it starts the product with SmolLM2 (``models.json``) and asks it by vLLM's own ``vllm bench serve``, at 1, 8, 16
and 32 streams: the engine directly, the chain through the app's OpenAI protocol, and the engine through the app without
the chain (``smollm2:raw``), there and back (direct, chain, raw, raw, chain, direct). ``--engine`` takes one that runs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.cpu import Meter, family, memory_bytes, speed_of_this_moment
from bench.interruption import run_until_told
from bench.peers import MODELS, ROOT, end, free_port, known, measured, open_log
from bench.pipeline import measure_pipeline
from bench.ratio import (
    WAYS,
    Compared,
    Result,
    Runs,
    Way,
    order,
    pipeline_table,
    ratio_table,
    read_result,
)
from bench.report import put_into

MODEL = "smollm2"
READY_WITHIN = 900.0
"""Seconds; most of them only where the engine has to be installed first."""
PROMPT = 32
"""Tokens of a question, at random; the chain's own prompt comes before them."""
BEGIN, END = "<!-- bench-vllm: begin -->", "<!-- bench-vllm: end -->"

OF_RATIOS = """
SmolLM2-135M by vLLM's own `vllm bench serve`: {tokens} tokens an answer, two answers a stream (four at least), {runs}
runs each way, there and back. Ratio: tokens/s through the app by those of the engine alone, with the range of all pairs
of runs; "direct against itself" is by how much runs of the same thing differ. Engine, app and `vllm bench serve` share
this machine's {cores} cores: what the app takes of them, an engine that computes on them lacks. One fixed piece of work
took {work} ms; the load was {load} at the end.
"""
OF_PIPELINE = """
The pipeline (`bench/servers/transformers_pipeline.py`) is transformers' `text-generation` behind FastAPI, with the same
weights in bfloat16, one answer a stream, after vLLM was stopped. It gives each answer in one piece; requests run in
threads. Memory is PSS. vLLM takes room at its start for all the tokens that it may ever hold; the pipeline grows with
its requests.
"""


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    counts: list[int]
    """Of streams."""
    tokens: int
    """Of each answer."""
    rounds: int


@dataclass(frozen=True)
class Place:
    """A running vLLM and the app in front of it."""

    app: int
    """The app's port."""
    app_pids: list[int]
    engine: str
    """The engine's URL, without /v1."""
    name: str
    """The model's name there."""
    python: str
    """Of the engine's environment."""
    weights: str
    engine_pid: int | None
    """None where it was there before, and its processes are not known."""


@dataclass(frozen=True)
class Load:
    """One run: ``requests`` answers of so many tokens, ``streams`` of them at once."""

    streams: int
    requests: int
    tokens: int


# --- the product -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def run_product(models: Mapping[str, Any]) -> AsyncGenerator[tuple[int, subprocess.Popen[bytes], str]]:
    """Start the product for a list of models; yield its port, its process and its run directory once all is ready.

    Raises:
        RuntimeError: It ended, or is not ready in time; its log is named.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open_log("vllm") as log:
        (Path(folder) / "models.json").write_text(json.dumps(models))
        run_folder = f"{folder}/run"
        process = subprocess.Popen(  # noqa: ASYNC220 -- no clock runs yet
            [sys.executable, "-m", "vllm_launcher", "up", "--models", f"{folder}/models.json", "--port", str(port)],
            env={**os.environ, "LANGSERVE_VLLM_RUN": run_folder},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            await until_ready(process, port)
            yield port, process, run_folder
        finally:
            await asyncio.to_thread(end, process)


async def until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when every model is."""
    deadline = time.monotonic() + READY_WITHIN
    while not await asyncio.to_thread(answers, f"http://127.0.0.1:{port}/ready"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the product did not start; artifacts/bench/vllm.log tells why")
        await asyncio.sleep(0.5)


def answers(url: str) -> bool:
    """Whether it answers with 200."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- our own, on loopback
        return answer.status == 200  # noqa: PLR2004
    return False


@contextlib.asynccontextmanager
async def run_place(asked: argparse.Namespace) -> AsyncGenerator[Place]:
    """Start what is not there yet: the whole product, or the app alone in front of ``--engine``."""
    async with run_product(models_of(asked.engine)) as (port, process, run_folder):
        pids = measured(process.pid, known()["ours"])
        if asked.engine:
            yield Place(port, pids, asked.engine.rstrip("/"), MODEL, asked.python, asked.weights, None)
            return
        told = await asyncio.to_thread(ask_launcher, run_folder)
        command = psutil.Process(told["pid"]).cmdline()
        weights = command[command.index("--model") + 1]
        yield Place(port, pids, told["endpoint"], told["served_name"], command[0], weights, told["pid"])


def models_of(engine: str | None) -> dict[str, Any]:
    """Return a list of models with one entry: the one of this checkout's, or one in front of a running engine."""
    if engine:
        return json.loads(json.dumps(MODELS).replace("{engine}", engine.rstrip("/")))
    listed = json.loads((ROOT / "models.json").read_text())["models"]
    return {"models": [entry for entry in listed if entry["id"] == MODEL]}


def ask_launcher(run_folder: str) -> dict[str, Any]:
    """Return what a launcher says of its one server."""
    command = [sys.executable, "-m", "vllm_launcher", "status", "--json"]
    told = subprocess.run(
        command, env={**os.environ, "LANGSERVE_VLLM_RUN": run_folder}, cwd=ROOT, check=True, capture_output=True
    )
    return json.loads(told.stdout)["servers"][0]


# --- vLLM's own benchmark --------------------------------------------------------------------


class Serving:
    """``vllm bench serve`` in a process that stays, so that vLLM is imported once."""

    def __init__(self, process: asyncio.subprocess.Process, place: Place, folder: str) -> None:
        self._process = process
        self._place = place
        self._folder = folder

    async def waiting(self, word: str) -> None:
        """Return when it says so.

        Raises:
            RuntimeError: It ended.
        """
        assert self._process.stderr is not None, "it was opened"  # noqa: S101 -- for the types
        last = b""
        while line := await self._process.stderr.readline():
            if line.startswith(f"vllm bench serve: {word}".encode()):
                return
            last = line.strip() or last
        raise RuntimeError(f"vllm bench serve ended: {last.decode()}; see artifacts/bench/vllm-bench.log")

    async def run(self, way: Way, load: Load) -> Result:
        """Ask, and check that everything was answered."""
        result = Path(self._folder) / "result.json"
        result.unlink(missing_ok=True)
        arguments = json.dumps(arguments_of(self._place, way, load, result))
        assert self._process.stdin is not None, "it was opened"  # noqa: S101 -- for the types
        self._process.stdin.write(arguments.encode() + b"\n")
        await self.waiting("done")
        return read_result(await asyncio.to_thread(result.read_text), load.requests, load.tokens)


def arguments_of(place: Place, way: Way, load: Load, result: Path) -> list[str]:
    """Return the command line of one run; with one seed, so the questions are the same every way."""
    base = place.engine if way == "direct" else f"http://127.0.0.1:{place.app}"
    model = {"direct": place.name, "chain": MODEL, "raw": f"{MODEL}:raw"}[way]
    return [
        *("--backend", "openai-chat", "--base-url", base, "--endpoint", "/v1/chat/completions"),
        *("--model", model, "--tokenizer", place.weights, "--temperature", "0"),
        *("--dataset-name", "random", "--random-input-len", str(PROMPT), "--random-output-len", str(load.tokens)),
        *("--num-prompts", str(load.requests), "--max-concurrency", str(load.streams), "--seed", str(load.streams)),
        *("--ready-check-timeout-sec", "0", "--disable-tqdm", "--save-result"),
        *("--result-dir", str(result.parent), "--result-filename", result.name),
    ]


@contextlib.asynccontextmanager
async def run_serving(place: Place) -> AsyncGenerator[Serving]:
    """Start it; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open_log("vllm-bench") as log:
        process = await asyncio.create_subprocess_exec(
            *(place.python, str(ROOT / "bench/servers/vllm_bench.py")),
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            serving = Serving(process, place, folder)
            await serving.waiting("waiting")
            yield serving
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def compare(place: Place, wanted: Wanted) -> tuple[Compared, dict[int, int]]:
    """Ask every way at every number of streams; return what came, and vLLM's memory."""
    compared: dict[int, dict[Way, Runs]] = {count: {way: Runs() for way in WAYS} for count in wanted.counts}
    memory: dict[int, int] = {}
    async with run_serving(place) as serving:
        for way in WAYS:  # the first requests of each pay for what is made once
            await serving.run(way, Load(2, 2, 8))
        for count, ways in compared.items():
            load = Load(count, max(4, 2 * count), wanted.tokens)
            for way in order(wanted.rounds):
                meter = Meter(place.app_pids)
                with meter.running():
                    result = await serving.run(way, load)
                ways[way].results.append(result)
                ways[way].cpu.append(meter.cpu * 1e6 / result.tokens)
                print(f"{count} streams, {way}: {result.speed:.1f} tokens/s", flush=True)
            if place.engine_pid is not None:
                memory[count] = await asyncio.to_thread(memory_bytes, family(place.engine_pid))
    return compared, memory


# --- together ----------------------------------------------------------------------------------


async def run_all(asked: argparse.Namespace) -> str:
    """Measure everything; return it as text for docs/performance.md."""
    wanted = Wanted([int(count) for count in asked.streams.split(",")], asked.tokens, asked.rounds)
    speeds = [speed_of_this_moment()]
    async with run_place(asked) as place:
        compared, memory = await compare(place, wanted)
        speeds.append(speed_of_this_moment())
    parts = [ratio_table(compared), told_of_ratios(wanted, speeds)]
    if asked.pipeline:
        found = await measure_pipeline(place.python, place.weights, wanted.counts, wanted.tokens)
        parts += [pipeline_table(compared, memory, found), " ".join(OF_PIPELINE.split())]
    return "\n\n".join(parts) + "\n"


def told_of_ratios(wanted: Wanted, speeds: list[tuple[float, float]]) -> str:
    """Return what has to be known of the first table."""
    told = {
        "tokens": wanted.tokens,
        "runs": 2 * wanted.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "work": f"{statistics.median(cpu for cpu, _ in speeds) * 1e3:.1f}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    return " ".join(OF_RATIOS.format(**told).split())


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.vllm", description=__doc__)
    parser.add_argument("--engine", help="URL of a vLLM that runs already, without /v1; needs --python and --weights")
    parser.add_argument("--python", help="of that engine's environment")
    parser.add_argument("--weights", help="its checkpoint's folder")
    parser.add_argument("--streams", default="1,8,16,32")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1, help="there and back: two runs each way")
    parser.add_argument("--no-pipeline", dest="pipeline", action="store_false", help="vLLM alone")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    asked = parser.parse_args()
    if asked.engine and not (asked.python and asked.weights):
        parser.error("--engine needs --python and --weights: vllm bench serve and the pipeline run by them")
    text = run_until_told(run_all(asked))
    print(text)
    folder = ROOT / "artifacts" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vllm.md").write_text(text)
    if asked.write:
        put_into(ROOT / "docs" / "performance.md", text, (BEGIN, END))


if __name__ == "__main__":
    main()
