"""Constraints: what a new prompt must keep, checked before a rollout is paid for.

A constraint looks at the text before and after, and says in words what is wrong. The
words are for the rewriter that made the proposal, so they may quote the text that has
to stay; they are no error messages, and do not belong in a log. Its `rule` tells a
rewriter beforehand.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from string import Formatter
from typing import Protocol

from inf_engine.errors import UsageError
from inf_engine.types import CHARACTERS_PER_TOKEN

_FIELD = re.compile(
    r"\{\{|\}\}|\{(\d*|[^\W\d]\w*(?:\.\w+|\[[^\]{}]*\])*)(?:![rsa])?(?::[^{}]*)?\}"
)


@dataclass(frozen=True, slots=True)
class Violation:
    """What a proposal did wrong.

    Args:
        constraint: The name of the constraint's class.
        message: What is wrong and how to mend it, fit for the rewriter.
    """

    constraint: str
    message: str

    def __str__(self) -> str:
        return self.message


class Constraint(Protocol):
    """What a new text is held to; any object with these two will do."""

    @property
    def rule(self) -> str:
        """What it asks for, as an instruction for a rewriter."""
        ...

    def check(self, old: str, new: str) -> Iterable[str]:
        """Return what is wrong with a new text, in words; nothing if it is fine.

        Args:
            old: The present text.
            new: The proposal.
        """
        ...


def check(constraints: Iterable[Constraint], old: str, new: str) -> list[Violation]:
    """Return all that is wrong with a proposal.

    An empty proposal is always wrong, and then the only thing that is told.

    Args:
        constraints: What it is held to.
        old: The present text.
        new: The proposal.

    Returns:
        The violations, in the order of the constraints; none if it is fine.

    Raises:
        UsageError: If the function of a `Predicate` fails.

    Example:
        >>> [str(v) for v in check([MaxLength(words=2)], "Be brief.", "Be very brief.")]
        ['The prompt has 3 words; it may have 2 at most. Shorten it.']
    """
    if not new.strip():
        return [Violation("NotEmpty", "The prompt is empty. Write it in full.")]
    return [
        Violation(type(constraint).__name__, message)
        for constraint in constraints
        for message in constraint.check(old, new)
    ]


@dataclass(frozen=True, slots=True, init=False)
class FrozenSpans:
    """Texts that must stay in the prompt, character by character.

    Args:
        *texts: The texts.

    Raises:
        UsageError: If there is none, or one is empty or no text.
    """

    texts: tuple[str, ...]

    def __init__(self, *texts: str) -> None:
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise UsageError(
                "FrozenSpans needs the texts that must stay, each not empty: "
                "FrozenSpans('Answer in JSON.')."
            )
        object.__setattr__(self, "texts", texts)

    @property
    def rule(self) -> str:
        """What it asks for."""
        quoted = ", ".join(f'"{text}"' for text in self.texts)
        return f"Keep, word for word: {quoted}."

    def check(self, old: str, new: str) -> list[str]:
        """Return a sentence for each text that is gone.

        Args:
            old: The present text; it does not matter.
            new: The proposal.
        """
        return [
            f'The prompt must contain, word for word: "{text}". Put it back.'
            for text in self.texts
            if text not in new
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxLength:
    """How long the prompt may be; every limit that is given holds.

    Args:
        chars: The most characters, None for any number.
        words: The most words: what white space parts.
        tokens: The most tokens, estimated as a quarter of the characters.

    Raises:
        UsageError: If no limit is given, or one is below 1.
    """

    chars: int | None = None
    words: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        limits = self._limits()
        if not limits or any(most < 1 for _, most in limits):
            raise UsageError(
                "MaxLength needs chars, words or tokens, 1 or more: "
                "MaxLength(words=200)."
            )

    @property
    def rule(self) -> str:
        """What it asks for."""
        limits = " and ".join(f"{most} {unit}" for unit, most in self._limits())
        return f"Write at most {limits}."

    def check(self, old: str, new: str) -> list[str]:
        """Return a sentence for each limit that is exceeded.

        Args:
            old: The present text; that it is too long itself excuses nothing.
            new: The proposal.
        """
        lengths = {
            "characters": len(new),
            "words": len(new.split()),
            "tokens": math.ceil(len(new) / CHARACTERS_PER_TOKEN),
        }
        return [
            f"The prompt has {'about ' if unit == 'tokens' else ''}{lengths[unit]} "
            f"{unit}; it may have {most} at most. Shorten it."
            for unit, most in self._limits()
            if lengths[unit] > most
        ]

    def _limits(self) -> list[tuple[str, int]]:
        """Return the limits that are given, with what they count."""
        pairs = zip(
            ("characters", "words", "tokens"),
            (self.chars, self.words, self.tokens),
            strict=True,
        )
        return [(unit, most) for unit, most in pairs if most is not None]


@dataclass(frozen=True, slots=True)
class KeepsFields:
    """The ``{fields}`` of a template: all stay, none is added.

    Fields are those of `str.format`; ``{{`` and ``}}`` are braces and no fields. Braces
    that name nothing, as JSON has them, are text if the present text has such braces
    or no fields; else `str.format` works on it and has to work on the proposal. How
    often a field stands is free.
    """

    @property
    def rule(self) -> str:
        """What it asks for."""
        return "Keep every {field} in braces as it is, and add no others."

    def check(self, old: str, new: str) -> list[str]:
        """Return a sentence for each field that was lost or added.

        Args:
            old: The present text.
            new: The proposal.
        """
        before, after = _fields(old), _fields(new)
        if before and _formats(old) and not _formats(new):
            return [
                "The prompt has a brace that is neither of a field nor written twice. "
                "Write {{ and }} to mean braces as text."
            ]
        lost = [
            f"The prompt lost the field {{{name}}}, which is filled in later. Put it "
            "back."
            for name in before
            if name not in after
        ]
        added = [
            f"The prompt has a new field {{{name}}}, which nobody fills in. Leave it "
            "out, or write its braces twice to mean them as text."
            for name in after
            if name not in before
        ]
        return lost + added


@dataclass(frozen=True, slots=True)
class Matches:
    """A regular expression that the prompt must match somewhere.

    Args:
        pattern: The expression, as for `re.search`.
        message: What to tell the rewriter; empty for a sentence with the pattern.

    Raises:
        UsageError: If it is no regular expression.
    """

    pattern: str
    message: str = ""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as exc:
            raise UsageError(
                f"the pattern of Matches is no regular expression: {exc}. Correct it, "
                "or use re.escape on plain text."
            ) from exc

    @property
    def rule(self) -> str:
        """What it asks for."""
        return self.message or f"Match the regular expression {self.pattern}"

    def check(self, old: str, new: str) -> list[str]:
        """Return a sentence if nothing matches.

        Args:
            old: The present text; it does not matter.
            new: The proposal.
        """
        if re.search(self.pattern, new):
            return []
        missing = f"The prompt must match the regular expression {self.pattern}"
        return [self.message or missing]


@dataclass(frozen=True, slots=True)
class Predicate:
    """A function that says whether a prompt is fine.

    Args:
        fn: Called with the proposal; true if it is fine.
        message: What it asks for, told to the rewriter.

    Raises:
        UsageError: If the message is empty: the rewriter would have to guess.
    """

    fn: Callable[[str], object]
    message: str

    def __post_init__(self) -> None:
        if not callable(self.fn) or not str(self.message).strip():
            raise UsageError(
                "Predicate needs a function of the text, and what it asks for in "
                "words: Predicate(str.isascii, 'Write ASCII only.')."
            )

    @property
    def rule(self) -> str:
        """What it asks for."""
        return self.message

    def check(self, old: str, new: str) -> list[str]:
        """Return the message if the function says no.

        Args:
            old: The present text; it does not matter.
            new: The proposal.

        Raises:
            UsageError: If the function fails.
        """
        try:
            fine = self.fn(new)
        except Exception as exc:
            raise UsageError(
                f"the function of a Predicate failed with {type(exc).__name__}: it "
                "must give true or false for every text. Correct it."
            ) from exc
        return [] if fine else [self.message]


def _fields(text: str) -> list[str]:
    """Return the names of the fields of a template, each once, in order."""
    names = [match[1] for match in _FIELD.finditer(text) if match[1] is not None]
    return list(dict.fromkeys(names))


def _formats(text: str) -> bool:
    """Say whether `str.format` can read a template, each field a name or a number."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError:
        return False
    return all(_FIELD.fullmatch(f"{{{name}}}") for name in names)
