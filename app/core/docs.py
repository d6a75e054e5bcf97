"""The OpenAPI document and Swagger UI over HTTP: files of our own, compressed and revalidated.

The page runs under a policy that lets it load and call only this service.
"""

import base64
import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from app.core.errors import NotFound
from app.core.strict_json import compact_json

SWAGGER_UI = Path(__file__).parent / "swagger_ui"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The images that Swagger UI's style sheet has inside of itself, which the policy does not let in.
INLINE_IMAGE = re.compile(
    r'url\((?:"data:image/(?P<svg>svg)\+xml;charset=utf-8,(?P<text>(?:[^"\\]|\\.)*)"'
    r"|data:image/(?P<kind>\w+);base64,(?P<base64>[^)]*))\)"
)
# A coding with the weight 0 is one that the client does not take (RFC 9110, section 12.4.2).
ACCEPTS_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)


@dataclass(frozen=True)
class Asset:
    """A file as it is sent, with its compressed form and its ETag."""

    body: bytes
    compressed: bytes
    etag: str
    media_type: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> "Asset":
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        return cls(body, gzip.compress(body, mtime=0), etag, media_type)

    def answer(self, request: Request, **headers: str) -> Response:
        """The file, or 304 for a client that has it."""
        headers |= {
            # Two forms of one file are two representations (RFC 9110, section 8.8.3.3), but weakly
            # the same, which is all that a browser's revalidation compares.
            "ETag": f"W/{self.etag}",
            "Cache-Control": "private, no-cache",
            "Vary": "Accept-Encoding",
        }
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if ACCEPTS_GZIP.search(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, headers=headers, media_type=self.media_type)
        return Response(self.body, headers=headers, media_type=self.media_type)


@cache
def _assets() -> dict[str, Asset]:
    """Every file of the page by its name, read and compressed when it is first asked for."""
    images: dict[str, bytes] = {}

    def take_out(match: re.Match[str]) -> str:
        image = (
            unquote_to_bytes(match["text"].replace('\\"', '"'))
            if match["svg"]
            else base64.b64decode(match["base64"])
        )
        name = f"{hashlib.sha256(image).hexdigest()[:16]}.{match['svg'] or match['kind']}"
        images[name] = image
        return f"url({name})"

    files = {path.name: path.read_bytes() for path in SWAGGER_UI.iterdir() if path.is_file()}
    style = INLINE_IMAGE.sub(take_out, files["swagger-ui.css"].decode())
    files |= {"swagger-ui.css": style.encode(), **images}
    return {
        name: Asset.of(body, mimetypes.guess_type(name)[0] or "text/plain")
        for name, body in files.items()
    }


def install_docs(app: FastAPI) -> None:
    """Serve `/openapi.json` and `/docs`, and lead `/` there."""
    documents: list[Asset] = []

    @app.get("/", include_in_schema=False)
    async def lead_to_docs() -> RedirectResponse:
        return RedirectResponse("/docs", status_code=307)

    @app.get("/openapi.json", include_in_schema=False)
    async def show_openapi_document(request: Request) -> Response:
        if not documents:
            body = compact_json(app.openapi()).encode()
            documents.append(Asset.of(body, "application/json"))
        return documents[0].answer(request)

    @app.get("/docs", include_in_schema=False)
    async def show_docs(request: Request) -> Response:
        policy = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return _assets()["index.html"].answer(request, **policy)

    @app.get("/docs/assets/{name}", include_in_schema=False)
    async def show_docs_asset(name: str, request: Request) -> Response:
        if name not in _assets():
            raise NotFound
        return _assets()[name].answer(request)
