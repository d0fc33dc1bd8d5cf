"""`Site`: which request gets what."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from inf_engine.serving.access import Access
from inf_engine.serving.chat import Chat
from inf_engine.serving.exchange import Refused, Reply, Request
from inf_engine.serving.metrics import KIND, metrics_text
from inf_engine.serving.pages import refreshed, reports_page, run_page, runs_page
from inf_engine.serving.reports import ReportFolder
from inf_engine.serving.service import Service, written

HTML = "text/html; charset=utf-8"
_POLICY = "Content-Security-Policy"
_HEADERS = {
    _POLICY: (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Answer: TypeAlias = Callable[[Request], Awaitable[Reply]]


class Site:
    """Answers requests: the API, and the pages.

    Args:
        service: Runs the module.
        access: Who may ask.
        reports: Reports to browse beside the runs, None for none.

    Attributes:
        is_stopping: Whether all further requests are refused.
    """

    def __init__(
        self, service: Service, access: Access, reports: ReportFolder | None = None
    ) -> None:
        self._service = service
        self._access = access
        self._reports = reports
        self._chat = Chat(service)
        self.is_stopping = False
        self._answers: dict[str, tuple[str, Answer]] = {
            "/": ("GET", self._runs),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/reports": ("GET", self._listed_reports),
            "/v1/models": ("GET", self._models),
            "/v1/run": ("POST", service.run),
            "/v1/batch": ("POST", service.batch),
            "/v1/chat/completions": ("POST", self._chat.complete),
        }
        self._below: dict[str, Answer] = {
            "/runs/": self._run,
            "/reports/": self._report,
            "/v1/models/": self._model,
        }

    async def answer(self, request: Request) -> Reply:
        """Answer a request.

        Args:
            request: The request.

        Raises:
            Refused: If it gets an error.
        """
        if self.is_stopping:
            headers = {"Retry-After": "5", "Connection": "close"}
            raise Refused("the server stops.", 503, code="stopping", headers=headers)
        self._access.check(request)
        method, answer = self._found(request.path)
        asked = "GET" if request.method == "HEAD" else request.method
        if asked != method:
            headers = {"Allow": method}
            raise Refused(f"use {method} here.", 405, headers=headers)
        return await answer(request)

    def _found(self, path: str) -> tuple[str, Answer]:
        """Return what answers at a path, and by which method."""
        if path in self._answers:
            return self._answers[path]
        for start, answer in self._below.items():
            if path.startswith(start):
                return "GET", answer
        raise Refused("there is nothing here.", 404, code="not_found")

    async def _health(self, _: Request) -> Reply:
        alive = len(self._service.runs.alive)
        return Reply(written({"status": "ok", "runs": alive}))

    async def _metrics(self, _: Request) -> Reply:
        statistics = self._service.engine.statistics()
        return Reply(metrics_text(statistics, self._service.runs).encode(), kind=KIND)

    async def _models(self, _: Request) -> Reply:
        return Reply(written({"object": "list", "data": [self._chat.model]}))

    async def _model(self, request: Request) -> Reply:
        if request.path.removeprefix("/v1/models/") != self._service.name:
            raise Refused("there is no such model.", 404, code="model_not_found")
        return Reply(written(self._chat.model))

    # -- pages ------------------------------------------------------------------------

    async def _runs(self, request: Request) -> Reply:
        still = "still" in request.query
        text = runs_page(self._service, has_reports=bool(self._reports), still=still)
        return _page(text, refreshed(is_live=True, still=still))

    async def _run(self, request: Request) -> Reply:
        run = self._service.runs.find(request.path.removeprefix("/runs/"))
        if run is None:
            raise Refused(
                "there is no such run, or it is no longer kept: see --keep-runs.", 404
            )
        still = "still" in request.query
        text = run_page(run, still=still)
        return _page(text, refreshed(is_live=run.live is not None, still=still))

    async def _listed_reports(self, _: Request) -> Reply:
        found = await asyncio.to_thread(self._folder().reports)
        return _page(reports_page(found))

    async def _report(self, request: Request) -> Reply:
        name = request.path.removeprefix("/reports/")
        found = await asyncio.to_thread(self._folder().read, name)
        if found is None:
            raise Refused("there is no such report.", 404)
        policy = f"{_HEADERS[_POLICY]}; sandbox"  # whoever wrote it
        return Reply(found, kind=HTML, headers={**_HEADERS, _POLICY: policy})

    def _folder(self) -> ReportFolder:
        if self._reports is None:
            raise Refused("there are no reports: start with --reports FOLDER.", 404)
        return self._reports


def _page(text: str, more: dict[str, str] | None = None) -> Reply:
    return Reply(text.encode(), kind=HTML, headers={**_HEADERS, **(more or {})})
