"""What a model will see of a conversation: the chain's prompt, and the text that its chat template makes of it."""

from dataclasses import replace
from typing import Any

from chat_vllm import ChatInput, ChatPrompt
from fastapi import APIRouter, Request
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.runnables import RunnableSequence
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from app.chains import EngineAccess, build_chain, build_chat_model
from app.errors import Refused, UnknownModel
from app.guard.bodies import read_json
from app.responses import invalid, named_errors
from app.settings import Settings
from vllm_launcher.registry import ModelSpec, Registry

CHATS = ("chat", "vision-chat")


def create_router(registry: Registry, access: EngineAccess, settings: Settings) -> APIRouter:
    """Return the route that shows prompts."""
    router = APIRouter(tags=["status"])
    known = replace(access, registry=registry)

    @router.post("/models/{model}/prompt", summary="Show what the model will see")
    async def prompt(model: str, request: Request) -> Response:
        """The messages that the engine is sent for an input, their text by its own chat template, and its tokens.

        The body is an input of the chain, as in `{"messages": [{"role": "user", "content": "Hi"}]}`. Nothing is
        generated and nothing is kept.
        """
        spec = _find(registry, model)
        said = _read_input(await read_json(request, settings.limits))
        with named_errors():
            await access.table.ensure_ready(model, settings.wait_ready)
            return JSONResponse(await _show(spec, said, known), headers={"Cache-Control": "no-store"})

    _ = prompt  # registered by its decorator
    return router


def _find(registry: Registry, model: str) -> ModelSpec:
    spec = registry.get(model)
    if spec is None:
        raise UnknownModel(f"There is no model '{model[:64]}'.", hint="GET /models lists them.")
    if spec.task not in CHATS:
        raise Refused(f"'{model}' is a model for {spec.task}: it sees no conversation.")
    return spec


def _read_input(body: Any) -> ChatInput:
    try:
        return ChatInput.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from error


async def _show(spec: ModelSpec, said: ChatInput, access: EngineAccess) -> dict[str, Any]:
    llm = build_chat_model(spec, access).model
    messages = await _asked(spec, said, access)
    counted = await llm.acount_tokens(messages)
    return {
        "model": spec.id,
        "messages": convert_to_openai_messages(messages),
        "text": await llm.arender(messages),
        "tokens": counted.count,
        "max_model_len": counted.limit,
    }


async def _asked(spec: ModelSpec, said: ChatInput, access: EngineAccess) -> list[BaseMessage]:
    """Return what the chain's prompt makes of a conversation; without one it is shown as it is."""
    chain = build_chain(spec, replace(access, memory=None)) if spec.chain else None
    first = chain.first if isinstance(chain, RunnableSequence) else None
    messages: list[BaseMessage] = [*said.messages]
    return await first.aformat_messages(messages=messages) if isinstance(first, ChatPrompt) else messages
