"""The page at `/`, one file without anything from elsewhere, and the description of the interface."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_SCRIPTS = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLES = re.compile(r"<style>(.*?)</style>", re.DOTALL)


async def show(request: Request) -> Response:
    """The page."""
    text, policy = _page()
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
        "x-frame-options": "DENY",
    }
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


async def show_document(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(request.app.state.document)


@cache
def _page() -> tuple[str, str]:
    """The page, and a policy that allows its own script and style and nothing else."""
    text = (files(__package__) / "page.html").read_text(encoding="utf-8")
    scripts = " ".join(_hash(script) for script in _SCRIPTS.findall(text))
    styles = " ".join(_hash(style) for style in _STYLES.findall(text))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
