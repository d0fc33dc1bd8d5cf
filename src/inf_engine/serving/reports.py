"""`ReportFolder`: the HTML reports in a folder, to be read in a browser."""

from dataclasses import dataclass
from pathlib import Path

from inf_engine.errors import UsageError

MOST_REPORTS = 1_000


@dataclass(frozen=True, slots=True)
class Report:
    """A report in a folder.

    Args:
        name: Its path from the folder, with slashes.
        changed: When it was written, seconds since 1970.
        size: Bytes.
    """

    name: str
    changed: float
    size: int


class ReportFolder:
    """The ``.html`` files below a folder. Links that lead out of it are not followed.

    Args:
        path: The folder.

    Raises:
        UsageError: If it is none.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).resolve()
        if not self._path.is_dir():
            raise UsageError(f"{path} is no folder. Name one that exists: --reports.")

    def reports(self) -> list[Report]:
        """Return the reports, the newest first."""
        found = []
        for path in self._path.rglob("*.html"):
            try:
                known = path.stat()
            except OSError:  # gone meanwhile
                continue
            if path.is_file() and path.resolve().is_relative_to(self._path):
                name = path.relative_to(self._path).as_posix()
                found.append(Report(name, known.st_mtime, known.st_size))
        found.sort(key=lambda report: (-report.changed, report.name))
        return found[:MOST_REPORTS]

    def read(self, name: str) -> bytes | None:
        """Return a report, None if there is none of that name.

        Args:
            name: Its path from the folder.
        """
        try:
            path = (self._path / name).resolve()
            if path.suffix != ".html" or not path.is_relative_to(self._path):
                return None
            return path.read_bytes()
        except (OSError, ValueError):  # a name with a null byte
            return None
