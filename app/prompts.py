"""What a model will see of a conversation: the chain's prompt, and the text that its chat template makes of it."""

from typing import Any

from chat_vllm import ChatInput
from fastapi import APIRouter, Request
from langchain_core.messages import convert_to_openai_messages
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from app.catalogue import CHATS, Catalogue, ServedModel
from app.chains import EngineAccess, build_chat_model
from app.errors import Refused, UnknownModel, scrub
from app.guard.bodies import read_json
from app.rehearsal import prompt_of
from app.responses import invalid, named_errors
from app.settings import Settings


def create_router(catalogue: Catalogue, access: EngineAccess, settings: Settings) -> APIRouter:
    """Return the route that shows prompts."""
    router = APIRouter(tags=["status"])

    @router.post("/models/{model}/prompt", summary="Show what the model will see")
    async def prompt(model: str, request: Request) -> Response:
        """The messages that the engine is sent for an input, their text by its own chat template, and its tokens.

        The body is an input of the chain, as in `{"messages": [{"role": "user", "content": "Hi"}]}`. Nothing is
        generated and nothing is kept.
        """
        served = _find(catalogue, model)
        said = _read_input(await read_json(request, settings.limits))
        with named_errors():
            await access.table.ensure_ready(model, settings.wait_ready)
            return JSONResponse(await _show(served, said, access), headers={"Cache-Control": "no-store"})

    _ = prompt  # registered by its decorator
    return router


def _find(catalogue: Catalogue, model: str) -> ServedModel:
    served = catalogue.get(model)
    if served is None:
        raise UnknownModel(f"There is no model '{scrub(model[:64])}'.", hint="GET /models lists them.")
    if served.spec.task not in CHATS:
        raise Refused(f"'{model}' is a model for {served.spec.task}: it sees no conversation.")
    if prompt_of(served.chain) is None:
        raise Refused(f"'{model}' asks its model in several steps: what it sees depends on what the steps before find.")
    return served


def _read_input(body: Any) -> ChatInput:
    try:
        return ChatInput.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from error


async def _show(served: ServedModel, said: ChatInput, access: EngineAccess) -> dict[str, Any]:
    llm = build_chat_model(served.spec, access).model
    prompt = prompt_of(served.chain)
    asked = await prompt.aformat_messages(messages=said.messages) if prompt else [*said.messages]
    messages = await access.images.check_images(asked, served.spec.limits)
    counted = await llm.acount_tokens(messages)
    return {
        "model": served.spec.id,
        "messages": convert_to_openai_messages(messages),
        "text": await llm.arender(messages),
        "tokens": counted.count,
        "max_model_len": counted.limit,
    }
