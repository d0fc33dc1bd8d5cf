"""Serving: a module behind HTTP, and pages about what it does."""

from inf_engine.serving.access import Access
from inf_engine.serving.http import HttpServer
from inf_engine.serving.reports import ReportFolder
from inf_engine.serving.service import Service
from inf_engine.serving.site import Site

__all__ = ["Access", "HttpServer", "ReportFolder", "Service", "Site"]
