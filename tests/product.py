"""The real product, started as a person starts it, for tests to talk to."""

import contextlib
import http.client
import json
import secrets
import signal
import socket
import subprocess  # noqa: TID251 - a test starts the product from outside, as a shell does
import sys
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

from tests.processes import MARK, family, until_gone
from tests.surroundings import ROOT, environment
from vllm_launcher.processes.run_directory import control_socket, token_of
from vllm_launcher.status import LauncherStatus

READY_WITHIN = 540.0
"""Seconds for a start; most of them only where the engine has to be installed first."""
STOP_WITHIN = 60.0
"""Seconds from SIGTERM to the last process's end."""


class NotReadyError(AssertionError):
    """The product gave up, ended or took too long; the message holds the end of its log."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket: httpx leaves it open when nobody listens, and warnings are errors here."""

    def __init__(self, path: Path) -> None:
        super().__init__("launcher", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect, or leave nothing open."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Product:
    """One running product: launcher, app and engine servers."""

    url: str
    """Of the app, without a trailing slash."""
    run_dir: Path
    log: Path
    process: subprocess.Popen[bytes]
    mark: str
    grpc: str = ""
    """Where the app serves gRPC: host and port."""
    seen: dict[int, psutil.Process] = field(default_factory=dict[int, psutil.Process])

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self.process.pid

    @property
    def engine_url(self) -> str:
        """Where the first model's server listens, without /v1; it is told only while ready."""
        return engine_url(self.run_dir)

    def engine_url_of(self, model: str) -> str:
        """Where that model's server listens, without /v1; it is told only while ready."""
        return engine_url(self.run_dir, model)

    def status(self) -> LauncherStatus:
        """What the launcher says, asked at its own socket; OSError where it does not listen."""
        return read_status(self.run_dir)

    def metrics(self) -> dict[str, float]:
        """The engine's metrics by name, summed over their labels."""
        return read_metrics(self.engine_url)

    def family(self) -> list[psutil.Process]:
        """Every living process of it. Call it now and then: what was seen once is checked at the end."""
        living = family(self.pid, self.mark)
        self.seen.update({process.pid: process for process in living})
        return living

    def wait_ready(self, within: float = READY_WITHIN) -> None:
        """Wait until every model that loads at startup is ready.

        Raises:
            NotReadyError: It ended, a model failed, or the time is up.
        """
        deadline = time.monotonic() + within
        while not self._ready():
            if self.process.poll() is not None:
                raise NotReadyError(f"the launcher ended with {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"not ready after {within} s\n{self.tail()}")
            time.sleep(0.25)
        self.family()

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=self.url, timeout=5) as client:
            if client.get("/ready").status_code == 200:
                return True
            failed = [
                model for model in client.get("/models").json() if model["state"] == "failed" and not model["refused"]
            ]
            if failed:
                raise NotReadyError(f"gave up: {failed}\n{self.tail()}")
        return False

    def stop(self, *, within: float = STOP_WITHIN) -> list[str]:
        """SIGTERM it; return the processes that are still there after ``within`` seconds (they are killed then)."""
        self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.leftovers(within=within)

    def leftovers(self, *, within: float) -> list[str]:
        """Wait for every process ever seen to end; describe, and kill, those that do not."""
        deadline = time.monotonic() + within
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=within)  # reaps it: it is our child
        left = until_gone([*self.seen.values(), *self.family()], within=max(1.0, deadline - time.monotonic()))
        described = [f"{process.pid} {' '.join(process.cmdline())}" for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return described

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def start(
    run_dir: Path, log: Path, *, models: Path = ROOT / "models.json", env: Mapping[str, str] = MappingProxyType({})
) -> Product:
    """Start a product on a free port, with a run directory of its own and the user's caches; returns at once."""
    mark, port, grpc_port = uuid.uuid4().hex, free_port(), free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # another session may still write to the old one
    command = [sys.executable, "-m", "vllm_launcher", "up", "--models", str(models), "--port", str(port)]
    command += ["--grpc-port", str(grpc_port)]
    command.append("--exit-with-parent")  # a session of tests that is killed leaves nothing running
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(
                LANGSERVE_VLLM_RUN=str(run_dir), LANGSERVE_VLLM_DATA=str(run_dir / "data"), **env, **{MARK: mark}
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url, grpc = f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"
    return Product(url=url, run_dir=run_dir, log=log, process=process, mark=mark, grpc=grpc)


def only(folder: Path, *models: str, **changes: Any) -> Path:
    """A list of models in ``folder`` with these entries of the product's own, with changes; the first comes first."""
    entries = {entry["id"]: entry for entry in json.loads((ROOT / "models.json").read_text())["models"]}
    for entry in (entries[model] for model in models):
        if entry.get("source", {}).get("type") == "path":  # one that borrows another's server has none
            entry["source"]["path"] = str(ROOT / entry["source"]["path"])
    path = folder / "models.json"
    path.write_text(json.dumps({"models": [entries[model] | changes for model in models]}))
    return path


@contextlib.contextmanager
def started(
    run_dir: Path, log: Path, *, models: Path = ROOT / "models.json", env: Mapping[str, str] = MappingProxyType({})
) -> Generator[Product]:
    """A product that is stopped at the end, whatever happens; what is left of it then is an error."""
    product = start(run_dir, log, models=models, env=env)
    try:
        yield product
    finally:
        left = product.stop()
    assert not left, f"left behind: {left}"


def read_status(run_dir: Path) -> LauncherStatus:
    """What the launcher of that run directory says, asked at its own socket.

    Raises:
        OSError: It does not listen, not yet or not any more.
    """
    with contextlib.closing(UnixConnection(control_socket(run_dir))) as connection:
        connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {token_of(run_dir)}"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"the launcher answered with {response.status}")
        return LauncherStatus.model_validate_json(response.read())


def engine_url(run_dir: Path, model: str | None = None) -> str:
    """Where a model's server listens (the first one's if none is named), without /v1.

    Raises:
        NotReadyError: It is not ready now.
    """
    status = read_status(run_dir)
    server = status.server(model) if model else status.servers[0]
    if server is None or server.endpoint is None:
        raise NotReadyError(f"it is not ready: {server!r}")
    return server.endpoint


def read_metrics(engine_url: str) -> dict[str, float]:
    """Prometheus text as name -> value, summed over the labels."""
    totals: dict[str, float] = {}
    for line in httpx.get(f"{engine_url}/metrics", timeout=10).raise_for_status().text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def free_port() -> int:
    """A port that nothing listens on now, of those that no outgoing connection and no probe for one is given."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)  # Linux gives from 32768 on
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
