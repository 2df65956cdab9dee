"""An agent that calls tools, as a LangServe chain.

The agent and its limits are imported when they are first used: LangGraph, below them, is more than who asks for a tool
or an error needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tools_agent.calculator import calculator
from tools_agent.clock import clock
from tools_agent.errors import ToolsUnavailable

if TYPE_CHECKING:
    from tools_agent.agent import Toolbox, build_chain, chain
    from tools_agent.limits import RunLimits

__all__ = ["RunLimits", "Toolbox", "ToolsUnavailable", "build_chain", "calculator", "chain", "clock"]

_HOMES = {**dict.fromkeys(("Toolbox", "build_chain", "chain"), "agent"), "RunLimits": "limits"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
