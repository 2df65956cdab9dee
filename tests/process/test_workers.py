"""Several workers on one port, with real signals: whichever answers, it answers for all, and none is left behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families
from rag_chat.errors import UnknownDocument
from rag_chat.words import query_vector

from app.documents.leader import Leader, LeaderStore
from app.settings import Settings
from app.workers.sockets import open_common
from tests.process.app_process import (
    DEADLINE,
    QUESTION,
    App,
    EndlessEngine,
    StillLauncher,
    free_port,
    ready_app,
    running,
)
from tests.process.test_documents_killed import BATCH, EMBEDDER, TEXT, WHOLE, Embedder
from tests.process.test_documents_killed import MODELS as DOCUMENT_MODELS
from tests.process.test_grpc_process import health
from tests.processes import alive, eventually, until_gone
from tests.surroundings import ROOT
from vllm_launcher.control import ControlServer
from vllm_launcher.keys import KeyStore
from vllm_launcher.status import ServerStatus

TWO = {"LANGSERVE_VLLM_WORKERS": "2"}
GONE_WITHIN = 2.0


def workers(app: App) -> list[psutil.Process]:
    """Those that live now, the oldest first: of a new app, the one that leads."""
    children = psutil.Process(app.process.pid).children()
    return sorted(filter(alive, children), key=lambda process: (process.create_time(), process.pid))


@contextlib.asynccontextmanager
async def session_of(app: App, worker: psutil.Process, **headers: str) -> AsyncGenerator[aiohttp.ClientSession]:
    """A session whose only connection ``worker`` has taken: the others stood still meanwhile."""
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=DEADLINE)
    timeout = aiohttp.ClientTimeout(total=DEADLINE)
    async with aiohttp.ClientSession(app.url, headers=headers, connector=connector, timeout=timeout) as session:
        async with standing_still([each for each in workers(app) if each != worker]), session.get("/health") as answer:
            assert answer.status == 200
            await answer.read()
        yield session


@contextlib.asynccontextmanager
async def standing_still(processes: list[psutil.Process]) -> AsyncGenerator[None]:
    """Let them do nothing while the block runs."""

    async def statuses() -> set[str]:
        return {process.status() for process in processes}

    for process in processes:
        process.suspend()
    try:
        await eventually(statuses, lambda seen: seen <= {psutil.STATUS_STOPPED}, within=DEADLINE, every=0.01)
        yield
    finally:
        for process in processes:
            process.resume()


async def stream(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    """Ask for an answer without end; returns once it has begun."""
    response = await session.post("/tiny/stream", json=QUESTION)
    assert response.status == 200, await response.text()
    await response.content.readuntil(b"word")
    return response


async def measured(session: aiohttp.ClientSession, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, as this session's worker tells it."""
    async with session.get("/metrics") as answer:
        text = await answer.text()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"langserve_vllm_{name}"]
    assert samples, f"no {name} in {text}"
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


# --- one app, as its clients meet it -----------------------------------------------------------


GRPC_PORT = free_port()


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[App]:
    """An app of two workers, with gRPC."""
    told = {**TWO, "LANGSERVE_VLLM_GRPC_PORT": str(GRPC_PORT)}
    async with ready_app(tmp_path_factory.mktemp("workers"), EndlessEngine(), **told) as app:
        yield app


async def test_whichever_worker_is_asked_tells_what_all_have_measured(app: App) -> None:
    """What each has answered, what each has under way, and what dies with one of them."""
    first, second = workers(app)
    async with session_of(app, first) as one, session_of(app, second) as other:
        both = (one, other)
        before = [await measured(each, "requests_total", protocol="pages") for each in both]
        for each in (one, one, other):
            async with each.get("/ready") as answer:
                assert answer.status == 200
        after = [await measured(each, "requests_total", protocol="pages") for each in both]
        assert after[0] >= before[1] + 3
        assert after[1] >= after[0] >= before[1]
        async with session_of(app, first) as busy, session_of(app, second) as busier:
            streams = [await stream(busy), await stream(busier)]
            for each in both:
                assert await measured(each, "active_streams") == 2

                async def lines(asked: aiohttp.ClientSession = each) -> tuple[float, float]:
                    return await measured(asked, "queue_running"), await measured(asked, "queue_places")

                await eventually(lines, lambda seen: seen == (2, 512), within=DEADLINE)
            for answer in streams:
                answer.close()


