"""Slow, broken and hostile clients of a real app process: never a 500, never a hang, never a dead worker."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import psutil
import pytest

from tests.process.app_process import DEADLINE, QUESTION, App, EndlessEngine, ready_app
from tests.processes import eventually

HEAD = 2.0
"""Seconds that a request's head may take."""
READER = 2.0
"""Seconds that a client may not read."""
SETTINGS = {
    "LANGSERVE_VLLM_LIMITS__HEADER_SECONDS": str(HEAD),
    "LANGSERVE_VLLM_LIMITS__READER_SECONDS": str(READER),
    "LANGSERVE_VLLM_LIMITS__BODY_SECONDS": "2",
    "LANGSERVE_VLLM_LIMITS__CONNECTIONS": "1100",
    "LANGSERVE_VLLM_LIMITS__BODY_BYTES": "1000000",
}


@pytest.fixture(scope="module")
def engine() -> EndlessEngine:
    """An engine that never ends."""
    return EndlessEngine()


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, engine: EndlessEngine) -> AsyncGenerator[App]:
    """One app for all of them: whoever comes next finds it well."""
    async with ready_app(tmp_path_factory.mktemp("hostile"), engine, **SETTINGS) as running:
        yield running
        assert running.process.returncode is None
        assert await running.get("/health") == {"status": "ok"}


@contextlib.asynccontextmanager
async def connected(app: App) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    address = urlsplit(app.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Everything until the service closes; a reset is an end too."""
    read = b""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                read += piece
    return read


async def status(reader: asyncio.StreamReader) -> int:
    """The status of the next answer."""
    async with asyncio.timeout(DEADLINE):
        return int((await reader.readline()).split()[1])


def post(body: bytes, path: str = "/tiny/invoke", *headers: str) -> bytes:
    """A request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# --- slow ----------------------------------------------------------------------------------


async def test_a_head_that_does_not_end_is_answered_408(app: App) -> None:
    """Slowloris: a header now and then, for ever."""
    async with connected(app) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X-A: b\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        said = await answer(reader)
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"type": "too_slow"' in said


async def test_a_connection_without_a_request_is_closed(app: App) -> None:
    """It holds nothing for long."""
    async with connected(app) as (reader, _):
        assert await answer(reader) == b""


async def test_a_body_that_does_not_end_is_answered_408(app: App) -> None:
    """Its place is free again."""
    async with connected(app) as (reader, writer):
        writer.write(post(b"x" * 100)[:-50])
        assert await status(reader) == 408


async def test_a_body_that_is_never_sent_whole_holds_no_connection(app: App) -> None:
    """The route does not exist, so it is answered at once; the rest of its body is not waited for."""
    async with connected(app) as (reader, writer):
        writer.write(b"POST /no/such HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert (await answer(reader)).startswith(b"HTTP/1.1 404 ")


async def test_a_client_that_reads_nothing_is_cut_off_and_frees_the_engine(app: App, engine: EndlessEngine) -> None:
    """Until then little of its answer is held, then nothing."""
    engine.forget()
    address = urlsplit(app.url)
    before, over = memory(app), await ended(app)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1024)
    writer.write(post(json.dumps({"input": "Hi"}).encode(), "/tiny/stream_log"))
    async with asyncio.timeout(DEADLINE):
        await engine.left.wait()
    assert memory(app) - before < 64 * 1024 * 1024
    await eventually(lambda: ended(app), lambda requests: requests == over + 1, within=DEADLINE)
    writer.close()
    del reader


async def test_fifty_clients_that_read_nothing_hold_little(app: App, engine: EndlessEngine) -> None:
    """Each is cut off after its time, and until then the app holds no more than the socket takes."""
    engine.forget()
    address = urlsplit(app.url)
    before, over = memory(app), await ended(app)
    question = post(json.dumps(QUESTION).encode(), "/tiny/stream_log", "Content-Type: application/json")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            silent = socket.socket()
            stack.callback(silent.close)
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # full at once
            silent.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, (address.hostname, address.port))
            await loop.sock_sendall(silent, question)
        held = [memory(app)]

        async def look() -> float:
            held.append(memory(app))
            return await ended(app)

        await eventually(look, lambda requests: requests == over + 50, within=DEADLINE)
    assert max(held) - before < 64 * 1024 * 1024


