"""What time it is."""

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from langchain_core.tools import ToolException, tool
from pydantic import Field


@tool(extras={"examples": [{"question": "What time is it in Berlin?", "arguments": {"timezone": "Europe/Berlin"}}]})
def clock(
    timezone: Annotated[str, Field(max_length=40, description="As Europe/Berlin or UTC.")] = "UTC",
) -> str:
    """Tell the date and time in a time zone."""
    try:
        now = datetime.now(ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ToolException("There is no such time zone. Name one as Europe/Berlin, or UTC.") from error
    return now.strftime("%A, %Y-%m-%d %H:%M %Z")
