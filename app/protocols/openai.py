"""OpenAI's protocol: https://platform.openai.com/docs/api-reference, with the fields that vLLM adds to it."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from app.catalogue import RAW, Catalogue, Choice
from app.protocols.chat_service import ChatService
from app.protocols.openai_answers import render_model


def create_router(chats: ChatService) -> APIRouter:
    """Return the routes under ``/v1``."""
    router = APIRouter(tags=["OpenAI"], prefix="/v1")
    catalogue = chats.catalogue

    @router.get("/models", summary="List the models")
    async def models() -> Response:
        """Every model by its chain, and by its engine where that holds conversations."""
        return JSONResponse({"object": "list", "data": [render_model(choice) for choice in list_choices(catalogue)]})

    @router.get("/models/{model}", summary="Describe one model")
    async def one_model(model: str) -> Response:
        """404 where there is none."""
        return JSONResponse(render_model(catalogue.choose(model)))

    _ = models, one_model
    return router


def list_choices(catalogue: Catalogue) -> list[Choice]:
    """Return every name that a request may use, those of one model one after the other."""
    names = [
        name
        for served in catalogue.all()
        for name in (served.spec.id, *([f"{served.spec.id}:{RAW}"] if served.bare else []))
    ]
    return [catalogue.choose(name) for name in names]
