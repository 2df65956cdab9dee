"""From a model's messages to the tensors of an answer, and what a model's tensors are: pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.messages import AIMessage

from app.catalogue import Choice
from app.protocols.kserve.parse import EXCLUDE, EXTRAS, IMAGE, MESSAGES, SAMPLING, STREAM, TEXT, Asked
from app.protocols.kserve.tensors import InferRequest, InferResponse, Tensor

TEXT_OUT, PICTURES, EMBEDDING = "text_output", "image", "embedding"
FINAL = "triton_final_response"
"""Parameter of a stream's answers: whether this one is the last."""
PLATFORM = "langserve-vllm"
EXTENSIONS = ("binary_tensor_data", "generate", "model_repository")

Signature = tuple[str, str, tuple[int, ...]]
"""Name, datatype and shape of a tensor; -1: any length."""


def inputs_of(choice: Choice) -> list[Signature]:
    """Return what a model takes."""
    if choice.served.spec.task == "embedding":
        return [(TEXT, "BYTES", (-1,))]
    flags: list[Signature] = [(name, "BOOL", (1,)) for name in (STREAM, EXCLUDE, *EXTRAS)]
    images: list[Signature] = [(IMAGE, "BYTES", (-1,))] if choice.served.spec.task == "vision-chat" else []
    return [(TEXT, "BYTES", (1,)), *images, (MESSAGES, "BYTES", (1,)), (SAMPLING, "BYTES", (1,)), *flags]


def outputs_of(choice: Choice) -> list[Signature]:
    """Return what a model gives; all but the first only where it is asked for or there is any."""
    if choice.served.spec.task == "embedding":
        return [(EMBEDDING, "FP32", (-1, -1))]
    pictures: list[Signature] = [(PICTURES, "BYTES", (-1,))] if choice.served.spec.task == "image-generation" else []
    extras: list[Signature] = [(name, DATATYPES[name], (1,)) for name in EXTRAS.values()]
    return [(TEXT_OUT, "BYTES", (1,)), *pictures, *extras]


DATATYPES = {
    "finish_reason": "BYTES",
    "cumulative_logprob": "FP32",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}


class Rendering:
    """Renders the answer to one question, in one piece or in several.

    Args:
        infer: What came; its id and the names of the wanted outputs count.
        asked: What it asks.
    """

    def __init__(self, infer: InferRequest, asked: Asked) -> None:
        self._infer = infer
        self._asked = asked
        self._logprob = 0.0
        self._finish = "None"
        self._counts = (0, 0)

    def whole(self, message: AIMessage) -> InferResponse:
        """Return a whole answer."""
        self._note(message)
        return self._response(f"{self._asked.echo}{message.text}", pictures(message), counts=self._counts)

    def piece(self, chunk: AIMessage) -> InferResponse | None:
        """Return one piece of an answer; None where it shows nothing. Tokens are counted at the end."""
        self._note(chunk)
        shown, drawn = str(chunk.text), pictures(chunk)
        return self._response(shown, drawn, counts=(0, 0), final=False) if shown or drawn else None

    def end(self) -> InferResponse:
        """Return the end of an answer in pieces."""
        return self._response("", [], counts=self._counts, final=True)

    def _note(self, message: AIMessage) -> None:
        metadata = cast("dict[str, Any]", message.response_metadata)
        self._finish = str(metadata.get("finish_reason") or self._finish)
        logprobs: dict[str, Any] = metadata.get("logprobs") or {}
        tokens: list[dict[str, Any]] = logprobs.get("content") or []
        self._logprob += sum(token["logprob"] for token in tokens)
        if usage := message.usage_metadata:
            self._counts = (usage["input_tokens"], usage["output_tokens"])

    def _response(
        self, text: str, drawn: Sequence[bytes], *, counts: tuple[int, int], final: bool | None = None
    ) -> InferResponse:
        values: dict[str, Any] = {
            "finish_reason": self._finish.encode(),
            "cumulative_logprob": self._logprob,
            "num_input_tokens": counts[0],
            "num_output_tokens": counts[1],
        }
        extras = [Tensor(name, DATATYPES[name], (1,), [values[name]]) for name in self._asked.extras]
        images = [Tensor(PICTURES, "BYTES", (len(drawn),), drawn)] if drawn else []
        outputs = [Tensor(TEXT_OUT, "BYTES", (1,), [text.encode()]), *images, *extras]
        wanted = self._infer.outputs
        return InferResponse(
            self._infer.model,
            [tensor for tensor in outputs if not wanted or tensor.name in wanted],
            self._infer.id,
            {} if final is None else {FINAL: final},
        )


def pictures(message: AIMessage) -> list[bytes]:
    """Return the pictures of a message, in Base64 as they also come in."""
    if isinstance(message.content, str):
        return []
    blocks = [cast("dict[str, Any]", block) for block in message.content if isinstance(block, dict)]
    return [str(block["base64"]).encode() for block in blocks if block.get("type") == "image" and "base64" in block]


def render_embeddings(infer: InferRequest, vectors: Sequence[Sequence[float]]) -> InferResponse:
    """Return one row a text."""
    shape = (len(vectors), len(vectors[0]) if vectors else 0)
    return InferResponse(
        infer.model, [Tensor(EMBEDDING, "FP32", shape, [value for row in vectors for value in row])], infer.id
    )


def last(response: InferResponse) -> InferResponse:
    """Return an answer that says that no other follows."""
    return replace(response, parameters={**response.parameters, FINAL: True})
