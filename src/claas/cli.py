"""The command line: ``claas serve``, and calls of a server that runs.

Exit codes: 0 all is well, 1 the server refuses, 2 wrong usage or setup, 130 after
Ctrl-C, 143 after SIGTERM; each with a message and no traceback.
"""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from claas.bench import compared
from claas.config import CONFIG, VERSION, Settings, read_settings
from claas.errors import ClaasError, ConfigurationError
from claas.names import LoraName
from claas.serving import key_headers, said_in, server_root
from claas.tables import diff_table
from claas.web.deployment import check_deployable

_CONNECT = 10.0  # seconds
_SECONDS = 700.0  # the longest that the server may be silent

app = typer.Typer(
    name="claas",
    help="Feedback on answers becomes weights.",
    epilog=f"Settings: a TOML file in ${CONFIG} or ./claas.toml, and CLAAS_…. "
    "Exit codes: 0 fine, 1 the server refuses, 2 wrong usage or setup, 130 Ctrl-C, "
    "143 SIGTERM.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Lora = Annotated[str, typer.Argument(help="user/model")]
Version = Annotated[int | None, typer.Argument(help="the number of a version")]
Shown = Annotated[bool, typer.Option("--json", help="print the server's answer")]


class Refused(ClaasError):
    """The server refuses, or does not answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments; None for those of the process.
    """
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        app(args=given, prog_name="claas")
    except SystemExit as exc:  # typer has said what is wrong
        return exc.code if isinstance(exc.code, int) else 2
    except Refused as exc:
        return _fail(str(exc), 1)
    except ClaasError as exc:
        return _fail(str(exc), 2)
    return 0


def _told_version(is_asked: bool) -> None:
    """Say which version this is, and end."""
    if is_asked:
        typer.echo(f"claas {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="the TOML file of settings")
    ] = None,
    url: Annotated[str | None, typer.Option(help="where the server is")] = None,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="log more to stderr")
    ] = 0,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_told_version, is_eager=True, help="say it"),
    ] = False,
) -> None:
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    logging.basicConfig(
        level=levels[min(verbose, 2)],
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    given = {"config": config, "url": url}
    context.obj = {key: value for key, value in given.items() if value is not None}


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="the address")] = None,
    port: Annotated[int | None, typer.Option(help="the port, 0 for any")] = None,
) -> None:
    """Serve the API until a signal comes."""
    more = {key: v for key, v in (("host", host), ("port", port)) if v is not None}
    settings = read_settings(**context.obj, **more)
    from claas.web.server import serve as run  # noqa: PLC0415 - fastapi, the worker

    raise typer.Exit(run(settings))


@app.command("init-lora")
def init_lora(context: typer.Context, lora: Lora, as_json: Shown = False) -> None:
    """Make an adapter that changes nothing yet."""
    told = _ask(context, "POST", "/v1/lora", {"lora": lora})
    _tell(told, as_json, f'{lora}: made, model "{lora}" answers from now on')


@app.command("list-loras")
def list_loras(context: typer.Context, as_json: Shown = False) -> None:
    """List your adapters."""
    told = _ask(context, "GET", "/v1/lora")
    rows = [
        f"{one['id']}\tlive v{one['aliases'].get('live', '-')}\t"
        f"{len(one['versions'])} versions\t{one['open']} feedback waits"
        for one in told["data"]
    ]
    _tell(
        told, as_json, "\n".join(rows) or "no adapter yet: claas init-lora USER/MODEL"
    )


