# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with notification, sync."""

from __future__ import annotations

from collections.abc import Mapping

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.notification import ListNotificationsResponse, Notification
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources._pages import Pager
from taskman_sdk.resources.notifications import AsyncNotifications

__all__ = ["Notifications"]


class Notifications(Resource[AsyncNotifications]):
    """`client.notifications`: the verbs of `NotificationService`."""

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Pager[ListNotificationsResponse, Notification]:
        """Lists the caller's inbox, newest first.

        `GET /v1/notifications` · `NotificationService.ListNotifications`. For everyone who is signed in.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `event_type`, `target`, `read_time`, `create_time`, for example
                `read_time == null`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            lambda: self._aio.list(
                page_size=page_size,
                page_token=page_token,
                filter=filter,
                idempotency_key=idempotency_key,
                timeout=timeout,
                extra_headers=extra_headers,
            )
        )

    def mark_read(
        self,
        notification: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Notification:
        """Marks one of the caller's notifications as read.

        `POST /v1/notifications/{notification}:markRead` · `NotificationService.MarkNotificationRead`. For
        everyone who is signed in.

        Args:
            notification: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.mark_read(
                notification, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )
