"""The last lines of a run: what was done, and what it took."""

from collections import Counter

from inf_engine.resources.statistics import Statistics


def summary(
    inputs: int, failed: Counter[str], spent: Statistics, seconds: float
) -> str:
    """Return what a batch did, in one line or two.

    Args:
        inputs: How many inputs have ended.
        failed: How many of them failed, by the name of the error.
        spent: What the engine counted.
        seconds: How long it took.
    """
    tokens = spent.input_tokens + spent.output_tokens
    parts = [
        counted(inputs, "input"),
        f"{failed.total():,} failed",
        counted(spent.requests, "request"),
        counted(tokens, "token"),
        _money(spent),
        f"{seconds:,.1f} s",
    ]
    lines = [", ".join(parts)]
    reused = spent.journal_hits + spent.cache_hits
    if reused:
        lines[0] += f"; {counted(reused, 'answer')} reused"
    if spent.unknown:
        lines.append(
            f"{counted(spent.unknown, 'lost try', 'lost tries')}, which may have cost "
            f"up to {counted(spent.unknown_tokens, 'token')}"
        )
    if failed:
        kinds = (f"{count:,} × {name}" for name, count in failed.most_common(5))
        lines.append(f"failed: {', '.join(kinds)}")
    return "\n".join(lines)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number of things in words.

    Args:
        count: How many.
        one: The word for one.
        many: The word for more, if it is not that with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _money(spent: Statistics) -> str:
    if spent.unpriced == 0:
        return f"${spent.cost:.6f}" if spent.cost else "$0"
    if spent.cost == 0:
        return "cost unknown"
    return f"${spent.cost:.6f} and {counted(spent.unpriced, 'answer')} of unknown cost"
