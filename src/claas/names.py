"""Names: of users, adapters, versions, and what the inference server calls them.

``user/model`` names an adapter, ``user/model@v3`` a version of it, ``user/model@live``
an alias. Names are lower case, so that no file system takes two of them for one.
"""

import re
from dataclasses import dataclass

from claas.errors import IdentifierError

ALIASES = ("latest", "live", "candidate")
"""The aliases of an adapter: the newest version, the one that serves, the one that a
gate is looking at."""

_PART = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})", re.ASCII)
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class LoraName:
    """The name of an adapter, or of one of its versions.

    Args:
        user: Whose it is.
        model: What he calls it.
        at: ``v3``, an alias, or empty.
    """

    user: str
    model: str
    at: str = ""

    @classmethod
    def of(cls, text: str) -> "LoraName":
        """Return what a text names.

        Args:
            text: ``user/model``, ``user/model@v3`` or ``user/model@live``.

        Raises:
            IdentifierError: If it is no such name.
        """
        path, mark, at = text.partition("@")
        user, slash, model = path.partition("/")
        good = slash and _is_part(user) and _is_part(model)
        if not good or (mark and at not in ALIASES and not _VERSION.fullmatch(at)):
            raise IdentifierError(
                f"{text[:_LONGEST_SHOWN]!r} is no name of an adapter: write "
                "user/model, user/model@v3 or user/model@live, of lower-case letters, "
                "digits, and single '.', '_', '-' between them, up to 64 each."
            )
        return cls(user, model, at)

    def __str__(self) -> str:
        return self.lora + (f"@{self.at}" if self.at else "")

    @property
    def lora(self) -> str:
        """The name without a version."""
        return f"{self.user}/{self.model}"

    @property
    def version(self) -> int | None:
        """The number of the version, if it names one."""
        found = _VERSION.fullmatch(self.at)
        return int(found[1]) if found else None

    def versioned(self, version: int) -> "LoraName":
        """Return the name of a version of it.

        Args:
            version: Its number.
        """
        return LoraName(self.user, self.model, f"v{version}")

    @property
    def serving(self) -> str:
        """What the inference server calls a version: ``user-model@v3``.

        A '-' inside a name is doubled, so that no two names meet.
        """
        user, model = (part.replace("-", "--") for part in (self.user, self.model))
        return f"{user}-{model}" + (f"@{self.at}" if self.at else "")


def _is_part(text: str) -> bool:
    """Whether a text can name a user or a model."""
    return bool(_PART.fullmatch(text)) and ".." not in text
