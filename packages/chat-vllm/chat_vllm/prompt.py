"""The prompt in front of a chat model: a system prompt, then the conversation."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, merge_message_runs
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, PrivateAttr
from typing_extensions import override

from chat_vllm.messages import ChatInput


class ChatPrompt(ChatPromptTemplate):
    """A system prompt and the messages of a ``ChatInput``, in any of its forms.

    A conversation that begins with a system message of its own is taken as it is: the request's wins.
    """

    _opening: tuple[BaseMessage, ...] | None = PrivateAttr(None)
    """What stands before the conversation, where it is the same in every request."""

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Format what no request changes."""
        super().model_post_init(context)
        self._opening = _opening(self)

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The input that a chain with this prompt in front declares."""
        return ChatInput

    async def ask(self, input_: Any) -> PromptValue:
        """As ``ainvoke``, for a run that no callback handler is told of."""
        given, opening = self._validate_input(input_), self._opening
        if opening is None:
            return await self.aformat_prompt(**given)
        return ChatPromptValue(messages=self.arranged([*opening, *given["messages"]]))

    @override
    def _validate_input(self, inner_input: Any) -> dict[str, Any]:
        return {"messages": ChatInput.model_validate(inner_input).messages}

    @override
    def format_messages(self, **kwargs: Any) -> list[BaseMessage]:
        """The messages that the model is asked with."""
        return self.arranged(super().format_messages(**kwargs))

    @override
    async def aformat_messages(self, **kwargs: Any) -> list[BaseMessage]:
        """The messages that the model is asked with."""
        return self.arranged(await super().aformat_messages(**kwargs))

    def arranged(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """The messages as the model takes them: one system prompt, the request's where it brings one."""
        return request_wins(messages)

    def system_message(self) -> SystemMessage | None:
        """The chain's own system prompt; None where it has none."""
        said = ChatPromptTemplate.format_messages(self, messages=[])
        return said[0] if said and isinstance(said[0], SystemMessage) else None


class FoldedPrompt(ChatPrompt):
    """For models that know no system role and want user and assistant in turns, as Mixtral.

    What the system says stands at the beginning of the user's turn that follows; messages of one speaker in a row are
    one message. Both as mistral-common does it.
    """

    @override
    def arranged(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """The messages in turns."""
        return folded(super().arranged(messages))


GAP = "\n\n"
"""Between what the system says and what the user says."""


def folded(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages with every system message in the user's turn after it, and nobody speaking twice in a row."""
    as_user = [HumanMessage(message.content) if isinstance(message, SystemMessage) else message for message in messages]
    return merge_message_runs(as_user, chunk_separator=GAP)


def request_wins(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Drop the chain's system prompt where the request brings one."""
    both = len(messages) > 1 and isinstance(messages[0], SystemMessage) and isinstance(messages[1], SystemMessage)
    return messages[1:] if both else messages


def _opening(prompt: ChatPrompt) -> tuple[BaseMessage, ...] | None:
    """What a prompt puts before the conversation; None where LangChain has to format it for each request."""
    *before, last = prompt.messages
    kind, values = type(prompt), prompt.partial_variables.values()
    conversation = isinstance(last, MessagesPlaceholder) and last.variable_name == "messages" and not last.n_messages
    formats = (kind.format_messages, kind.aformat_messages, kind.aformat_prompt)
    ours = formats == (ChatPrompt.format_messages, ChatPrompt.aformat_messages, ChatPrompt.aformat_prompt)
    constant = set(prompt.input_variables) <= {"messages"} and all(isinstance(value, str) for value in values)
    twice = any("messages" in part.input_variables for part in before if not isinstance(part, BaseMessage))
    if not conversation or not ours or not constant or twice:
        return None
    return tuple(ChatPromptTemplate.format_messages(prompt, messages=[]))


def chat_prompt(
    system_prompt: str | None, variables: Mapping[str, str] | None = None, *, kind: type[ChatPrompt] = ChatPrompt
) -> ChatPrompt:
    """A prompt whose system part is a template: ``{name}`` stands for a variable, ``{{`` and ``}}`` for braces.

    Args:
        system_prompt: None or empty: no system message of the chain's own.
        variables: A value for every variable of the template.
        kind: ``FoldedPrompt`` for models without a system role.

    Raises:
        ValueError: A variable of the template has no value.
    """
    turns: list[Any] = [("system", system_prompt)] if system_prompt else []
    prompt = cast("ChatPrompt", kind.from_messages([*turns, MessagesPlaceholder("messages")]))
    missing = sorted(set(prompt.input_variables) - {"messages"} - set(variables or {}))
    if missing:
        msg = f"The system prompt needs a value for {', '.join(missing)}; write {{{{ and }}}} for plain braces."
        raise ValueError(msg)
    return cast("ChatPrompt", prompt.partial(**variables)) if variables else prompt
