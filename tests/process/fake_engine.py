"""An engine that behaves as vLLM was measured to, badly where asked: standard library only, up in 0.1 s.

``python -I -S fake_engine.py --port PORT --served-model-name NAME``; how it misbehaves stands in FAKE_MODES, comma
separated::

    never-ready      /health says 503 for ever
    exits            ends before it listens, with FAKE_EXIT and a traceback (its last lines echo the first error)
    dead-on-first    /health is 200, the first request kills it, with code 0 (a GGUF whose kernels are missing)
    never-generates  /health is 200, no request is ever answered
    wrong-name       /v1/models names another model
    hangs            after its first token /health stays 200 and no request is answered; it counts as running
    mute             after its first token nothing is answered any more, /health included
    stale-gauges     with hangs: the running gauge stays 0, because it is set by the steps that do not happen
    dies-in-stream   ends in the middle of a stream: an error event, [DONE], exit code 0
    loses-sigterm    SIGTERM before it is ready is lost
    ignores-sigterm  SIGTERM is ignored
    worker           has a worker process, which outlives SIGKILL of its parent
    needs-worker     has a worker process, and does as vLLM does when that dies: an error event, [DONE], exit code 0
    setsid-worker    has a worker in a session of its own, whose parent is gone
    shm              holds the shared memory FAKE_SHM, as multiprocessing makes it
    gate             /health says 503 until the file FAKE_GATE exists
    sleeps           has sleep mode: while it sleeps, requests are answered with 500

Asked to end, it drains as vLLM does with --shutdown-timeout: /health stays 200, new requests get 500, open streams
end, exit code 0.
"""

# ruff: noqa: T201, D102 - it logs as engines do, and its methods are those of http.server

