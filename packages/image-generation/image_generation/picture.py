"""One picture that was drawn: its bytes, and what it was made from, which a PNG carries inside."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from PIL import Image, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = len(SIGNATURE) + 4 + 4 + 13 + 4
"""Bytes up to the end of IHDR (PNG specification, 11.2.1): texts may follow it."""
FORMATS: Mapping[str, str] = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A picture as the engine sent it; a PNG with ``parameters`` in its texts.

    ``parameters`` are what it was asked for, with its own seed and its real size: asked for again, they give the same
    picture.
    """

    data: bytes
    mime_type: str
    parameters: Mapping[str, Any]

    def block(self, url: str | None = None) -> dict[str, Any]:
        """An image block of LangChain's standard content; ``extras`` say what it was made from and where it is kept."""
        kept = {} if url is None else {"url": url}
        return {
            "type": "image",
            "base64": base64.b64encode(self.data).decode("ascii"),
            "mime_type": self.mime_type,
            "extras": {**kept, "parameters": dict(self.parameters)},
        }


def read_picture(data: bytes, asked: Mapping[str, Any]) -> Picture:
    """A picture of what the engine answered.

    Raises:
        ValueError: It is no PNG, JPEG or WebP.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:  # reads the header alone
            size, kind = f"{image.width}x{image.height}", str(image.format)
    except (OSError, SyntaxError) as error:
        msg = "What the engine drew is no picture."
        raise ValueError(msg) from error
    parameters = {**asked, "size": size}
    return Picture(write_texts(data, parameters) if kind == "PNG" else data, FORMATS[kind], parameters)


def write_texts(png: bytes, parameters: Mapping[str, Any]) -> bytes:
    """The same PNG, byte for byte, with three more texts: Software, Description (the prompt), parameters (JSON)."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Software", "langserve-vllm")
    texts.add_itxt("Description", str(parameters["prompt"]))
    texts.add_itxt("parameters", json.dumps(parameters, ensure_ascii=False))
    chunks = io.BytesIO()
    for name, content, *_ in texts.chunks:
        PngImagePlugin.putchunk(cast("BinaryIO", chunks), name, content)
    return png[:HEADER] + chunks.getvalue() + png[HEADER:]
