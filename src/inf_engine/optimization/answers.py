"""The forms in which a rewriter answers: whole texts, or edits; of one or several."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EditAnswer:
    """One edit, as the model writes it."""

    find: str
    replace: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EditsAnswer:
    """Edits of one text."""

    edits: list[EditAnswer]


@dataclass(frozen=True, slots=True)
class SharedEditAnswer:
    """One edit of some of several texts."""

    names: list[str]
    find: str
    replace: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SharedEditsAnswer:
    """Edits of several texts."""

    edits: list[SharedEditAnswer]


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """One of several texts, written anew."""

    name: str
    text: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TextsAnswer:
    """Several texts, written anew."""

    texts: list[TextAnswer]
