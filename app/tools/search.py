"""A tool that finds passages of the operator's documents."""

from typing import Annotated

from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, ToolException, tool
from pydantic import Field
from rag_chat.citations import numbered
from rag_chat.errors import RetrievalError


def search_tool(retriever: BaseRetriever) -> BaseTool:
    """Return the tool."""
    example = {"question": "What do the documents say about logs?", "arguments": {"query": "logs"}}

    @tool(extras={"examples": [example]})
    async def search_documents(
        query: Annotated[str, Field(max_length=400, description="What to look for.")],
    ) -> str:
        """Find passages in the documents."""
        try:
            found = await retriever.ainvoke(query)
        except RetrievalError as error:
            raise ToolException(f"{error.message} {error.hint or ''}".strip()) from error
        return numbered(found) or "Nothing was found."

    return search_documents
