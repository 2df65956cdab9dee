"""Pictures as they come: files in base64, of which nothing is looked at yet. No Pillow, which few services need."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import InvalidInput, TooLarge

FORMATS: Mapping[str, str] = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""What is taken, by pillow's names: formats people have, with decoders that are looked after."""
TAKEN = "Send a PNG, JPEG, WebP or GIF."
DECLARED = frozenset({*FORMATS.values(), "image/jpg", "image/*", "application/octet-stream"})


@dataclass(frozen=True)
class Bounds:
    """What one picture may be: bytes of the file, pixels before it is decoded, and pixels the model gets."""

    file_bytes: int
    decoded_pixels: int
    pixels: int


def decode_base64(text: str, declared: str | None, bounds: Bounds, place: str) -> bytes:
    """Return the bytes of a file in base64.

    Raises:
        InvalidInput: It is no base64, or declared as something that is no picture of pixels.
        TooLarge: It has more bytes than allowed.
    """
    if declared is not None and declared.lower() not in DECLARED:
        raise InvalidInput(f"The type of the image is none that is taken. {TAKEN}", param=place)
    if len(text) // 4 * 3 > bounds.file_bytes + 3:
        raise too_many_bytes(bounds, place)
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # MIME breaks it into lines
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("The image's data are not in base64.", param=place) from error


def too_many_bytes(bounds: Bounds, place: str) -> TooLarge:
    """Return the error for a file beyond its limit."""
    return TooLarge(f"The image has more than {bounds.file_bytes} bytes.", param=place)
