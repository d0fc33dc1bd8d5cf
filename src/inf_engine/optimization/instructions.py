"""`Instruction`: what is said of answers again and again, and in how many steps.

Whether two notes say the same is decided by their words, no model is asked (`alike`):
they share most of those that mean something, and both or neither say no. So "Your name
is Kuro." and "Always say that your name is Kuro!" are one instruction, "It is too
long." and "It is too short." are two. "Introduce yourself as Kuro." is another one by
its words, though it means the first: where feedback is worded anew each time, an
instruction seems to recur less often than it does. A function of one's own, `same=`,
decides better.

Praise is no instruction. It is kept, and goes with the next lessons that are sent, so
that what was right stays so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inf_engine.optimization.adapters import Lesson, lessons_of
from inf_engine.optimization.edits import plain, sentences_in
from inf_engine.optimization.notes import Note
from inf_engine.optimization.relevance import words_in
from inf_engine.optimization.search import Change

_SAME = 0.6  # of the words of both
_MOST = 64  # instructions, and lessons of one
_MOST_PRAISE = 8
_NO = frozenset({"not", "no", "never", "none", "without", "cannot", "neither", "nor"})
_SMALL = frozenset(
    "a an and answer are as at be by do does for from has have i in is it its of on or "
    "please say should so that the their then there this to was with you your".split()
)


def alike(one: str, other: str) -> bool:
    """Say whether two notes give the same instruction, by their words (see above).

    Args:
        one: A note.
        other: Another one.

    Example:
        >>> alike("Your name is Kuro.", "Always say that your name is Kuro!")
        True
        >>> alike("It is too long.", "It is too short.")
        False
    """
    return _denies(one) == _denies(other) and _shared(one, other) >= _SAME


@dataclass(slots=True, eq=False)
class Instruction:
    """What is said of answers.

    Args:
        text: The words in which it was said first.
        times: In how many steps it was said since weights last learnt it.
        lessons: What is to be sent when the weights are to learn it.
        sentences: Those that came into prompts for it, as `plain` gives them.
        is_sent: Whether lessons about it were sent.
    """

    text: str
    times: int = 0
    lessons: list[Lesson] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    is_sent: bool = False

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Instruction":
        """Return the instruction that `dataclasses.asdict` made JSON of.

        Args:
            state: The JSON.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of a wrong type.
        """
        return cls(
            str(state["text"]),
            int(state["times"]),
            [Lesson(**lesson) for lesson in state["lessons"]],
            [str(sentence) for sentence in state["sentences"]],
            bool(state["is_sent"]),
        )


class Instructions:
    """The instructions that were heard, the newest last.

    Args:
        recurring: In how many steps one has to be said before the weights learn it.
        same: Says whether two notes give the same instruction.

    Attributes:
        known: The instructions, those heard last at the end.
        praise: Lessons about answers that were right, to be sent with others.
    """

    def __init__(self, recurring: int, same: Callable[[str, str], bool]) -> None:
        self.recurring = recurring
        self.known: list[Instruction] = []
        self.praise: list[Lesson] = []
        self._same = same

    def hear(self, notes: Iterable[Note], high: float) -> list[Instruction]:
        """Take note of what was said in one step.

        Args:
            notes: What waits on the weights.
            high: The score of an answer that needs no change: a note with it is praise.

        Returns:
            The instructions that were said, each once.
        """
        heard: list[Instruction] = []
        for note in notes:
            lessons = lessons_of([note], high)
            if note.score is not None and note.score >= high:
                self.praise = _newest([*self.praise, *lessons], _MOST_PRAISE)
            elif text := _text(note):
                found = self._of(text)
                found.lessons = _newest([*found.lessons, *lessons], _MOST)
                heard += [] if found in heard else [found]
        for instruction in heard:
            instruction.times += 1
        others = [one for one in self.known if one not in heard]
        self.known = [*others, *heard][-_MOST:]
        return heard

    def credit(self, heard: Sequence[Instruction], changes: Iterable[Change]) -> None:
        """Remember which sentences came into prompts for which instruction.

        Only where sentences were added and none was taken away: of one that replaced
        another it is not known what else it says. Of several instructions the sentence
        belongs to the one it shares most words with.

        Args:
            heard: The instructions that were said before the change.
            changes: The changes.
        """
        for change in changes:
            for sentence in _added(change):
                owner = _owner(sentence, heard)
                if owner is not None:
                    owner.sentences = _newest([*owner.sentences, sentence], _MOST)

    def due(self) -> list[Instruction]:
        """Return those that recur, and of which there is something to send."""
        return [i for i in self.known if i.times >= self.recurring and i.lessons]

    def sent(self, instructions: Iterable[Instruction]) -> None:
        """Take note that lessons were sent; the server keeps what it has.

        Args:
            instructions: What they are about.
        """
        self.praise = []
        for instruction in instructions:
            instruction.lessons, instruction.is_sent = [], True

    def learnt(self, instructions: Iterable[Instruction]) -> None:
        """Take note that weights have learnt: prompts come first again.

        Args:
            instructions: What they have learnt.
        """
        for instruction in instructions:
            instruction.times = 0

    def said_by(self, sentences: Iterable[str]) -> list[str]:
        """Return the sentences that say what was sent to the weights.

        Args:
            sentences: Those of prompts, as `plain` gives them.
        """
        sent = [one for one in self.known if one.is_sent]
        return [
            sentence
            for sentence in sentences
            if any(
                sentence in one.sentences or self._same(one.text, sentence)
                for one in sent
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "known": [asdict(one) for one in self.known],
            "praise": [asdict(lesson) for lesson in self.praise],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` gave. Nothing is changed unless all of it fits.

        Args:
            state: The state.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of a wrong type.
        """
        known = [Instruction.of_state(one) for one in state["known"]]
        praise = [Lesson(**lesson) for lesson in state["praise"]]
        self.known, self.praise = known, praise

    def _of(self, text: str) -> Instruction:
        """Return the instruction that a text gives, a new one if it is none yet."""
        for one in reversed(self.known):
            if one.text == text or self._same(one.text, text):
                return one
        self.known.append(Instruction(text))
        return self.known[-1]


