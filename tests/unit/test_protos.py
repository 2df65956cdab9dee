"""The protocol descriptions: what buf would check of ours, and that the code is made from them."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor

from app.generated.inference import inference_pb2
from app.generated.langserve_vllm.v1 import chat_pb2
from app.generated.pool import POOL

ROOT = Path(__file__).parents[2]
OURS = chat_pb2.DESCRIPTOR
SOURCE = (ROOT / "proto" / OURS.name).read_text(encoding="utf-8")


def messages() -> list[Descriptor]:
    """Every message of ours."""
    return [*OURS.message_types_by_name.values()]


def enums() -> list[EnumDescriptor]:
    """Every enum of ours."""
    return [*OURS.enum_types_by_name.values()]


def test_the_code_is_made_from_the_descriptions(tmp_path: Path) -> None:
    """``make proto`` changes nothing."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    made = generate.generate(tmp_path)
    assert len(made) == 4
    for path in made:
        kept = ROOT / "app" / "generated" / path.relative_to(tmp_path)
        assert path.read_text() == kept.read_text(), f"{path.name} is older than its description: make proto"


def test_the_descriptions_leave_the_default_pool_to_others() -> None:
    """A Triton client describes the package ``inference`` too, and both fit into one process."""
    assert POOL.FindFileByName("inference/inference.proto") is inference_pb2.DESCRIPTOR
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName("inference/inference.proto")


def test_the_package_has_a_version_and_its_folder() -> None:
    """buf: PACKAGE_VERSION_SUFFIX, PACKAGE_DIRECTORY_MATCH, FILE_LOWER_SNAKE_CASE."""
    assert re.fullmatch(r"[a-z_]+\.v\d+", OURS.package)
    assert re.fullmatch(rf"{OURS.package.replace('.', '/')}/[a-z_]+\.proto", OURS.name)


def test_every_enum_begins_with_nothing_and_its_values_with_its_name() -> None:
    """buf: ENUM_ZERO_VALUE_SUFFIX, ENUM_VALUE_PREFIX."""
    for enum in enums():
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_every_call_has_messages_of_its_own_name() -> None:
    """buf: RPC_REQUEST_STANDARD_NAME, RPC_RESPONSE_STANDARD_NAME, RPC_REQUEST_RESPONSE_UNIQUE, SERVICE_SUFFIX."""
    for service in OURS.services_by_name.values():
        assert service.name.endswith("Service")
        for method in service.methods:
            assert (method.input_type.name, method.output_type.name) == (
                f"{method.name}Request",
                f"{method.name}Response",
            )


def test_fields_are_written_in_lower_case() -> None:
    """buf: FIELD_LOWER_SNAKE_CASE, MESSAGE_PASCAL_CASE."""
    for message in messages():
        assert re.fullmatch(r"([A-Z][a-z]+)+", message.name)
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", field.name) for field in message.fields)


def test_every_call_and_service_is_told_in_words() -> None:
    """buf: COMMENT_SERVICE, COMMENT_RPC."""
    lines = SOURCE.splitlines()
    for index, line in enumerate(lines):
        if re.match(r"\s*(rpc|service) ", line):
            assert lines[index - 1].lstrip().startswith("//"), line


NUMBERS = {
    "Question": ["model", "messages", "sampling", "tools", "tool_choice", "tool_name", "json_schema", "session_id"],
    "Message": ["role", "parts", "tool_calls", "tool_call_id", "reasoning"],
    "StreamChatResponse": ["text", "reasoning", "tool_call", "image", "finish"],
}


@pytest.mark.parametrize("message", NUMBERS)
def test_numbers_once_given_stay(message: str) -> None:
    """Fields are never renumbered (buf breaking): clients that were built yesterday understand today's messages."""
    fields = OURS.message_types_by_name[message].fields
    assert [field.name for field in sorted(fields, key=lambda field: field.number)] == NUMBERS[message]
    assert [field.number for field in fields] == list(range(1, len(fields) + 1))
