"""``/pictures/{name}``: the pictures that were drawn, for as long as they are kept."""

import asyncio

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from app.errors import UnknownPicture
from app.images.gallery import MEDIA_TYPES, PREFIX, Gallery

HEADERS = {
    "Cache-Control": "private, max-age=86400, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


def create_router(gallery: Gallery) -> APIRouter:
    """Return the route. A name says nothing, and is known to those who were told it."""
    router = APIRouter(tags=["status"])

    @router.get(PREFIX + "{name}", summary="A picture that was drawn", response_class=Response)
    async def picture(name: str) -> FileResponse:
        path = await asyncio.to_thread(gallery.find, name)
        if path is None:
            hours = f"{gallery.seconds / 3600:g}"
            raise UnknownPicture("There is no such picture.", hint=f"Pictures are kept for {hours} hours at most.")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix[1:]], headers=HEADERS)

    _ = picture  # registered by its decorator
    return router
