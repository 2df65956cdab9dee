"""What an agent does on its way to an answer, for people and for programs."""

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

SHOWN = 300
"""Characters of arguments or of a result in the line for people; the values are whole."""


class Steps:
    """The calls of one run, and what all its steps took."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[str, Any]] = {}
        self._metadata: dict[str, Any] = {}
        self.usage: UsageMetadata | None = None

    def note_answer(self, message: AIMessage) -> str:
        """Take what the model said; the lines for people on the tools it calls."""
        self.usage = add_usage(self.usage, message.usage_metadata)
        self._metadata = {
            key: value
            for key, value in message.response_metadata.items()
            if key in ("finish_reason", "model_name", "model_provider", "id", "stopped")
        }
        lines = ""
        for call in message.tool_calls:
            self._calls[call["id"] or ""] = {"tool": call["name"], "arguments": call["args"]}
            lines += f"{call['name']}({_arguments(call['args'])})\n"
        return lines

    def note_result(self, message: ToolMessage) -> str:
        """Take what a tool gave; the line for people."""
        call = self._calls.setdefault(message.tool_call_id, {"tool": message.name, "arguments": {}})
        call["result"], call["error"] = message.text, message.status == "error"
        return f"→ {_short(message.text)}\n"

    def last(self) -> AIMessageChunk:
        """The last chunk of the answer: how it ended, what it took, and every call as values."""
        return AIMessageChunk(
            content="",
            usage_metadata=self.usage,
            response_metadata={"finish_reason": "stop", **self._metadata, "steps": [*self._calls.values()]},
            chunk_position="last",
        )


def _arguments(arguments: Mapping[str, Any]) -> str:
    return _short(", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
