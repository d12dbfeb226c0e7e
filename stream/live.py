"""The worker's pages: ``/live`` for people, ``/live/data`` for it, ``/health`` and ``/ready`` for its keeper.

``/health`` answers while the process does: restart by it. ``/ready`` says whether the worker does its work:
wait for it, and never restart by it, since most of what makes a worker unready (no broker, producers' clocks)
is the same after a restart.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp.web import Response

from clients.http_errors import speak_json
from stream.runtime import Runtime


@cache
def _page() -> str:
    return files("stream").joinpath("live.html").read_text(encoding="utf-8")


def let_pages_speak_json(app: Any, runtime: Runtime) -> None:
    """Let errors of the worker's web server be JSON and counted; call before it is started."""
    speak_json(app.web.web_app, lambda status: runtime.metrics.page_errors.labels(str(status)).inc())


def add_pages(app: Any, runtime: Runtime) -> None:
    """Register the pages with a Faust app."""

    @app.page("/live")
    async def live(self: Any, request: Any) -> Response:
        return Response(text=_page(), content_type="text/html")

    @app.page("/live/data")
    async def data(self: Any, request: Any) -> Response:
        raw = request.query.get("since", "0")
        view = runtime.history.view(int(raw) if raw.isdigit() else 0)
        if view is None:
            return Response(status=503, text='{"error": "no tick yet"}', content_type="application/json")
        return Response(body=msgspec.json.encode(view), content_type="application/json")

    @app.page("/health")
    async def health(self: Any, request: Any) -> Response:
        return Response(text='{"status": "up"}', content_type="application/json")

    @app.page("/ready")
    async def ready(self: Any, request: Any) -> Response:
        reason = runtime.unready()
        body = msgspec.json.encode({"ready": reason is None, "reason": reason or ""})
        return Response(status=503 if reason else 200, body=body, content_type="application/json")
