"""The OpenAPI document: FastAPI's, with the bodies of the routes that read theirs themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REFERENCE = "#/components/schemas/{model}"
Model = type[BaseModel]


@dataclass(frozen=True)
class Bodies:
    """What one POST takes and gives. ``response`` is None for server-sent events."""

    request: Model
    response: Model | None
    example: Any
    answers: "Answers | None" = None
    """Of a protocol that is not ours; its answers are described where it comes from."""


@dataclass(frozen=True)
class Answers:
    """What a foreign protocol answers with."""

    name: str
    """Of the errors' schema."""
    error: Mapping[str, Any]
    """JSON schema of its errors."""
    stream: str | None = "text/event-stream"
    """Media type of an answer in pieces; None where there is none."""
    whole: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON schema of an answer in one piece."""


ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "hint", "param"],
            "properties": {
                "type": {"type": "string", "description": "Which error: a name that does not change."},
                "message": {"type": "string", "description": "What happened, for people."},
                "hint": {"type": ["string", "null"], "description": "What to do about it."},
                "param": {"type": ["string", "null"], "description": "The part of the request it is about."},
            },
            "additionalProperties": True,
        },
        "message": {"type": "string", "description": "The error's message once more, where some clients look."},
    },
}
"""The body of every error; ``app/errors.py`` lists the types."""


PREFER: Mapping[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "examples": {
        "wait": {"value": "wait=120", "summary": "Wait up to so many seconds for the model to get ready."},
        "batch": {"value": "return-exceptions", "summary": "In a batch: an error for each input that fails."},
    },
    "description": "RFC 7240. Without `wait` the service's own setting holds; what does not fit is answered with 503.",
}


def describe_bodies(app: FastAPI, bodies: Mapping[str, Bodies]) -> None:
    """Make ``app.openapi`` tell the bodies of the POSTs at the paths of ``bodies``; computed when first asked for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            _add(document, bodies)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi


def _add(document: dict[str, Any], bodies: Mapping[str, Bodies]) -> None:
    models = {model for body in bodies.values() for model in (body.request, body.response) if model is not None}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    references, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=REFERENCE)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions.get("$defs", {}))
    schemas["Error"] = dict(ERROR)
    for path, body in bodies.items():
        operation = document["paths"][path]["post"]
        request = references[(body.request, "validation")]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": request, "example": body.example}},
        }
        operation["parameters"] = [*operation.get("parameters", ()), PREFER]
        if body.answers is not None:
            schemas[body.answers.name] = dict(body.answers.error)
            operation["responses"] = _foreign(body.answers)
            continue
        response = None if body.response is None else references[(body.response, "validation")]
        operation["responses"] = {"200": _answer(response), "default": _error("Error")}


def _answer(schema: Any) -> dict[str, Any]:
    if schema is None:
        events = {"text/event-stream": {"schema": {"type": "string"}}}
        return {"description": "Server-sent events; the last is end or error.", "content": events}
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _foreign(answers: Answers) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": dict(answers.whole)}}
    if answers.stream:
        content[answers.stream] = {"schema": {"type": "string"}}
    return {"200": {"description": "The answer.", "content": content}, "default": _error(answers.name)}


def _error(name: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(model=name)}
    return {"description": "An error with a name.", "content": {"application/json": {"schema": schema}}}
