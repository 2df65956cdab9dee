"""OpenAI's answers, rendered: pure functions from LangChain's messages to the wire's JSON."""

from typing import Any

from app.catalogue import Choice

CREATED = 1_700_000_000
"""``created`` of every model: no entry of models.json has a date, and clients only ask that it be a number."""


def render_model(choice: Choice) -> dict[str, Any]:
    """Return one entry of ``/v1/models``."""
    spec = choice.served.spec
    return {"id": choice.name, "object": "model", "created": CREATED, "owned_by": "langserve-vllm", "task": spec.task}
