"""The first start of a server without an administrator (OPS-1)."""

from __future__ import annotations

import pytest

import taskman_server
from taskman_sdk.errors import TaskManError
from tests.contract.wires import LocalWire
from tests.contract.world import PASSWORD


async def test_the_first_start_prints_a_token_that_makes_the_first_administrator_once() -> None:
    """OPS-1: no default password anywhere; the token is good once."""
    async with taskman_server.embedded(password_hash="fast") as app:
        assert app.setup_token
        wire = LocalWire(app.channels)
        request = {"token": app.setup_token, "email": "first@example.com", "password": PASSWORD, "display_name": "F"}
        made = await wire.call("AuthenticationService.SetUp", request)
        login = {"email": "first@example.com", "password": PASSWORD}
        tokens = await wire.call("AuthenticationService.Login", login)
        me = await wire.call("UserService.GetMe", {}, tokens["access_token"])
        assert me["id"] == made["user"]
        roles = await wire.call("IamAdminService.ListRoles", {}, tokens["access_token"])
        assert {"admin", "member", "viewer"} <= {role["name"] for role in roles["roles"]}
        with pytest.raises(TaskManError) as caught:
            await wire.call("AuthenticationService.SetUp", {**request, "email": "second@example.com"})
        assert 400 <= caught.value.http_status < 500
