"""`Trainer`: data, budget, held-out check, journal and report around an optimizer.

The module is not touched while it is trained. In the end it gets the values of the best
candidate, if the held-out data (or, without any, all of the training data) do not
say that it is worse than the start. What can go wrong:

=======================  =========================================================
the budget is gone       the search ends, also in the middle of a step; what was
                         accepted before is checked with what was kept back
critic or rewriter dead  that error is raised; ``error.result`` has the training so
                         far, the module is as it was
the loss raises          for one example: it is left out; for all: `LossError`
a run fails              it has the lowest score
all is right already     nothing is proposed, the start is the best
killed                   with a journal, run again: it goes on where it was
=======================  =========================================================
"""

import logging
import os
from collections.abc import Iterable
from typing import Any

from inf_engine.errors import (
    BudgetExceededError,
    InfEngineError,
    TracingError,
    UsageError,
)
from inf_engine.execution.engine import Engine
from inf_engine.llm import LLMInference
from inf_engine.optimization.data import DataLoader
from inf_engine.optimization.evaluate import scaled
from inf_engine.optimization.examples import ExampleCall
from inf_engine.optimization.intervals import mean_interval
from inf_engine.optimization.lineage import Lineage
from inf_engine.optimization.loss import lend_engine
from inf_engine.optimization.objective import score_alone
from inf_engine.optimization.purse import Purse
from inf_engine.optimization.runner import Runner, is_over_budget
from inf_engine.optimization.search import Candidate
from inf_engine.optimization.session import Session
from inf_engine.optimization.training_result import Projection, TrainingResult
from inf_engine.optimization.trajectory import (
    TrainingEvent,
    TrainingFinished,
    TrainingObserver,
    TrainingStarted,
    Trajectory,
)
from inf_engine.resources.budget import Budget
from inf_engine.tracing.symbolic import trace

logger = logging.getLogger("inf_engine")


