"""What can go wrong between ``ChatVLLM`` and an engine, as LangChain's ``ModelError`` tree.

Each class below is an exception of langchain-openai (and so of the openai SDK) and of langchain-core at once:
catch ``langchain_core.exceptions.ModelError`` and its subclasses, and no name of OpenAI is needed.

    ModelError
    ├── ModelInvalidRequestError      the engine refused the request (HTTP 400, 422)
    ├── ContextOverflowError          the conversation and its answer do not fit into the model's context
    ├── ModelAuthenticationError      HTTP 401        ├── ModelPermissionDeniedError   HTTP 403
    ├── ModelNotFoundError            HTTP 404        ├── ModelRateLimitError          HTTP 429
    ├── ModelConnectionError          unreachable, or gone before the answer was whole
    ├── ModelTimeoutError             silent for longer than the time-out
    └── ModelAPIError                 HTTP 5xx
        ├── EngineStreamError         an error inside a stream that began with HTTP 200
        └── NotAnAnswerError          HTTP 200, but no chat completion: another kind of server listens there

An exception of another kind that the HTTP client's transport raises passes through untouched.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import openai
from langchain_core.exceptions import ModelAPIError, ModelConnectionError, ModelError
from langchain_openai.chat_models import base

OVERFLOW_SIGNS = ("maximum context length", "maximum model length", "longer than the model")
OVERFLOW_PARAMS = ("input_tokens", "input_text")
"""How vLLM says that a prompt, or a prompt and the tokens asked for, exceeds ``max_model_len``."""


class EngineStreamError(openai.APIError, ModelAPIError):
    """The engine reported an error in the middle of a stream; ``status`` is the one it named (500 if none)."""

    def __init__(self, error: openai.APIError) -> None:
        super().__init__(error.message, error.request, body=error.body)
        self.status = named_status(error.body)


class EngineStreamCutError(openai.APIConnectionError, ModelConnectionError):
    """An answer ended without a finish reason, or as aborted: what arrived is a part of it."""


class NotAnAnswerError(ModelAPIError):
    """What came back is no chat completion, or tells nothing of tokens where it was asked to."""


def completion(body: object) -> dict[str, Any]:
    """The body of a whole answer, if it is one.

    Raises:
        NotAnAnswerError: It is not; the message shows how it begins.
    """
    answer = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    if not answer.get("choices"):
        raise NotAnAnswerError(f"Not a chat completion: {str(cast('Any', body))[:200]}")
    return answer


def fields(body: object, **kinds: type) -> dict[str, Any]:
    """The body of an answer about tokens, if it has each of these fields and each is of its type.

    Raises:
        NotAnAnswerError: It is not so; the message names the field.
    """
    answer = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(answer.get(name), kind):
            raise NotAnAnswerError(f"The engine's answer about tokens has no {name}: {str(cast('Any', body))[:200]}")
    return answer


@contextmanager
def typed_errors() -> Generator[None]:
    """Turn an exception of the openai SDK into the one of the tree above."""
    try:
        yield
    except openai.APIError as error:
        if isinstance(error, ModelError):
            raise
        raise typed(error) from error


def typed(error: openai.APIError) -> openai.APIError:
    """The same error as a member of the tree above."""
    if isinstance(error, openai.APITimeoutError):
        return base.OpenAITimeoutError(error.request)
    if isinstance(error, openai.APIConnectionError):
        return base.OpenAIConnectionError(message=reason(error), request=error.request)
    if isinstance(error, openai.APIStatusError):
        return typed_status(error)
    if says_overflow(error):
        return base.OpenAIAPIContextOverflowError(error.message, error.request, body=error.body)
    return EngineStreamError(error)


STATUS_ERRORS: Mapping[int, type[openai.APIStatusError]] = {
    401: base.OpenAIAuthenticationError,
    403: base.OpenAIPermissionDeniedError,
    404: base.OpenAIModelNotFoundError,
    429: base.OpenAIRateLimitError,
}


def typed_status(error: openai.APIStatusError) -> openai.APIStatusError:
    """An HTTP error answer; any 4xx without a name of its own means that the request was refused."""
    kind = STATUS_ERRORS.get(error.status_code)
    if kind is None and error.status_code >= 500:  # noqa: PLR2004
        kind = base.OpenAIAPIError
    if kind is None:
        kind = base.OpenAIContextOverflowError if says_overflow(error) else base.OpenAIInvalidRequestError
    return kind(error.message, response=error.response, body=error.body)


def says_overflow(error: openai.APIError) -> bool:
    """Whether the engine says that the context is too small."""
    text = error.message.lower()
    return error.param in OVERFLOW_PARAMS or any(sign in text for sign in OVERFLOW_SIGNS)


def reason(error: openai.APIConnectionError) -> str:
    """The SDK only says "Connection error."; its cause knows more."""
    return f"{error.message} {error.__cause__}".strip() if error.__cause__ else error.message


def named_status(body: Any) -> int:
    """The status inside an error object ``{"message", "type", "code"}``."""
    code = cast("Mapping[str, Any]", body).get("code") if isinstance(body, Mapping) else None
    return code if isinstance(code, int) else 500
