"""The reflector: learns rules from the evidence in a request, imperfectly.

It knows how to read, and nothing else: a mark that is not in the request it cannot
name (but when it hallucinates, and then the mark is wrong). From what it notices it
picks up a few rules; of the prompts in the request it writes new ones, in which these
are added, some old ones forgotten, and now and then a wrong one added. Where thoughts
or criticism are asked for, it says what it picked up.

Which rules belong into which of several prompts it knows from the evidence: it is
surer where it sees what that stage itself has handed on.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.simworld.chance import chance, dice
from benchmarks.simworld.drafts import Draft
from benchmarks.simworld.families import ROLES, Family
from benchmarks.simworld.finding import (
    Evidence,
    Found,
    current,
    evidence_in,
    prompts_in,
    unescaped,
)
from benchmarks.simworld.forms import form_of, messages_of
from benchmarks.simworld.rules import WORDINGS, Rule, RuleBook, sentences

_FILLER = (
    "Bear in mind that every customer matters and that the shop has a good name.",
    "Work with care, take the time that you need and check your work at the end.",
    "Orders come from many places and in many styles, so read each of them fully.",
    "The team values clear and honest work, and so do the people who write to us.",
    "Think about what the person who reads the answer will want to do with it.",
    "It helps to imagine the shelf, the box and the person who opens it at home.",
    "Small details can have large effects later, which is why they deserve a look.",
)
_STRAY_UNSEEN, _STRAY_SEEN = 0.5, 0.1
_REPLACE = 0.6
_REWORD = 0.1
_WARNED = 0.1
_CRITIQUE = re.compile(
    r"\bcriti|\bgive feedback\b|do not (?:propose|rewrite|write a new)|\bobservation"
    r"|\bdiagnos|\bexplain what\b|\bsummar|what went wrong",
    re.IGNORECASE,
)
_REWRITE = re.compile(
    r"\b(?:rewrite|revise|improve|write|propose|generate|give|return|create|provide)\b"
    r"[^.\n]{0,60}\b(?:prompt|instruction|variable|version|text)",
    re.IGNORECASE,
)
_TAIL = 800


def filler(number: int) -> str:
    """Return an irrelevant sentence."""
    return _FILLER[number % len(_FILLER)]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Something picked up, true or not.

    Args:
        rule: The rule whose condition it is about.
        mark: The mark that it says belongs there.
    """

    rule: Rule
    mark: str


