"""The edge to the engines: what HTTP client, openai SDK and LangChain raise, as errors of this service."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import httpx2
import openai
from chat_vllm import NotAnAnswerError
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError
from pydantic import ValidationError
from rag_chat import errors as retrieval
from tools_agent import errors as tools_agent

from app.errors import (
    ContextTooLong,
    EngineBusy,
    EngineDied,
    EngineFailed,
    EngineTimeout,
    EngineUnreachable,
    InternalError,
    InvalidInput,
    OtherEmbedding,
    Refused,
    ServiceError,
    StoreUnavailable,
    TooLarge,
    ToolsUnavailable,
    UnknownDocument,
    UnreadableDocument,
    scrub,
)

CONFIGURED = frozenset({"Options", "Sampling"})
"""What ``chat_vllm`` checks of a request's configuration: pydantic's names of the models."""
_OVERFLOW_PARAMS = frozenset({"input_tokens", "input_text"})
_OVERFLOW_SIGNS = ("maximum context length", "maximum model length")


def translate(error: BaseException) -> ServiceError:
    """Return what ``error`` means to the caller; an error nobody foresaw is an InternalError."""
    for link in _chain(error):
        known = _known(link)
        if known is not None:
            return known
    return InternalError()


def translate_transport(error: httpx2.HTTPError, *, answering: bool) -> ServiceError:
    """Return what a failed connection means; ``answering`` tells whether the answer had begun."""
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return EngineUnreachable("The engine refuses connections: it has just ended or is not up yet.", refused=True)
    if isinstance(error, httpx2.PoolTimeout):
        return EngineBusy("Too many requests are under way to the engines.")
    if isinstance(error, httpx2.TimeoutException):
        return EngineTimeout("The engine has sent nothing for too long.")
    if answering:
        return EngineDied("The engine ended in the middle of the answer.", hint="What arrived is not the whole answer.")
    return EngineUnreachable("The engine closed the connection before it answered.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it, outermost first."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _known(error: BaseException) -> ServiceError | None:  # noqa: PLR0911, PLR0912, C901 -- a table
    """Return the meaning of one link of the chain, or None where a deeper one knows more."""
    match error:
        case ServiceError():
            return error
        case ContextOverflowError():
            return ContextTooLong(_sentence(error))
        case retrieval.RetrievalError():
            return _retrieval(error)
        case tools_agent.ToolsUnavailable():
            return ToolsUnavailable(error.message, hint=error.hint)
        case openai.APIStatusError():
            return refusal(error.status_code, _sentence(error), error.param)
        case openai.APITimeoutError() | openai.APIConnectionError():
            return _lost(error)
        case openai.APIError():
            return _stream_error(error)
        case ModelInvalidRequestError():  # of a model of ours; the engine's are openai's too
            return Refused(_sentence(error))
        case ValidationError() if error.title in CONFIGURED:
            return _misconfigured(error)
        case NotAnAnswerError():
            return EngineFailed("The engine's answer is not of the kind that was asked for.")
        case httpx2.HTTPError():
            return translate_transport(error, answering=True)
        case TimeoutError():
            return EngineTimeout("The engine did not answer in time.")
        case _:
            return None


def _misconfigured(error: ValidationError) -> InvalidInput:
    """A configuration that the chain itself has refused: LangServe looks at its schema alone."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, ("config", "configurable", *first["loc"])))
    return InvalidInput(f"{place}: {scrub(first['msg'])}", param=place)


def _retrieval(error: retrieval.RetrievalError) -> ServiceError:
    kinds: Mapping[type[retrieval.RetrievalError], type[ServiceError]] = {
        retrieval.UnknownDocument: UnknownDocument,
        retrieval.UnreadableDocument: UnreadableDocument,
        retrieval.DocumentTooLarge: TooLarge,
        retrieval.StoreFull: TooLarge,
        retrieval.StoreMismatch: OtherEmbedding,
        retrieval.StoreUnavailable: StoreUnavailable,
    }
    return kinds[type(error)](error.message, hint=error.hint)


def _lost(error: openai.APIConnectionError) -> ServiceError:
    """Our own transport's error says more than the SDK's wrapper around it."""
    for cause in _chain(error):
        if isinstance(cause, ServiceError):
            return cause
        if isinstance(cause, httpx2.HTTPError):
            return translate_transport(cause, answering=True)
    if isinstance(error, openai.APITimeoutError):
        return EngineTimeout("The engine has sent nothing for too long.")
    return EngineDied("The engine's answer ended before it was whole.", hint="What arrived is not the whole answer.")


def _stream_error(error: openai.APIError) -> ServiceError:
    """An error object inside a stream that began with HTTP 200; vLLM sends one when its engine core dies."""
    status = _code(error)
    if status is not None and status < 500:  # noqa: PLR2004
        return refusal(status, _sentence(error), error.param)
    return EngineDied("The engine failed in the middle of the answer.", hint="What arrived is not the whole answer.")


def translate_answer(status: int, body: Any) -> ServiceError:
    """Return what an error answer of the engine means.

    Args:
        status: Of HTTP, 400 or more.
        body: Its JSON, or None where it was none.
    """
    told: Any = cast("Mapping[str, Any]", body).get("error", body) if isinstance(body, Mapping) else body
    said = cast("Mapping[str, Any]", told) if isinstance(told, Mapping) else {"message": told}
    param = said.get("param")
    text = scrub(str(said.get("message") or "")) or "The engine gave no reason."
    return refusal(status, text, param if isinstance(param, str) else None)


def refusal(status: int, text: str, param: str | None) -> ServiceError:  # noqa: PLR0911 -- a table
    """Return an HTTP error of the engine: the caller's fault keeps the engine's sentence, its own fault does not."""
    if status == 400 and _overflows(text, param):  # noqa: PLR2004
        return ContextTooLong(text, param=param)
    match status:
        case 400:
            return Refused(text, param=param)
        case 413 | 422:
            return InvalidInput(text, param=param)
        case 429:
            return EngineBusy("The engine's queue is full.")
        case 408 | 504:
            return EngineTimeout("The engine did not answer in time.")
        case 401 | 403 | 404:
            return EngineFailed("The engine does not accept this service's requests.", hint="See the service's log.")
        case _:
            return EngineFailed(f"The engine answered with an error of its own ({status}).")


def _overflows(text: str, param: str | None) -> bool:
    return param in _OVERFLOW_PARAMS or any(sign in text for sign in _OVERFLOW_SIGNS)


def _body(error: BaseException) -> Mapping[str, Any]:
    body = getattr(error, "body", None)
    return cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else {}


def _code(error: openai.APIError) -> int | None:
    code = _body(error).get("code")
    return code if isinstance(code, int) else None


def _sentence(error: BaseException) -> str:
    """Return the engine's own sentence, without the SDK's frame around it."""
    said = _body(error).get("message") or getattr(error, "message", None) or str(error)
    return scrub(str(said)) or "The engine gave no reason."
