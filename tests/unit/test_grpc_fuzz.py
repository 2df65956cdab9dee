"""Messages nobody should send over gRPC: answered or refused by a named error, never a failure of the service's own."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import FastAPI
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InternalError, ServiceError
from app.generated.inference import inference_pb2 as kserve
from app.generated.langserve_vllm.v1 import chat_pb2 as chat
from app.protocols.chat_grpc import read_question
from app.protocols.kserve.grpc_service import InferenceService
from app.protocols.kserve.service import KServe
from tests.unit.scripted import MODEL, ScriptedEngine, Stage, says
from tests.unit.test_kserve_grpc import ask, call

WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}
TEXTS = st.sampled_from(["", "text_input", "stream", "stop", "BYTES", "FP16", "{}", "[[]]", "1e400", "\x00", MODEL])


def single(field: Any, depth: int) -> st.SearchStrategy[Any]:
    """One value of the field."""
    if field.message_type is not None:
        return filled(field.message_type, depth - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=12) if field.type == FieldDescriptor.TYPE_BYTES else TEXTS | st.text(max_size=12)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return WHOLE[field.cpp_type]


def filled(kind: Any, depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Any values for any fields of a message, as its constructor takes them."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.fields:
        if field.message_type is not None and depth == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = single(field.message_type.fields_by_name["value"], depth - 1)
            fields[field.name] = st.dictionaries(TEXTS | st.text(max_size=6), values, max_size=2)
        elif field.is_repeated:
            fields[field.name] = st.lists(single(field, depth), max_size=2)
        else:
            fields[field.name] = single(field, depth)
    return st.fixed_dictionaries({}, optional=fields)


def messages(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Messages of that kind."""
    descriptor: Descriptor = kind.DESCRIPTOR
    return filled(descriptor, 4).map(lambda values: kind(**values))


@given(messages(chat.Question))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_question_is_read_or_refused(question: chat.Question) -> None:
    """Whatever its fields say."""
    with contextlib.suppress(ServiceError):
        read_question(question, stream=True, owner=None, wait=None)


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[FastAPI]:
    """The app with a ready model that says two words."""
    async with Stage(tmp_path_factory.mktemp("app")).app(ScriptedEngine(says("Ho ", "ho"))) as app:
        yield app


@given(st.lists(messages(kserve.ModelInferRequest), min_size=20, max_size=20))
@settings(
    max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_inference_is_answered_or_refused(app: FastAPI, requests: list[kserve.ModelInferRequest]) -> None:
    """Alone, and added to a good one."""
    service = InferenceService(KServe(app.state.grpc.chats), 4)

    async def run() -> list[BaseException]:
        wrong: list[BaseException] = []
        for odd in requests:
            good = ask()
            good.MergeFrom(odd)
            good.model_name = MODEL
            for request in (odd, good):
                try:
                    await service.model_infer(request, call())
                except InternalError as error:
                    wrong.append(error)
                except ServiceError:
                    continue
        return wrong

    assert not asyncio.run(run())
