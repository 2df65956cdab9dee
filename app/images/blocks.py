"""Image blocks of messages, in the forms people write them. Pure.

OpenAI's ``image_url`` and ``input_image``, LangChain's ``image`` (standard content, and the form before it), and
Anthropic's ``image`` with a ``source``. Written back, each is OpenAI's, which engines take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import BaseMessage

from app.errors import InvalidInput

IMAGES = ("image_url", "image", "input_image")
TEXTS = ("text", "input_text", "output_text", "reasoning", "thinking", "tool_use", "tool_call", "refusal")
"""Blocks that hold no media: left as they are."""


@dataclass(frozen=True)
class Given:
    """An image as a client gives it: its data in base64 with a declared type, or an address."""

    place: str
    base64: str | None = None
    mime_type: str | None = None
    url: str | None = None


def find_images(messages: Sequence[BaseMessage]) -> list[Given]:
    """Return every image of a conversation, in its order.

    Raises:
        InvalidInput: A block is no text and no image, or an image without data or address.
    """
    return [
        read_block(block, f"messages.{number}.content.{index}")
        for number, message in enumerate(messages)
        for index, block in enumerate(_blocks(message))
        if not _is_text(block)
    ]


def replace_images(messages: Sequence[BaseMessage], uris: Sequence[str]) -> list[BaseMessage]:
    """Return the conversation with these ``data:`` URIs in the place of its images, in their order."""
    following = iter(uris)

    def replaced(block: Any) -> Any:
        return block if _is_text(block) else {"type": "image_url", "image_url": {"url": next(following)}}

    return [_with_blocks(message, replaced) for message in messages]


def _with_blocks(message: BaseMessage, replaced: Callable[[Any], Any]) -> BaseMessage:
    blocks = _blocks(message)
    if all(map(_is_text, blocks)):
        return message
    return message.model_copy(update={"content": [replaced(block) for block in blocks]})


def _blocks(message: BaseMessage) -> Sequence[Any]:
    content: Any = message.content  # pyright: ignore[reportUnknownMemberType]
    return cast("list[Any]", content) if isinstance(content, list) else ()


def _is_text(block: Any) -> bool:
    return not isinstance(block, Mapping) or cast("Mapping[str, Any]", block).get("type") in TEXTS


def read_block(block: Mapping[str, Any], place: str) -> Given:
    """Return what an image block gives.

    Raises:
        InvalidInput: It is no image, or one without data or address.
    """
    kind = block.get("type")
    if kind not in IMAGES:
        told = kind if isinstance(kind, str) and kind.isidentifier() and len(kind) < 32 else "block"  # noqa: PLR2004
        raise InvalidInput(f"A {told} is neither text nor an image, which is all this model takes.", param=place)
    given = _address(block, place) or _data(block, place)
    if given is None:
        raise InvalidInput("The image has neither data nor an address.", param=place, hint=FORMS)
    return given


FORMS = 'Write {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.'


def _address(block: Mapping[str, Any], place: str) -> Given | None:
    address: Any = block.get("image_url") or block.get("url") or _source(block).get("url")
    if isinstance(address, Mapping):
        address = cast("Mapping[str, Any]", address).get("url")
    if not isinstance(address, str) or not address:
        return None
    return _data_uri(address, place) if address[:5].lower() == "data:" else Given(place, url=address)


def _data(block: Mapping[str, Any], place: str) -> Given | None:
    source = _source(block)
    data: Any = block.get("base64") or block.get("data") or source.get("data")
    kind: Any = block.get("mime_type") or block.get("media_type") or source.get("media_type")
    if not isinstance(data, str):
        return None
    if data[:5].lower() == "data:":
        return _data_uri(data, place)
    return Given(place, base64=data, mime_type=kind if isinstance(kind, str) else None)


def _source(block: Mapping[str, Any]) -> Mapping[str, Any]:
    source: Any = block.get("source")
    return cast("Mapping[str, Any]", source) if isinstance(source, Mapping) else {}


def _data_uri(uri: str, place: str) -> Given:
    """Read ``data:image/png;base64,...`` (RFC 2397)."""
    head, comma, data = uri[5:].partition(",")
    kind, *parameters = head.split(";")
    if not comma or "base64" not in [parameter.strip().lower() for parameter in parameters]:
        raise InvalidInput("The image's data: URI is not in base64.", param=place, hint=FORMS)
    return Given(place, base64=data, mime_type=kind.strip().lower() or None)
