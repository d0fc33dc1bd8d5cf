"""Tables: what the command line shows of larger answers."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = ("change", "share", "first", "second", "cosine", "rank", "top")


def diff_table(told: Mapping[str, Any], top: int) -> str:
    """Return how two versions differ, a line for each layer.

    Args:
        told: What `claas.bench.Bench.diff` returns, or `claas.differences` alone.
        top: How many layers to show, the most changed first.
    """
    rows = ["\t".join([*_COLUMNS, "layer"])]
    for layer in [told["total"], *told["layers"][:top]]:
        some = [_short(layer[name]) for name in _COLUMNS]
        rows.append("\t".join([*some, layer["name"]]))
    hidden = len(told["layers"]) - top
    rows += [f"… and {hidden} layers more"] if hidden > 0 else []
    if len(bases := dict.fromkeys(told.get("bases", ()))) > 1:
        rows.append(f"they are of different base models: {', '.join(bases)}")
    for one in told.get("feedback", ()):
        rows.append(f"{one['id']} ({one['kind']}): only in {one['only_in']}")
    for name, pair in told.get("gate", {}).items():
        rows.append(f"gate, {name}: {' → '.join(map(_short, pair))}")
    return "\n".join(rows)


def _short(number: float | None) -> str:
    """Return a number with four digits, or a dash."""
    return "-" if number is None else f"{number:.4g}"