class Trainer:
    """Trains a module: ``Trainer(module, loss, optimizer, engine=engine)``.

    An engine may come first, too: ``Trainer(engine, module, loss, optimizer)``. At
    least one of `budget`, `rollouts`, `epochs`, `max_steps` and `patience` ends it.

    Args:
        *parts: An engine, if it is not given by name, the module, the loss and the
            optimizer.
        engine: Runs all of it; None for that of the optimizer, the loss or the module.
        budget: What may be spent by all model calls, those of critic, rewriter and
            judge too. It is kept exactly, beside the engine's own.
        rollouts: How many runs of the module may be made.
        batch_size: How many examples make a minibatch.
        epochs: How many times the training examples are gone through.
        max_steps: How many minibatches are taken.
        patience: After how many decisions without a better candidate to stop.
        seed: Of the order of the examples, and of the optimizer's choices.
        critic: The alias of the model that writes notes, or a `Critic`; None to pass
            feedback through.
        target: The field of an example that is its target; empty for the whole example.
        callbacks: Called with each event; one that fails is logged.
        journal: A file that makes the training one that can be killed: run again, it
            goes on. The engine needs a journal of its own, for the answers.
        out: A folder for ``best.json``, ``lineage.json`` and ``report.html``.

    Raises:
        UsageError: If a part is missing or an option is wrong.
    """

    def __init__(
        self,
        *parts: Any,
        engine: Any = None,
        budget: Budget | None = None,
        rollouts: int | None = None,
        batch_size: int = 8,
        epochs: int | None = None,
        max_steps: int | None = None,
        patience: int | None = None,
        seed: int = 0,
        critic: Any = None,
        target: str = "",
        callbacks: Iterable[TrainingObserver] = (),
        journal: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        first, self.module, self.loss, self.optimizer = _sorted(parts)
        _check_loss(self.loss)
        self.engine = _engine_of(first, engine, *parts)
        counts = {"rollouts": rollouts, "epochs": epochs, "max_steps": max_steps}
        _check_counts({**counts, "patience": patience})
        if budget is not None and not isinstance(budget, Budget):
            raise UsageError(
                f"budget must be a Budget, not {type(budget).__name__}: write "
                "Budget(requests=2000), or rollouts=400."
            )
        if budget is None and all(v is None for v in (*counts.values(), patience)):
            raise UsageError(
                "nothing says when the training ends: give budget, rollouts, epochs, "
                "max_steps or patience."
            )
        self.budget, self.rollouts = budget, rollouts
        self.batch_size, self.epochs, self.max_steps = batch_size, epochs, max_steps
        self.patience, self.seed, self.target = patience, seed, target
        self.critic = critic
        self.callbacks = list(callbacks)
        self.journal, self.out = journal, out

    async def fit(self, train: Any, val: Any = None) -> TrainingResult:
        """Train the module.

        Args:
            train: The examples to learn from, as for `DataLoader`.
            val: The held-out ones, which decide which candidate is best.

        Returns:
            What it gave. The module has the best values.

        Raises:
            UsageError: If something does not fit, before anything is asked.
            BudgetExceededError: If the budget does not even allow one minibatch.
            TrainingError: If it could not go on (`CriticError`, `ProposalError`,
                `LossError`, a journal of another training). ``error.result`` is what
                there was, if there was anything; the module is as it was.
        """
        lend_engine(self.loss, self.engine)
        lend_engine(self.optimizer, self.engine)
        runner = Runner(self.module, self.loss, self.engine, target=self.target)
        examples = runner.read(train), [] if val is None else runner.read(val)
        names = self._names()
        projection = self._projected(*examples)
        self._check_projection(projection, len(examples[0]))
        start = Candidate(self.module.state_dict())
        trajectory = self._trajectory(start, names, *map(len, examples))
        try:
            purse = Purse(self.engine, self.budget)
            with purse:
                session = self._session(
                    runner, start, names, examples, purse, projection, trajectory
                )
                return await self._run(session, purse)
        finally:
            if trajectory is not None:
                trajectory.close()

    def project(self, train: Any, val: Any = None) -> Projection:
        """Return what a training may take, nothing run.

        Args:
            train: As for `fit`.
            val: As for `fit`.

        Raises:
            UsageError: If an example does not fit.
        """
        runner = Runner(self.module, self.loss, self.engine, target=self.target)
        return self._projected(
            runner.read(train), [] if val is None else runner.read(val)
        )

    # -- inside -----------------------------------------------------------------

    async def _run(self, session: Session, purse: Purse) -> TrainingResult:
        """Search, check the best, and write it into the module."""
        start = session.start
        self._tell(TrainingStarted(start, session.train_size, session.val_size))
        try:
            await self._search(session)
            best = await session.check()
        except Exception as exc:
            if isinstance(exc, InfEngineError):
                session.stopped = f"{type(exc).__name__}: {exc}"
                setattr(exc, "result", self._result(session, purse))  # noqa: B010
            raise
        result = self._result(session, purse)
        self.module.load_state_dict(dict(best.values))
        self._tell(TrainingFinished(result.stopped, result.rollouts, best))
        if self.out is not None:
            result.save(self.out)
        return result

    async def _search(self, session: Session) -> None:
        """Let the optimizer search until it, or the budget, is done."""
        try:
            await self.optimizer.search(session)
        except InfEngineError as exc:  # a critic or rewriter may have met the budget
            if not is_over_budget(exc):
                raise
            session.stopped = session.stopped or "the budget is spent"
        except BaseExceptionGroup as group:
            _, rest = group.split(BudgetExceededError)
            if rest is not None:
                raise
            session.stopped = session.stopped or "the budget is spent"
        session.is_over()  # the optimizer may have met the budget, and ended quietly
        session.stopped = session.stopped or "the optimizer was done"

    def _result(self, session: Session, purse: Purse) -> TrainingResult:
        best, start = session.best, session.start
        history = session.history
        return TrainingResult(
            best=best,
            start=start,
            score=scaled(mean_interval(session.scores(best)), self.loss),
            baseline=scaled(mean_interval(session.scores(start)), self.loss),
            gain=session.gain(best),
            stopped=session.stopped,
            rollouts=session.count,
            spent=purse.spent,
            history=history,
            lineage=Lineage.of(start, best, history),
        )

    def _session(
        self,
        runner: Runner,
        start: Candidate,
        names: list[str],
        examples: tuple[list[ExampleCall], list[ExampleCall]],
        purse: Purse,
        projection: Projection,
        trajectory: Trajectory | None,
    ) -> Session:
        train, val = examples
        loader = DataLoader(
            range(len(train)),
            min(self.batch_size, len(train)),
            shuffle=True,
            seed=self.seed,
        )
        steps = [] if self.epochs is None else [self.epochs * len(loader)]
        steps += [] if self.max_steps is None else [self.max_steps]
        return Session(
            *(runner, start, names, train, val),
            loader=loader,
            purse=purse,
            most_rollouts=self.rollouts,
            max_steps=min(steps, default=None),
            patience=self.patience,
            critic=self.critic,
            seed=self.seed,
            calls_per_run=(projection.per_rollout or 1) + runner.questions,
            trajectory=trajectory,
            tell=self._tell,
            objective=getattr(self.optimizer, "objective", score_alone),
        )

    def _names(self) -> list[str]:
        """Return the names of the parameters that may be changed."""
        named = self.module.named_parameters()
        names = [name for name, p in named if p.requires_grad]
        theirs = getattr(self.optimizer, "names", None)
        found = [n for n in names if theirs is None or n in theirs]
        if not found:
            raise UsageError(
                f"nothing to train in {type(self.module).__name__}: none of its "
                "parameters is the optimizer's and has requires_grad=True. Give the "
                "optimizer module.parameters() of this module; a system_prompt given "
                "as plain text is frozen, a Parameter is not."
            )
        return found

    def _projected(
        self, train: list[ExampleCall], val: list[ExampleCall]
    ) -> Projection:
        per_rollout = self._traced(train[0])
        rollouts, budget = self.rollouts, self.budget
        requests = None if budget is None else budget.requests
        each = per_rollout and per_rollout + getattr(self.loss, "questions", 0)
        if requests is not None and each:
            most = requests // each
            rollouts = most if rollouts is None else min(rollouts, most)
        elif rollouts is not None and each and requests is None:
            requests = rollouts * each
        check = 2 * len(val or train)
        return Projection(per_rollout, check, rollouts, requests)

    def _traced(self, example: ExampleCall) -> int | None:
        """Return how many model calls the graph of a module has, None if unknown."""
        try:
            graph = trace(self.module, *example.args, **example.kwargs)
        except (TracingError, TypeError):
            return None
        return sum(isinstance(node.target, LLMInference) for node in graph)

    def _check_projection(self, projection: Projection, size: int) -> None:
        """Refuse a training that the budget does not allow to begin.

        Raises:
            BudgetExceededError: If it does not.
        """
        most, batch = projection.rollouts, min(self.batch_size, size)
        if most is not None and most < batch:
            raise BudgetExceededError(
                f"the budget allows {most} rollouts, and a minibatch takes {batch}: "
                "nothing can be learned from it. Give more, or a smaller batch_size."
            )

    def _trajectory(
        self, start: Candidate, names: list[str], train: int, val: int
    ) -> Trajectory | None:
        if self.journal is None:
            return None
        memory = self.engine._scheduler.memory
        if memory is None or memory.journal is None:
            raise UsageError(
                "a training with a journal needs an engine with one, which keeps the "
                "answers: Engine(..., journal='answers.db')."
            )
        budget = self.budget
        limits = (
            None if budget is None else [budget.requests, budget.tokens, budget.usd]
        )
        head = {
            "version": 1,
            "module": type(self.module).__name__,
            "loss": type(self.loss).__name__,
            "optimizer": type(self.optimizer).__name__,
            "start": start.digest,
            "names": names,
            "train examples": train,
            "val examples": val,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "budget": limits,
            "rollouts": self.rollouts,
            "epochs": self.epochs,
            "max_steps": self.max_steps,
            "patience": self.patience,
        }
        return Trajectory(self.journal, head)

    def _tell(self, event: TrainingEvent) -> None:
        for observer in self.callbacks:
            try:
                observer(event)
            except Exception as exc:  # noqa: BLE001 - it must not hurt the training
                names = (type(event).__name__, type(exc).__name__)
                logger.error("a callback failed on %s with %s", *names)


def _sorted(parts: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    """Return engine or None, module, loss and optimizer."""
    first = parts[0] if parts and isinstance(parts[0], Engine) else None
    rest = parts[1:] if first is not None else parts
    if len(rest) != 3:
        raise UsageError(
            "a Trainer takes a module, a loss and an optimizer, and an engine before "
            f"them if you like; it was given {len(parts)} arguments: "
            "Trainer(module, loss, optimizer, engine=engine)."
        )
    module, loss, optimizer = rest
    for part, what, needs in (
        (module, "module", "named_parameters"),
        (loss, "loss", "__call__"),
        (optimizer, "optimizer", "search"),
    ):
        if not callable(getattr(part, needs, None)) or isinstance(part, type):
            raise UsageError(
                f"the {what} of a Trainer is a {type(part).__name__}, which has no "
                f"{needs}: the order is module, loss, optimizer."
            )
    return first, module, loss, optimizer


def _check_loss(loss: Any) -> None:
    """Refuse a loss whose scores cannot tell one candidate from another."""
    if getattr(loss, "is_relative", False):
        raise UsageError(
            f"{type(loss).__name__} says which output of a batch is better, and a "
            "trainer runs one candidate at a time: the mean of its scores is always "
            "the same. Use ComparisonLoss, which compares with a reference."
        )


def _engine_of(first: Any, named: Any, *parts: Any) -> Any:
    """Return the engine that runs the training."""
    if first is not None and named is not None and first is not named:
        raise UsageError(
            "two engines were given, one by position and one as engine=: give one."
        )
    found = [first, named]
    found += [getattr(part, "engine", None) for part in reversed(parts)]
    found += [getattr(part, "_engine", None) for part in parts]
    for engine in found:
        if isinstance(engine, Engine):
            return engine
    raise UsageError(
        "a Trainer has no engine to run with: pass engine=engine, or bind the module "
        "with module.bind(engine)."
    )


def _check_counts(counts: dict[str, int | None]) -> None:
    for name, count in counts.items():
        whole = isinstance(count, int) and not isinstance(count, bool)
        if count is not None and not (whole and count >= 1):
            raise UsageError(f"{name}={count!r}: give a whole number, 1 or more.")