@app.command()
def feedback(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="the id of the answer")],
    content: Annotated[str, typer.Argument(help="what you say; - for stdin")] = "",
    kind: Annotated[
        str,
        typer.Option(
            help="message, critique, correction, judge, error, sibling or praise"
        ),
    ] = "critique",
    lora: Annotated[
        str | None, typer.Option(help="which adapter learns, where the base answered")
    ] = None,
    score: Annotated[float | None, typer.Option(help="a judge's, 0 to 1")] = None,
    name: Annotated[str | None, typer.Option("--id", help="once per id")] = None,
    train: Annotated[bool, typer.Option(help="make an update of it now")] = True,
    wait: Annotated[bool, typer.Option(help="wait for the update")] = False,
    as_json: Shown = False,
) -> None:
    """Say something about an answer; an update is made of it."""
    content = sys.stdin.read() if content == "-" else content
    given = {"content": content, "kind": kind, "score": score, "id": name}
    given |= {"lora": lora}
    body = {k: v for k, v in given.items() if v is not None}
    more = {"receipt": receipt, "train": train, "wait": wait}
    told = _ask(context, "POST", "/v1/feedback", {**body, **more})
    rows = [f"{one['id']}: taken for {one['lora']}" for one in told["feedback"]]
    rows += [_job_line(job) for job in told["jobs"]]
    _tell(told, as_json, "\n".join(rows))


@app.command()
def rate(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="the id of the answer")],
    rating: Annotated[float, typer.Argument(help="0 to 1")],
    as_json: Shown = False,
) -> None:
    """Say how good an answer was; a version that does surely worse is taken back."""
    told = _ask(context, "POST", "/v1/rate", {"receipt": receipt, "rating": rating})
    back = told["rollback"]
    said = f"{told['lora']}: v{told['version']} rated {told['rating']:g}"
    more = f"\n{told['lora']}: v{back['to']} serves: {back['why']}" if back else ""
    _tell(told, as_json, said + more)


@app.command()
def versions(context: typer.Context, lora: Lora, as_json: Shown = False) -> None:
    """List the versions of an adapter, and its last updates."""
    told = _ask(context, "GET", _place(lora))
    rows = [
        f"v{one['version']}\t{', '.join(one['aliases'])}{_mean(one['ratings'])}"
        for one in told["versions"]
    ]
    rows += [_job_line(job) for job in told["updates"]]
    _tell(told, as_json, "\n".join(rows))


@app.command()
def promote(
    context: typer.Context,
    lora: Lora,
    version: Annotated[int, typer.Argument(help="the number of the version")],
    as_json: Shown = False,
) -> None:
    """Let a version serve."""
    body = {"version": version}
    told = _ask(context, "POST", f"{_place(lora)}/promote", body)
    _tell(told, as_json, f"{lora}: v{told['aliases'].get('live', '-')} serves")


@app.command()
def rollback(
    context: typer.Context, lora: Lora, version: Version = None, as_json: Shown = False
) -> None:
    """Let an earlier version serve: the one before, or the one that is named."""
    body = {"version": version}
    told = _ask(context, "POST", f"{_place(lora)}/rollback", body)
    _tell(told, as_json, f"{lora}: v{told['aliases'].get('live', '-')} serves")


@app.command()
def rebuild(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="user/model@v3")],
    wait: Annotated[bool, typer.Option(help="wait for the end")] = True,
    as_json: Shown = False,
) -> None:
    """Make a version again from the ledger; the new one does not serve yet."""
    told = _ask(context, "POST", f"{_place(version)}/rebuild", {"wait": wait})
    _tell(told, as_json, _job_line(told))
    _end(told)


@app.command()
def forget(
    context: typer.Context,
    lora: Lora,
    feedback: Annotated[
        list[str] | None, typer.Argument(help="ids of feedback")
    ] = None,
    receipt: Annotated[
        list[str] | None, typer.Option(help="an answer, and all feedback on it")
    ] = None,
    wait: Annotated[bool, typer.Option(help="wait for the end")] = True,
    as_json: Shown = False,
) -> None:
    """Make an adapter as if something had never been said, and delete the words."""
    body = {"feedback": feedback or [], "receipts": receipt or [], "wait": wait}
    told = _ask(context, "POST", f"{_place(lora)}/forget", body)
    gone = [f"v{number}" for number in told["result"].get("removed", ())]
    more = f" (removed: {', '.join(gone)})" if gone else ""
    for name in told["result"].get("kept", ()):
        more += f"\n{name} stays: feedback of another adapter is about it"
    _tell(told, as_json, _job_line(told) + more)
    _end(told)