import argparse
import contextlib
import json
import os
import signal
import subprocess  # noqa: TID251 - an engine starts its own workers
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = frozenset(os.environ.get("FAKE_MODES", "").split(","))  # noqa: TID251 - it is a program of its own
EXIT = int(os.environ.get("FAKE_EXIT", "1"))  # noqa: TID251
GATE = os.environ.get("FAKE_GATE", "")  # noqa: TID251
PACE = float(os.environ.get("FAKE_PACE", "0.01"))  # noqa: TID251
WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
FOREVER = 600.0
TRACEBACK = """\
(EngineCore pid=7) ERROR 11-22 16:18:00 [core.py:900] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-22 16:18:00 [core.py:900] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 16:18:00 [core.py:900]   File "core.py", line 891, in run_engine_core
(EngineCore pid=7) ERROR 11-22 16:18:00 [core.py:900] ValueError: the fake engine's own reason
Traceback (most recent call last):
  File "api_server.py", line 1, in <module>
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


class Engine:
    """What the requests share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.running = 0
        self.tokens = 0
        self.prompts = 0
        self.draining = False
        self.asleep = False
        self.warm = False
        self.broken = False

    def healthy(self) -> bool:
        return "never-ready" not in MODES and ("gate" not in MODES or os.path.exists(GATE))  # noqa: PTH110 - -S

    def metrics(self) -> str:
        running = 0 if "stale-gauges" in MODES else self.running
        label = f'{{engine="0",model_name="{self.name}"}}'
        return (
            f"# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{label} {running:.1f}\n"
            f"vllm:num_requests_waiting{label} 0.0\n"
            f"vllm:prompt_tokens_total{label} {self.prompts:.1f}\n"
            f"vllm:prompt_tokens_created{label} {time.time()}\n"
            f"vllm:generation_tokens_total{label} {self.tokens:.1f}\n"
            f"vllm:iteration_tokens_total_count{label} {self.tokens:.1f}\n"
        )

    @contextlib.contextmanager
    def request(self) -> Any:
        with self.lock:
            self.running += 1
            self.prompts += 5
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1

    def step(self) -> None:
        if "never-generates" in MODES or ({"hangs", "mute"} & MODES and self.warm):
            time.sleep(FOREVER)
        if "dead-on-first" in MODES:
            leave(0)
        with self.lock:
            self.tokens += 1
            self.warm = True


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        if "mute" in MODES and self.engine.warm:
            time.sleep(FOREVER)
        if self.path == "/health":
            self.answer(200 if self.engine.healthy() else 503, "")
        elif self.path == "/v1/models":
            name = "somebody-else" if "wrong-name" in MODES else self.engine.name
            self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"}]})
        elif self.path == "/metrics":
            self.answer(200, self.engine.metrics())
        else:
            self.answer(404, {"error": {"message": "Not Found"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if "sleeps" in MODES and self.path.partition("?")[0] in ("/sleep", "/wake_up", "/collective_rpc"):
            self.engine.asleep = self.path != "/wake_up" and not self.path.endswith("tags=kv_cache")
            self.answer(200, "")
        elif self.engine.draining or self.engine.asleep:
            self.answer(500, {"error": {"message": "shutting down"}})
        elif body.get("model") != self.engine.name:
            self.answer(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})
        elif self.path == "/v1/embeddings":
            self.answer(200, {"data": [{"embedding": [1.0, 0.0]}]})
        elif self.path != "/v1/chat/completions":
            self.answer(404, {"error": {"message": "Not Found"}})
        else:
            with self.engine.request():
                (self.stream if body.get("stream") else self.complete)(int(body.get("max_tokens") or 16))

    def complete(self, tokens: int) -> None:
        for _ in range(tokens):
            self.engine.step()
        message = {"role": "assistant", "content": "word " * tokens}
        self.answer(200, {"choices": [{"message": message}], "usage": {"completion_tokens": tokens}})

    def stream(self, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(tokens):
            self.engine.step()
            self.event({"choices": [{"delta": {"content": f"word{number} "}}]})
            if "dies-in-stream" in MODES or self.engine.broken:
                self.event({"error": {"message": "EngineCore encountered an issue.", "code": 500}})
                self.wfile.write(b"data: [DONE]\n\n")
                leave(0)
            time.sleep(PACE)
        self.event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def answer(self, status: int, body: dict[str, Any] | str) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        with contextlib.suppress(BrokenPipeError):  # an engine does not die of its launcher's death: the guard kills it
            print(format % args, flush=True)


def leave(code: int) -> None:
    """End without ado, from any thread."""
    sys.stdout.flush()
    os._exit(code)


def drain(engine: Engine) -> None:
    """End as vLLM does: finish what is open, then exit 0."""
    engine.draining = True
    while engine.running:
        time.sleep(0.005)
    leave(0)


def on_sigterm(engine: Engine) -> None:
    """Do with SIGTERM what the modes say."""
    lost = "loses-sigterm" in MODES and not engine.healthy()
    if not lost and "ignores-sigterm" not in MODES:
        threading.Thread(target=drain, args=(engine,), daemon=True).start()


def end_with(worker: Any, engine: Engine) -> None:
    """Wait for a worker's death, and die of it: streams are told first, by the thread that serves them."""
    worker.wait()
    engine.broken = True
    while engine.running:
        time.sleep(0.005)
    leave(0)


def start_workers(engine: Engine) -> None:
    """Start the processes that the modes ask for."""
    command = [sys.executable, "-I", "-S", "-c", WORKER]
    if "needs-worker" in MODES:
        threading.Thread(target=end_with, args=(subprocess.Popen(command), engine), daemon=True).start()
    if "worker" in MODES:
        subprocess.Popen(command)
    if "setsid-worker" in MODES:
        script = "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    os.execv(sys.argv[1], sys.argv[1:])"
        subprocess.run([sys.executable, "-I", "-S", "-c", script, *command], check=True)


def hold_shared_memory() -> Any:
    """Shared memory that only the resource tracker removes when this process is killed."""
    if "shm" not in MODES:
        return None
    from multiprocessing.shared_memory import SharedMemory  # noqa: PLC0415 - slow, and seldom wanted

    return SharedMemory(name=os.environ["FAKE_SHM"], create=True, size=4096)  # noqa: TID251


def main() -> None:
    """Serve until told otherwise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    arguments = parser.parse_args()
    engine = Engine(arguments.served_model_name)
    signal.signal(signal.SIGTERM, lambda _number, _frame: on_sigterm(engine))
    print("fake engine: starting", flush=True)
    if "exits" in MODES:
        print(TRACEBACK, flush=True)
        sys.exit(EXIT)
    start_workers(engine)
    memory = hold_shared_memory()
    Handler.engine = engine
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.daemon_threads = True
    print("fake engine: listening", flush=True)
    server.serve_forever(poll_interval=0.05)
    del memory


if __name__ == "__main__":
    main()
