"""``CompletionChat``: a chat model on a checkpoint without a chat template, such as some GGUFs and base models.

The chat template is a LangChain prompt template. It is rendered here, and the text goes to ``/v1/completions``.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import PromptTemplate
from pydantic import Field, model_validator
from typing_extensions import override

from chat_vllm.model import ChatVLLM
from chat_vllm.tokens import Tools

CHAT_ONLY = (
    *("messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "include_reasoning"),
    *("max_completion_tokens", "top_logprobs"),
)
"""Fields of a chat request that ``/v1/completions`` does not know."""


class CompletionChat(ChatVLLM):
    """As ``ChatVLLM``, for a model that continues texts.

    ``chat_template`` is a Jinja2 template over ``messages`` (dicts with ``role`` and ``content``) and
    ``add_generation_prompt``, as checkpoints carry it; LangChain's sandbox allows ``message['role']``, no methods.
    It writes what begins a text (``<s>``) itself. Give what ends an answer in ``stop``.

    Raises (when made): ValueError where the template does not render a conversation.
    """

    path: ClassVar[str] = "/completions"

    chat_template: str = Field(description="A Jinja2 template over messages and add_generation_prompt.")

    @model_validator(mode="after")
    def render_once(self) -> Self:
        """Render a conversation, so that a broken template is told before anybody asks."""
        try:
            self.render([SystemMessage("Be brief."), HumanMessage("Hi")])
        except Exception as error:
            msg = f"The chat template cannot be rendered: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        return self

    def render(self, messages: Sequence[BaseMessage], *, generation_prompt: bool = True) -> str:
        """The text that the model continues."""
        template = PromptTemplate(
            template=self.chat_template,
            template_format="jinja2",
            input_variables=["messages", "add_generation_prompt"],
        )
        turns = [{**turn, "content": turn["content"] or ""} for turn in convert_to_openai_messages([*messages])]
        return template.format(messages=turns, add_generation_prompt=generation_prompt)

    @override
    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The JSON body of a request."""
        if kwargs.get("tools"):
            msg = "A model without a chat template of its own takes no tools."
            raise ValueError(msg)
        written = super()._get_request_payload(input_, stop=stop, **kwargs)
        body = {name: value for name, value in written.items() if name not in CHAT_ONLY}
        if "max_completion_tokens" in written:
            body.setdefault("max_tokens", written["max_completion_tokens"])
        body["prompt"] = self.render(self._convert_input(input_).to_messages())
        body["add_special_tokens"] = False  # the template writes them
        return body

    @override
    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        choices = [{**choice, "delta": said(choice), "logprobs": None} for choice in chunk.get("choices") or ()]
        return super()._convert_chunk_to_generation_chunk(
            {**chunk, "choices": choices}, default_chunk_class, base_generation_info
        )

    @override
    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        choices = [{**choice, "message": said(choice), "logprobs": None} for choice in response["choices"]]
        return super()._create_chat_result({**response, "choices": choices}, generation_info)

    @override
    def _conversation(self, messages: Sequence[BaseMessage], tools: Tools | None) -> dict[str, Any]:
        return {"model": self.model_name, "prompt": self.render(messages), "add_special_tokens": False}


def said(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice's text as a message of the assistant."""
    return {"role": "assistant", "content": choice.get("text") or ""}
