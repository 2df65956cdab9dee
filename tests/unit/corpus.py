"""Pictures as clients send them: good ones of every kind, and bad ones of every kind. Made here, so none is a file."""

import base64
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import Image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has so many pixels."""
    rows = zlib.compress(bytes(100_000), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose text is small packed and huge unpacked."""
    png = encoded(halves(), "PNG")
    text = b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    return png[:33] + chunk(b"zTXt", text) + png[33:]


def sideways() -> bytes:
    """A JPEG that its EXIF turns a quarter: upright, red is on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(halves(), "JPEG", quality=95, exif=exif)


def deep() -> bytes:
    """Sixteen bits of grey: black on the left, white on the right."""
    values = b"".join(struct.pack("<H", 0 if column < 32 else 65535) for _ in range(32) for column in range(64))
    return encoded(Image.frombytes("I;16", (64, 32), values), "PNG")


def animation(kind: str) -> bytes:
    """Two frames, the first of them the one we know."""
    return encoded(halves(), kind, save_all=True, append_images=[Image.new("RGB", (64, 32), "green")], duration=50)


GOOD: Mapping[str, bytes] = {
    "png": encoded(halves(), "PNG"),
    "jpeg": encoded(halves(), "JPEG", quality=95),
    "webp": encoded(halves(), "WEBP", lossless=True),
    "gif": encoded(halves(), "GIF"),
    "palette": encoded(halves("P"), "PNG"),
    "cmyk": encoded(halves("CMYK"), "JPEG", quality=95),
    "alpha": encoded(halves("RGBA"), "PNG"),
    "animated gif": animation("GIF"),
    "animated png": animation("PNG"),
    "animated webp": encoded(
        halves(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 32), "green")], lossless=True
    ),
}
"""Red on the left and blue on the right, whatever they are written in."""

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

BAD: Mapping[str, bytes] = {
    "nothing": b"",
    "text": b"hello, I am no picture",
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg with a script": SVG,
    "svg without a declaration": SVG[21:],
    "zip": b"PK\x03\x04" + bytes(100),
    "small truncated png": encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG")[:2000],
    "truncated png": encoded(halves(size=(400, 400)).effect_spread(20), "PNG")[:2000],
    "truncated jpeg": encoded(halves(size=(400, 400)), "JPEG")[:900],
    "truncated webp": encoded(halves(size=(400, 400)), "WEBP")[:100],
    "truncated gif": encoded(halves(size=(400, 400)).effect_spread(20), "GIF")[:900],
    "header alone": encoded(halves(), "PNG")[:33],
    "png with a wrong checksum": encoded(halves(), "PNG").replace(b"IDAT", b"IDAX", 1),
    "tiff": encoded(halves(), "TIFF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "1 x 5000": encoded(Image.new("RGB", (1, 5000)), "PNG"),
    "5000 x 1": encoded(Image.new("RGB", (5000, 1)), "PNG"),
    "20000 x 20000": bomb(20_000, 20_000),
    "50000 x 50000": bomb(50_000, 50_000),
    "2 billion x 1": bomb(2**31 - 1, 1),
    "decompression bomb": encoded(Image.new("1", (12_000, 12_000)), "PNG", compress_level=1),
    "text bomb": text_bomb(),
}
"""What no model can see."""

ADDRESSES = (
    "file:///etc/passwd",
    "http://127.0.0.1/a.png",
    "http://127.0.0.1:22/a.png",
    "https://127.0.0.1/a.png",
    "https://127.1/a.png",
    "https://2130706433/a.png",
    "https://0x7f.0.0.1/a.png",
    "https://[::1]/a.png",
    "https://[::ffff:127.0.0.1]/a.png",
    "https://localhost/a.png",
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/a.png",
    "https://elsewhere.example/a.png",
    "https://images.example.elsewhere.example/a.png",
    "https://images.example:8443/a.png",
    "https://images.example:22/a.png",
    "https://user:secret@images.example/a.png",
    "https://images.example@127.0.0.1/a.png",
    "https://images.example\\@127.0.0.1/a.png",
    "https:///a.png",
    "https://[/a.png",
    "ftp://images.example/a.png",
    "gopher://images.example/a.png",
    "javascript:alert(1)",
    "//images.example/a.png",
    "a.png",
    "/pictures/a.png",
)
"""None of them may be fetched where ``images.example`` alone is allowed."""


def uri(data: bytes, kind: str = "image/png") -> str:
    """A ``data:`` URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_url(url: str) -> dict[str, Any]:
    """An image as OpenAI writes it."""
    return {"type": "image_url", "image_url": {"url": url}}


def opened(data_uri: str) -> Image.Image:
    """The picture in a ``data:`` URI."""
    return Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))
