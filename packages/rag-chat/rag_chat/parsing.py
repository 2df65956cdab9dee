"""From the bytes of a file to its text with places: plain text, Markdown, HTML and PDF.

Pure but for time and memory, of which a hostile file can take much: ``reading.read`` runs it in a process with limits.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from rag_chat.errors import DocumentTooLarge, UnreadableDocument
from rag_chat.passages import Block, Parsed

if TYPE_CHECKING:
    from pypdf import PdfReader

Kind = Literal["text", "markdown", "html", "pdf"]
KINDS: dict[str, Kind] = {
    ".md": "markdown", ".markdown": "markdown", "text/markdown": "markdown",
    ".html": "html", ".htm": "html", ".xhtml": "html", "text/html": "html", "application/xhtml+xml": "html",
    ".pdf": "pdf", "application/pdf": "pdf",
    ".txt": "text", ".text": "text", ".rst": "text", "text/plain": "text",
}  # fmt: skip
"""By the end of a file's name, and by media type."""
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class Limits:
    """What one document may take."""

    pages: int = 2000
    characters: int = 5_000_000
    """Of text, once it is extracted."""
    seconds: float = 120
    memory: int = 1 << 30
    """Bytes of address space of the process that reads it."""


def kind_of(name: str, content: bytes, media_type: str | None = None) -> Kind:
    """Return how a file is to be read: by its first bytes, its name, or what it is said to be.

    Raises:
        UnreadableDocument: It is none of the kinds that are read here.
    """
    if content.startswith(b"%PDF-"):
        return "pdf"
    if content.startswith(ARCHIVES):
        raise UnreadableDocument("This is an archive, or a document inside one.", "Unpack it, or export it as PDF.")
    suffix = PurePosixPath(name).suffix.lower()
    plain = (media_type or "").partition(";")[0].strip().lower()
    kind = KINDS.get(suffix) or KINDS.get(plain)
    if kind is None and plain.startswith("text/"):
        kind = "text"
    if kind is None and (suffix or plain not in ("", "application/octet-stream")):
        said = suffix or plain
        raise UnreadableDocument(f"Files of the kind '{said[:40]}' are not read.", "Text, Markdown, HTML and PDF are.")
    return kind or "text"


def parse(name: str, content: bytes, kind: Kind, limits: Limits) -> Parsed:
    """Return a document's text.

    Raises:
        UnreadableDocument: It has none that can be had.
        DocumentTooLarge: It has more than ``limits`` allow.
    """
    if not content.strip():
        raise UnreadableDocument("The file is empty.")
    title = PurePosixPath(name).name
    match kind:
        case "pdf":
            parsed = _parse_pdf(title, content, limits)
        case "html":
            parsed = _parse_html(title, content)
        case "markdown":
            parsed = _parse_markdown(title, decode(content))
        case "text":
            parsed = Parsed(title, (Block(decode(content), line=1),))
    if sum(len(block.text) for block in parsed.blocks) > limits.characters:
        raise DocumentTooLarge(f"The document has more than {limits.characters} characters.", "Split it.")
    if not any(character.isalnum() for block in parsed.blocks for character in block.text):
        hint = "A scanned page is a picture: run text recognition (OCR) over it first." if kind == "pdf" else None
        raise UnreadableDocument("There is no text in it.", hint)
    return parsed


# --- text ----------------------------------------------------------------------------------


