"""`Rewriter`: asks a model for better texts, from notes and exact evidence.

A request holds the present text and what it is for, the rules that the new one has to
keep, what was tried before and did not help, and examples: each call with the prompt as
it was filled in, the output, and what was said of the result. What comes from users or
models stands between fences that do not occur in it.

The answer is a few edits of the text (see `edits`), or the whole text anew. An answer
that cannot be used is a refusal with a reason; a model that cannot be asked is a
`ProposalError`.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from operator import getitem
from types import GenericAlias
from typing import Any, Literal

from inf_engine.errors import (
    AnswerError,
    DeadlineError,
    EndpointError,
    ProposalError,
    UsageError,
)
from inf_engine.llm import LLMInference
from inf_engine.optimization.answers import (
    EditAnswer,
    EditsAnswer,
    SharedEditAnswer,
    SharedEditsAnswer,
    TextAnswer,
    TextsAnswer,
)
from inf_engine.optimization.edits import (
    Edit,
    apply_edits,
    clean_proposal,
    diff_edits,
)
from inf_engine.optimization.exhibits import (
    chosen,
    cut,
    exhibits_of,
    fenced,
    needs_work,
)
from inf_engine.optimization.exhibits import shown as shown_cases
from inf_engine.optimization.notes import Note
from inf_engine.tasks import together

logger = logging.getLogger("inf_engine")

MODES = ("edits", "rewrite")

_MOST_QUOTED = 300  # characters of a rejected edit
_MOST_REJECTED_EDITS = 4  # of one rejected proposal
_DATA = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\"{\]])")  # how JSON begins

_SYSTEM = (
    "You improve the instructions of a program that calls language models. You see the "
    "present text, what it is for, and examples of calls in which it was used, with "
    "what was said of the results. Find out what the text has to say so that the "
    "examples that went wrong come out right, and others like them. Write what holds "
    "in general, as specific as the evidence allows: facts and rules that the feedback "
    "states belong into the text. Do not copy single examples, and keep what works."
)
_EDITS = (
    "Propose at most {edits} edits{each}, the most important first. Each replaces one "
    "passage: `find` quotes it exactly from the text, `replace` is what comes in its "
    "place, `reason` says why in a few words. Leave `find` empty to add `replace` at "
    'the end, and `replace` empty to delete.\nAnswer with JSON: {{"edits": [{{{named}'
    '"find": "...", "replace": "...", "reason": "..."}}]}}'
)
_REWRITE = (
    "Write the whole new text; change at most {edits} things in it. Answer with the "
    "new text only, in a fenced block."
)
_REWRITE_ALL = (
    "Write each text that has to change anew, in whole; change at most {edits} things "
    'in each.\nAnswer with JSON: {{"texts": [{{"name": "...", "text": "...", '
    '"reason": "..."}}]}}'
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A value that was tried and not kept.

    Args:
        before: The value it was to replace.
        after: The value.
        why: What came of it, in words.
    """

    before: Any
    after: Any
    why: str


@dataclass(frozen=True, slots=True)
class Target:
    """A text to improve, and what is known of it.

    Args:
        name: The dotted name of the parameter.
        text: The present text.
        purpose: What it is for.
        notes: The notes on it.
        rules: What a new text has to keep to.
        past: What the notes of earlier steps said, oldest first.
        rejected: What was tried and not kept, oldest first.
        high: The score of an output that needs no change.
    """

    name: str
    text: str
    purpose: str = ""
    notes: tuple[Note, ...] = ()
    rules: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    high: float = 1.0

    @property
    def needs_work(self) -> bool:
        """Whether a note tells of something that is not right."""
        return needs_work(self.notes, self.high)


