"""From started to warm, and after that, forward progress. Asks the servers over HTTP, like everybody else.

/health answers long before a server can compute (a model whose kernels are missing dies at its first request), so
ready means more: /health is 200, /v1/models names our model, and one token has been generated.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

import aiohttp

from vllm_launcher.errors import Hung, NotReady, ServerExited
from vllm_launcher.keeping.diagnosis import hint_for
from vllm_launcher.keeping.metrics import Sample, read_metrics
from vllm_launcher.keeping.stall import Patience, StallWatch
from vllm_launcher.registry import Task

POLL = 0.25
"""Seconds between two questions to a server that is starting."""
DYING = 3.0
"""Seconds in which an engine that failed a request ends: its exit tells more than the failed request."""
NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)

T = TypeVar("T")


class Exits(Protocol):
    """Something that can end: ``ServerProcess`` is one."""

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        ...


@dataclass(frozen=True)
class Target:
    """A server to ask."""

    base_url: str
    """Without /v1: http://127.0.0.1:41003."""
    served_name: str
    task: Task = "chat"
    external: bool = False
    """Run by somebody else: it may have no /health and no /metrics, and its tokens may cost money."""
    forwards: bool = False
    """A router: its metrics are those of some server behind it, and say nothing of itself."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    image_size: str = "256x256"
    """The smallest picture that an image model draws."""


OnSample = Callable[[Sample], None]
"""Told of every look at a ready server."""


class Health(Protocol):
    """What the launcher asks of this module. Tests bring a scripted one."""

    async def wait_ready(self, target: Target, process: Exits | None, *, on_warming: Callable[[], None]) -> None:
        """Return when the server has generated a token; raise ServerFailed when it will not."""
        ...

    async def watch(self, target: Target, on_sample: OnSample) -> None:
        """Watch a ready server for as long as it makes progress; raise Hung when it stops."""
        ...

    async def wait_idle(self, target: Target, timeout: float | None) -> None:  # noqa: ASYNC109 - a wait, not a failure
        """Return when no request is under way, after ``timeout`` seconds at the latest."""
        ...

    async def sleep(self, target: Target, level: int) -> None:
        """Have a server without requests give its GPU memory back; raise NotReady when it does not."""
        ...

    async def wake(self, target: Target, level: int) -> None:
        """Have it take its memory again, its weights included; raise NotReady when it does not."""
        ...


class HttpHealth:
    """Health over HTTP. ``start_timeout``: seconds from the process's start to the first token."""

    def __init__(
        self,
        *,
        start_timeout: float = 1800.0,
        patience: Patience | None = None,
        poll: float = POLL,
        dying: float = DYING,
    ) -> None:
        self._start_timeout = start_timeout
        self._patience = patience or Patience()
        self._poll = poll
        self._dying = dying

    async def wait_ready(self, target: Target, process: Exits | None, *, on_warming: Callable[[], None]) -> None:
        """See ``Health``; fails at once when ``process`` ends."""
        await until_exit(self._become_ready(target, on_warming), process, dying=self._dying)

    async def watch(self, target: Target, on_sample: OnSample) -> None:
        """See ``Health``."""
        watch, probed = StallWatch(self._patience, _now()), False
        async with _session(target) as session:
            while True:
                await asyncio.sleep(self._patience.poll)
                sample = await _sample(session, target, self._patience.answer)
                if sample is not None:
                    on_sample(replace(sample, probed=probed))
                    probed = False
                match watch.observe(sample, _now()):
                    case "fine":
                        pass
                    case "probe":
                        await self._probe(session, target)
                        probed = True
                    case "stalled":
                        raise Hung(f"Requests are under way, and no token for {self._patience.stalled:.0f} s.")
                    case "silent":
                        raise Hung(f"It has not answered for {self._patience.silent:.0f} s.")

    async def wait_idle(self, target: Target, timeout: float | None) -> None:  # noqa: ASYNC109 - see Health
        """See ``Health``. A server that does not tell counts as idle."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), _session(target) as session:
                while (sample := await _sample(session, target, self._patience.answer)) is not None and sample.busy:  # noqa: ASYNC110
                    await asyncio.sleep(self._poll)

    async def sleep(self, target: Target, level: int) -> None:
        """See ``Health``; vLLM's development endpoints, which is why engines listen on loopback only."""
        await self._command(target, f"/sleep?level={level}&mode=wait")

    async def wake(self, target: Target, level: int) -> None:
        """See ``Health``. Level 2 dropped the weights: they are read again before the cache is made."""
        if level == 1:
            await self._command(target, "/wake_up")
            return
        await self._command(target, "/wake_up?tags=weights")
        await self._command(target, "/collective_rpc", {"method": "reload_weights"})
        await self._command(target, "/wake_up?tags=kv_cache")

    async def _command(self, target: Target, path: str, body: dict[str, str] | None = None) -> None:
        what = path.partition("?")[0]
        try:
            async with (
                asyncio.timeout(self._start_timeout),
                _session(target) as session,
                session.post(target.base_url + path, json=body) as response,
            ):
                if response.status != 200:  # noqa: PLR2004 - OK
                    raise NotReady(f"It answered {what} with {response.status}: {await _error_text(response)}")
        except NO_ANSWER as error:
            raise NotReady(f"It gave no answer to {what}: {error or type(error).__name__}") from error

    async def _become_ready(self, target: Target, on_warming: Callable[[], None]) -> None:
        step = "answered /health"
        try:
            async with asyncio.timeout(self._start_timeout), _session(target) as session:
                await self._answering(session, target)
                step = "named its model"
                await _check_name(session, target)
                on_warming()
                step = "generated a token"
                await generate_token(session, target)
        except TimeoutError:
            raise NotReady(
                f"It has not {step} within {self._start_timeout:.0f} s of its start.",
                "See its log; a large model may need a longer time to start.",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotReady(f"The connection broke before it had {step}: {error}") from error

    async def _answering(self, session: aiohttp.ClientSession, target: Target) -> None:
        while not await _alive(session, target, self._patience.answer):  # noqa: ASYNC110 - HTTP has no event for it
            await asyncio.sleep(self._poll)

    async def _probe(self, session: aiohttp.ClientSession, target: Target) -> None:
        if target.external or target.forwards or target.task == "image-generation":  # none of them is cheap
            return
        try:
            async with asyncio.timeout(self._patience.probe):
                await generate_token(session, target)
        except (*NO_ANSWER, NotReady) as error:
            raise Hung(f"Idle, it was asked for one token and gave none: {error or 'no answer in time'}") from error


async def until_exit(work: Coroutine[Any, Any, T], process: Exits | None, *, dying: float = 0.0) -> T:
    """Do ``work``, or raise ServerExited as soon as ``process`` has ended, whichever comes first.

    When the work fails, and the process ends within ``dying`` seconds, the exit is what is raised.
    """
    if process is None:
        return await work
    working, exiting = asyncio.ensure_future(work), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({working, exiting}, return_when=asyncio.FIRST_COMPLETED)
        if not exiting.done() and working.exception() is not None:
            await asyncio.wait({exiting}, timeout=dying)
        if exiting.done():
            raise ServerExited(exiting.result())
        return working.result()
    finally:
        await _cancel(working, exiting)


async def generate_token(session: aiohttp.ClientSession, target: Target) -> None:
    """One token, one vector or one small picture; NotReady if the answer holds none."""
    path, body, has_result = _smallest_request(target)
    async with session.post(target.base_url + path, json=body) as response:
        if response.status != 200:  # noqa: PLR2004 - OK
            said = await _error_text(response)
            raise NotReady(f"Its first request was answered with {response.status}: {said}", hint_for(said))
        if not has_result(await _object(response)):
            raise NotReady("Its first request was answered without a result.")


def _smallest_request(target: Target) -> tuple[str, dict[str, Any], Callable[[dict[str, Any]], bool]]:
    """Path, body, and what to look for in the answer."""
    if target.task == "embedding":
        return "/v1/embeddings", {"model": target.served_name, "input": "Hi"}, _has_data
    if target.task == "image-generation":
        body = {"model": target.served_name, "prompt": "a dot", "n": 1, "size": target.image_size}
        return "/v1/images/generations", body | {"num_inference_steps": 1, "response_format": "b64_json"}, _has_data
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": target.served_name, "messages": messages, "max_tokens": 1, "temperature": 0}
    return "/v1/chat/completions", body, _has_token


def _has_data(answer: dict[str, Any]) -> bool:
    return bool(answer.get("data"))


def _has_token(answer: dict[str, Any]) -> bool:
    usage: dict[str, Any] = answer.get("usage") or {}
    return bool(answer.get("choices")) and usage.get("completion_tokens", 1) >= 1


async def _object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The answer's JSON object; NotReady if it is none: then this is no OpenAI-compatible server."""
    try:
        answer = json.loads(await response.text())
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NotReady(f"{response.url} answered with something else than a JSON object.")
    return cast("dict[str, Any]", answer)


@contextlib.asynccontextmanager
async def _session(target: Target) -> AsyncGenerator[aiohttp.ClientSession, None]:
    # No total time-out: the callers have deadlines. force_close: a kept connection may be one the server just closed.
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=target.headers) as session:
        yield session


