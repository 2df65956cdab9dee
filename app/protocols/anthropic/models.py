"""The list of models as Anthropic's client reads it; its path is OpenAI's too, and the header tells who asks."""

from typing import Any

from starlette.requests import Request

from app.catalogue import CHATS, Catalogue, Choice

CREATED = "2023-11-14T22:13:20Z"
"""As in OpenAI's list: no entry of models.json has a date."""


def asks(request: Request) -> bool:
    """Whether Anthropic's client asks: it always names the version of its protocol."""
    return "anthropic-version" in request.headers


def render_model(choice: Choice) -> dict[str, Any]:
    """Return one model."""
    return {"type": "model", "id": choice.name, "display_name": choice.served.spec.display_name, "created_at": CREATED}


def render(catalogue: Catalogue) -> dict[str, Any]:
    """Return every model that holds conversations, on one page."""
    chatting = [served.spec.id for served in catalogue.all() if served.spec.task in CHATS]
    models = [render_model(catalogue.choose(model)) for model in chatting]
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"data": models, "has_more": False, **ends}