@dataclass(frozen=True, slots=True)
class Job:
    """One call of the rewriting model.

    Args:
        targets: The texts that it may change; several are coupled.
        alias: The model.
        edits: How many edits it may make to each text, 1 or more.
        mode: ``"edits"``, or ``"rewrite"`` for the whole text anew.
        seed: Tells this sample from others; None for the model's own.
        advice: What else to tell it.
    """

    targets: tuple[Target, ...]
    alias: str
    edits: int = 3
    mode: str = "edits"
    seed: int | None = None
    advice: str = ""

    @property
    def names(self) -> str:
        """The names of its texts, for people."""
        return ", ".join([target.name for target in self.targets])


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What came of one text.

    Args:
        text: The new text, None if it stays as it is.
        reason: Why, in the rewriter's words.
        refused: Why the answer cannot be used; empty if it can.
    """

    text: str | None = None
    reason: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriter:
    """Asks a model for better texts.

    Args:
        failing: The most examples that went wrong to show.
        passing: The most examples that went right to show.
        chars: The most characters of examples in one request.
        temperature: Sampling temperature, None for the endpoint's default.
        max_tokens: The most tokens to write, None for the endpoint's default.
        max_reasks: How often an answer that does not fit its format is asked again.

    Raises:
        UsageError: If a number is out of range.
    """

    failing: int = 8
    passing: int = 2
    chars: int = 24_000
    temperature: float | None = None
    max_tokens: int | None = None
    max_reasks: int = 1

    def __post_init__(self) -> None:
        if self.failing < 1 or self.passing < 0 or self.chars < 1:
            raise UsageError(
                f"failing={self.failing}, passing={self.passing}, chars={self.chars}: "
                "show at least one failing example, and give no number below 0."
            )

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        """Ask for better texts, for all jobs concurrently.

        Args:
            engine: Runs the calls.
            jobs: What to ask.

        Returns:
            What came of each text, in the order of the jobs and their targets.

        Raises:
            ProposalError: If the model could not be asked.
            BudgetExceededError: If the budget does not allow it.
        """
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for place, job in enumerate(jobs):
            key = (
                job.alias,
                job.mode,
                job.names if len(job.targets) > 1 else "",
                job.seed,
            )
            kinds.setdefault(key, []).append(place)
        maps = [
            engine.map(
                self.module(jobs[places[0]]),
                [self.prompt(jobs[place]) for place in places],
                errors="collect",
                record=True,
            )
            for places in kinds.values()
        ]
        results = dict(
            zip(
                [place for places in kinds.values() for place in places],
                [result for found in await together(maps) for result in found],
                strict=True,
            )
        )
        rewrites = [_read(job, results[place]) for place, job in enumerate(jobs)]
        for job, found in zip(jobs, rewrites, strict=True):
            for target, rewrite in zip(job.targets, found, strict=True):
                if rewrite.refused:
                    said = (target.name, rewrite.refused)
                    logger.warning("a proposal for %s was refused: %s", *said)
        return [rewrite for found in rewrites for rewrite in found]

    def module(self, job: Job) -> LLMInference[Any]:
        """Return the call that a job makes.

        Args:
            job: The job.
        """
        return LLMInference(
            job.alias,
            _SYSTEM,
            response_format=_format_of(job),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=job.seed,
            max_reasks=self.max_reasks,
        )

    def prompt(self, job: Job) -> str:
        """Return what the model is asked.

        Args:
            job: The job.
        """
        notes = [note for target in job.targets for note in target.notes]
        cases, general = exhibits_of(notes)
        high = job.targets[0].high
        wrong, right = chosen(cases, high, self.failing, self.passing)
        texts = {target.name: target.text for target in job.targets}
        parts = [_described(target) for target in job.targets]
        if general:
            parts.append(_section("What was said of the calls", general))
        parts.append(shown_cases(wrong, right, texts, self.chars))
        if job.advice:
            parts.append(f"# Advice\n\n{job.advice}")
        parts.append(f"# What to answer\n\n{_asked(job)}")
        return "\n\n".join([part for part in parts if part])


# -- what is asked ----------------------------------------------------------------


def _described(target: Target) -> str:
    """Return a text, what it is for, and what was tried."""
    parts = [f"# The text of {target.name}"]
    if target.purpose.strip():
        parts.append(f"What it is for: {target.purpose}")
    parts.append(fenced(target.text))
    if target.rules:
        rules = [f"- {rule}" for rule in target.rules]
        parts.append("\n".join(["Rules for the new text:", *rules]))
    if target.past:
        parts.append(
            _section(f"What was said of {target.name} in earlier steps", target.past)
        )
    if target.rejected:
        tried = [_tried(old) for old in target.rejected]
        title = f"Changes of {target.name} that did not help; do not repeat them"
        parts.append(_section(title, tried))
    return "\n\n".join(parts)


def _section(title: str, texts: Sequence[str]) -> str:
    return "\n\n".join([f"# {title}", *[fenced(text) for text in texts]])


def _tried(old: Rejected) -> str:
    """Return what a rejected proposal changed, and what came of it."""
    lines = []
    for edit in diff_edits(str(old.before), str(old.after))[:_MOST_REJECTED_EDITS]:
        find, new = (cut(t.strip(), _MOST_QUOTED) for t in (edit.find, edit.replace))
        lines += [f"removed: {find}"] if find else []
        lines += [f"added: {new}"] if new else []
    return "\n".join([*lines, f"why it was rejected: {old.why}"])


def _asked(job: Job) -> str:
    """Return what the answer has to be."""
    several = len(job.targets) > 1
    if job.mode == "edits":
        each = " of each text" if several else ""
        named = '"names": ["..."], ' if several else ""
        asked = _EDITS.format(edits=job.edits, each=each, named=named)
    else:
        asked = (_REWRITE_ALL if several else _REWRITE).format(edits=job.edits)
    if several:
        asked += f"\nThe names are: {job.names}. Texts that work together agree."
        if job.mode == "edits":
            asked += " An edit is made in every text that it names."
    return asked


def _format_of(job: Job) -> Any:
    several = len(job.targets) > 1
    if job.mode == "edits":
        return _shared_edits(job) if several else EditsAnswer
    return TextsAnswer if several else None


def _shared_edits(job: Job) -> Any:
    """Return the type of edits of several texts, which can name these only."""
    names = tuple([target.name for target in job.targets])
    some: Any = GenericAlias(list, getitem(Literal, names))
    one = make_dataclass(
        "SharedEdit", [("names", some)], bases=(SharedEditAnswer,), frozen=True
    )
    many: Any = GenericAlias(list, one)
    return make_dataclass(
        "SharedEdits", [("edits", many)], bases=(SharedEditsAnswer,), frozen=True
    )


# -- what is answered -------------------------------------------------------------


def _read(job: Job, result: Any) -> list[Rewrite]:
    """Return what an answer says of each text of its job."""
    error = result.error
    if isinstance(error, EndpointError | DeadlineError):
        raise ProposalError(
            f"the rewriting model {job.alias!r} could not be asked for a better text "
            f"of {job.names} ({type(error.__cause__ or error).__name__}). Nothing was "
            "written; see the cause, mend the endpoint, and go on from here."
        ) from error
    if isinstance(error, AnswerError):
        return _refused(job, "The rewriter's answer does not fit the format asked for.")
    if error is not None:
        raise error
    answer = result.output
    if isinstance(answer, str):
        if _was_cut(result.record):
            return _refused(job, "The rewriter's answer was cut off at its end.")
        return [_whole(job.targets[0], answer, "")]
    if isinstance(answer, TextsAnswer):
        return _several_texts(job, answer)
    return _several_edits(job, answer)


def _refused(job: Job, why: str) -> list[Rewrite]:
    return [Rewrite(refused=why) for _ in job.targets]


def _was_cut(record: Any) -> bool:
    """Say whether the last answer ended for its length."""
    calls = [call for node in record.nodes for call in node.calls]
    last = calls[-1].response if calls else None
    return last is not None and last.finish_reason == "length"


def _whole(target: Target, answer: str, reason: str) -> Rewrite:
    text = clean_proposal(answer, target.text)
    if not text.strip():
        return Rewrite(refused="The rewriter's answer is empty.")
    if _DATA.match(text) and not _DATA.match(target.text):
        return Rewrite(refused="The rewriter's answer is JSON, and no text.")
    return Rewrite(text, reason)


def _several_texts(job: Job, answer: TextsAnswer) -> list[Rewrite]:
    """Return the texts that were written anew, the first of each name."""
    named: Mapping[str, TextAnswer] = {t.name: t for t in reversed(answer.texts)}
    if not any(target.name in named for target in job.targets):
        return _refused(job, "The rewriter's answer names none of the texts.")
    return [
        _whole(target, named[target.name].text, named[target.name].reason)
        if target.name in named
        else Rewrite()
        for target in job.targets
    ]


def _several_edits(job: Job, answer: EditsAnswer | SharedEditsAnswer) -> list[Rewrite]:
    """Return the texts with the edits that can be made."""
    if isinstance(answer, EditsAnswer):
        return [_edited(job.targets[0], answer.edits, job.edits)]
    parts = {target.name: [] for target in job.targets}
    for edit in answer.edits:
        for name in dict.fromkeys(edit.names):
            if name in parts:
                parts[name].append(edit)
    if not any(parts.values()):
        return _refused(job, "The rewriter's answer has no edit of these texts.")
    return [
        _edited(target, parts[target.name], job.edits)
        if parts[target.name]
        else Rewrite()
        for target in job.targets
    ]


def _edited(
    target: Target, edits: Sequence[EditAnswer | SharedEditAnswer], most: int
) -> Rewrite:
    if not edits:
        return Rewrite(refused="The rewriter proposed no edit.")
    given = [Edit(edit.find, edit.replace, edit.reason) for edit in edits]
    new = [edit for edit in given if not _is_there(target.text, edit)]
    if not new:
        return Rewrite(refused="The text says already what the rewriter would add.")
    text, applied, refused = apply_edits(target.text, new, most)
    if not applied:
        why = "; ".join(dict.fromkeys([reason for _, reason in refused]))
        return Rewrite(refused=f"No edit could be made: {why}.")
    reasons = [edit.reason.strip() for edit in applied if edit.reason.strip()]
    return Rewrite(text, " ".join(dict.fromkeys(reasons)))


def _is_there(text: str, edit: Edit) -> bool:
    """Say whether a text holds already what an edit would add to it."""
    added = edit.replace.strip()
    return not edit.find and bool(added) and added in text