@app.command()
def explain(
    context: typer.Context,
    lora: Annotated[str, typer.Argument(help="user/model, or user/model@v3")],
    feedback: Annotated[str, typer.Argument(help="the id of a feedback")] = "",
    receipt: Annotated[
        str | None, typer.Option(help="an answer; its last feedback is meant")
    ] = None,
    as_json: Shown = False,
) -> None:
    """Show what a feedback pushes: each token of the answer, by a version and by the
    teacher, who has read the feedback."""
    body = {"feedback": feedback or None, "receipt": receipt, "wait": True}
    told = _ask(context, "POST", f"{_place(lora)}/explain", body)
    rows = ["push\tversion\tteacher\ttoken\tversion's best\tteacher's best"]
    for row in told["result"].get("rows", ()):
        some = [f"{row[name]:+.2f}" for name in ("push", "student", "teacher")]
        names = ("token", "student_best", "teacher_best")
        rows.append("\t".join([*some, *(json.dumps(row[name]) for name in names)]))
    for mark in told.get("marks", ())[-1:]:
        rows.append(f"{mark['state']}: {mark['why']}")
    is_done = told["state"] == "done"
    _tell(told, as_json, "\n".join(rows) if is_done else _job_line(told))
    _end(told)


@app.command()
def diff(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help="user/model@v1, or a folder of PEFT's")],
    second: Annotated[str, typer.Argument(help="user/model@v3, or another folder")],
    top: Annotated[int, typer.Option(min=0, help="how many layers to show")] = 10,
    as_json: Shown = False,
) -> None:
    """Show how two versions differ: layers, feedback, what the gate measured.

    Two folders of PEFT's files are compared here; no server is asked.
    """
    folders = [name for name in (first, second) if name and Path(name).is_dir()]
    if len(folders) == 1:
        raise ConfigurationError(
            f"{folders[0]} is a folder, the other is none: compare two folders, or two "
            "versions (user/model@v3)."
        )
    if folders:
        told = compared(Path(first), Path(second))
        return _tell(told, as_json, diff_table(told, top))
    body = {"other": second, "wait": True}
    job = _ask(context, "POST", f"{_place(first)}/diff", body)
    is_done = job["state"] == "done"
    _tell(job, as_json, diff_table(job["result"], top) if is_done else _job_line(job))
    return _end(job)


@app.command()
def export(
    context: typer.Context,
    lora: Annotated[str, typer.Argument(help="user/model, or user/model@v3")],
    target: Annotated[Path, typer.Argument(help="the file to write")],
) -> None:
    """Write a version, in PEFT's files, into one ZIP file."""
    if target.exists():
        raise ConfigurationError(f"{target} exists: name another file.")
    content = _send(context, "GET", f"{_place(lora)}/export").content
    try:
        target.write_bytes(content)
    except OSError as exc:
        raise ConfigurationError(f"{target} cannot be written: {exc.strerror}") from exc
    typer.echo(f"{target}: {len(content)} bytes")


@app.command("eval")
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="user/model, or user/model@v3")],
    file: Annotated[
        Path,
        typer.Argument(help='lines of {"prompt": …, "required": …, "forbidden": …}'),
    ],
    tokens: Annotated[int, typer.Option(help="the most tokens of an answer")] = 128,
    as_json: Shown = False,
) -> None:
    """Ask a version prompts, greedily, and count the answers that fit.

    `required` and `forbidden` are regular expressions; case does not matter.
    """
    rows: list[dict[str, Any]] = []
    for case in _cases(file):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": case["prompt"]}],
            "max_tokens": tokens,
            "temperature": 0,
        }
        told = _ask(context, "POST", "/v1/chat/completions", body)
        text = told["choices"][0]["message"]["content"] or ""
        rows.append({**case, "answer": text, "fits": _fits(case, text)})
    count = len([row for row in rows if row["fits"]])
    summary = {"model": model, "fits": count, "of": len(rows), "cases": rows}
    _tell(summary, as_json, f"{model}: {count} of {len(rows)} answers fit")


