"""`BootstrapDemos`: demonstrations out of the module's own good runs.

The module runs on training examples as it is. What its calls were asked and answered in
runs that scored well is a pool of demonstrations, for each node in whose prompt a
`DemoParameter` stands; so nodes in the middle get some, too, for which nobody has
labels. Candidates are subsets of the good runs, drawn by the seed: all parameters take
theirs from the same runs, so that they fit together (Khattab et al. 2023, "DSPy",
arXiv:2310.03714, does so for pipelines).

What a model gets right by itself are the easy examples. With ``labelled=2`` up to two
of the demonstrations of a candidate are training examples that it got wrong, with their
targets as the answers. That takes a target which has the form of the answer (a text, or
the type of a typed one), and a call whose answer is the module's output, the only one
in which the parameter stands. Whether a target is what the model should write is not
known here (it may lack the reasoning before it): there are none unless asked for.

Never the example under test in its own prompt. Candidates are scored on held-out
examples only, and demonstrations come from training examples only; without held-out
examples the search is refused. An example that is in both sets, by what is in it, is
left out of the pool. And where a demonstration of an example stands in the prompt
already, its run is no evidence and gives no new one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inf_engine.demos import Demo, DemoParameter
from inf_engine.errors import OutputParseError, UsageError
from inf_engine.graph import content
from inf_engine.llm import LLMInference
from inf_engine.messages import by_field
from inf_engine.optimization.acceptance import Gate
from inf_engine.optimization.comparing import ComparingOptimizer
from inf_engine.optimization.groups import check_counts
from inf_engine.optimization.search import (
    Candidate,
    Change,
    Rollout,
    Scores,
    Search,
    names_in,
)
from inf_engine.parameter import Parameter
from inf_engine.record import NodeRecord, RunRecord
from inf_engine.schema import OutputType, jsonable
from inf_engine.template import Template
from inf_engine.types import ImagePart

_CLOSE = 1e-9
_DRAWS = 16  # tries to draw a subset that was not tried yet
_HEADS = {f"{role}: ": role for role in ("system", "user", "assistant", "tool")}


class BootstrapDemos(ComparingOptimizer):
    """Looks for the demonstrations that raise the held-out score.

    Args:
        params: Parameters, or groups of them; those that are no `DemoParameter` are
            left alone.
        engine: Not needed: it asks no model of its own.
        max_demos: How many demonstrations a parameter may get, 1 or more.
        labelled: How many of them may be training examples with their targets, 0 to
            `max_demos`.
        candidates: How many subsets are tried, 1 or more.
        threshold: How well a run has to score for its calls to be shown, in [0, 1]: a
            share of the loss's scale.
        pool: How many good runs are enough to draw from, `max_demos` or more; None for
            three times as many as `max_demos`.
        gate: Judges a candidate against the best so far on the held-out examples; None
            for ``Gate("improves")``.

    Raises:
        UsageError: If there is no `DemoParameter`, or an argument is wrong.

    Attributes:
        harvested: How many good runs the last search drew from; 0 says that the module
            gets nothing right by itself, or not as much as `threshold` asks for.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        max_demos: int = 4,
        labelled: int = 0,
        candidates: int = 8,
        threshold: float = 1.0,
        pool: int | None = None,
        gate: Gate | None = None,
    ) -> None:
        check_counts(least=1, max_demos=max_demos, candidates=candidates)
        pool = 3 * max_demos if pool is None else pool
        check_counts(least=max_demos, pool=pool)
        if not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
            raise UsageError(
                f"threshold={threshold!r}: give the score of a good run as a share of "
                "the loss's scale, in [0, 1]."
            )
        super().__init__(params, engine=engine, gate=gate or Gate("improves"))
        check_counts(least=0, labelled=labelled)
        if labelled > max_demos:
            raise UsageError(
                f"labelled={labelled} is more than max_demos={max_demos}, the most "
                "demonstrations in all: raise max_demos."
            )
        self.max_demos = max_demos
        self.labelled = labelled
        self.candidates = candidates
        self.threshold = float(threshold)
        self.pool = pool
        self.harvested = 0
        if not any(isinstance(h.parameter, DemoParameter) for h in self._held):
            raise UsageError(
                "BootstrapDemos got no DemoParameter: give one to a model call, "
                "LLMInference(..., demos=DemoParameter())."
            )

    async def search(self, search: Search) -> None:
        """Look for better demonstrations; see the top of the file.

        Args:
            search: What the trainer offers. No parameter is written to.

        Raises:
            UsageError: If none of its names is one of ours, or it has no held-out
                examples.
            BudgetExceededError: If the budget does not allow the next call.
        """
        await _Bootstrap(self, search).run()

    def _changes(self, parameter: Parameter) -> bool:
        return isinstance(parameter, DemoParameter)


@dataclasses.dataclass(frozen=True, slots=True)
class _Lesson:
    """What the calls of a run show, for each parameter."""

    source: str
    demos: Mapping[str, tuple[Demo, ...]]