def _text(note: Note) -> str:
    """Return what a note says: its words, or the right answer if there are none."""
    targets = (evidence.target for evidence in note.evidence)
    return note.content.strip() or next(filter(None, targets), "")


def _words(text: str) -> set[str]:
    """Return the words of a text that mean something; all if none does."""
    words = words_in(text)
    return words - _SMALL - _NO or words


def _denies(text: str) -> bool:
    """Say whether a text says no."""
    return any(word in _NO or word.endswith("n't") for word in words_in(text))


def _shared(one: str, other: str) -> float:
    """Return the share of the words of two texts that both have, 0 to 1."""
    first, second = _words(one), _words(other)
    return len(first & second) / max(1, len(first | second))


def _added(change: Change) -> list[str]:
    """Return the sentences that a change added, if it took none away."""
    before, after = (
        list(dict.fromkeys(map(plain, sentences_in(str(text)))))
        for text in (change.before, change.after)
    )
    if any(sentence not in after for sentence in before):
        return []
    return [sentence for sentence in after if sentence not in before]


def _owner(sentence: str, heard: Sequence[Instruction]) -> Instruction | None:
    """Return the instruction that a new sentence was written for, if that is known."""
    if len(heard) == 1:
        return heard[0]
    best = max(heard, key=lambda one: _shared(sentence, one.text), default=None)
    return best if best is not None and _shared(sentence, best.text) else None


def _newest(items: Iterable[Any], most: int) -> list[Any]:
    """Return the newest of some items, each once, in order."""
    return list(dict.fromkeys(items))[-most:]
