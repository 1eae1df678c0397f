"""People as one types them: `me`, an address, an id; and ids as one reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskman_sdk import TaskMan, TaskManError
from taskman_sdk.errors import NotFoundError

__all__ = ["People"]

# Addresses travel in the query of a GET: no more at once than any proxy lets through.
BATCH = 50


class People:
    """Looks people up, each once."""

    def __init__(self, client: TaskMan) -> None:
        self._client = client
        self._ids: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def id(self, who: str) -> str:
        """The user id of `me`, an address or an id.

        Raises:
            NotFoundError: nobody has that address.
        """
        key = who.strip().lower()
        if key not in self._ids:
            if key == "me":
                self._ids[key] = self._client.users.get_me().id
            elif "@" in key:
                found = self.by_email([key]).get(key)
                if found is None:
                    raise NotFoundError(f"Nobody here has the address {who!r}. `taskman user ls` lists who there is.")
                self._ids[key] = found
            else:
                return who.strip()
        return self._ids[key]

    def by_email(self, emails: Sequence[str]) -> dict[str, str]:
        """Ids by address in lower case, of those that exist."""
        found: dict[str, str] = {}
        for start in range(0, len(emails), BATCH):
            for user in self._client.users.batch_get(emails=emails[start : start + BATCH]).users:
                found[user.email.lower()] = user.id
        return found

    def active(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids whose users exist and are not shut out."""
        wanted = list(dict.fromkeys(ids))
        found: set[str] = set()
        for start in range(0, len(wanted), BATCH):
            users = self._client.users.batch_get(users=wanted[start : start + BATCH]).users
            found.update(user.id for user in users if user.state == "active")
        return found

    def emails(self, ids: Iterable[str]) -> dict[str, str]:
        """Addresses by id; an id that is not there stands for itself."""
        missing = [each for each in dict.fromkeys(ids) if each not in self._shown]
        for start in range(0, len(missing), BATCH):
            for user in self._client.users.batch_get(users=missing[start : start + BATCH]).users:
                self._shown[user.id] = user.email
        self._shown.update({each: each for each in missing if each not in self._shown})
        return self._shown

    def shown(self, ids: Iterable[str]) -> dict[str, str]:
        """Like `emails`, for display: the ids themselves where the caller may not look people up."""
        wanted = list(ids)
        try:
            return self.emails(wanted) if wanted else {}
        except TaskManError:
            return {each: each for each in wanted}