class _Bootstrap:
    """One search of a `BootstrapDemos`."""

    def __init__(self, optimizer: BootstrapDemos, search: Search) -> None:
        self.optimizer = optimizer
        self.search = search
        self.names = names_in(search, optimizer.names)
        if not search.val_size:
            raise UsageError(
                "BootstrapDemos needs held-out examples: a demonstration must not "
                "stand in the prompt of the example that it is from. Give val, such as "
                "one half of split(data, 0.5)."
            )
        self.best = search.start
        self.tried = {search.start.digest}

    async def run(self) -> None:
        """Fill the pool, then try subsets of it."""
        before = await self._held_out(self.search.start)
        runs, labelled = await self._harvest(self._barred(before))
        self.optimizer.harvested = len(runs)
        scores = Scores.of(self.best, before)
        for number in range(self.optimizer.candidates):
            candidate = self._candidate(runs, labelled, number)
            if candidate is None or self.search.is_over():
                return
            scores = await self._try(candidate, scores)

    async def _held_out(self, candidate: Candidate) -> list[Rollout]:
        """Run a candidate on the held-out examples; with records for the first."""
        return await self.search.rollouts(
            candidate,
            range(self.search.val_size),
            split="val",
            record=candidate == self.search.start,
        )

    def _barred(self, held_out: Sequence[Rollout]) -> set[str]:
        """Return the sources that must give no demonstration (only looked up in)."""
        tested = {source_of(r.record) for r in held_out if r.record is not None}
        shown = [d for name in self.names for d in self.search.start.values[name]]
        return tested | {Demo.of(demo).source for demo in shown}

    async def _harvest(self, barred: set[str]) -> tuple[list[_Lesson], list[_Lesson]]:
        """Run training examples until the pool is full, each at most once.

        Returns:
            What good runs show, and what the targets of the others show.
        """
        seen: dict[int, None] = {}
        found: dict[str, _Lesson] = {}
        labelled: dict[str, _Lesson] = {}
        drawn, size = 0, self.search.train_size
        while len(seen) < size and drawn < 2 * size and not self.search.is_over():
            places = self.search.batch()
            drawn += max(1, len(places))
            batch = [place for place in places if place not in seen]
            if not batch:
                continue
            seen.update(dict.fromkeys(batch))
            for rollout in await self.search.rollouts(
                self.search.start, batch, record=True
            ):
                is_good = self._is_good(rollout)
                lesson = self._shown(rollout) if is_good else self._labelled(rollout)
                if lesson is not None and lesson.source not in barred:
                    pool = found if is_good else labelled
                    pool.setdefault(lesson.source, lesson)
            if len(found) >= self.optimizer.pool:
                break
        return list(found.values())[: self.optimizer.pool], list(labelled.values())

    def _is_good(self, rollout: Rollout) -> bool:
        """Say whether a run went well."""
        record, score = rollout.record, rollout.score
        if record is None or record.error is not None or score is None:
            return False
        return score >= self.optimizer.threshold - _CLOSE

    def _shown(self, rollout: Rollout) -> _Lesson | None:
        """Return what the calls of a run show, None if they are none of ours."""
        record = rollout.record
        assert record is not None
        source = source_of(record)
        parameters = set(self.search.start.values)  # only looked up in
        demos = {
            name: tuple(
                demo_of(node, parameters, source)
                for node in record.nodes
                if node.outcome == "done" and _stands_in(name, node)
            )
            for name in self.names
        }
        return _Lesson(source, demos) if any(demos.values()) else None

    def _labelled(self, rollout: Rollout) -> _Lesson | None:
        """Return what the target of an example shows, None if it shows nothing."""
        record = rollout.record
        if record is None or not self.optimizer.labelled:
            return None
        source, target = source_of(record), rollout.feedback.target
        parameters = set(self.search.start.values)  # only looked up in
        demos: dict[str, tuple[Demo, ...]] = {}
        for name in self.names:
            calls = [node for node in record.nodes if _stands_in(name, node)]
            is_one = len(calls) == 1 and _gives_the_output(calls[0], record)
            if is_one and _is_answer(target, calls[0].node.target.output_type):
                node = dataclasses.replace(calls[0], output=target)
                demos[name] = (demo_of(node, parameters, source),)
        return _Lesson(source, demos) if demos else None

    def _candidate(
        self, runs: Sequence[_Lesson], labelled: Sequence[_Lesson], number: int
    ) -> Candidate | None:
        """Return a subset that was not tried; the first is as large as it may be."""
        most_labelled = min(self.optimizer.labelled, len(labelled))
        most = min(self.optimizer.max_demos, len(runs) + most_labelled)
        for _ in range(_DRAWS if most else 0):
            rng = self.search.rng
            size = most if number == 0 else rng.randint(1, most)
            few, many = max(0, size - len(runs)), min(most_labelled, size)
            extra = many if number == 0 or few == many else rng.randint(few, many)
            lessons = rng.sample(runs, size - extra)
            if extra:
                lessons += rng.sample(labelled, extra)
                rng.shuffle(lessons)
            candidate = self._showing(lessons)
            if candidate.digest not in self.tried:
                self.tried.add(candidate.digest)
                return candidate
        return None

    def _showing(self, lessons: Sequence[_Lesson]) -> Candidate:
        """Return the candidate that shows these runs."""
        values = {}
        for name in self.names:
            demos = [demo for one in lessons for demo in one.demos.get(name, ())]
            alone = {json.dumps(demo.state["inputs"]): demo for demo in reversed(demos)}
            first = list(reversed(alone.values()))[: self.optimizer.max_demos]
            values[name] = [demo.state for demo in first]
        return self.search.start.with_values(values)

    async def _try(self, candidate: Candidate, best: Scores) -> Scores:
        """Compare a candidate with the best, and return the scores of the winner."""
        scores = Scores.of(candidate, await self._held_out(candidate))
        verdict = self.optimizer.gate.judge(best.by_place, scores.by_place)
        reason = _LABELLED if self.optimizer.labelled else _REASON
        changes = [
            Change(name, self.best.values[name], candidate.values[name], reason)
            for name in self.names
            if candidate.values[name] != self.best.values[name]
        ]
        self.optimizer.steps += 1
        parents = [self.best]
        if not verdict.accepted:
            reason = f"on held-out examples: {verdict.reason}"
            self.search.rejected(candidate, parents, changes, reason)
            return best
        self.search.accepted(candidate, parents, changes, verdict)
        self.best = candidate
        return scores


