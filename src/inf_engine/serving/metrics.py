"""`metrics_text`: what a service did, as Prometheus reads it."""

from collections.abc import Iterator, Mapping

from inf_engine.resources.statistics import EngineStatistics
from inf_engine.serving.runs import RunBook

KIND = "text/plain; version=0.0.4; charset=utf-8"

_COUNTED = (
    ("requests", "requests_total", "Tries that were answered."),
    ("tries", "tries_total", "Tries that left for an endpoint."),
    ("failures", "failures_total", "Tries that were not answered."),
    ("unknown", "unknown_total", "Tries of which nobody knows."),
    ("input_tokens", "input_tokens_total", "Tokens read."),
    ("output_tokens", "output_tokens_total", "Tokens written."),
    ("cached_tokens", "cached_tokens_total", "Tokens read from a provider's cache."),
    ("cost", "cost_usd_total", "USD, of the answers whose price is known."),
    ("unpriced", "unpriced_total", "Answers whose price is not known."),
    ("wait_seconds", "wait_seconds_total", "Seconds in line, summed over requests."),
    ("wire_seconds", "wire_seconds_total", "Seconds on the wire, summed over tries."),
    ("journal_hits", "journal_hits_total", "Answers from the journal."),
    ("cache_hits", "cache_hits_total", "Answers from the cache."),
)


def metrics_text(statistics: EngineStatistics, runs: RunBook) -> str:
    """Return the figures of a service in Prometheus's text format.

    Args:
        statistics: What the engine counted.
        runs: The runs.
    """
    ended = {_label("outcome", name): n for name, n in runs.outcomes.items()}
    lines = [
        *_family("runs_total", "counter", "Runs that ended.", ended),
        *_family(
            "run_seconds_total", "counter", "Seconds of runs.", {"": runs.seconds}
        ),
        *_family("runs_alive", "gauge", "Runs under way.", {"": len(runs.alive)}),
    ]
    for name, told, about in _COUNTED:
        values = {
            _label("alias", alias): getattr(part, name)
            for alias, part in statistics.by_alias.items()
        }
        lines += _family(told, "counter", about, values)
    return "\n".join([*lines, ""])


def _family(
    name: str, kind: str, about: str, values: Mapping[str, float]
) -> Iterator[str]:
    """Yield the lines of one metric."""
    yield f"# HELP inf_engine_{name} {about}"
    yield f"# TYPE inf_engine_{name} {kind}"
    for label, value in values.items():
        yield f"inf_engine_{name}{label} {value!r}"


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{name}="{escaped}"}}'
