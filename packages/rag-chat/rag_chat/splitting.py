"""From blocks to passages: cut at paragraphs, lines and sentences, never across a heading or a page."""

from collections.abc import Iterator

from langchain_text_splitters import RecursiveCharacterTextSplitter

from rag_chat.passages import Block, Parsed, Passage, Place

CHARACTERS = 900
"""Of one passage at most: about 200 tokens of English, below the 256 of MiniLM."""
SEPARATORS = ["\n\n", "\n", ". ", "? ", "! ", "; ", ", ", " ", ""]

SPLITTER = RecursiveCharacterTextSplitter(
    chunk_size=CHARACTERS, chunk_overlap=0, separators=SEPARATORS, keep_separator="end", add_start_index=True
)


def split(parsed: Parsed) -> list[Passage]:
    """Return the passages of a document, in its order."""
    placed = [piece for block in parsed.blocks for piece in _pieces(block)]
    return [
        Passage(text, parsed.title, Place(index, block.headings, line, end_line, block.page))
        for index, (block, text, line, end_line) in enumerate(placed)
    ]


def _pieces(block: Block) -> Iterator[tuple[Block, str, int | None, int | None]]:
    """Yield the block's pieces with their first and last lines."""
    for piece in SPLITTER.create_documents([block.text]):
        text = piece.page_content
        if not any(character.isalnum() for character in text):
            continue
        if block.line is None:
            yield block, text, None, None
            continue
        first = block.line + block.text.count("\n", 0, piece.metadata["start_index"])
        yield block, text, first, first + text.count("\n")
