"""A stand-in engine: vLLM's exact stream, from a process that costs next to nothing.

``python -m bench.engine --port PORT``. A request says in its last message what it wants: ``bench seed=3 tokens=100
pace=20`` gives 100 known pieces, one every 20 ms. As in vLLM every step gives each running request a piece, so all
requests of one pace are written to in the same moment.
"""

import argparse
import asyncio
import functools
import json
import re
import socket
import uuid
from collections.abc import Callable
from typing import Any

import httptools
import uvloop

WORDS = (
    *(" the", " quick", " brown", " fox", " jumps", " over", " lazy", " dogs", ",", "."),
    *(" naïve", " 東京", " 😀", '"', "\\", "\n", "\t", " <b>", " café", " Ω"),
)
"""Pieces with everything that JSON and UTF-8 make difficult."""

LIKELIHOOD = b'{"content":[{"token":%b,"logprob":-0.16622434556484222,"bytes":[32],"top_logprobs":[]}]}'
"""Of a token, where a request asks for likelihoods (and, as TGI's do, for the tokens' numbers)."""
WISH = re.compile(r"bench seed=(\d+) tokens=(\d+) pace=(\d+)")


def text_of(seed: int, tokens: int) -> list[str]:
    """Return the pieces that the engine answers a wish with."""
    return [WORDS[(seed + index) % len(WORDS)] for index in range(tokens)]


def wish(seed: int, tokens: int, pace: int) -> str:
    """Return the message that asks for so many pieces, one every ``pace`` milliseconds (0: all at once)."""
    return f"bench seed={seed} tokens={tokens} pace={pace}"


def read_wish(body: bytes) -> tuple[int, int, int]:
    """Return seed, tokens and pace; a request of the launcher's health check wants one token."""
    found = WISH.search(body.decode())
    if not found:
        return 0, 1, 0
    return int(found[1]), int(found[2]), int(found[3])


class Answer:
    """One stream under way."""

    def __init__(
        self, transport: asyncio.Transport, model: str, seed: int, tokens: int, done: Callable[[], None]
    ) -> None:
        self.transport = transport
        self.told = False
        """Whether numbers and likelihoods of tokens are."""
        self._done = done
        self._texts = text_of(seed, tokens)
        self._next = 0
        self._usage = {"prompt_tokens": 30, "total_tokens": 30 + tokens, "completion_tokens": tokens}
        head = {"id": f"chatcmpl-{uuid.uuid4().hex[:16]}", "object": "chat.completion.chunk", "created": 1795367513}
        self._head = json.dumps({**head, "model": model}, separators=(",", ":")).encode()[:-1]

    def begin(self) -> None:
        """Send the answer's head and its first event, which carries the role."""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        self._send(b',"choices":[' + role + b'],"prompt_token_ids":null,"prompt_text":null}')

    def step(self) -> bool:
        """Send the next piece, and the end behind the last; tell whether there is more."""
        text, number = _json(self._texts[self._next]), self._next
        self._next += 1
        last = self._next == len(self._texts)
        end = b'"length","stop_reason":null' if last else b"null"
        self._send(
            b',"choices":[{"index":0,"delta":{"content":'
            + text
            + b'},"logprobs":'
            + (LIKELIHOOD % text if self.told else b"null")
            + b',"finish_reason":'
            + end
            + b',"token_ids":'
            + (b"[%d]" % number if self.told else b"null")
            + b"}]}"
        )
        if last:
            self._finish()
        return not last

    def _finish(self) -> None:
        usage = json.dumps(self._usage, separators=(",", ":")).encode()
        self._send(b',"choices":[],"usage":' + usage + b',"system_fingerprint":"vllm-0.32.0-bench"}')
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self._done()

    def _send(self, rest: bytes) -> None:
        self.transport.write(b"%x\r\ndata: %b%b\n\n\r\n" % (len(self._head) + len(rest) + 8, self._head, rest))


@functools.cache
def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


class Steps:
    """The engine's steps: all answers of one pace move in the same moment."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._running: set[Answer] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, answer: Answer) -> None:
        """Take part from the next step on."""
        self._running.add(answer)
        if self._timer is None:
            self._due = asyncio.get_running_loop().time() + self._pace
            self._timer = asyncio.get_running_loop().call_at(self._due, self._step)

    def remove(self, answer: Answer) -> None:
        """Take part no more: its reader has left."""
        self._running.discard(answer)

    def _step(self) -> None:
        for answer in tuple(self._running):
            if not answer.step():
                self._running.discard(answer)
        self._timer = None
        if self._running:
            loop = asyncio.get_running_loop()
            self._due = max(self._due + self._pace, loop.time())
            self._timer = loop.call_at(self._due, self._step)


class Engine:
    """What connections share."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.steps: dict[int, Steps] = {}
        self.begun = self.left = 0
        """Answers begun, and those whose reader left before the end."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answer: Answer | None = None
        self._steps: Steps | None = None
        self._body = b""
        self._url = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        if self._answer is not None:
            self._engine.left += 1
            if self._steps is not None:
                self._steps.remove(self._answer)

    def on_url(self, url: bytes) -> None:  # noqa: D102
        self._url, self._body = url, b""

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._body += body

    def on_message_complete(self) -> None:  # noqa: D102
        if self._url.endswith((b"/chat/completions", b"/completions")):
            self._complete()
        elif self._url.endswith(b"/models"):
            self._reply({"object": "list", "data": [{"id": self._engine.model, "object": "model"}]})
        else:
            self._reply({"begun": self._engine.begun, "left": self._engine.left})

    def _complete(self) -> None:
        seed, tokens, pace = read_wish(self._body)
        asked = json.loads(self._body)
        if not asked.get("stream"):
            self._reply(whole_answer(self._engine.model, seed, tokens))
            return
        self._engine.begun += 1
        answer = self._answer = Answer(self._transport, self._engine.model, seed, tokens, self._ended)
        answer.told = bool(asked.get("logprobs"))
        answer.begin()
        if not pace:
            while answer.step():
                pass
        elif answer.step():  # the first token comes with the prompt's own step
            self._steps = self._engine.steps.setdefault(pace, Steps(pace / 1000))
            self._steps.add(answer)

    def _ended(self) -> None:
        self._answer = None

    def _reply(self, value: Any) -> None:
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


def whole_answer(model: str, seed: int, tokens: int) -> dict[str, Any]:
    """Return an answer in one piece, as vLLM writes it."""
    empty = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
    message = {"role": "assistant", "content": "".join(text_of(seed, tokens)), **empty}
    end = {"logprobs": None, "finish_reason": "length", "stop_reason": None, "token_ids": None}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:16]}",
        "object": "chat.completion",
        "created": 1795367513,
        "model": model,
        "choices": [{"index": 0, "message": message, **end}],
        "usage": {"prompt_tokens": 30, "total_tokens": 30 + tokens, "completion_tokens": tokens},
        "system_fingerprint": "vllm-0.32.0-bench",
        "prompt_token_ids": None,
    }


async def serve(port: int, model: str) -> None:
    """Listen on loopback for ever."""
    engine = Engine(model)
    sock = socket.create_server(("127.0.0.1", port), backlog=2048)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(engine), sock=sock)
    await server.serve_forever()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="smollm2")
    asked = parser.parse_args()
    uvloop.run(serve(asked.port, asked.model))


if __name__ == "__main__":
    main()
