"""`Spending`: what every try of a job means for the ledger and the budget."""

from dataclasses import replace

from inf_engine.errors import (
    AnswerError,
    ConfigurationError,
    EndpointError,
)
from inf_engine.resources.budget import Budget, BudgetAccount
from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.job import Job
from inf_engine.resources.ledger import Ledger
from inf_engine.resources.prices import cost_of, is_priced, upper_bound
from inf_engine.types import LLMResponse


class Spending:
    """Books what leaves and what comes back, and keeps to a budget.

    Attributes:
        ledger: The books.
        account: The budget's, None without a budget or before the first request.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.account: BudgetAccount | None = None
        self._budget: Budget | None = None

    @property
    def budget(self) -> Budget | None:
        """What may be spent, None for any amount."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        self._budget = budget
        self.account = None

    def begin(self, now: float) -> None:
        """Open the budget's account: its seconds run from the first request."""
        if self._budget is not None and self.account is None:
            self.account = BudgetAccount(self._budget, now)

    def check(self, alias: str, config: EndpointConfig | None) -> None:
        """Make sure that a budget of money can be kept with an endpoint.

        Args:
            alias: The alias, for the message.
            config: The endpoint, None for a client that was handed in.

        Raises:
            ConfigurationError: If its price is not known.
        """
        if self._budget is None or not self._budget.needs_price:
            return
        if config is None:
            what = "a client that was handed in"
        elif is_priced(config.provider, config.model, config.price):
            return
        else:
            what = f"model {config.model!r} of provider {config.provider!r}"
        raise ConfigurationError(
            f"a budget in usd needs a price for alias {alias!r}, and none is known for "
            f"{what}. Give an endpoint with price = {{input = ..., output = ...}} in "
            "USD per million tokens, or a budget of tokens or requests."
        )

    # -- before it leaves ---------------------------------------------------------

    def must_wait(self, job: Job, now: float) -> bool:
        """Say whether only what is in flight stands between a job and the budget."""
        account = self.account
        if account is None:
            return False
        tokens, usd = _at_most(job)
        if not account.may_fit_later(now=now, tokens=tokens, usd=usd or 0.0):
            return False  # it never will: let it come and be refused
        return not account.fits(now=now, tokens=tokens, usd=usd or 0.0)

    def grant(self, job: Job, now: float) -> None:
        """Reserve what a job may cost.

        Raises:
            BudgetExceededError: If the budget does not allow it; nothing was sent.
        """
        self.ledger.waited(job.alias, job.origin, now - job.since)
        if self.account is not None:
            tokens, usd = _at_most(job)
            job.reservation = self.account.reserve(
                now=now, tokens=tokens, usd=usd or 0.0
            )

    def give_back(self, job: Job) -> None:
        """Free what was reserved for a job that never left."""
        if self.account is not None and job.reservation is not None:
            self.account.cancel(job.reservation)

    def sent(self, job: Job) -> None:
        """Book a try that leaves."""
        self.ledger.sent(job.alias, job.origin)

    def allows(self, job: Job, now: float) -> bool:
        """Say whether a budget leaves room for a job beside all that is reserved."""
        if self.account is None:
            return True
        tokens, usd = _at_most(job)
        return self.account.fits(now=now, tokens=tokens, usd=usd or 0.0)

    # -- after it -------------------------------------------------------------------

    def answered(self, job: Job, response: LLMResponse, now: float) -> LLMResponse:
        """Book an answer; return it with what it cost, if that is known."""
        usage, cost = response.usage, response.cost
        config = job.config
        if cost is None and config is not None:
            model = job.request.model or config.model
            cost = cost_of(usage, config.provider, model, config.price)
            if cost is not None:
                response = replace(response, cost=cost)
        self.ledger.answered(job.alias, job.origin, usage, cost, now - job.since)
        if self.account is not None and job.reservation is not None:
            self.account.settle(job.reservation, usage.total_tokens, cost)
        return response

    def failed(self, job: Job, error: BaseException, now: float) -> None:
        """Book a try that gave no answer of use: paid, refused, or nobody knows."""
        paid = _paid(error)
        if paid is not None and isinstance(error, AnswerError):
            error.response = self.answered(job, paid, now)
            return
        wire = now - job.since
        reservation, account = job.reservation, self.account
        if _is_refusal(error):
            self.ledger.failed(job.alias, job.origin, wire)
            if account is not None and reservation is not None:
                account.release(reservation)
            return
        self.ledger.lost(job.alias, job.origin, *_at_most(job), wire)
        if account is not None and reservation is not None:
            account.keep(reservation)


def _paid(error: BaseException) -> LLMResponse | None:
    """Return the answer that an error tells of, if it says what that cost."""
    response = error.response if isinstance(error, AnswerError) else None
    is_told = isinstance(response, LLMResponse) and response.usage.total_tokens > 0
    return response if is_told else None


def _is_refusal(error: BaseException) -> bool:
    """Say whether an error tells that nothing was paid for."""
    if not isinstance(error, EndpointError) or error.begun:
        return False
    return error.status is not None and error.status != 200


def _at_most(job: Job) -> tuple[int, float | None]:
    """Return the most tokens and USD that a job may cost."""
    read, written = job.deployment.estimate(job)
    written = job.request.max_tokens or written
    config = job.config
    if config is None:
        return read + written, None
    model = job.request.model or config.model
    usd = upper_bound(read, written, config.provider, model, config.price)
    return read + written, usd
