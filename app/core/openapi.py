"""The OpenAPI document and its page, served from files of our own."""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from app.core.errors import NotFound

SWAGGER_UI = Path(__file__).parent / "swagger_ui"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
DESCRIPTION = """\
Create, find and change people's tasks.

1. Register: `POST /api/v1/users`.
2. Log in: press **Authorize** and give the username and the password, or call
   `POST /api/v1/auth/token` and send the token as `Authorization: Bearer …`.
3. Create a task: `POST /api/v1/tasks`.

Every success is `{"status": "success", "message": …, "data": …}`; every error has a stable `code`,
and names the fields to blame in `errors`. Unknown fields and parameters are refused by name.
"""
TAGS = [
    {"name": "tasks", "description": "Tasks, only ever the caller's own."},
    {
        "name": "accounts",
        "description": "Registration, logins, API keys, the own account.",
    },
    {"name": "health", "description": "Probes for whoever runs the service."},
]


def operation_id(route: APIRoute) -> str:
    """Endpoints are named `verb_noun`; SDKs call their methods so."""
    return route.name


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document, without the 422 that FastAPI puts in and this service never answers."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            license_info={"name": "MIT", "identifier": "MIT"},
            servers=[{"url": "/", "description": "This server"}],
        )
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
            patch_body = operations.get("patch", {}).get("requestBody", {}).get("content", {})
            if "application/json" in patch_body:
                patch_body["application/merge-patch+json"] = patch_body["application/json"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def install_docs(app: FastAPI) -> None:
    """Serve `/docs` under a strict Content-Security-Policy, and lead `/` there."""

    @app.get("/", include_in_schema=False)
    async def lead_to_docs() -> RedirectResponse:
        return RedirectResponse("/docs", status_code=307)

    # Read once and kept: they are few, and a file server would answer ranges outside the envelope.
    assets = {path.name: path.read_bytes() for path in SWAGGER_UI.iterdir() if path.is_file()}

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(
            assets["index.html"], headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        )

    @app.get("/docs/assets/{name}", include_in_schema=False)
    async def show_docs_asset(name: str) -> Response:
        if name not in assets:
            raise NotFound
        return Response(assets[name], media_type=mimetypes.guess_type(name)[0])
