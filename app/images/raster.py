"""From the bytes of a file to pixels as a model takes them. Blocks; run it in a thread.

A picture that is already as it has to be passes byte for byte. Any other is turned upright, put on white, brought to
eight bits in RGB and to the size a model takes.
"""

import base64
import io
import math

from PIL import Image, ImageOps

from app.errors import InvalidInput, TooLarge
from app.images.encoded import FORMATS, TAKEN, Bounds, too_many_bytes

LONGEST = 100
"""Times that a picture may be as long as it is wide; image processors refuse 200."""
QUALITY = 95
ORIENTATION = 0x0112
SVG_WITHIN = 1024
"""Bytes among which an SVG says what it is."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def prepare(data: bytes, bounds: Bounds, place: str) -> str:
    """Return a picture as a ``data:`` URI that the model can take.

    Raises:
        InvalidInput: It is no picture, damaged, or of a shape no model takes.
        TooLarge: It has more bytes or pixels than allowed; told before it is decoded.
    """
    if len(data) > bounds.file_bytes:
        raise too_many_bytes(bounds, place)
    with _opened(data, place) as image:
        _check_shape(image, bounds, place)
        try:
            return _made(image, data, bounds)
        except MemoryError:
            raise
        except Exception as error:  # whatever a decoder raises, the file is at fault
            raise InvalidInput("The image is damaged or cut off.", param=place) from error


def _made(image: Image.Image, data: bytes, bounds: Bounds) -> str:
    """Decode it, and bring it into shape where it is not."""
    if _fits(image, bounds):
        image.load()
        return _uri(data, FORMATS[str(image.format)])
    lossy = image.format == "JPEG"
    image.draft("RGB", _target(image.size, bounds.pixels))  # of a JPEG, decodes no more than is needed
    return _encoded(_shrunk(_flat(_upright(image)), bounds.pixels), lossy=lossy)


def _opened(data: bytes, place: str) -> Image.Image:
    """Read the header alone."""
    try:
        return Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge("The image has far too many pixels.", param=place) from error
    except Exception as error:
        if b"<svg" in data[:SVG_WITHIN].lower():
            raise InvalidInput(f"An SVG has no pixels. {TAKEN}", param=place) from error
        raise InvalidInput(f"This is no image that can be read. {TAKEN}", param=place) from error


def _check_shape(image: Image.Image, bounds: Bounds, place: str) -> None:
    width, height = image.size
    if width * height > bounds.decoded_pixels:
        raise TooLarge(
            f"The image has {width} x {height} pixels; {bounds.decoded_pixels} are allowed in all.", param=place
        )
    if max(width, height) > LONGEST * min(width, height):
        raise InvalidInput(f"The image is more than {LONGEST} times as long as it is wide.", param=place)


def _fits(image: Image.Image, bounds: Bounds) -> bool:
    """Whether nothing has to be changed."""
    return (
        image.format in ("PNG", "JPEG", "WEBP")
        and image.mode == "RGB"
        and image.width * image.height <= bounds.pixels
        and not getattr(image, "is_animated", False)
        and "transparency" not in image.info
        and image.getexif().get(ORIENTATION, 1) == 1
    )


def _target(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Return the largest size of the same shape with so many pixels; never larger than it is."""
    width, height = size
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))


def _upright(image: Image.Image) -> Image.Image:
    """Turn it as its EXIF says; of an animation, the first picture."""
    image.seek(0)
    return ImageOps.exif_transpose(image)


def _flat(image: Image.Image) -> Image.Image:
    """Bring it to eight bits in RGB, on white where it is transparent."""
    if image.mode in DEEP:
        return _shallow(image).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGB", coloured.size, "white")
        white.paste(coloured, mask=coloured.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """Sixteen bits of grey to eight."""
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    target = _target(image.size, pixels)
    return image if target == image.size else image.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _encoded(image: Image.Image, *, lossy: bool) -> str:
    """A JPEG stays one; anything else becomes a PNG, quickly rather than small."""
    file = io.BytesIO()
    if lossy:
        image.save(file, "JPEG", quality=QUALITY)
    else:
        image.save(file, "PNG", compress_level=1)
    return _uri(file.getvalue(), FORMATS["JPEG" if lossy else "PNG"])


def _uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"
