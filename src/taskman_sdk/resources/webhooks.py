# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""What one does with webhook, async."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskman_sdk.models.notification import DeleteWebhookResponse, ListWebhooksResponse, Webhook
from taskman_sdk.resources._base import NOT_GIVEN, AsyncResource, NotGiven
from taskman_sdk.resources._pages import AsyncPager

__all__ = ["AsyncWebhooks"]


class AsyncWebhooks(AsyncResource):
    """`client.webhooks`: the verbs of `NotificationService`."""

    async def create(
        self,
        *,
        url: str | NotGiven = NOT_GIVEN,
        event_types: Sequence[str] | NotGiven = NOT_GIVEN,
        disabled: bool | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Webhook:
        """Creates a webhook. The answer alone holds its signing secret.

        `POST /v1/webhooks` · `NotificationService.CreateWebhook`. Needs the permission `webhooks.create`.

        Args:
            url: Where to POST: https, or http to loopback where private targets are allowed.
            event_types: The events to send, for example `task.created`, `task.*` or `*`; empty for all.
            disabled: Off: nothing is sent.
            description: What it is for.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `webhooks.create` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "notification",
            "CreateWebhook",
            Webhook,
            {
                "webhook.url": url,
                "webhook.event_types": event_types,
                "webhook.disabled": disabled,
                "webhook.description": description,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def get(
        self,
        webhook: str,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Webhook:
        """Answers one webhook.

        `GET /v1/webhooks/{webhook}` · `NotificationService.GetWebhook`. Needs the permission `webhooks.read`.

        Args:
            webhook: Its id.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `webhooks.read` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "notification",
            "GetWebhook",
            Webhook,
            {"webhook": webhook},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def update(
        self,
        webhook: str,
        *,
        url: str | NotGiven = NOT_GIVEN,
        event_types: Sequence[str] | NotGiven = NOT_GIVEN,
        disabled: bool | NotGiven = NOT_GIVEN,
        description: str | NotGiven = NOT_GIVEN,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Webhook:
        """Changes the fields named in `update_mask`.

        `PATCH /v1/webhooks/{webhook.id}` · `NotificationService.UpdateWebhook`. Needs the permission
        `webhooks.update`.

        Args:
            webhook: the id or key.
            url: Where to POST: https, or http to loopback where private targets are allowed.
            event_types: The events to send, for example `task.created`, `task.*` or `*`; empty for all.
            disabled: Off: nothing is sent.
            description: What it is for.
            etag: Changes with every change.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `webhooks.update` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "notification",
            "UpdateWebhook",
            Webhook,
            {"webhook.id": webhook, "webhook.etag": etag},
            changes={
                "webhook.url": url,
                "webhook.event_types": event_types,
                "webhook.disabled": disabled,
                "webhook.description": description,
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    async def delete(
        self,
        webhook: str,
        *,
        etag: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> DeleteWebhookResponse:
        """Deletes a webhook.

        `DELETE /v1/webhooks/{webhook}` · `NotificationService.DeleteWebhook`. Needs the permission
        `webhooks.delete`.

        Args:
            webhook: Its id.
            etag: Delete only if the webhook still has this etag.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `webhooks.delete` is missing.
            NotFoundError: it is not there, or not for the caller to know.
            AbortedError: it changed since `etag` was read.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return await self._unary(
            "notification",
            "DeleteWebhook",
            DeleteWebhookResponse,
            {"webhook": webhook, "etag": etag},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def list(
        self,
        *,
        page_size: int | NotGiven = NOT_GIVEN,
        page_token: str | NotGiven = NOT_GIVEN,
        filter: str | NotGiven = NOT_GIVEN,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AsyncPager[ListWebhooksResponse, Webhook]:
        """Lists the webhooks of the organization.

        `GET /v1/webhooks` · `NotificationService.ListWebhooks`. Needs the permission `webhooks.read`.

        Args:
            page_size: At most this many; 50 when 0, more than 1000 are cut to 1000 (AIP-158).
            page_token: `next_page_token` of the page before.
            filter: A CEL expression over `url` and `disabled`.
            idempotency_key: under this key the call takes effect once; made for you when not given.
            timeout: seconds for the whole call with its retries; the client's when not given.
            extra_headers: headers to send beside the SDK's own.

        Raises:
            InvalidArgumentError: a field is wrong; see `field_violations`.
            UnauthenticatedError: no token, or one that is not good.
            PermissionDeniedError: the permission `webhooks.read` is missing.
            TaskManError: every other error of the tree in `taskman_sdk.errors`.
        """
        return self._pages(
            "notification",
            "ListWebhooks",
            ListWebhooksResponse,
            "webhooks",
            {"page_size": page_size, "page_token": page_token, "filter": filter},
            idempotency_key=idempotency_key,
            timeout=timeout,
            extra_headers=extra_headers,
        )
