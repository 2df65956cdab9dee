"""Calls of gRPC: let in, run, failed in gRPC's way. No port is opened: gRPC's part is played by the test."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from app import errors
from app.errors import MEANINGS, InvalidInput, Refused, ServiceError, ShuttingDown, TooManyWaiting
from app.generated.langserve_vllm.v1 import chat_pb2 as pb
from app.grpc.calls import Call, Calls, admit_all, read_metadata, snake
from app.grpc.errors import DETAILS, status_code, status_details, trailing_metadata
from app.shutdown import Shutdown

METHOD = "/langserve_vllm.v1.ChatService/Chat"


class Aborted(Exception):  # noqa: N818 -- what gRPC raises
    """The call was ended."""


class Context:
    """What gRPC gives with a call."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...] = (), remaining: float | None = None) -> None:
        self._metadata = metadata
        self._remaining = remaining
        self.sent: list[Any] = []
        self.writing = False
        self.trailing: dict[str, Any] = {}
        self.told: tuple[StatusCode, str, Mapping[str, Any]] | None = None

    def invocation_metadata(self) -> Any:
        """What the caller sent along."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Until the deadline."""
        return self._remaining

    def set_trailing_metadata(self, pairs: Any) -> None:
        """What the caller gets at the end."""
        self.trailing = dict(pairs)

    async def write(self, message: Any) -> None:
        """Send; as gRPC, fail where one is under way."""
        assert not self.writing, "grpc_call_start_batch: too many operations"
        self.writing = True
        await asyncio.sleep(0)
        self.writing = False
        self.sent.append(message)

    async def abort(self, code: StatusCode, details: str, trailing: Any) -> None:
        """End the call."""
        self.told = code, details, dict(trailing)
        raise Aborted


async def run(answer: Callable[..., Any], context: Context, *, shutdown: Shutdown | None = None, **guard: Any) -> Any:
    """Run a method as gRPC would."""
    calls = Calls(guard.get("admit", admit_all), shutdown or Shutdown(0), guard.get("open_methods", ()))
    running: Any = calls._run(METHOD, answer, pb.ChatRequest(), context)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
    return await running


async def raise_(error: BaseException) -> None:
    """Fail."""
    raise error


@pytest.mark.parametrize("kind", MEANINGS)
def test_every_kind_of_error_has_a_status_code(kind: type[ServiceError]) -> None:
    """And its own name in the details."""
    error = kind.__new__(kind)
    ServiceError.__init__(error, "Told.")
    error.__dict__.update(problems=[], state="", phase="", progress=None)
    assert status_code(error) is not StatusCode.OK
    info = ErrorInfo()
    assert status_details(error).details[0].Unpack(info)
    assert (info.reason, info.domain) == (MEANINGS[kind].type.upper(), "langserve-vllm")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("x"), StatusCode.INVALID_ARGUMENT),
        (errors.UnknownModel("x"), StatusCode.NOT_FOUND),
        (errors.TooLarge("x"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.EngineBusy("x"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.EngineTimeout("x"), StatusCode.DEADLINE_EXCEEDED),
        (ShuttingDown(), StatusCode.UNAVAILABLE),
        (errors.InternalError(), StatusCode.INTERNAL),
    ],
)
def test_codes_are_those_that_grpcs_callers_act_on(error: ServiceError, code: StatusCode) -> None:
    """What may be tried again is UNAVAILABLE or RESOURCE_EXHAUSTED, and nothing else is."""
    assert status_code(error) is code


def test_the_details_say_what_to_do() -> None:
    """When to try again; which field does not fit; hint and parameter."""
    retry, bad, info = RetryInfo(), BadRequest(), ErrorInfo()
    waiting = TooManyWaiting("m", 3, retry_after=7)
    assert status_details(waiting).details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 7
    assert dict(trailing_metadata(waiting))["retry-after"] == "7"
    invalid = InvalidInput("No.", hint="Do.", param="a", problems=[{"loc": ["a", 0], "msg": "bad", "type": "t"}])
    details = status_details(invalid).details
    assert details[0].Unpack(info)
    assert dict(info.metadata) == {"hint": "Do.", "param": "a"}
    assert details[1].Unpack(bad)
    assert [(each.field, each.description) for each in bad.field_violations] == [("a.0", "bad")]


async def test_an_error_ends_a_call_with_its_status() -> None:
    """The sentence for people, the details for programs."""
    context = Context()
    with pytest.raises(Aborted):
        await run(lambda *_: raise_(Refused("No.", hint="Ask otherwise.")), context)
    assert context.told is not None
    code, sentence, trailing = context.told
    assert (code, sentence) == (StatusCode.INVALID_ARGUMENT, "No. Ask otherwise.")
    assert Status.FromString(trailing[DETAILS]).message == sentence


