"""Pictures drawn by a model, whichever protocol asks: by its chain, or by its engine where it has none, or is raw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request
from langchain_core.messages import AIMessage

from app.catalogue import Choice
from app.errors import EngineFailed
from app.protocols.chat_service import as_message
from app.protocols.delivery import Delivery, wait_of

PATH = "/images/generations"


@dataclass(frozen=True)
class Drawn:
    """One picture."""

    base64: str
    mime_type: str
    path: str | None = None
    """Where it is kept for a while, from the service's root on; None where it is not."""

    @property
    def url(self) -> str:
        """The picture itself as a ``data:`` URL."""
        return f"data:{self.mime_type};base64,{self.base64}"


async def draw(delivery: Delivery, request: Request, choice: Choice, drawing: Mapping[str, Any]) -> list[Drawn]:
    """Return what a model draws, for as long as somebody waits for it.

    Args:
        delivery: Of the protocol that asks.
        request: Whose caller is kept in view.
        choice: The model.
        drawing: Checked, in the words of OpenAI's images and vLLM-Omni's additions to it.

    Raises:
        ServiceError: What went wrong.
    """
    async with delivery.wanted(request):
        await delivery.chats.ensure_ready(choice, wait_of(request))
        if choice.raw or choice.served.chain is None:
            answer = await choice.served.line.ask(PATH, {**drawing, "response_format": "b64_json"})
            kind = f"image/{drawing.get('output_format', 'png')}"
            return [Drawn(each["b64_json"], kind) for each in answer["data"]]
        message = as_message(await choice.served.chain.ainvoke(dict(drawing)))
    drawn = read_pictures(message)
    if not drawn:
        raise EngineFailed("The chain drew nothing.")
    return drawn


def read_pictures(message: AIMessage) -> list[Drawn]:
    """Return the pictures of a message: blocks in LangChain's standard form."""
    content: Any = message.content  # pyright: ignore[reportUnknownMemberType]
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    found = [cast("dict[str, Any]", block) for block in blocks if isinstance(block, dict)]
    return [_picture(block) for block in found if "base64" in block]


def _picture(block: Mapping[str, Any]) -> Drawn:
    extras: Mapping[str, Any] = block.get("extras") or {}
    return Drawn(block["base64"], block.get("mime_type", "image/png"), extras.get("url"))
