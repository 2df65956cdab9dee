"""The error tree, its table, and what errors of libraries become."""

import json
import re
from pathlib import Path

import httpx2
import openai
import pytest
from chat_vllm import EngineStreamCutError, EngineStreamError
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.engines.upstream import translate, translate_transport
from app.errors import MEANINGS, ServiceError, describe, meaning, scrub
from app.responses import invalid

REQUEST = httpx2.Request("POST", "http://127.0.0.1:41003/v1/chat/completions")


def leaves(kind: type[ServiceError]) -> list[type[ServiceError]]:
    """Return the classes below ``kind`` that have none below them."""
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] or [kind]


def status_error(code: int, message: str, param: str | None = None) -> openai.APIStatusError:
    """Return the SDK's error for an answer of the engine."""
    body = {"message": message, "type": "Error", "param": param, "code": code}
    return openai.APIStatusError(message, response=httpx2.Response(code, request=REQUEST), body=body)


def test_every_error_has_its_row_in_the_table() -> None:
    """No error is without a status and a name, and no row without its error."""
    assert set(MEANINGS) == set(leaves(ServiceError))


def test_every_name_is_used_once() -> None:
    """A client can tell errors apart by type alone."""
    names = [row.type for row in MEANINGS.values()]
    assert len(names) == len(set(names))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Names and statuses are drawn as they are."""
    drawn = errors.__doc__ or ""
    for kind, row in MEANINGS.items():
        assert any(kind.__name__ in line and str(row.status) in line for line in drawn.splitlines()), kind


def test_the_documentation_lists_every_error_with_its_status() -> None:
    """A client's author reads the table there."""
    page = Path(errors.__file__).parents[1] / "docs" / "http-api.md"
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    listed = {(name, row[2].strip()) for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert {(row.type, str(row.status)) for row in MEANINGS.values()} <= listed


@pytest.mark.parametrize(
    ("code", "message", "param", "kind"),
    [
        (400, "This model's maximum context length is 2048 tokens.", "input_tokens", errors.ContextTooLong),
        (400, "max_tokens=5000 cannot be greater than max_model_len=2048.", "max_tokens", errors.Refused),
        (401, "no key", None, errors.EngineFailed),
        (404, "The model `x` does not exist.", "model", errors.EngineFailed),
        (422, "wrong", "messages", errors.InvalidInput),
        (429, "queue full", None, errors.EngineBusy),
        (500, "boom", None, errors.EngineFailed),
        (503, "sleeping", None, errors.EngineFailed),
        (504, "late", None, errors.EngineTimeout),
    ],
)
def test_an_engines_refusal_keeps_its_meaning(
    code: int, message: str, param: str | None, kind: type[ServiceError]
) -> None:
    """The caller's faults stay 4xx with the engine's sentence; the engine's own become 5xx."""
    error = translate(status_error(code, message, param))
    assert type(error) is kind
    if isinstance(error, errors.CallerError):
        assert error.message == message
        assert error.param == param


def test_a_meaning_survives_the_wrappers_of_sdk_and_chain() -> None:
    """Our transport's error is found below the SDK's connection error and whatever a chain put around it."""
    ours = errors.EngineUnreachable("refused")
    sdk = openai.APIConnectionError(request=REQUEST)
    sdk.__cause__ = ours
    outer = RuntimeError("a chain's own wrapper")
    outer.__cause__ = sdk
    assert translate(outer) is ours


@pytest.mark.parametrize(
    ("failure", "answering", "kind"),
    [
        (httpx2.ConnectError("refused"), False, errors.EngineUnreachable),
        (httpx2.ConnectTimeout("late"), False, errors.EngineUnreachable),
        (httpx2.ReadError("reset"), False, errors.EngineUnreachable),
        (httpx2.ReadError("reset"), True, errors.EngineDied),
        (httpx2.RemoteProtocolError("incomplete"), True, errors.EngineDied),
        (httpx2.ReadTimeout("silent"), True, errors.EngineTimeout),
        (httpx2.PoolTimeout("full"), False, errors.EngineBusy),
    ],
)
def test_a_failed_connection_says_what_failed(
    failure: httpx2.HTTPError, *, answering: bool, kind: type[ServiceError]
) -> None:
    """Before the answer nothing was computed; in its middle the engine has died."""
    assert type(translate_transport(failure, answering=answering)) is kind


def test_an_error_inside_a_stream_means_that_the_engine_died() -> None:
    """Of vLLM, that is: it sends one with code 500 when its engine core is killed."""
    inner = openai.APIError("EngineCore died", REQUEST, body={"message": "EngineCore died", "code": 500})
    assert type(translate(EngineStreamError(inner))) is errors.EngineDied


def test_a_stream_without_an_end_is_no_answer() -> None:
    """What the chat model calls a cut stream is not taken for a short one."""
    assert type(translate(EngineStreamCutError(request=REQUEST))) is errors.EngineDied


def test_an_error_nobody_foresaw_tells_nothing() -> None:
    """Its text may hold anything."""
    error = translate(KeyError("/root/secret.py 127.0.0.1"))
    assert type(error) is errors.InternalError
    assert "secret" not in json.dumps(describe(error))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("connect to http://127.0.0.1:41003/v1 failed", "connect to <address> failed"),
        ("127.0.0.1:41003 refused", "<address> refused"),
        ("localhost:8000 refused", "<address> refused"),
        ("No such file /root/models/x.gguf here", "No such file <path> here"),
        ("a/b testing and 1/2 and and/or stay", "a/b testing and 1/2 and and/or stay"),
        ("wrong\nTraceback (most recent call last):\n  File secret.py", "wrong"),
        ("maximum context length is 2048 tokens", "maximum context length is 2048 tokens"),
    ],
)
def test_foreign_texts_are_cleaned(text: str, clean: str) -> None:
    """Addresses, paths and stack traces go, sentences stay."""
    assert scrub(text) == clean


@given(st.text(), st.sampled_from(["http://127.0.0.1:41003/x", "/root/a/b.py", "127.0.0.1:41003"]), st.text())
def test_no_text_around_an_address_or_path_hides_it(before: str, secret: str, after: str) -> None:
    """Whatever stands around it, separated by blanks."""
    cleaned = scrub(f"{before} {secret} {after}")
    assert secret not in cleaned or secret in before or secret in after


def test_a_long_text_is_cut() -> None:
    """An engine may quote a whole prompt."""
    assert len(scrub("word " * 10_000)) <= errors.MESSAGE_LIMIT


def test_problems_of_an_input_name_places_and_never_values() -> None:
    """The values are the caller's content, and may be long."""
    problem = {"loc": ("messages", 0), "msg": "wrong", "type": "x", "input": "my secret", "url": "https://x"}
    error = invalid([problem] * 100, within=("input",))
    assert error.param == "input.messages.0"
    assert error.problems[0] == {"loc": ["input", "messages", 0], "msg": "wrong", "type": "x"}
    assert len(error.problems) == 20


def test_every_sentence_of_ours_is_free_of_addresses() -> None:
    """The sources of these texts are checked as a whole: no address is written into one."""
    for module in ("errors", "engines/upstream", "engines/endpoint", "engines/table"):
        source = (Path(errors.__file__).parent / f"{module}.py").read_text()
        assert "127.0.0.1" not in source, module


def test_meaning_and_description_agree() -> None:
    """The body's type is the table's."""
    error = errors.UnknownModel("There is no model 'x'.")
    assert describe(error)["type"] == meaning(error).type == "unknown_model"