_REASON = "calls of training runs that scored well"
_LABELLED = f"{_REASON}, and targets of others"


def source_of(record: RunRecord) -> str:
    """Return the digest of the inputs of a run: 16 hex digits.

    Args:
        record: The run.
    """
    text = json.dumps(content([record.args, record.kwargs]), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def demo_of(node: NodeRecord, parameters: Iterable[str], source: str) -> Demo:
    """Return what a call shows.

    Its inputs are the fields of its template; without one the prompt as it was filled
    in, of messages the last one of the user. What parameters put there is left out.

    Args:
        node: What the call did; it did not fail.
        parameters: The dotted names of the module's parameters.
        source: The digest of the run's inputs.
    """
    llm: LLMInference[Any] = node.node.target
    output = _as_json(node.output)
    if llm.output_type.wrapped:
        output = {"value": output}
    if llm.prompt is None:
        return Demo(_asked(node, set(parameters)), output, source)
    template = llm.prompt.value
    given = by_field(template, node.args, node.kwargs or {})
    captured = by_field(template, node.node.args, node.node.kwargs)
    inputs = {
        name: _as_field(value, is_whole=f"{{{name}}}" in template)
        for name, value in given.items()
        if not _is_parameter(captured[name])
    }
    return Demo(inputs, output, source)


def _stands_in(name: str, node: NodeRecord) -> bool:
    """Say whether a parameter shaped a model call."""
    return node.node.kind == "llm" and any(
        piece.source == name for piece in (*node.system, *node.prompt)
    )


def _gives_the_output(node: NodeRecord, record: RunRecord) -> bool:
    """Say whether the answer of a call is the output of the run."""
    if record.graph.output is node.node:
        return True
    return node.outcome == "done" and bool(node.output == record.output)


def _is_answer(target: Any, answers: OutputType) -> bool:
    """Say whether a target has the form of an answer, with nothing missing or over."""
    if answers.is_text:
        return isinstance(target, str) and bool(target.strip())
    plain = _as_json(target)
    try:
        return (
            target is not None and _as_json(answers.parse(json.dumps(plain))) == plain
        )
    except OutputParseError:
        return False


def _asked(node: NodeRecord, parameters: set[str]) -> str:
    """Return what the user said last in a prompt, without the parameters' texts."""
    pieces: list[str] = []
    is_user = True
    has_roles = bool(node.args) and isinstance(node.args[0], list | tuple | Mapping)
    for piece in node.prompt:
        role = _HEADS.get(piece.text) if has_roles and piece.source is None else None
        if role is not None:
            is_user = role == "user"
            pieces = [] if is_user else pieces
        elif is_user and piece.source not in parameters:
            pieces.append(piece.text)
    return "".join(pieces).strip()


def _is_parameter(value: Any) -> bool:
    """Say whether a captured argument is nothing but the text of parameters."""
    if isinstance(value, Template):
        holes = [hole.source for hole in value.holes]
        texts = "".join(part for part in value.parts if isinstance(part, str))
        return not texts.strip() and all(isinstance(s, Parameter) for s in holes)
    return isinstance(value, Parameter)


def _as_field(value: Any, *, is_whole: bool) -> Any:
    """Return a field as JSON; an object that the prompt has as a whole as its text."""
    is_plain = value is None or isinstance(value, str | int | float | list | Mapping)
    return _as_json(value) if is_plain or not is_whole else str(value)


def _jsonable(value: Any) -> Any:
    """Return a value as JSON knows it; of an image its name, for prompts are text."""
    return str(value) if isinstance(value, ImagePart) else jsonable(value)


def _as_json(value: Any) -> Any:
    """Return a value as JSON; as text where JSON has no word for it."""
    try:
        return json.loads(json.dumps(value, default=_jsonable, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)