def decode(content: bytes) -> str:
    """Return text of UTF-8, or of UTF-16 with a byte order mark, with line feeds alone."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableDocument(f"It is no UTF-8: byte {error.start} is wrong.", "Save it as UTF-8.") from error
    if "\0" in text:
        raise UnreadableDocument("It is no text: it has null characters.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --- Markdown --------------------------------------------------------------------------------

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")


def _parse_markdown(title: str, text: str) -> Parsed:
    """ATX headings (``# Title``) outside of fenced code open a block each."""
    above: list[tuple[int, str]] = []
    blocks: list[Block] = []
    start, lines = 1, list[str]()
    first_heading: str | None = None

    def close() -> None:
        if any(line.strip() for line in lines):
            blocks.append(Block("\n".join(lines), tuple(heading for _, heading in above), line=start))

    for number, line, heading in _marked(text):
        if heading is None:
            lines.append(line)
            continue
        close()
        level, words = len(heading[1]), (heading[2] or "").strip()
        above = [*((depth, name) for depth, name in above if depth < level), (level, words)]
        first_heading = first_heading or words
        start, lines = number + 1, []
    close()
    return Parsed(first_heading or title, tuple(blocks))


def _marked(text: str) -> Iterator[tuple[int, str, re.Match[str] | None]]:
    """Yield each line with its number, and the match where it is a heading."""
    fence = ""
    for number, line in enumerate(text.split("\n"), start=1):
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        yield number, line, None if fence or found else HEADING.match(line)


# --- HTML ------------------------------------------------------------------------------------

SILENT = frozenset({"script", "style", "template", "noscript", "head", "nav", "svg", "iframe", "object", "select"})
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LINES = frozenset({
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset", "figcaption", "figure",
    "footer", "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul",
})  # fmt: skip
"""Elements that begin on a line of their own."""


def _parse_html(title: str, content: bytes) -> Parsed:
    """Headings open a block each; what is not for readers is left out. The encoding is the one the page declares."""
    from bs4 import BeautifulSoup  # noqa: PLC0415 -- for documents in HTML alone, in the process that reads them
    from bs4.element import NavigableString, PreformattedString, Tag  # noqa: PLC0415 -- likewise

    page = BeautifulSoup(content, "html.parser")
    named = page.title.get_text(" ", strip=True) if page.title else ""
    for tag in page.find_all(SILENT):
        tag.extract()
    above: list[tuple[int, str]] = []
    blocks: list[Block] = []
    pieces: list[str] = []

    def close() -> None:
        text = re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"[ \t\xa0]+", " ", "".join(pieces))).strip()
        if text:
            blocks.append(Block(text, tuple(heading for _, heading in above)))
        pieces.clear()

    inside: Tag | None = None
    for node in page.descendants:
        if isinstance(node, Tag):
            if node.name in HEADINGS:
                close()
                level = HEADINGS[node.name]
                words = node.get_text(" ", strip=True)
                above = [*((depth, name) for depth, name in above if depth < level), (level, words)]
                inside = node
            elif node.name in LINES:
                pieces.append("\n")
        elif (
            isinstance(node, NavigableString)
            and not isinstance(node, PreformattedString)
            and (inside is None or inside not in node.parents)
        ):
            inside = None
            pieces.append(str(node) if node.find_parent("pre") else re.sub(r"\s+", " ", str(node)))
    close()
    return Parsed(named or title, tuple(blocks))


# --- PDF -------------------------------------------------------------------------------------


def _parse_pdf(title: str, content: bytes, limits: Limits) -> Parsed:
    """A block for each page that has text."""
    from pypdf import PasswordType, PdfReader  # noqa: PLC0415 -- of no use to who keeps no PDFs, and 13 MiB
    from pypdf.errors import PyPdfError  # noqa: PLC0415

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise UnreadableDocument("The PDF is encrypted.", "Save it without a password.")
        if len(reader.pages) > limits.pages:
            raise DocumentTooLarge(f"The PDF has {len(reader.pages)} pages, more than {limits.pages}.", "Split it.")
        named = str((reader.metadata and reader.metadata.title) or "").strip()
        return Parsed(named or title, tuple(_pages(reader, limits)))
    except (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UnreadableDocument("The PDF is damaged: it cannot be read.", "Save it anew.") from error


def _pages(reader: "PdfReader", limits: Limits) -> Iterator[Block]:
    characters = 0
    for number, page in enumerate(reader.pages, start=1):
        text = page.extract_text().strip()
        characters += len(text)
        if characters > limits.characters:
            raise DocumentTooLarge(f"The document has more than {limits.characters} characters.", "Split it.")
        if text:
            yield Block(text.encode("utf-8", "replace").decode(), page=number)
