"""`Keeper`: keeps the leases of an actor fresh.

It asks the coordinator when something is missing, and five times a second otherwise,
to give back what is not used. One ask is under way at a time, and tells of all
deployments. Where the last one gave nothing, the next waits: there is no more to have.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from inf_engine.resources.deployment import Deployment
from inf_engine.resources.funds import Funds, FundsAsk, FundsGrant
from inf_engine.resources.lease import Ask, Grant, Lease, Terms

PERIOD = 0.2  # seconds
PAUSE = 0.05
GAP = 0.01

Grants = tuple[Mapping[int, Grant], FundsGrant | None]
Sync = Callable[[dict[int, Ask], FundsAsk | None], Awaitable[Grants]]


def terms_of(deployments: Iterable[Deployment]) -> dict[int, Terms]:
    """Return the limits that are lent of each deployment, by its number."""
    each = enumerate(Terms.of(deployment.config) for deployment in deployments)
    return {number: terms for number, terms in each if terms is not None}


class Keeper:
    """Keeps the leases of some deployments fresh; each holds one from now on.

    Args:
        deployments: All of them.
        sync: Asks the coordinator.
        pump: Lets requests go.

    Attributes:
        funds: What may be spent, None for any amount.
    """

    funds: Funds | None = None

    def __init__(
        self,
        deployments: tuple[Deployment, ...],
        sync: Sync,
        pump: Callable[[], None],
    ) -> None:
        self._sync = sync
        self._pump = pump
        self._needed = asyncio.Event()
        self._deployments = deployments
        self._is_over = False
        self._held = {
            number: (deployments[number], Lease(terms, self._needed.set))
            for number, terms in terms_of(deployments).items()
        }
        for deployment, lease in self._held.values():
            deployment.hold(lease)

    def need(self) -> None:
        """Ask soon."""
        self._needed.set()

    async def run(self) -> None:
        """Ask until it is stopped."""
        while not self._is_over and (self._held or self.funds is not None):
            gained = await self._ask()
            await asyncio.sleep(GAP if gained else PAUSE)
            await _within(PERIOD, self._needed)

    async def stop(self) -> None:
        """Ask no more, once what was spent is told."""
        self._is_over = True
        self._needed.set()
        if self.funds is not None:
            await self._sync({}, self.funds.ask(0))

    async def _ask(self) -> bool:
        """Ask for all that is shared; say whether there is more room now."""
        self._needed.clear()
        loop = asyncio.get_running_loop()
        asked = loop.time()
        asks = {
            number: lease.ask(deployment.in_use, len(deployment.gate), asked)
            for number, (deployment, lease) in self._held.items()
        }
        waiting = sum(len(deployment.gate) for deployment in self._deployments)
        funds = None if self.funds is None else self.funds.ask(waiting)
        grants, granted = await self._sync(asks, funds)
        gained = self._granted(grants, asked, loop.time())
        if self.funds is not None and granted is not None:
            gained |= self.funds.granted(granted)
        self._pump()
        return gained

    def _granted(self, grants: Mapping[int, Grant], asked: float, now: float) -> bool:
        each = [
            self._held[number][1].granted(grant, asked, now)
            for number, grant in grants.items()
        ]
        return any(each)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not for longer."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
