"""Tools that agents may call: the included ones, those of installed packages, and those of MCP servers."""
