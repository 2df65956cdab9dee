"""An agent that calls tools, as a LangServe chain."""

from tools_agent.agent import Toolbox, build_chain, chain
from tools_agent.calculator import calculator
from tools_agent.clock import clock
from tools_agent.errors import ToolsUnavailable
from tools_agent.limits import RunLimits

__all__ = ["RunLimits", "Toolbox", "ToolsUnavailable", "build_chain", "calculator", "chain", "clock"]
