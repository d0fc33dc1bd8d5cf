"""``inf-engine serve``: a module as a service over HTTP.

The first SIGINT or SIGTERM: nothing more is accepted, what is under way is finished
within ``--grace`` seconds. The second, or the end of that time: it is cancelled.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import os
import ssl
from typing import Any

from inf_engine.cli.console import say
from inf_engine.cli.interrupts import Interrupts
from inf_engine.cli.logs import LogObserver
from inf_engine.cli.summary import counted
from inf_engine.cli.target import load_module
from inf_engine.errors import UsageError
from inf_engine.execution.engine import Engine
from inf_engine.module import InferenceModule
from inf_engine.resources.budget import Budget
from inf_engine.serving.access import Access
from inf_engine.serving.http import HttpServer
from inf_engine.serving.reports import ReportFolder
from inf_engine.serving.service import Service
from inf_engine.serving.site import Site


def serve(args: argparse.Namespace) -> int:
    """Serve a module until a signal comes; return the exit code.

    Args:
        args: The parsed command line.

    Returns:
        0 if all that was under way was answered, else 128 and the signal's number.

    Raises:
        InfEngineError: If it cannot be served.
    """
    module = load_module(args.target, args.set)
    access = Access(_key(args))
    reports = None if args.reports is None else ReportFolder(args.reports)
    return asyncio.run(_serve(args, module, access, reports))


async def _serve(
    args: argparse.Namespace,
    module: InferenceModule,
    access: Access,
    reports: ReportFolder | None,
) -> int:
    async with Engine(args.resources, **_engine_options(args)) as engine:
        service = Service(
            engine,
            module,
            name=args.name or args.target.rpartition(":")[2],
            most_runs=args.max_inflight,
            keep_runs=args.keep_runs,
        )
        engine.check(module)
        site = Site(service, access, reports)
        server = HttpServer(
            site.answer,
            host=args.host,
            port=args.port,
            most_bytes=args.max_bytes,
            tls=_tls(args),
        )
        stop, twice = asyncio.Event(), asyncio.Event()
        with Interrupts(stop.set, twice.set) as interrupts:
            await server.start()
            try:
                say(f"serving {service.name} at {server.url}")
                await stop.wait()
                is_answered = await _finish(site, service, server, twice, args.grace)
            finally:
                await server.close()
        last = interrupts.last
    return 0 if is_answered or last is None else 128 + last


async def _finish(
    site: Site, service: Service, server: HttpServer, twice: asyncio.Event, grace: float
) -> bool:
    """Let what is under way end; say whether all of it was answered."""
    alive = counted(len(service.runs.alive), "run")
    say(f"stopping: {alive} under way, at most {grace:g} s. Signal again to cancel.")
    site.is_stopping = True
    answered = asyncio.ensure_future(server.finish())
    hurried = asyncio.ensure_future(twice.wait())
    both = {answered, hurried}
    await asyncio.wait(both, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    is_answered = answered.done()
    service.stop()
    if not is_answered:
        await asyncio.wait([answered], timeout=1)  # the clients are told
    for task in both:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*both)
    return is_answered


def _key(args: argparse.Namespace) -> str | None:
    """Return the API key, None for none."""
    name = args.api_key_env
    if name is None:
        if not _is_this_machine(args.host):
            raise UsageError(
                f"{args.host} may be reached from other machines, and there is no API "
                "key. Name the variable that holds one: --api-key-env NAME."
            )
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(f"the variable {name} holds no API key. Set it.")
    return key


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the certificate and its key, None for HTTP."""
    if args.tls_cert is None:
        if args.tls_key is not None:
            raise UsageError("--tls-key needs --tls-cert, the certificate it is of.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key, password=_no_password)
    except (OSError, ValueError) as exc:
        files = ", ".join(filter(None, (args.tls_cert, args.tls_key)))
        raise UsageError(
            f"cannot read a certificate and its key from {files}: {exc}. Both are PEM; "
            "the key has no password, and may be in the certificate's file."
        ) from exc
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    raise ValueError("the key has a password")


def _is_this_machine(host: str) -> bool:
    """Say whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of the engine."""
    budget = None if args.budget_usd is None else Budget(usd=args.budget_usd)
    return {
        "cache": args.cache,
        "budget": budget,
        "timeout": args.timeout,
        "progress": False,
        "observers": [LogObserver()] if args.verbose else [],
    }
