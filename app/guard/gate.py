"""Who may come in: keys, limits, and what is noted of every request. Knows no wire.

``app/guard/asgi.py`` puts it in front of HTTP; gRPC's interceptor uses it the same way: ``identify`` with what the
metadata holds, then ``pass_through`` around the call.
"""

import contextlib
import re
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from random import getrandbits

from starlette.requests import Request

from app.errors import NotAllowed, ServiceError, Unauthorized, meaning
from app.guard.audit import Audit
from app.guard.call import Call, current_call, may_use, note_model
from app.guard.key_limits import KeyLimits
from app.guard.owner import current_owner
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import GenAiSpans, listeners
from vllm_launcher.keys import Key, KeyStore

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids of callers that are passed on; any other is replaced: it goes into headers and logs."""
SESSION_COOKIE = "langserve_vllm_session"


@dataclass
class Ending:
    """How a call ended; whoever answers it writes it down."""

    status: int = 0
    outcome: str = "complete"
    """``complete``, ``error`` or ``left``."""
    noted: bool = True
    """Whether it belongs into the audit log: what a model was asked, and what was refused."""


class Gate:
    """Lets calls in.

    Args:
        keys: The keys that open it; None: it is open.
        limits: Counts what keys use; None: nobody counts.
        metrics: Are told of every call.
        audit: Is told of what models were asked.
        spans: Listens to chat models.
    """

    def __init__(
        self,
        *,
        keys: KeyStore | None = None,
        limits: KeyLimits | None = None,
        metrics: Metrics | None = None,
        audit: Audit | None = None,
        spans: GenAiSpans | None = None,
    ) -> None:
        self.keys = keys
        self.spans = spans
        self._limits = limits
        self._metrics = metrics
        self._audit = audit

    def __repr__(self) -> str:
        return f"<Gate {'with keys' if self.keys else 'open'}>"

    # --- keys --------------------------------------------------------------------------------

    def identify(self, headers: Mapping[str, str], session: str | None = None) -> Key | None:
        """Return the key of a request; None where none is asked for.

        Args:
            headers: By lower-case name: HTTP's, or gRPC's metadata.
            session: What the cookie ``SESSION_COOKIE`` holds.

        Raises:
            Unauthorized: There is none, or it may not be used.
        """
        if self.keys is None:
            return None
        text = key_text(headers)
        key = self.keys.find(text) if text else self.keys.find_session(session) if session else None
        if key is None:
            raise Unauthorized(
                "This API key is not known, has expired or was revoked." if text else "An API key is needed."
            )
        return key

    async def enter_grpc(self, method: str, metadata: Mapping[str, str | bytes]) -> Call:
        """Return the call of one gRPC request, its key found; ``pass_through`` lets it in.

        Args:
            method: As gRPC names it: ``/inference.GRPCInferenceService/ModelInfer``.
            metadata: Of the invocation, as a mapping: ``authorization`` or ``x-api-key``, ``x-request-id``.

        Raises:
            Unauthorized: There is no key, or it may not be used; it is noted.
        """
        headers = {name.lower(): value for name, value in metadata.items() if isinstance(value, str)}
        call = Call(request_id(headers.get("x-request-id")), "grpc", method[:200])
        try:
            call.key = self.identify(headers)
        except ServiceError as error:
            self.refuse(call, error)
            raise
        return call

    def permit(self, model: str) -> None:
        """Refuse a model that the key of the call under way may not use.

        Raises:
            NotAllowed: It may not.
        """
        if not may_use(model):
            note_model(model)
            raise NotAllowed(f"This API key may not use the model '{model}'.", param="model")

    # --- calls -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def pass_through(
        self, call: Call, *, counts: bool, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Ending]:
        """Let a call in for the time of the block, and note how it ended.

        Args:
            call: What is known of it; ``identify`` has found its key.
            counts: It uses up the key's limits.
            headers: Where a trace of the caller's is named.

        Raises:
            OverLimit: It is one too many for its key.
        """
        ending = Ending()
        listening = listeners.set(self.spans.of(headers or {})) if self.spans is not None else None
        tokens = current_call.set(call), current_owner.set(call.key.id if call.key else current_owner.get())
        try:
            async with self._counted(call, counts=counts):
                yield ending
        except ServiceError as error:
            call.error = meaning(error).type
            ending.outcome, ending.status = "error", ending.status or meaning(error).status
            raise
        except Exception:
            call.error = "internal_error"
            ending.outcome, ending.status = "error", ending.status or 500
            raise
        except BaseException:
            ending.outcome = "left"
            raise
        finally:
            if listening is not None:
                listeners.reset(listening)
            current_owner.reset(tokens[1])
            current_call.reset(tokens[0])
            self._note(call, ending)

    def refuse(self, call: Call, error: ServiceError) -> None:
        """Note a call that was not let in."""
        call.error = meaning(error).type
        self._note(call, Ending(meaning(error).status, "error"))

    def _counted(self, call: Call, *, counts: bool) -> contextlib.AbstractAsyncContextManager[None]:
        if self._limits is None or call.key is None or not counts or not _limited(call.key):
            return contextlib.nullcontext()
        return self._limits.used(call.key, lambda: call.tokens)

    def _note(self, call: Call, ending: Ending) -> None:
        seconds = time.perf_counter() - call.started
        if ending.outcome == "error":
            call.model = call.model or call.named
        if self._metrics is not None:
            self._metrics.ended(call, ending.outcome, seconds)
        if self._audit is not None and ending.noted:
            self._audit.note(call, status=ending.status, outcome=ending.outcome, seconds=seconds)


def _limited(key: Key) -> bool:
    return any(limit is not None for limit in (key.requests_per_minute, key.tokens_per_minute, key.streams))


def key_text(headers: Mapping[str, str]) -> str:
    """Return what a request sends as its key, in any protocol's way; empty where it sends none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip()


def key_of(request: Request) -> Key | None:
    """Return the key that an HTTP request came with; None where none is asked for."""
    return getattr(request.state, "key", None)


def new_request_id() -> str:
    """Return an id that no other request has. It is no secret, so it need not cost a call of the system."""
    return f"{getrandbits(96):024x}"


def request_id(wished: str | None) -> str:
    """Return the id of a request: the caller's where it is harmless, else a new one."""
    return wished if wished and REQUEST_ID.fullmatch(wished) else new_request_id()
