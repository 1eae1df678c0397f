# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with delivery, sync."""

from __future__ import annotations

from collections.abc import Mapping

from taskman_sdk._sync._base import Resource
from taskman_sdk.models.notification import Delivery, ListDeliveriesResponse
from taskman_sdk.resources._base import NOT_GIVEN, NotGiven
from taskman_sdk.resources._pages import Pager
from taskman_sdk.resources.deliveries import AsyncDeliveries

__all__ = ["Deliveries"]


class Deliveries(Resource[AsyncDeliveries]):
    """`client.deliveries`: the verbs of `NotificationService`."""

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Pager[ListDeliveriesResponse, Delivery]:
        """Lists deliveries by mail and webhook, newest first.

        `GET /v1/deliveries` · `NotificationService.ListDeliveries`. Needs the permission `deliveries.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `channel`, `state`, `event_type`, `event`, `recipient`, `webhook`,
                `create_time`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `deliveries.read` is missing.
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

    def get(
        self,
        delivery: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Delivery:
        """Answers one delivery with its attempts.

        `GET /v1/deliveries/{delivery}` · `NotificationService.GetDelivery`. Needs the permission
        `deliveries.read`.

        Args:
            delivery: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `deliveries.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.get(
                delivery, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )

    def retry(
        self,
        delivery: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Delivery:
        """Sends a delivery again, now.

        `POST /v1/deliveries/{delivery}:retry` · `NotificationService.RetryDelivery`. Needs the permission
        `deliveries.retry`.

        Args:
            delivery: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `deliveries.retry` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._wait(
            lambda: self._aio.retry(
                delivery, idempotency_key=idempotency_key, timeout=timeout, extra_headers=extra_headers
            )
        )
