"""What keeps an agent from running at all."""


class ToolsUnavailable(Exception):  # noqa: N818 -- named for what happened
    """Tools that it was given cannot be had now: an MCP server does not answer, for example. ``hint``: what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
