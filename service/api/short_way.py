"""The short way of a request for entities: what a framework puts around a route is left out, and nothing is done twice.

It takes what is as the document says. Whatever else comes goes the framework's way, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from service.api.answering import Asked, answer
from service.api.bodies import LARGE_BYTES
from service.api.exchange import Exchange
from service.api.state import Service


@dataclass(frozen=True, slots=True)
class EntityCall:
    """A call that asks for entities: its route in the document, its body's model, and what such a body asks for."""

    route: APIRoute
    model: type[BaseModel]
    ask: Callable[[Service, Any], Asked]

    @staticmethod
    def of(router: APIRouter, model: type[BaseModel], ask: Callable[[Service, Any], Asked]) -> EntityCall:
        """Return the call whose route is the only POST of a router. Raises TypeError for another router."""
        match [route for route in router.routes if isinstance(route, APIRoute) and "POST" in (route.methods or ())]:
            case [route]:
                return EntityCall(route, model, ask)
        raise TypeError(f"expected a router with one POST, of a call for entities; its routes are {router.routes}")


class ShortWay:
    """Answers the calls that ask for entities."""

    def __init__(self, service: Service, calls: Iterable[EntityCall]) -> None:
        self._service = service
        self._calls = {call.route.path: call for call in calls}

    def call_of(self, scope: Scope) -> EntityCall | None:
        """Return the call that a request's head asks for, or None if it asks for no entities."""
        if scope["method"] != "POST":
            return None
        path: str = scope["path"]
        return self._calls.get(path.removeprefix(scope.get("root_path", "")))

    async def answer(self, exchange: Exchange, call: EntityCall) -> bool:
        """Answer a call and return True; return False if the framework is to. Raises what refuses the request."""
        if exchange.scope["query_string"] or exchange.content_type != b"application/json":
            return False
        exchange.scope["route"] = call.route  # by which the key is checked, and the answer counted
        body = await exchange.read()
        if len(body) > LARGE_BYTES:
            return False
        try:
            given = call.model.model_validate_json(body)
        except ValidationError:
            return False
        del body
        exchange.drop_body()
        reply = await answer(self._service, exchange.scope, call.ask(self._service, given))
        await exchange.send({"type": "http.response.start", "status": 200, "headers": reply.headers})
        await exchange.send({"type": "http.response.body", "body": reply.body})
        return True
