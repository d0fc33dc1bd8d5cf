"""`Metrics`: counts, as Prometheus reads them. No user and no adapter is named."""

import threading
from collections.abc import Callable, Mapping

_HELP = {
    "answers": "Answers that were passed on, by kind.",
    "receipts": "Receipts that were written.",
    "receipts_lost": "Answers without a receipt, by why.",
    "feedback": "Feedback that was taken, by kind.",
    "updates": "Updates that ended, by how.",
    "rollbacks": "Versions that were taken back for their ratings.",
}


class Metrics:
    """Counts what happens.

    Args:
        gauges: Returns values of the moment, by name, when somebody reads.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = dict.fromkeys(
            [("receipts", ""), ("rollbacks", "")], 0
        )

    def count(self, name: str, kind: str = "", by: int = 1) -> None:
        """Count something.

        Args:
            name: What, one of the names at the top of this file.
            kind: Which kind of it.
            by: How many.
        """
        with self._lock:
            self._counts[name, kind] = self._counts.get((name, kind), 0) + by

    def text(self) -> str:
        """Return all of it as Prometheus reads it."""
        lines = []
        with self._lock:
            counts = sorted(self._counts.items())
        for name, what in _HELP.items():
            lines += [f"# HELP claas_{name}_total {what}"]
            lines += [f"# TYPE claas_{name}_total counter"]
            for (found, kind), value in counts:
                if found == name:
                    label = f'{{kind="{kind}"}}' if kind else ""
                    lines.append(f"claas_{name}_total{label} {value}")
        for name, number in self._gauges().items():
            lines += [f"# TYPE claas_{name} gauge", f"claas_{name} {number:g}"]
        return "\n".join(lines) + "\n"