class Reflector:
    """The model that reads what went wrong and says what to do.

    Args:
        seed: The seed of the world.
        family: How well it does.
        book: Reads its texts.
    """

    def __init__(self, seed: int, family: Family, book: RuleBook) -> None:
        self._seed = seed
        self._family = family
        self._book = book

    def reply(self, body: dict[str, Any]) -> str:
        """Return the answer to a request, in the form that it asks for."""
        raw = "\n\n".join(messages_of(body))
        text = unescaped(raw)
        form = form_of(body, raw)
        key = f"{self._seed} {body.get('temperature')} {body.get('seed')} {raw}"
        found = prompts_in(text, self._family.stages)
        targets = current(found)
        evidence = evidence_in(text, found, self._book)
        lessons = self._lessons(key, text, evidence, targets)
        asked = len(targets) if form.several else 1
        wrong = self._hallucination(key, text)
        said = [*lessons, wrong] if wrong else lessons
        prompts = [
            self._rewritten(
                key,
                text,
                target,
                [lesson for lesson in lessons if self._held(key, lesson, n, asked)],
                wrong if not n else None,
            )
            for n, target in enumerate(targets)
        ]
        wording = int(chance(key, "wording") * len(WORDINGS))
        draft = Draft(
            prompts=[(t.name, self._family.stages[t.stage]) for t in targets],
            texts=prompts,
            focus=_focus(targets),
            lessons=[lesson.rule.sentence(lesson.mark, wording) for lesson in said],
            homes=[self._homes(key, text, lesson, targets, asked) for lesson in lessons]
            + [[0]] * (len(said) - len(lessons)),
            criticism=self._criticism(said, wording),
        )
        return draft.reply(form, rewrite=_wants_rewrite(raw))

    def _lessons(
        self,
        key: str,
        text: str,
        evidence: Sequence[Evidence],
        targets: Sequence[Found],
    ) -> list[Lesson]:
        """The few rules that are picked up, those that are stated left out."""
        weights = self._noticed(key, evidence)
        open_ = {}
        for rule in self._book.rules:
            marks = {mark: w for (id_, mark), w in weights.items() if id_ == rule.id}
            if marks:
                mark = max(marks, key=lambda m: (marks[m], chance(key, m)))
                if self._news(rule, mark, targets):
                    fit = max((self._fit(rule, t, text) for t in targets), default=1.0)
                    open_[rule.id] = (Lesson(rule, mark), marks[mark] * fit)
        draw = dice(key, "picks")
        shares = self._family.picks
        (count,) = draw.choices(range(1, len(shares) + 1), shares)
        picked = []
        for _ in range(min(count, len(open_))):
            ids = list(open_)
            (id_,) = draw.choices(ids, [open_[i][1] for i in ids])
            picked.append(open_.pop(id_)[0])
        return picked

    def _held(self, key: str, lesson: Lesson, number: int, asked: int) -> bool:
        """Whether a lesson gets into one of the prompts that are asked for."""
        lapse = self._family.lapse * (asked - 1)
        return chance(key, "lapse", number, lesson.rule.id) >= lapse

    def _homes(
        self,
        key: str,
        text: str,
        lesson: Lesson,
        targets: Sequence[Found],
        asked: int,
    ) -> list[int]:
        """The prompts of several that a lesson is written into."""
        return [
            n
            for n, target in enumerate(targets)
            if self._held(key, lesson, n, asked)
            and chance(key, "stray", target.stage, lesson.rule.id)
            < self._fit(lesson.rule, target, text)
            and lesson.mark not in self._marks_of(lesson.rule, target.text)
        ]

    def _noticed(
        self, key: str, evidence: Sequence[Evidence]
    ) -> Counter[tuple[int, str]]:
        """How much evidence is noticed for each mark."""
        noticed: Counter[tuple[int, str]] = Counter()
        for number, piece in enumerate(evidence):
            odds = self._family.notice if piece.told else self._family.infer
            if chance(key, "notice", number) < odds * (_WARNED if piece.warned else 1):
                noticed[piece.rule, piece.mark] += 1
        return noticed

    def _news(self, rule: Rule, mark: str, targets: Sequence[Found]) -> bool:
        """Whether some prompt where it may belong does not claim it yet."""
        open_ = [t for t in targets if self._family.shared or t.stage == rule.stage]
        told = [self._marks_of(rule, target.text) for target in open_ or targets]
        return not told or any(marks != [mark] for marks in told)

    def _marks_of(self, rule: Rule, text: str) -> list[str]:
        """The marks that a text claims for a rule."""
        claims = [claim for claim in self._book.claims(text) if claim.rule == rule.id]
        return list(dict.fromkeys(claim.mark for claim in claims if not claim.denied))

    def _fit(self, rule: Rule, target: Found, text: str) -> float:
        """How probably a rule is thought to belong into a prompt."""
        stages = len(self._family.stages)
        if self._family.shared or stages == 1 or rule.stage == target.stage:
            return 1.0
        own = f"[slip {min(target.stage + 1, stages - 1)}]"
        return _STRAY_SEEN if own in text else _STRAY_UNSEEN

    def _hallucination(self, key: str, text: str) -> Lesson | None:
        """A wrong mark for a condition that the request names, now and then."""
        seen = self._book.about(text)
        if not seen or chance(key, "hallucinate") >= self._family.hallucinate:
            return None
        draw = dice(key, "hallucination")
        rule = draw.choice(seen)
        return Lesson(rule, draw.choice(rule.wrong))

    def _rewritten(
        self,
        key: str,
        text: str,
        target: Found,
        lessons: Sequence[Lesson],
        wrong: Lesson | None,
    ) -> str:
        """The new prompt: what is kept of the old one, then what was picked up."""
        taken = [
            lesson
            for lesson in lessons
            if chance(key, "stray", target.stage, lesson.rule.id)
            < self._fit(lesson.rule, target, text)
        ]
        replaced = {
            lesson.rule.id: lesson.mark
            for lesson in taken
            if chance(key, "replace", target.stage, lesson.rule.id) < _REPLACE
        }
        lines = self._kept(f"{key} {target.stage}", target.text, replaced)
        for lesson in [*taken, wrong] if wrong else taken:
            if lesson.mark in self._marks_of(lesson.rule, "\n".join(lines)):
                continue
            wording = int(chance(key, "say", lesson.rule.id) * len(WORDINGS))
            line = f"- {lesson.rule.sentence(lesson.mark, wording)}"
            if chance(key, "ramble", lesson.rule.id) < self._family.ramble:
                line += f" {filler(int(chance(key, lesson.mark) * len(_FILLER)))}"
            lines.append(line)
        return "\n".join(lines) or ROLES[self._family.stages[target.stage]]

    def _kept(self, key: str, text: str, replaced: dict[int, str]) -> list[str]:
        """The lines of a prompt that stay: not what is forgotten or replaced."""
        lines = []
        for line in text.splitlines():
            kept = [s for s in sentences(line) if self._stays(key, s, replaced)]
            if kept:
                said = " ".join(self._reworded(key, sentence) for sentence in kept)
                bullet = line.lstrip().startswith("- ") and not said.startswith("- ")
                lines.append(f"- {said}" if bullet else said)
        return lines

    def _stays(self, key: str, sentence: str, replaced: dict[int, str]) -> bool:
        """Whether a sentence of the old prompt is in the new one."""
        for claim in self._book.claims_of(sentence):
            if replaced.get(claim.rule, claim.mark) != claim.mark:
                return False
            if chance(key, "forget", sentence) < self._family.forget:
                return False
        return True

    def _reworded(self, key: str, sentence: str) -> str:
        """A sentence as it was, or a plain rule in other words."""
        claims = list(self._book.claims_of(sentence))
        if len(claims) != 1 or chance(key, "reword", sentence) >= _REWORD:
            return sentence
        rule, mark = self._book.rules[claims[0].rule], claims[0].mark
        plain = [rule.sentence(mark, n) for n in range(len(WORDINGS))]
        if sentence.removeprefix("- ") not in plain:
            return sentence
        said = plain[int(chance(key, "other", sentence) * len(plain))]
        return f"- {said}" if sentence.startswith("- ") else said

    def _criticism(self, lessons: Sequence[Lesson], wording: int) -> str:
        """What it has to say, in words."""
        if not lessons:
            return "I see nothing that should change."
        said = [f"- {le.rule.sentence(le.mark, wording)}" for le in lessons]
        return "\n".join(["What the answers lack:", *said])


def _focus(targets: Sequence[Found]) -> int:
    """Which prompt a single answer is about."""
    numbers = range(len(targets))
    return max(numbers, key=lambda n: (targets[n].focus, -n), default=0)


def _wants_rewrite(text: str) -> bool:
    """Whether a text that asks for no form wants a new prompt, and not criticism."""
    for part in (text[-_TAIL:], text):
        criticism, rewrite = _CRITIQUE.search(part), _REWRITE.search(part)
        if criticism or rewrite:
            return criticism is None
    return False
