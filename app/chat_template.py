"""A checkpoint's own chat template, where its folder is at hand: read, and rendered as transformers renders it.

Source: ``transformers.utils.chat_template_utils`` (the environment) and ``tokenization_utils_base`` (the files).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_BYTES = 1 << 20
"""A chat template is a page or two; a tokenizer's settings with its added tokens are less than this."""


class TemplateRefusal(TemplateError):  # noqa: N818 -- the template's own word, raised on purpose
    """The template raised it: it does not take this conversation."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja2 template over messages; ``tokens``: the special ones it may write, by name."""

    file: Path
    text: str
    tokens: Mapping[str, str]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return what the model sees of a conversation.

        Raises:
            TemplateRefusal: The template says that it does not take it.
            TemplateError: It cannot be rendered here, which says nothing about the engine.
        """
        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.filters["tojson"] = _to_json
        template = sandbox.from_string(self.text, globals={"raise_exception": _refuse, "strftime_now": _now})
        return template.render(messages=messages, add_generation_prompt=True, **self.tokens)


def find_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template that a checkpoint's folder carries; None where it carries none that can be read."""
    try:
        settings = _read_json(folder / "tokenizer_config.json")
        tokens = {name: _token(settings[name]) for name in ("bos_token", "eos_token") if settings.get(name)}
        own = folder / "chat_template.jinja"
        if own.is_file():
            return ChatTemplate(own, _read(own), tokens)
        text = _default(settings.get("chat_template"))
        return ChatTemplate(folder / "tokenizer_config.json", text, tokens) if text else None
    except (OSError, ValueError):
        return None


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError("too large for a chat template")
    return content.decode()


def _read_json(file: Path) -> dict[str, Any]:
    value: Any = json.loads(_read(file)) if file.is_file() else {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _token(value: Any) -> str:
    """A special token is a text, or an object that holds one."""
    return str(cast("Mapping[str, Any]", value).get("content", "")) if isinstance(value, dict) else str(value)


def _default(template: Any) -> str | None:
    """A checkpoint may carry several templates by name."""
    if isinstance(template, list):
        named: dict[Any, Any] = {each["name"]: each["template"] for each in cast("list[Any]", template)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _refuse(message: str) -> None:
    raise TemplateRefusal(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
