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


_QUESTION = "Name the capital of France."
_PICTURE = "a red apple"
_SIGHT = "What is this?"


def snippets(spec: ModelSpec, base_url: str) -> tuple[Snippet, ...]:
    """The calls of one model, none where it is served without a chain.

    Args:
        spec: The registry's entry.
        base_url: Where clients reach the app, ending in a slash: http://127.0.0.1:8000/.
    """
    if spec.chain is None:
        return ()
    url = f"{base_url}{spec.id}"
    python = {"image-generation": _draw, "vision-chat": _see}.get(spec.task, _chat)(url)
    return (Snippet("curl", "curl", _curl(url, spec.task)), Snippet("Python", "python", python))


def _curl(url: str, task: Task) -> str:
    body = json.dumps({"input": _PICTURE if task == "image-generation" else _QUESTION})
    lines = (
        f"curl -sS {shlex.quote(url + '/invoke')}",
        "  -H 'Content-Type: application/json'",
        f"  -d {shlex.quote(body)}",
    )
    return " \\\n".join(lines)


def _chat(url: str) -> str:
    return _python(
        url,
        f"for chunk in chain.stream({json.dumps(_QUESTION)}):",
        '    print(chunk.content, end="", flush=True)',
    )


def _draw(url: str) -> str:
    return _python(
        url,
        f"message = chain.invoke({json.dumps(_PICTURE)})",
        'data = base64.b64decode(message.content[0]["base64"])',
        'open("picture.png", "wb").write(data)',
        needs="base64",
    )


def _see(url: str) -> str:
    return _python(
        url,
        'data = base64.b64encode(open("picture.jpg", "rb").read()).decode()',
        'image = {"type": "image", "base64": data, "mime_type": "image/jpeg"}',
        f"question = [{json.dumps({'type': 'text', 'text': _SIGHT})}, image]",
        'for chunk in chain.stream({"messages": [{"role": "user", "content": question}]}):',
        '    print(chunk.content, end="", flush=True)',
        needs="base64",
    )


def _python(url: str, *call: str, needs: str | None = None) -> str:
    lines = (
        '# pip install "langserve[client]"',
        *((f"import {needs}",) if needs else ()),
        "from langserve import RemoteRunnable",
        "",
        f"chain = RemoteRunnable({json.dumps(url)})",  # a JSON string is a Python literal too
        *call,
    )
    return "\n".join(lines)