async def _get(session: aiohttp.ClientSession, url: str, within: float) -> tuple[int, str]:
    async with asyncio.timeout(within), session.get(url) as response:
        return response.status, await response.text()


async def _alive(session: aiohttp.ClientSession, target: Target, within: float) -> bool:
    """Whether it answers; of a router that starts, whether a server behind it does."""
    path = "/v1/models" if target.external or target.forwards else "/health"
    with contextlib.suppress(*NO_ANSWER):
        status, _ = await _get(session, target.base_url + path, within)
        return status == 200  # noqa: PLR2004 - OK
    return False


async def _check_name(session: aiohttp.ClientSession, target: Target) -> None:
    """Two servers can share a port and split its traffic (vllm#39762): ask who this is."""
    async with session.get(target.base_url + "/v1/models") as response:
        answer = await _object(response)
    models: list[dict[str, Any]] = answer.get("data") or []
    names = [str(model.get("id")) for model in models]
    if target.served_name not in names:
        raise NotReady(f"{target.base_url} answers for {', '.join(names) or 'no model'}, not for {target.served_name}.")


async def _sample(session: aiohttp.ClientSession, target: Target, within: float) -> Sample | None:
    """How the server is doing; None without an answer."""
    with contextlib.suppress(*NO_ANSWER):
        if not (target.external or target.forwards):
            status, text = await _get(session, target.base_url + "/metrics", within)
            if status == 200:  # noqa: PLR2004 - OK
                return read_metrics(text)
        if await _alive(session, replace(target, forwards=False), within):
            return Sample(busy=False, moved=None)
    return None


async def _error_text(response: aiohttp.ClientResponse) -> str:
    """The message of an OpenAI-style error, else the beginning of the body."""
    text = await response.text()
    with contextlib.suppress(Exception):
        body = await response.json()
        return str(body["error"]["message"])[:500]
    return text[:500]


async def _cancel(*futures: "asyncio.Future[Any]") -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