async def test_every_worker_serves_grpc(app: App) -> None:
    """Each listens, and is answered by its own."""
    for worker in workers(app):
        ports = [each.laddr.port for each in worker.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        assert GRPC_PORT in ports
    for _ in range(4):
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{GRPC_PORT}", options=options) as channel:
            answer = await health(channel)(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_killed_worker_takes_only_its_own_streams_with_it(app: App) -> None:
    """They break off, so that nobody takes them for whole; the others go on, nobody is refused, another comes."""
    first, second = workers(app)
    async with session_of(app, first) as dying, session_of(app, second) as staying:
        cut, going = await stream(dying), await stream(staying)
        first.kill()
        with pytest.raises(aiohttp.ClientError):
            await cut.read()
        for _ in range(20):
            async with aiohttp.ClientSession(app.url) as anybody, anybody.get("/health") as answer:
                assert answer.status == 200
        await going.content.readuntil(b"word")

        async def living() -> list[psutil.Process]:
            return workers(app)

        living_now = await eventually(living, lambda seen: len(seen) == 2, within=DEADLINE)
        assert second in living_now
        assert first not in living_now
        (new,) = set(living_now) - {second}
        async with session_of(app, new) as session:
            assert await measured(session, "active_streams") == 1
            async with session.get("/ready") as answer:
                assert answer.status in {200, 503}  # it may still be told which models are ready
        await going.content.readuntil(b"word")
        going.close()


# --- keys --------------------------------------------------------------------------------------


async def test_a_keys_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """One request at once means one, whichever worker the second meets; and what one gives back the other has."""
    with KeyStore.opened(tmp_path / "keys.sqlite") as store:
        _, key = store.create("one", streams=1)
    told = {**TWO, "LANGSERVE_VLLM_REQUIRE_KEYS": "true", "LANGSERVE_VLLM_KEYS": str(tmp_path / "keys.sqlite")}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        EndlessEngine().serve() as endpoint,
        launched(tmp_path, "tiny", endpoint),
        running(tmp_path, **told) as app,
    ):
        first, second = await both(app)
        async with session_of(app, first, **headers) as one, session_of(app, second, **headers) as other:
            taken = await stream(one)
            async with other.post("/tiny/stream", json=QUESTION) as refused:
                assert refused.status == 429
                assert "1 requests under way" in await refused.text()
            taken.close()
            await eventually(lambda: _status(other), lambda status: status == 200, within=DEADLINE)


async def _status(session: aiohttp.ClientSession) -> int:
    async with session.post("/tiny/stream", json=QUESTION) as answer:
        return answer.status


@contextlib.asynccontextmanager
async def launched(folder: Path, model: str, endpoint: str) -> AsyncGenerator[None]:
    """A launcher that has one model ready."""
    server = ServerStatus(model=model, state="ready", served_name=model, endpoint=endpoint, pid=os.getpid())
    async with ControlServer(StillLauncher(server), folder / "control.sock", heartbeat=0.2):
        yield


async def both(app: App) -> list[psutil.Process]:
    """Both workers, once there are two."""

    async def living() -> list[psutil.Process]:
        return workers(app)

    return await eventually(living, lambda seen: len(seen) == 2, within=DEADLINE)


# --- documents ---------------------------------------------------------------------------------


async def jobs(session: aiohttp.ClientSession, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Follow what is ingested until a job is as wanted; the last that was told."""
    job: dict[str, Any] = {}
    async with session.get("/documents/docs/jobs") as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                job = json.loads(line.removeprefix(b"data: "))
                if until(job):
                    break
    return job


async def listed(session: aiohttp.ClientSession) -> dict[str, Any]:
    """Return what a collection holds, and what is on its way into it."""
    async with session.get("/documents/docs") as answer:
        return await answer.json()


async def test_documents_are_one_thing_whichever_worker_is_asked(tmp_path: Path) -> None:
    """The other worker takes them, follows them, lists and finds them; when the leader is killed the next goes on."""
    embedder, told = Embedder(), {**TWO, "LANGSERVE_VLLM_DATA": str(tmp_path / "data")}
    async with (
        asyncio.timeout(2 * DEADLINE),
        embedder.serve() as endpoint,
        launched(tmp_path, EMBEDDER, endpoint),
        running(tmp_path, DOCUMENT_MODELS, **told) as app,
    ):
        leader, second = await both(app)
        async with session_of(app, second) as session, session_of(app, leader) as leading:
            body = {"documents": [{"source": "first.md", "text": TEXT}]}
            async with session.post("/documents/docs", json=body) as answer:
                assert answer.status == 202, await answer.text()
            await jobs(session, lambda job: job["done"] == 2 * BATCH)
            assert (await listed(session))["jobs"] == (await listed(leading))["jobs"] != []
            followed = await session.get("/documents/docs/jobs")
            await followed.content.readuntil(b"data: {")
            leader.kill()
            with pytest.raises(aiohttp.ClientError):
                await followed.read()
        async with session_of(app, second) as session:
            await jobs(session, lambda job: job["state"] == "embedding")
            for _ in range(WHOLE):
                embedder.allowed.release()
            assert (await jobs(session, lambda job: job["state"] == "done"))["state"] == "done"
            assert [each["passages"] for each in (await listed(session))["documents"]] == [WHOLE]
            search = {"query": "widget7", "limit": 1, "by": "words"}
            async with session.post("/documents/docs/search", json=search) as answer:
                assert (await answer.json())["passages"][0]["text"] == "This is about widget7."
            await chains_search(tmp_path)
            async with session.delete("/documents/docs") as answer:
                assert (answer.status, await answer.read()) == (204, b"")
            assert (await listed(session))["documents"] == []
        living = workers(app)
        app.process.kill()
        assert until_gone(living, within=GONE_WITHIN) == []


async def chains_search(folder: Path) -> None:
    """What another worker's chains do: have the leader search, and be told what is wrong by its name."""
    store = LeaderStore(Leader(folder / "workers" / "d"))
    (found,) = await store.search("docs", [], query_vector("widget7"), 1)
    assert (found.source, found.passage.text) == ("first.md", "This is about widget7.")
    assert found.passage.place.headings == ("Section 7",)
    with pytest.raises(UnknownDocument, match="no collection 'none'"):
        await store.search("none", [], query_vector("widget7"), 1)
    await store.aclose()


# --- the end -----------------------------------------------------------------------------------


async def test_all_workers_say_goodbye_when_the_app_is_told_to_stop(tmp_path: Path) -> None:
    """Streams of both end in a named error; the app ends by its signal, and nothing is left."""
    async with ready_app(tmp_path, EndlessEngine(), **TWO, LANGSERVE_VLLM_DRAIN="0.2") as app:
        all_workers = workers(app)
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(session_of(app, each)) for each in all_workers]
            streams = [await stream(session) for session in sessions]
            app.process.send_signal(signal.SIGTERM)
            for answer in streams:
                assert '"type": "shutting_down"' in (await answer.text()).rsplit("event: error", 1)[1]
        async with asyncio.timeout(DEADLINE):
            assert await app.process.wait() == -signal.SIGTERM
        assert not any(map(alive, all_workers))
        assert list((tmp_path / "workers").iterdir()) == []


async def test_a_port_that_the_workers_were_to_share_is_told_in_words(tmp_path: Path) -> None:
    """Tried by the parent, before there is a worker; with the setting it is named by."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for named in ("metrics_port", "grpc_port"):
            told = Settings(control=tmp_path / "control.sock", workers=2, **{named: port})
            with pytest.raises(OSError, match=f"LANGSERVE_VLLM_{named.upper()}"), open_common(told, taken):
                pass


async def test_the_workers_of_two_apps_keep_apart(tmp_path: Path) -> None:
    """The second is refused while the first has its folder, and finds it empty after."""
    told = Settings(control=tmp_path / "control.sock", workers=2)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        with open_common(told, listener) as common:
            (common.folder / "counter_0.db").touch()
            with pytest.raises(OSError, match="another app"), open_common(told, listener):
                pass
        with open_common(told, listener) as common:
            assert [path.name for path in common.folder.iterdir()] == ["d"]


# --- the parent alone, with workers that misbehave ---------------------------------------------


@contextlib.asynccontextmanager
async def parent(behaviour: str, grace: float = DEADLINE) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run ``workers_program.py``; kill it at the end, whatever happened."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.process.workers_program", behaviour, str(grace)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def told(process: asyncio.subprocess.Process) -> tuple[int, psutil.Process]:
    """The next worker that says it lives."""
    assert process.stdout is not None
    number, pid = (await process.stdout.readline()).split()
    return int(number), psutil.Process(int(pid))


async def last_words(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """What it says until it ends."""
    said, errors = await process.communicate()
    return said.decode().strip(), errors.decode()


async def test_no_worker_outlives_its_parent() -> None:
    """Killed without a word, it takes them with it."""
    async with parent("deaf") as process:
        living = [(await told(process))[1] for _ in range(2)]
        process.kill()
        assert until_gone(living, within=GONE_WITHIN) == []


async def test_a_worker_that_dies_again_is_forked_again_under_its_number() -> None:
    """At once the first time, later the second; the parent says what happened."""
    async with parent("stay") as process:
        living = dict([await told(process), await told(process)])
        for signalled in (signal.SIGKILL, signal.SIGTERM):
            before = living[1]
            before.send_signal(signalled)
            number, living[1] = await told(process)
            assert number == 1
            assert living[1] != before
        process.send_signal(signal.SIGTERM)
        said, errors = await last_words(process)
        assert said == f"ended with {-signal.SIGTERM}"
        assert f"worker 1 (process {before.pid}) was ended by SIGTERM; another takes its place in 0.5 s" in errors
        assert until_gone([*living.values()], within=GONE_WITHIN) == []


@pytest.mark.parametrize("again", [True, False])
async def test_workers_that_do_not_end_are_ended(*, again: bool) -> None:
    """When their time is over, or whoever told them to stop says so once more."""
    async with parent("deaf", DEADLINE if again else 0.2) as process:
        living = [(await told(process))[1] for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        if again:
            process.send_signal(signal.SIGINT)
        said, _ = await last_words(process)
        assert said in {f"ended with {-signal.SIGTERM}", f"ended with {-signal.SIGINT}"}  # both may wait to be heard
        assert until_gone(living, within=GONE_WITHIN) == []


@pytest.mark.parametrize("behaviour", ["refuse", "second", "break"])
async def test_a_worker_that_cannot_start_ends_all(behaviour: str) -> None:
    """One of them is enough: what is wrong is wrong for each, and starting again changes nothing."""
    async with parent(behaviour) as process:
        said, errors = await last_words(process)
        assert said.splitlines()[-1] == "ended with 3"
        assert ("broken on purpose" in errors) == (behaviour == "break")
