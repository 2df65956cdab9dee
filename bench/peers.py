"""The servers that are compared, each in an environment of its own, each with one core to itself."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import psutil
from platformdirs import user_cache_path

from bench.cpu import family, pin
from bench.load import Scenario, Target, run
from bench.protocols import PROTOCOLS, Speaks

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = user_cache_path("langserve-vllm") / "bench"
START_WITHIN = 120.0


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Args:
        name: In the table.
        command: What starts it, with ``{port}``, ``{engine}`` (a URL) and ``{folder}`` (for files of its own).
        installs: What pip puts into its environment; None: it runs in this project's own.
        speaks: Its protocol.
        files: What its folder holds.
        environment: Added variables.
        model: As it is asked for.
        host: The peer whose process it is, where it has none of its own.
        process: A part of the command line that tells the process to measure; empty: everything that was started.
    """

    name: str
    command: tuple[str, ...]
    installs: tuple[str, ...] | None = None
    speaks: Speaks = "openai"
    files: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None
    process: str = ""
    model: str = "smollm2"
    host: str = ""


def known() -> dict[str, Peer]:
    """Return every peer by its short name."""
    servers = ROOT / "bench" / "servers"
    small = ("uvicorn[standard]==0.54.0", "starlette==1.10.0")
    up = (sys.executable, "-m", "vllm_launcher", "up", "--models", "{folder}/models.json", "--port", "{port}")
    models = {"models.json": json.dumps(MODELS)}
    ours = Peer("this project", up, speaks="langserve", files=models, process="-m app", environment=THOUSANDS)
    off = {**THOUSANDS, "LANGSERVE_VLLM_FAST_PATH": "false"}
    traced = {
        **THOUSANDS,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }  # OpenTelemetry's usual port; none need listen
    general = replace(ours, name="this project, general path", environment=off)
    return {
        "ours": ours,
        "general": general,
        **by_protocol(ours, "", "ours"),
        **by_protocol(general, "general-", "general"),
        "workers": replace(ours, name="this project, 2 workers", command=(*up, "--workers", "2")),
        "traced": replace(ours, name="this project, OpenTelemetry on", environment=traced),
        "langserve": Peer(
            "plain LangServe (prompt, ChatOpenAI, parser)",
            ("{python}", str(servers / "langserve_plain.py"), "{port}", "{engine}"),
            installs=("langserve[server]==0.3.3", "langchain-openai", "sse-starlette<2", *small),
            speaks="langserve",
        ),
        "litellm": Peer(
            "LiteLLM proxy",
            ("{bin}/litellm", "--config", "{folder}/config.yaml", "--host", "127.0.0.1", "--port", "{port}"),
            installs=("litellm[proxy]==1.106.*",),
            files={"config.yaml": LITELLM},
            environment={
                "LITELLM_LOG": "ERROR",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, with no key to guard
            },
        ),
        "httpx": Peer(
            "byte pass-through, Starlette + httpx",
            ("{python}", str(servers / "through_httpx.py"), "{port}", "{engine}"),
            installs=(*small, "httpx==0.28.1"),
        ),
        "aiohttp": Peer(
            "byte pass-through, Starlette + aiohttp",
            ("{python}", str(servers / "through_aiohttp.py"), "{port}", "{engine}"),
            installs=(*small, "aiohttp==3.14.5"),
        ),
        "router": Peer(
            "vllm-router (Rust)",
            (
                *("{bin}/vllm-router", "--host", "127.0.0.1", "--port", "{port}", "--worker-urls", "{engine}"),
                *("--policy", "round_robin", "--log-level", "error", "--prometheus-port", "{spare}"),
            ),
            installs=("vllm-router==0.1.17",),
        ),
    }


NAMES: Mapping[Speaks, str] = {
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "ollama": "Ollama",
    "tgi": "TGI",
    "kserve": "KServe",
}


def by_protocol(host: Peer, prefix: str, of: str) -> dict[str, Peer]:
    """Return a peer as it is in each protocol: the same process asked in another way. ``raw`` is OpenAI's, raw."""
    spoken = {
        f"{prefix}{speaks}": replace(host, name=f"{host.name}, {NAMES[speaks]}", speaks=speaks, host=of)
        for speaks in PROTOCOLS
        if speaks in NAMES
    }
    raw = replace(host, name=f"{host.name}, OpenAI raw", speaks="openai", model="smollm2:raw", host=of)
    return {**spoken, f"{prefix}raw": raw}


BY_PROTOCOL = [f"{prefix}{each}" for each in (*NAMES, "raw") for prefix in ("", "general-")]