@app.command()
def health(context: typer.Context) -> None:
    """Look whether the server and its inference server answer."""
    told = _ask(context, "GET", "/v1/health")
    typer.echo(told["status"])


@app.command()
def deploy(context: typer.Context) -> None:
    """Deploy to Modal: what ``modal deploy -m claas.api`` does."""
    settings = read_settings(**context.obj)
    check_deployable(settings)
    more = {"CLAAS_ENGINE": settings.engine}
    if settings.config:
        more[CONFIG] = str(settings.config)
    # the container before must have kept its database when the new one reads it
    how = ["deploy", "--strategy", "recreate", "-m", "claas.api"]
    command = [sys.executable, "-m", "modal", *how]
    done = subprocess.run(command, env={**os.environ, **more}, check=False)
    raise typer.Exit(done.returncode)


# -- the server ----------------------------------------------------------------------


def _ask(context: typer.Context, method: str, path: str, body: Any = None) -> Any:
    """Ask the server; return what it answers."""
    return _send(context, method, path, body).json()


def _place(lora: str) -> str:
    """Return the path of an adapter; what is no name would be another path."""
    LoraName.of(lora)
    return f"/v1/lora/{quote(lora, safe='/@')}"


def _send(
    context: typer.Context, method: str, path: str, body: Any = None
) -> httpx.Response:
    settings: Settings = read_settings(**context.obj)
    url = server_root(settings.url)
    timeout = httpx.Timeout(_SECONDS, connect=_CONNECT)
    headers = key_headers(settings.key.get_secret_value())
    try:
        with httpx.Client(timeout=timeout, headers=headers, trust_env=False) as client:
            found = client.request(method, url + path, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise Refused(
            f"no claas at {url} ({type(exc).__name__}): start `claas serve`, or name "
            "it with --url or CLAAS_URL."
        ) from exc
    except ValueError as exc:  # of json, or of an encoding
        raise ConfigurationError(
            "what you say cannot be sent: it has a number that is none (nan, inf), or "
            "characters that are not UTF-8."
        ) from exc
    if found.is_success:
        return found
    hint = " Set CLAAS_KEY." if found.status_code == 401 else ""
    raise Refused(f"{said_in(found.content)}{hint}")


# -- words ---------------------------------------------------------------------------


def _tell(told: Any, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else text)


def _end(job: dict[str, Any]) -> None:
    """End with 1 if a job has failed."""
    if job["state"] == "failed":
        raise typer.Exit(1)


def _mean(ratings: dict[str, Any]) -> str:
    """Return the ratings of a version, if it has any."""
    return f"\t{ratings['mean']:.2f} of {ratings['count']}" if ratings["count"] else ""


def _job_line(job: dict[str, Any]) -> str:
    """Return a job in one line."""
    result, state = job["result"], job["state"]
    verdict = result.get("verdict") or {}
    reasons = [*verdict.get("reasons", ()), *result.get("untaught", {}).values()]
    reasons += [why for why in (job["why"], result.get("error")) if why]
    version = result.get("version")
    told = "" if version is None else f" v{version}"
    state = result.get("outcome") or state
    return f"{job['id']}: {state}{told} {' '.join(map(str, reasons))}".rstrip()


def _cases(file: Path) -> Iterator[dict[str, Any]]:
    """Give the cases of a file."""
    try:
        lines = file.read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            case = json.loads(line)
            if not isinstance(case, dict) or not isinstance(case.get("prompt"), str):
                raise ConfigurationError(f"{file} line {number} has no 'prompt'.")
            yield case
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc}.") from exc


def _fits(case: dict[str, Any], text: str) -> bool:
    """Whether an answer has what is required, and not what is forbidden."""

    def has(name: str) -> bool:
        return re.search(case[name], text, re.IGNORECASE) is not None

    is_lacking = bool(case.get("required")) and not has("required")
    return not is_lacking and not (case.get("forbidden") and has("forbidden"))


def _fail(said: str, code: int) -> int:
    sys.stderr.write(f"claas: error: {said}\n")
    return code
