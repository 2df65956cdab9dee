"""Tools for models whose chat template does not know them: described, shown by example, and held to by vLLM.

A small model that was never taught to call tools writes a call all the same when it sees one, and when the engine lets
it write nothing else (``tool_choice: required``, strict). It is asked once for a call, and once for an answer from what
the tools gave: for more it is not reliable.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from typing_extensions import override

from tools_agent.limits import State, since_question


class Prompted(AgentMiddleware[State, None, Any]):
    """Asks for one round of calls by example, then for the answer in plain words."""

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[None],
        handler: Callable[[ModelRequest[None]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Ask the model."""
        tools = [tool for tool in request.tools if isinstance(tool, BaseTool)]
        if not tools:
            return await handler(request)
        after = since_question(request.messages)
        if any(isinstance(each, ToolMessage) for each in after):
            return await handler(request.override(messages=answerable(request.messages), tools=[], tool_choice=None))
        system = "\n".join(filter(None, [request.system_prompt, "Tools:", *map(_described, tools)]))
        return await handler(
            request.override(
                system_message=SystemMessage(system),
                messages=[*examples(tools, _question(request.messages)), *request.messages],
                tool_choice="required",
            )
        )


def _described(tool: BaseTool) -> str:
    arguments = ", ".join(tool.args)
    return f"- {tool.name}({arguments}): {tool.description.splitlines()[0]}"


def _question(messages: Sequence[AnyMessage]) -> str:
    return next((each.text for each in reversed(messages) if isinstance(each, HumanMessage)), "")


def examples(tools: Sequence[BaseTool], question: str = "") -> list[AnyMessage]:
    """Return a question and a call for each tool that brings an example (its ``extras["examples"]``).

    What is most like the question comes last: a small model goes by what it saw last.
    """
    asked = _words(question)
    found = [
        (example, tool.name)
        for tool in tools
        for example in cast("list[dict[str, Any]]", (tool.extras or {}).get("examples", []))
    ]
    found.sort(key=lambda each: len(asked & _words(each[0]["question"])))
    shown: list[AnyMessage] = []
    for example, name in found:
        call = [{"name": name, "parameters": example["arguments"]}]  # as vLLM has a required call written
        shown += [HumanMessage(example["question"]), AIMessage(json.dumps(call))]
    return shown


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+|[-+*/^]", text.lower()))


def answerable(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the conversation with calls and results folded into the last question, in plain words."""
    after = since_question(messages)
    before = [*messages[: len(messages) - len(after)]]
    results = "\n".join(f"{each.name}: {each.text}" for each in after if isinstance(each, ToolMessage))
    question = before.pop() if before else HumanMessage("")
    folded = HumanMessage(f"{question.text}\n\nResults of tools:\n{results}\n\nAnswer from these results.")
    return [*before, folded]