THOUSANDS = {"LANGSERVE_VLLM_ENGINE_SEQUENCES": "2048", "LANGSERVE_VLLM_ENGINE_CONNECTIONS": "4096"}
"""The stand-in engine computes as many answers at once as it is asked for; by default ours sends it 512."""
MODELS = {
    "models": [
        {
            "id": "smollm2",
            "task": "chat",
            "engine": {"type": "external", "url": "{engine}/v1"},
            "chain": {"package": "smollm2_chat"},
            "sampling": {"temperature": 0.2, "max_tokens": 512},
        }
    ],
}
LITELLM = """\
model_list:
  - model_name: smollm2
    litellm_params: {model: hosted_vllm/smollm2, api_base: "{engine}/v1", api_key: EMPTY}
litellm_settings: {telemetry: false, drop_params: true}
"""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    peer: Peer
    target: Target
    pids: list[int]
    """What is measured."""


async def make_environment(name: str, peer: Peer) -> Path | None:
    """Return the folder of the peer's environment, made at the first use."""
    if peer.installs is None:
        return None
    folder = ENVIRONMENTS / name
    stamp, wanted = folder / "installed.json", json.dumps(peer.installs)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    uv = str(Path(sys.executable).parent / "uv")
    await run_to_its_end(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    await run_to_its_end(uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *peer.installs)
    stamp.write_text(wanted)
    return folder


async def run_to_its_end(*command: str) -> None:
    """Run a program; it ends with us where we are told to stop.

    Raises:
        RuntimeError: It failed.
    """
    process = await asyncio.create_subprocess_exec(*command)
    try:
        if await process.wait():
            raise RuntimeError(f"{' '.join(command)} failed")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def run_peer(name: str, peer: Peer, engine: str, core: int | None, others: list[int]) -> AsyncGenerator[Running]:
    """Start a peer in front of ``engine``, wait until it answers, and pin it to ``core``; stop it at the end.

    Without a core the engine is a real one, which shares all of them.
    """
    environment = await make_environment(name, peer)
    port, spare = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        told = {"port": str(port), "spare": str(spare), "engine": engine, "folder": folder}
        told |= {"python": str(environment / "bin/python"), "bin": str(environment / "bin")} if environment else {}
        for file, text in (peer.files or {}).items():
            (Path(folder) / file).write_text(text.replace("{engine}", engine))
        command = [part.format(**told) for part in peer.command]
        variables = {**os.environ, **(peer.environment or {}), "LANGSERVE_VLLM_RUN": f"{folder}/run"}
        with open_log(name) as log:
            process = subprocess.Popen(  # noqa: ASYNC220 -- no clock runs yet
                command, env=variables, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        patience = 20.0
        try:
            target = Target(port, peer.speaks, peer.model)
            await until_answering(process, target, name, known_text=core is not None)
            pids = measured(process.pid, peer)
            if core is not None:
                pin([pid for pid in family(process.pid) if pid not in pids], others)
                pin(pids, [core])
            yield Running(peer, target, pids)
        except asyncio.CancelledError:
            patience = 2.0  # somebody waits
            raise
        finally:
            await asyncio.to_thread(end, process, patience)


def measured(root: int, peer: Peer) -> list[int]:
    """Return the processes whose cost counts."""
    pids = family(root)
    if not peer.process:
        return pids
    return [pid for pid in pids if peer.process in " ".join(psutil.Process(pid).cmdline()) and not _is_guard(pid)]


def _is_guard(pid: int) -> bool:
    return "guard" in " ".join(psutil.Process(pid).cmdline())


def open_log(name: str) -> BinaryIO:
    """Return the file that a peer's output goes to."""
    folder = ROOT / "artifacts" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.log").open("wb")


async def until_answering(
    process: subprocess.Popen[bytes], target: Target, name: str, *, known_text: bool = True
) -> None:
    """Return when a stream comes through whole; of a real engine nobody knows the text."""

    async def only(work: Awaitable[None]) -> None:
        await work

    async with asyncio.timeout(START_WITHIN):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended at its start; see artifacts/bench/{name}.log")
            with contextlib.suppress(OSError):
                outcome = await run(target, Scenario("ready", 1, 2, 0, within=10), only)
                if not outcome.failures or (not known_text and "another text" in outcome.failures[0]):
                    return
            await asyncio.sleep(0.3)


def end(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """Stop a peer and everything it started; what has not ended after ``patience`` seconds is killed."""
    pids = family(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    process.wait(5)


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def spoken_by(running: Running, peer: Peer) -> Running:
    """Return a running server as another peer asks it."""
    return Running(peer, replace(running.target, speaks=peer.speaks, model=peer.model), running.pids)


@contextlib.asynccontextmanager
async def run_engine(core: int) -> AsyncGenerator[str]:
    """Start the stand-in engine and yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "bench.engine", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)  # noqa: ASYNC220 -- no clock runs yet
    try:
        await until_answering(process, Target(port, "openai"), "engine")
        pin([process.pid], [core])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