async def ended(app: App) -> float:
    """Requests of LangServe that are over, as the app's metrics say; those of an endless engine were cut off."""
    text = await (await app.session.get(f"{app.url}/metrics")).text()
    lines = [line for line in text.splitlines() if line.startswith("langserve_vllm_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'protocol="langserve"' in line)


def memory(app: App) -> int:
    """Bytes that the app holds."""
    return int(psutil.Process(app.process.pid).memory_info().rss)


# --- many ----------------------------------------------------------------------------------


async def test_a_thousand_idle_connections_hold_nobody_up(app: App) -> None:
    """And more than there may be are answered 503."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(1000):
            await stack.enter_async_context(connected(app))
        assert await app.get("/health") == {"status": "ok"}
        extra = [await stack.enter_async_context(connected(app)) for _ in range(130)]
        refused = await answer(extra[-1][0])
    assert refused.startswith(b"HTTP/1.1 503 ")
    await eventually(lambda: connections(app), lambda open_now: open_now < 50, within=DEADLINE)


async def connections(app: App) -> int:
    """Of clients."""
    return len(psutil.Process(app.process.pid).net_connections())


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: %s\r\n" % (index, b"v" * 100) for index in range(5000)),
        b"X-Long: " + b"v" * 1_000_000,
        b"X-Many-Names" * 100_000 + b": v\r\n",
    ],
    ids=["many", "long", "name"],
)
async def test_a_flood_of_headers_is_answered_431(app: App, head: bytes) -> None:
    """Before it is all there."""
    async with connected(app) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head)
            await writer.drain()
        said = await answer(reader)
    assert said == b"" or said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


async def test_a_flood_of_requests_on_one_connection_is_answered(app: App) -> None:
    """Pipelined, one after the other."""
    async with connected(app) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 99)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await answer(reader)).count(b"HTTP/1.1 200 ") == 100


# --- broken --------------------------------------------------------------------------------


async def test_a_half_closed_connection_ends(app: App, engine: EndlessEngine) -> None:
    """Who says that it will send no more counts as gone; the engine is freed."""
    engine.forget()
    async with connected(app) as (reader, writer):
        writer.write(post(json.dumps({"input": "Hi"}).encode(), "/tiny/stream"))
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"word")
        writer.write_eof()
        await answer(reader)
        async with asyncio.timeout(DEADLINE):
            await engine.left.wait()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe{}",
        b'{"input": "\xc3\x28"}',
        b'{"input": "\\ud800"}',
        b'{"input": "a\\u0000b", "config": 5}',
        b'{"input": 1e400}',
        b'{"input": -1e400}',
        b'{"input": NaN}',
        b'{"input": ' + b"9" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"input": "x", "input": ["y"], "config": {"configurable": {"temperature": 1e308}}}',
        b'{"input": {"messages": [{"role": "user", "content": "\\u0000"}]}, "config": {"configurable": {"seed": []}}}',
        b'{"input": {"messages": ' + json.dumps([{"role": "user", "content": "x"}] * 2000).encode() + b"}}",
        b"x" * 1_000_001,
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("path", ["/tiny/invoke", "/v1/chat/completions", "/v1/messages"])
async def test_a_body_that_cannot_be_used_gets_a_clear_refusal(app: App, body: bytes, path: str) -> None:
    """A status of the caller's fault, and JSON that says what is wrong."""
    async with connected(app) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(post(body, path, "Content-Type: application/json"))
            await writer.drain()
        said = await answer(reader)
    head, _, told = said.partition(b"\r\n\r\n")
    assert 400 <= int(head.split()[1]) < 500, said[:500]
    assert json.loads(told)["error"]


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 1000 + b"\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /tiny/invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /tiny/invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /tiny/invoke HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%00%ff%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /tiny/playground/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda line: repr(line[:32]),
)
async def test_what_is_no_request_ends_without_harm(app: App, request_line: bytes) -> None:
    """In an answer of the caller's fault, or in the connection's end."""
    async with connected(app) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(request_line)
            await writer.drain()
        said = await answer(reader)
    assert said == b"" or int(said.split()[1]) < 500, said[:500]
    assert b"root:" not in said
    assert b"Traceback" not in said


async def test_the_app_is_well_after_all_that(app: App, engine: EndlessEngine) -> None:
    """It answers, and nothing of theirs is under way."""
    engine.forget()
    stream = await app.session.post(f"{app.url}/tiny/stream", json=QUESTION)
    await stream.content.readuntil(b"word")
    stream.close()
    text = await (await app.session.get(f"{app.url}/metrics")).text()
    assert 'outcome="error",protocol="langserve"' in text
    assert "internal_error" not in text
