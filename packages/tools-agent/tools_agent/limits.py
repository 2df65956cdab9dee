"""What one run may take, and how a tool's failure reaches the model: as a sentence, never as the run's end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.tools import ToolException
from langgraph.runtime import Runtime
from typing_extensions import override

State = AgentState[Any]


@dataclass(frozen=True)
class RunLimits:
    """Of one run."""

    steps: int = 8
    """Times the model is asked."""
    seconds: float = 300
    tokens: int = 32768
    """Prompt and answer tokens of all steps together."""
    tool_seconds: float = 30
    tool_characters: int = 4000
    """What the model is shown of one tool's result."""


def since_question(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return what came after the last question."""
    last = max((index for index, each in enumerate(messages) if isinstance(each, HumanMessage)), default=-1)
    return [*messages[last + 1 :]]


def stopped(why: str, message: str) -> AIMessage:
    """Return the answer of a run that was ended by a limit."""
    return AIMessage(message, response_metadata={"finish_reason": "length", "stopped": why})


class Budget(AgentMiddleware[State, None, Any]):
    """Ends a run that would take more than its limits, with an answer that says so."""

    def __init__(self, limits: RunLimits) -> None:
        super().__init__()
        self._limits = limits

    @hook_config(can_jump_to=["end"])
    @override
    async def abefore_model(self, state: State, runtime: Runtime[None]) -> dict[str, Any] | None:
        """Look at what was taken before the model is asked again."""
        made = [each for each in since_question(state["messages"]) if isinstance(each, AIMessage)]
        tokens = sum(each.usage_metadata["total_tokens"] for each in made if each.usage_metadata)
        if len(made) >= self._limits.steps:
            message = f"Stopped: no answer after {self._limits.steps} steps."
            return {"messages": [stopped("steps", message)], "jump_to": "end"}
        if made and tokens >= self._limits.tokens:
            message = f"Stopped: the run took {tokens} tokens, of {self._limits.tokens} that it may."
            return {"messages": [stopped("tokens", message)], "jump_to": "end"}
        return None

    @hook_config(can_jump_to=["model"])
    @override
    async def aafter_model(self, state: State, runtime: Runtime[None]) -> dict[str, Any] | None:
        """Tell the model of calls whose arguments are no JSON: as they are, nobody could answer them."""
        last = state["messages"][-1]
        if not isinstance(last, AIMessage) or not last.invalid_tool_calls:
            return None
        broken = [
            tool_call(name=each["name"] or "unknown", args={}, id=each["id"] or f"broken-{index}")
            for index, each in enumerate(last.invalid_tool_calls)
        ]
        mended = last.model_copy(update={"tool_calls": [*last.tool_calls, *broken], "invalid_tool_calls": []})
        answers = [
            ToolMessage("The arguments are no valid JSON.", tool_call_id=each["id"], name=each["name"], status="error")
            for each in broken
        ]
        if last.tool_calls:  # those that are sound run
            return {"messages": [mended, *answers]}
        return {"messages": [mended, *answers], "jump_to": "model"}


class BoundedTools(AgentMiddleware[State, None, Any]):
    """Bounds each call of a tool in time and size, and turns what it raises into an answer for the model.

    Only a ToolException's words are passed on: they are written for the model. Others may tell what it must not know.
    """

    def __init__(self, limits: RunLimits) -> None:
        super().__init__()
        self._limits = limits

    @override
    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """Call one tool."""
        name, id_ = request.tool_call["name"], request.tool_call["id"]
        scope = asyncio.timeout(self._limits.tool_seconds)
        try:
            async with scope:
                result = await handler(request)
        except TimeoutError as error:
            why = f"took longer than {self._limits.tool_seconds:g} s" if scope.expired() else _why(error)
            return ToolMessage(f"{name} failed: it {why}.", tool_call_id=id_, name=name, status="error")
        except Exception as error:  # noqa: BLE001 -- whatever a tool raises, the model is told
            return ToolMessage(f"{name} failed: {_why(error)}", tool_call_id=id_, name=name, status="error")
        return self._cut(result) if isinstance(result, ToolMessage) else result

    def _cut(self, message: ToolMessage) -> ToolMessage:
        """Shorten a result, and drop what is no text: the model is shown no more of it."""
        text, limit = message.text, self._limits.tool_characters
        if len(text) > limit:
            text = f"{text[:limit]}\n(The first {limit} of {len(text)} characters.)"
        return message.model_copy(update={"content": text, "artifact": None})


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ToolException) else f"{type(error).__name__}."
