"""From files to text with places, whatever the file is."""

import io
import os
import zipfile
import zlib
from typing import Any

import pytest
from rag_chat import Limits
from rag_chat.errors import DocumentTooLarge, RetrievalError, UnreadableDocument
from rag_chat.reading import read
from rag_chat.splitting import CHARACTERS, split

MARKDOWN = """# Guide
Intro.

## Install
Run `make`.

```sh
# no heading
make serve
```

### On Windows
Not there.

## Use
Ask.
"""
HTML = b"""<!doctype html><html><head><title>The page</title><style>p {}</style></head><body>
<nav>Home</nav><h1>Rivers</h1><p>The <b>Elbe</b> is&nbsp;long.</p><script>alert(1)</script>
<h2>Lakes</h2><ul><li>Como<li>Garda</ul><!-- hidden --><pre>a
  b</pre></body></html>"""


async def test_markdown_keeps_headings_and_lines() -> None:
    """Each passage knows its headings and where it begins and ends; code is no heading."""
    passages = split(await read("guide.md", MARKDOWN.encode()))
    assert [(each.place.headings, each.place.line, each.place.end_line) for each in passages] == [
        (("Guide",), 2, 2),
        (("Guide", "Install"), 5, 10),
        (("Guide", "Install", "On Windows"), 13, 13),
        (("Guide", "Use"), 16, 16),
    ]
    lines = MARKDOWN.splitlines()
    assert passages[1].text.splitlines() == lines[4:10]
    assert str(passages[2].place) == "“Guide > Install > On Windows”, line 13"
    assert passages[2].embedded.startswith("Guide > Install > On Windows\n")


async def test_html_keeps_what_people_read() -> None:
    """With its headings; scripts, styles, navigation and comments are left out."""
    parsed = await read("page.html", HTML)
    assert parsed.title == "The page"
    assert [(block.headings, block.text) for block in parsed.blocks] == [
        (("Rivers",), "The Elbe is long."),
        (("Rivers", "Lakes"), "Como\nGarda\na\nb"),
    ]


async def test_a_pdf_keeps_its_pages(pdf: Any) -> None:
    """Pages count from 1; those without text are passed over."""
    parsed = await read("a.pdf", pdf("First page.", "", "Third (last) page."))
    assert [(block.page, block.text) for block in parsed.blocks] == [(1, "First page."), (3, "Third (last) page.")]
    assert str(split(parsed)[1].place) == "page 3"


async def test_a_pdf_of_five_hundred_pages_is_read(pdf: Any) -> None:
    """Within its limits."""
    parsed = await read("long.pdf", pdf(*(f"This is page {number}." for number in range(1, 501))))
    assert len(parsed.blocks) == 500
    assert parsed.blocks[-1].page == 500


async def test_long_texts_are_cut_at_sentences() -> None:
    """Every passage is small enough for the embedding model, nothing is lost, and lines stay right."""
    text = "\n".join(f"Line {number} tells of the number {number}." for number in range(1, 400))
    passages = split(await read("numbers.txt", text.encode()))
    assert all(len(each.text) <= CHARACTERS for each in passages)
    assert "\n".join(each.text for each in passages) == text
    lines = text.splitlines()
    for each in passages:
        line, end_line = each.place.line or 0, each.place.end_line or 0
        assert each.text.splitlines() == lines[line - 1 : end_line]


def archive() -> bytes:
    """A zip of many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.txt", bytes(10 << 20))
    return buffer.getvalue()


def bomb() -> bytes:
    """A PDF of some hundred kilobytes whose one page unpacks to more than its reader may hold."""
    packer = zlib.compressobj(1)
    piece = b"BT (a) Tj ET\n" * (1 << 16)
    packed = b"".join(packer.compress(piece) for _ in range(256)) + packer.flush()
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page,
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed),
    ]
    body, offsets = b"%PDF-1.4\n", list[int]()
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return body + table + b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"  \n", "empty"),
        ("latin.txt", "Grüße".encode("latin-1"), "no UTF-8: byte 2"),
        ("binary.txt", b"a\0b", "null characters"),
        ("dashes.md", b"---\n***\n", "no text"),
        ("broken.pdf", b"%PDF-1.4 junk", "damaged"),
        ("cut.html", b"<html><script>only code</script>", "no text"),
        ("movie.mp4", b"\0\0\0\x18ftyp", "'.mp4' are not read"),
        ("report.docx", b"PK\x03\x04...", "archive"),
    ],
)
async def test_what_cannot_be_read_says_why(name: str, content: bytes, message: str) -> None:
    """In a sentence."""
    with pytest.raises(UnreadableDocument, match=message):
        await read(name, content)


async def test_utf_16_is_read_where_it_says_so() -> None:
    """By its byte order mark."""
    parsed = await read("a.txt", "Grüße".encode("utf-16"))
    assert parsed.blocks[0].text == "Grüße"


async def test_an_encrypted_pdf_is_refused(pdf: Any) -> None:
    """With what to do; one that opens without a password is read."""
    with pytest.raises(UnreadableDocument, match="encrypted") as caught:
        await read("a.pdf", pdf("secret", password="sesame"))  # noqa: S106
    assert caught.value.hint
    assert (await read("b.pdf", pdf("open", password=""))).blocks[0].text == "open"


async def test_a_zip_bomb_is_refused_unopened() -> None:
    """Archives are not read at all."""
    with pytest.raises(UnreadableDocument, match="archive"):
        await read("bomb.txt", archive())


async def test_a_pdf_that_unpacks_to_much_ends_at_its_limits() -> None:
    """The process that reads it ends; this one does not grow."""
    before = memory()
    with pytest.raises(RetrievalError):
        await read("bomb.pdf", bomb(), limits=Limits(memory=400 << 20, seconds=10))
    assert memory() - before < 100 << 20


def memory() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_reading_ends_when_its_time_is_up(pdf: Any) -> None:
    """However far it is."""
    with pytest.raises(UnreadableDocument, match="too long"):
        await read("slow.pdf", pdf(*["page"] * 50), limits=Limits(seconds=0.01))


@pytest.mark.parametrize("limits", [Limits(pages=2), Limits(characters=20)])
async def test_too_many_pages_or_characters_are_refused(pdf: Any, limits: Limits) -> None:
    """Before anything is embedded."""
    with pytest.raises(DocumentTooLarge):
        await read("a.pdf", pdf("One page.", "Two pages.", "Three pages."), limits=limits)
