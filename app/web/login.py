"""The page where a browser shows its API key once, for a cookie that stands for the key.

The cookie is HttpOnly (no script reads it), SameSite=Strict (no other site's page sends it), Secure under HTTPS, and
holds a token of its own: the key is not kept in the browser, and revoking it ends the session at once.
"""

from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Template

from app.guard.bodies import read_bytes
from app.guard.gate import SESSION_COOKIE, Gate
from app.settings import Settings
from app.web.assets import SECURITY

FORM_BYTES = 4096


def create_router(gate: Gate, settings: Settings, page: Template) -> APIRouter:
    """Return ``/login`` and ``/logout``.

    Args:
        gate: Knows the keys.
        settings: How long a browser stays signed in.
        page: The login page.
    """
    router = APIRouter(include_in_schema=False)

    def show(wanted: str, *, refused: bool) -> Response:
        html = page.render(next=wanted, refused=refused)
        return HTMLResponse(html, 401 if refused else 200, headers=SECURITY)

    @router.get("/login")
    async def login(request: Request) -> Response:
        wanted = local(request.query_params.get("next", ""))
        return RedirectResponse(_at(request, wanted), 303) if gate.keys is None else show(wanted, refused=False)

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        form = parse_qs((await read_bytes(request, FORM_BYTES, settings.limits.body_seconds)).decode(errors="replace"))
        wanted = local(form.get("next", [""])[0])
        key = gate.keys.find(form.get("key", [""])[0].strip()) if gate.keys is not None else None
        if gate.keys is None or key is None:
            return show(wanted, refused=True)
        response = RedirectResponse(_at(request, wanted), 303)
        response.set_cookie(
            SESSION_COOKIE,
            gate.keys.open_session(key, settings.session_seconds),
            path=request.scope.get("root_path") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        if gate.keys is not None and (token := request.cookies.get(SESSION_COOKIE)):
            gate.keys.close_session(token)
        response = RedirectResponse(_at(request, "/login"), 303)
        response.delete_cookie(SESSION_COOKIE, path=request.scope.get("root_path") or "/")
        return response

    _ = login, sign_in, sign_out  # registered by their decorators
    return router


def local(wanted: str) -> str:
    """Return a path of this service; the home page for whatever leads elsewhere."""
    plain = wanted.isprintable() and wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if plain and "\\" not in wanted else "/"


def _at(request: Request, path: str) -> str:
    return f"{request.scope.get('root_path', '')}{path}"
