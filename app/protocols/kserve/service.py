"""Answers inferences, whichever wire they came by: parsed, asked of the chain, rendered."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from app.catalogue import Choice
from app.errors import EngineFailed, InvalidInput, ShuttingDown, TooLarge
from app.protocols.chat_service import ChatService
from app.protocols.kserve.parse import VERSION, Asked, check_version, parse, texts
from app.protocols.kserve.render import Rendering, Signature, inputs_of, last, outputs_of, render_embeddings
from app.protocols.kserve.tensors import InferRequest, InferResponse
from app.responses import named_errors
from app.status import describe_waiting

STATES = {"ready": "READY", "failed": "UNAVAILABLE", "draining": "UNLOADING"}
"""Of our servers in Triton's words; every other state but those without a server is LOADING."""
UNLOADED = ("absent", "stopped", "asleep")


class KServe:
    """The protocol's operations.

    Args:
        chats: Answers conversations, and knows the models and which of them are ready.
    """

    def __init__(self, chats: ChatService) -> None:
        self.chats = chats
        self._table = chats.table

    # --- what there is -----------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether every model of the start is ready."""
        return not describe_waiting([model.spec for model in self.chats.catalogue.all()], self._table)

    def model_ready(self, model: str, version: str = "") -> bool:
        """Whether a model's server has just generated a token."""
        check_version(InferRequest(model, {}, version))
        return self._table.endpoint(self.chats.catalogue.choose(model).id) is not None

    def metadata(self, model: str, version: str = "") -> tuple[Choice, list[Signature], list[Signature]]:
        """Return a model with its inputs and outputs."""
        check_version(InferRequest(model, {}, version))
        choice = self.chats.catalogue.choose(model)
        return choice, inputs_of(choice), outputs_of(choice)

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Return the models with their states, as Triton's repository index names them."""
        entries = [self._entry(model.spec.id) for model in self.chats.catalogue.all()]
        return [entry for entry in entries if not ready or entry["state"] == "READY"]

    def _entry(self, model: str) -> dict[str, str]:
        server = self._table.server(model)
        state = server.state if server else "absent"
        loading = "" if state in UNLOADED else "LOADING"
        phase = server.phase if server else ""
        return {"name": model, "version": VERSION, "state": STATES.get(state, loading), "reason": phase}

    # --- inferences --------------------------------------------------------------------------

    async def infer(self, infer: InferRequest, **known: Any) -> InferResponse:
        """Return the whole answer; ``known`` are fields of the question that its wire knows.

        Raises:
            ServiceError: What went wrong.
        """
        with named_errors():
            choice = self.chats.catalogue.choose(infer.model)
            if choice.served.spec.task == "embedding":
                return await self._embed(choice, infer, known.get("wait"))
            asked = self.question(infer, **known)
            if asked.request.stream:
                raise InvalidInput(
                    "This call gives one answer, not a stream.",
                    hint="Streams are ModelStreamInfer's and generate_stream's.",
                    param="stream",
                )
            return await self._whole(infer, asked)

    async def answers(
        self, infer: InferRequest, *, stream: bool | None = None, **known: Any
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield one answer whole or in pieces, as ``stream`` or else the inference says; the last one says that it is.

        Raises:
            ServiceError: What went wrong.
        """
        if self.embeds(infer):
            yield last(await self.infer(infer, **known))
            return
        asked = self.question(infer, stream=stream, **known)
        if not asked.request.stream:
            yield last(await self._whole(infer, asked))
            return
        rendering = Rendering(infer, asked)
        async with aclosing(self.chats.stream(asked.request)) as chunks:
            async for chunk in chunks:
                if (response := rendering.piece(chunk)) is not None:
                    yield response
        yield rendering.end()

    def embeds(self, infer: InferRequest) -> bool:
        """Whether an inference is for vectors."""
        return self.chats.catalogue.choose(infer.model).served.spec.task == "embedding"

    def question(self, infer: InferRequest, *, stream: bool | None = None, **known: Any) -> Asked:
        """Return what an inference asks; ``known`` are fields of the question that its wire knows.

        Raises:
            ServiceError: It does not fit, or the model holds no conversations.
        """
        self.chats.catalogue.choose(infer.model).answerer()
        asked = parse(infer, stream=stream)
        return replace(asked, request=replace(asked.request, **known))

    async def _whole(self, infer: InferRequest, asked: Asked) -> InferResponse:
        (message,) = await self.chats.answer(asked.request)
        return Rendering(infer, asked).whole(message)

    async def _embed(self, choice: Choice, infer: InferRequest, wait: float | None) -> InferResponse:
        check_version(infer)
        said = texts(infer)
        limit = self.chats.settings.limits.embeddings
        if len(said) > limit:
            raise TooLarge(f"More than {limit} texts.", param="text_input")
        if self.chats.shutdown.begun:
            raise ShuttingDown
        await self.chats.ensure_ready(choice, wait)
        answer = await choice.served.line.ask("/embeddings", {"input": said, "encoding_format": "float"})
        return render_embeddings(infer, _vectors(answer))


def _vectors(answer: Mapping[str, Any]) -> Sequence[Sequence[float]]:
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return [cast("list[float]", row["embedding"]) for row in rows]
    except (KeyError, TypeError) as error:
        raise EngineFailed("The engine answered with something that is no embedding.") from error
