"""LangChain's side of a vLLM server: a chat model that keeps what vLLM says, and the input of chat chains."""

from chat_vllm.completion import CompletionChat
from chat_vllm.errors import EngineStreamCutError, EngineStreamError, NotAnAnswerError
from chat_vllm.flow import ChatFlow
from chat_vllm.messages import ChatInput, ChatOutput
from chat_vllm.model import ChatVLLM
from chat_vllm.prompt import ChatPrompt, FoldedPrompt, chat_prompt
from chat_vllm.sampling import ConfigurableChat, Options, Sampling, configurable
from chat_vllm.tokens import TokenCount

__all__ = [
    "ChatFlow",
    "ChatInput",
    "ChatOutput",
    "ChatPrompt",
    "ChatVLLM",
    "CompletionChat",
    "ConfigurableChat",
    "EngineStreamCutError",
    "EngineStreamError",
    "FoldedPrompt",
    "NotAnAnswerError",
    "Options",
    "Sampling",
    "TokenCount",
    "chat_prompt",
    "configurable",
]
