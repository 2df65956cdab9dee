"""``/{model}/playground/`` of the models that LangServe's own page does not fit: those that draw, and those that see.

LangServe's prints a picture as JSON and has no place to put one. These call the same routes beside them.
"""

import json

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from app.chains import EngineAccess, image_limits
from app.web.assets import SECURITY, links, templates
from vllm_launcher import __version__
from vllm_launcher.registry import ModelSpec

UP = "../../"
PAGES = {"image-generation": "draw.html", "vision-chat": "see.html"}


def create_router(spec: ModelSpec, access: EngineAccess) -> APIRouter:
    """Return the page of one model; no route where LangServe's page fits it."""
    router = APIRouter(include_in_schema=False)
    name = PAGES.get(spec.task)
    if name is None:
        return router
    limits = image_limits(spec, access) if spec.task == "image-generation" else None
    html = (
        templates()
        .get_template(name)
        .render(
            assets=links(UP),
            up=UP,
            spec=spec,
            limits=limits,
            most_images=access.limits.images if spec.limits.max_images is None else spec.limits.max_images,
            defaults=spec.drawing.model_dump(),
            drawing=json.dumps(spec.drawing.model_dump(exclude_none=True)),
            version=__version__,
        )
    )

    @router.get(f"/{spec.id}/playground/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=SECURITY)

    _ = page  # registered by its decorator
    return router
