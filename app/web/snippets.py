"""Calls of one model that work when pasted: a shell command and a Python program.

Pure text. Whatever comes from outside (the base URL names the host the browser asked for) is quoted for the
language it lands in, so that pasting never runs anything but the call.
"""

import json
import shlex
from typing import NamedTuple

from vllm_launcher.registry import ModelSpec, Task


class Snippet(NamedTuple):
    """One call: ``label`` for people, ``slug`` for element ids, ``code`` to paste."""

    label: str
    slug: str
    code: str


_QUESTIONS: dict[Task, str] = {
    "chat": "What is the capital of France?",
    "vision-chat": "What is the capital of France?",
    "image-generation": "a red apple",
    "embedding": "What is the capital of France?",
}


def snippets(spec: ModelSpec, base_url: str) -> tuple[Snippet, ...]:
    """The calls of one model, none where it is served without a chain.

    Args:
        spec: The registry's entry.
        base_url: Where clients reach the app, ending in a slash: http://127.0.0.1:8000/.
    """
    if spec.chain is None:
        return ()
    url = f"{base_url}{spec.id}"
    value = _input(spec)
    return (Snippet("curl", "curl", _curl(url, value)), Snippet("Python", "python", _python(url, value, spec.task)))


def _input(spec: ModelSpec) -> object:
    question = _QUESTIONS[spec.task]
    if spec.task == "image-generation":
        return question
    return {"messages": [{"role": "user", "content": question}]}


def _curl(url: str, value: object) -> str:
    body = json.dumps({"input": value})
    lines = (
        f"curl -sS {shlex.quote(url + '/invoke')}",
        "  -H 'Content-Type: application/json'",
        f"  -d {shlex.quote(body)}",
    )
    return " \\\n".join(lines)


def _python(url: str, value: object, task: Task) -> str:
    if task == "image-generation":
        call = (f"image = chain.invoke({_literal(value)})",)
    else:
        call = (
            f"question = {_literal(value)}",
            "for chunk in chain.stream(question):",
            '    print(chunk.content, end="", flush=True)',
        )
    lines = (
        '# pip install "langserve[client]"',
        "from langserve import RemoteRunnable",
        "",
        f"chain = RemoteRunnable({_literal(url)})",
        *call,
    )
    return "\n".join(lines)


def _literal(value: object) -> str:
    """A JSON value of strings, lists and objects is a Python literal too."""
    return json.dumps(value)
