"""Who may send next: a few deliveries at once, and of each organization and to each host fewer (NOTIFY-5). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = ["MAILS", "MAILS_TO_FILES", "WEBHOOKS", "Limits", "Slots"]

_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How many deliveries of a channel one process has under way at once; several processes have so many each.

    Attributes:
        channel: `email` or `webhook`.
        total: of all.
        per_organization: of one organization.
        per_host: to one host; deliveries that go to no host of their own do not count.
    """

    channel: str
    total: int
    per_organization: int
    per_host: int


MAILS: Final = Limits("email", total=10, per_organization=5, per_host=10)
MAILS_TO_FILES: Final = Limits("email", total=64, per_organization=32, per_host=64)
WEBHOOKS: Final = Limits("webhook", total=30, per_organization=3, per_host=2)
"""A call takes 15 seconds at most, so that ten organizations whose receivers never answer fill it up that long."""


class Slots:
    """The deliveries of a channel that are under way, and whose turn it is."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._taken: dict[str, tuple[str, str]] = {}
        self._organizations: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._turns = 0
        self._served: dict[str, int] = {}

    @property
    def free(self) -> int:
        """How many more may begin."""
        return self.limits.total - len(self._taken)

    @property
    def full_hosts(self) -> frozenset[str]:
        """The hosts that get no more calls for now."""
        return frozenset(host for host, count in self._hosts.items() if count >= self.limits.per_host)

    def of(self, organization: str) -> list[str]:
        """The deliveries of an organization that are under way."""
        return [identifier for identifier, (owner, _) in self._taken.items() if owner == organization]

    def may_have(self, organization: str) -> int:
        """How many more an organization may have under way."""
        return min(self.free, self.limits.per_organization - self._organizations[organization])

    def next(self, waiting: Collection[str]) -> str | None:
        """The organization whose turn it is: the one with the fewest under way, then the one served longest ago.

        None when all slots are taken, or none of those that wait may have another.
        """
        if self.free <= 0:
            return None
        may = [each for each in waiting if self._organizations[each] < self.limits.per_organization]
        return min(may, key=lambda each: (self._organizations[each], self._served.get(each, 0)), default=None)

    def take(self, identifier: str, organization: str, host: str) -> None:
        """A delivery begins."""
        self._taken[identifier] = (organization, host)
        self._organizations[organization] += 1
        if host:
            self._hosts[host] += 1
        self._turns += 1
        # Last in the dict is who was served last: the oldest are forgotten first.
        self._served.pop(organization, None)
        self._served[organization] = self._turns
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]

    def give_back(self, identifier: str) -> None:
        """A delivery has ended."""
        organization, host = self._taken.pop(identifier)
        for counter, key in ((self._organizations, organization), (self._hosts, host)):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]