async def test_every_call_tells_its_request_id() -> None:
    """The caller's where it is harmless, else a new one; whether it fails or not, and the service is told the same."""
    seen: list[str] = []

    async def answer(_: Any, call: Call) -> None:
        seen.append(call.metadata["x-request-id"])

    fine, odd, failed = Context((("x-request-id", "mine-1"),)), Context((("x-request-id", "a b\n"),)), Context()
    await run(answer, fine)
    await run(answer, odd)
    assert (fine.trailing, odd.trailing) == ({"x-request-id": seen[0]}, {"x-request-id": seen[1]})
    assert seen[0] == "mine-1"
    assert re.fullmatch(r"[0-9a-f]{24}", seen[1])
    with pytest.raises(Aborted):
        await run(lambda *_: raise_(Refused("No.")), failed)
    assert failed.told is not None
    assert failed.told[2]["x-request-id"] == failed.trailing["x-request-id"]


async def test_answers_of_one_call_are_written_one_after_the_other() -> None:
    """Whoever of several tasks is first."""
    context = Context()

    async def answer(_: Any, call: Call) -> None:
        await asyncio.gather(*(call.send(number) for number in range(5)))

    await run(answer, context)
    assert sorted(context.sent) == [0, 1, 2, 3, 4]


async def test_an_error_nobody_foresaw_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    """The log has it whole."""
    context = Context()
    with pytest.raises(Aborted):
        await run(lambda *_: raise_(KeyError("/etc/secret")), context)
    assert context.told is not None
    assert context.told[0] is StatusCode.INTERNAL
    assert "secret" not in str(context.told)
    assert "secret" in caplog.text


async def test_a_cancelled_call_is_cancelled_and_nothing_else() -> None:
    """Its caller has been told already."""
    context = Context()
    with pytest.raises(asyncio.CancelledError):
        await run(lambda *_: raise_(asyncio.CancelledError()), context)
    assert context.told is None


async def test_who_is_let_in_is_known_while_the_call_runs() -> None:
    """The guard gets the method and the metadata, and is left when the call ends."""
    seen: list[Any] = []

    @contextlib.asynccontextmanager
    async def admit(method: str, metadata: Mapping[str, str]) -> AsyncGenerator[str | None]:
        seen.append((method, metadata.get("authorization")))
        yield "ann"
        seen.append("left")

    async def answer(_request: Any, call: Call) -> str | None:
        await asyncio.sleep(0)
        return call.owner

    context = Context((("Authorization", "Bearer k"), ("authorization", "second"), ("x-bin", b"1")))
    assert await run(answer, context, admit=admit) == "ann"
    assert seen == [(METHOD, "Bearer k"), "left"]


async def test_who_is_not_let_in_is_told_so() -> None:
    """Health is open to everybody."""

    @contextlib.asynccontextmanager
    async def admit(_method: str, _metadata: Mapping[str, str]) -> AsyncGenerator[str | None]:
        raise Refused("No key.")
        yield None

    async def answer(*_: Any) -> int:
        await asyncio.sleep(0)
        return 1

    with pytest.raises(Aborted):
        await run(answer, Context(), admit=admit)
    assert await run(answer, Context(), admit=admit, open_methods=(METHOD,)) == 1


async def test_a_call_ends_when_the_apps_time_is_over() -> None:
    """With a name, and in time."""
    shutdown, context = Shutdown(0), Context()

    async def answer(*_: Any) -> None:
        shutdown.begin()
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        with pytest.raises(Aborted):
            await run(answer, context, shutdown=shutdown)
    assert context.told is not None
    assert context.told[0] is StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("remaining", "wait"), [(None, 300), (10, 9.5), (1000, 300), (0.1, 0)])
def test_a_call_waits_for_its_model_until_shortly_before_its_deadline(remaining: float | None, wait: float) -> None:
    """So that it is told what it has waited for."""

    async def send(_: Any) -> None:
        await asyncio.sleep(0)

    assert Call(METHOD, {}, send, lambda: remaining).wait(300) == wait


def test_metadata_is_read_by_name() -> None:
    """The first of a name counts; binary values are left out."""
    assert read_metadata((("A", "1"), ("a", "2"), ("b-bin", b"3"))) == {"a": "1"}
    assert read_metadata(None) == {}


def test_methods_are_found_by_their_names_in_python() -> None:
    """As the description writes them."""
    assert [snake(name) for name in ("ModelInfer", "Chat", "ServerLive")] == ["model_infer", "chat", "server_live"]
