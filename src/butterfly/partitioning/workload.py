"""What is asked of the cluster: how many requests at once, of which lengths."""

from dataclasses import dataclass

from butterfly.errors import ConfigurationError
from butterfly.partitioning.form import positive


@dataclass(frozen=True, slots=True)
class Workload:
    """A closed loop: each client sends its next request when the last one is done.

    Args:
        requests: Clients, so the requests at once; more than the KV cache holds wait.
        prompt_tokens: Tokens of a prompt, on average.
        output_tokens: Tokens of an answer, on average.
        spread: How far lengths differ: 0.5 means from 0.5 to 1.5 of the average.
        lane_tokens: Tokens a KV lane must hold; None: the longest request.
    """

    requests: int = 16
    prompt_tokens: int = 128
    output_tokens: int = 128
    spread: float = 0.5
    lane_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no workload."""
        positive("the workload", requests=self.requests)
        positive("the workload", prompt_tokens=self.prompt_tokens)
        positive("the workload", output_tokens=self.output_tokens)
        if not 0 <= self.spread < 1:
            raise ConfigurationError(
                f"the workload: spread is {self.spread}, it must be from 0 to below 1"
            )

    @property
    def lane(self) -> int:
        """Tokens of one KV lane."""
        longest = (self.prompt_tokens + self.output_tokens) * (1 + self.spread)
        return self.lane_tokens or int(longest + 0.5)

    @property
    def prompt_share(self) -> float:
        """Prompt tokens for each token of an answer."""
        return self.prompt_tokens / self.output_tokens
