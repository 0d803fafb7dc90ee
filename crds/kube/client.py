"""Requests to one API server, typed by kind.

The official client gives credentials and connections (`kubernetes.aio`); its generated methods for custom objects add
nothing but validation of their own arguments, so paths are built here from the kind's `Crd`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from crds.errors import Retryable, Terminal
from crds.kube.metrics import REQUESTS
from crds.models.base import Crd, Resource

R = TypeVar("R", bound=Resource)
Object = dict[str, Any]

REQUEST_SECONDS = 20.0
_AUTHORIZER = 'is forbidden: User "'
"""In the message of a 403 that the authorizer says (apiserver, endpoints/handlers/responsewriters/errors.go)."""
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Unavailable(Retryable):
    """The API server is away, overloaded, does not answer in time, or does not let us (yet)."""


class Refused(Terminal):
    """The API server will not take this request."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message, reason=reason or "Refused")
        self.status = status


class NotFound(Refused):
    """404: no such object, or no such kind."""


class AlreadyExists(Refused):
    """409 on create."""


class Conflict(Refused):
    """409 on change: the object is not what it was when it was read."""


class Expired(Refused):
    """410: the resource version is too old to watch from."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Where objects of a kind live in the API, for kinds that have no model here (Node, Lease, Event ...)."""

    api_version: str
    plural: str

    @classmethod
    def of(cls, crd: Crd) -> Kind:
        """From a model's CRD."""
        return cls(crd.api_version, crd.plural)

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NODES = Kind("v1", "nodes")
NAMESPACES = Kind("v1", "namespaces")
CONFIG_MAPS = Kind("v1", "configmaps")
LEASES = Kind("coordination.k8s.io/v1", "leases")
EVENTS = Kind("events.k8s.io/v1", "events")


class Kube:
    """One cluster's API. Use as an async context manager."""

    def __init__(self, configuration: kubernetes_client.Configuration) -> None:
        configuration.connection_pool_maxsize = 64
        configuration.retries = None  # who retries, and when, is decided by the caller's queue alone
        _settle_proxy(configuration)
        self.configuration = configuration
        self._api = kubernetes_client.ApiClient(configuration)

    @classmethod
    async def connect(cls, *, kubeconfig: Path | None = None, context: str | None = None) -> Kube:
        """From a kubeconfig, or from the pod's ServiceAccount where none is given.

        Raises:
            Terminal: no such file or context, or not in a pod.
        """
        configuration = kubernetes_client.Configuration()
        try:
            if kubeconfig is not None:
                await kubernetes_config.load_kube_config(
                    config_file=str(kubeconfig), context=context, client_configuration=configuration
                )
            else:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
        except kubernetes_config.ConfigException as error:
            raise Terminal(f"kubeconfig {kubeconfig or '(in cluster)'}: {error}", reason="NoKubeconfig") from error
        return cls(configuration)

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def authorization(self) -> str | None:
        """The Authorization header. It reads a rotated token again: ServiceAccount tokens live for an hour."""
        value: object = self.configuration.get_api_key_with_prefix("BearerToken", "authorization")
        if inspect.isawaitable(value):  # where the kubeconfig's refresh hook is asynchronous
            value = await value
        return value if isinstance(value, str) and value else None

    async def _send(
        self, method: str, path: str, *, query: Mapping[str, str], body: object, content_type: str, seconds: float
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if authorization := await self.authorization():
            headers["Authorization"] = authorization
        url = self.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            raw = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=seconds)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            REQUESTS.labels(method, "0").inc()
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        response: aiohttp.ClientResponse = raw.response
        REQUESTS.labels(method, str(response.status)).inc()
        if response.status >= 400:
            raise await _error(method, path, response)
        return response

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request, one JSON answer.

        Raises:
            Unavailable: try later.
            Refused: or one of its subclasses; do not.
        """
        response = await self._send(
            method, path, query=query or {}, body=body, content_type=content_type, seconds=REQUEST_SECONDS
        )
        try:
            answer: Object = orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise Unavailable(f"{method} {path}: answer cut off: {error}") from error
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A watch: lines of JSON until the server ends it or `seconds` are over."""
        response = await self._send(
            "GET", path, query=query, body=None, content_type="application/json", seconds=seconds
        )
        try:
            yield response.content
        finally:
            response.close()

    async def get(self, kind: type[R], name: str, *, namespace: str | None = None) -> R | None:
        """The object, or None."""
        try:
            return kind.parse(await self.request("GET", Kind.of(kind.crd).path(namespace=namespace, name=name)))
        except NotFound:
            return None

    async def list(
        self, kind: type[R], *, namespace: str | None = None, query: Mapping[str, str] | None = None
    ) -> list[R]:
        """All objects of a namespace, or of all."""
        answer = await self.request("GET", Kind.of(kind.crd).path(namespace=namespace), query=query)
        return [kind.parse(item) for item in answer["items"]]

    async def find(self, kind: Kind, key: tuple[str, str]) -> Object | None:
        """The object of this namespace and name, or None: by a list, which needs no right beside that to watch."""
        query = {"fieldSelector": f"metadata.name={key[1]}"}
        answer = await self.request("GET", kind.path(namespace=key[0]), query=query)
        return next(iter(answer["items"]), None)

    async def create(self, obj: Resource, *, manager: str) -> Object:
        """Create; the answer is the object as stored.

        Raises:
            AlreadyExists: another writer, or an earlier life of this one, was first.
        """
        path = Kind.of(obj.crd).path(namespace=obj.metadata.namespace)
        return await self.request("POST", path, query={"fieldManager": manager}, body=obj.manifest())

    async def apply_status(
        self, kind: type[Resource], *, name: str, namespace: str | None, status: Mapping[str, Any], manager: str
    ) -> Object:
        """Server-side apply of the status that `manager` owns: name, namespace and status, nothing else."""
        body = {
            "apiVersion": kind.crd.api_version,
            "kind": kind.crd.kind,
            "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
            "status": status,
        }
        path = Kind.of(kind.crd).path(namespace=namespace, name=name, subresource="status")
        query = {"fieldManager": manager, "force": "true"}
        return await self.request("PATCH", path, query=query, body=body, content_type=APPLY_PATCH)

    async def patch(
        self, kind: type[Resource], name: str, *, namespace: str | None, body: object, manager: str
    ) -> Object:
        """JSON merge patch."""
        path = Kind.of(kind.crd).path(namespace=namespace, name=name)
        return await self.request("PATCH", path, query={"fieldManager": manager}, body=body, content_type=MERGE_PATCH)

    async def delete(self, kind: type[Resource], name: str, *, namespace: str | None, uid: str | None = None) -> bool:
        """Delete; False when it was not there. With `uid`, only that life of the name."""
        body = {"preconditions": {"uid": uid}} if uid else None
        try:
            await self.request("DELETE", Kind.of(kind.crd).path(namespace=namespace, name=name), body=body)
        except (NotFound, Conflict):
            return False
        return True


def _settle_proxy(configuration: kubernetes_client.Configuration) -> None:
    """Read the environment's proxy once: aiohttp would again, in two threads, and double the cost of every request."""
    server = urlsplit(configuration.host)
    if configuration.proxy is None and not proxy_bypass(server.hostname or ""):
        configuration.proxy = getproxies().get(server.scheme)
    configuration.client_session_kwargs = {"trust_env": False}


async def _error(method: str, path: str, response: aiohttp.ClientResponse) -> Unavailable | Refused:
    try:
        text = await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Unavailable(f"{method} {path}: {response.status}, answer cut off: {error}")
    try:
        status = orjson.loads(text)
        message, reason = str(status.get("message", text)), str(status.get("reason", ""))
    except (orjson.JSONDecodeError, AttributeError):
        message, reason = text[:500], ""
    code = response.status
    if code == 401 or (code == 403 and _AUTHORIZER in message):
        # About us, not about the object, and it may pass: tokens are rotated, roles are granted, and a server that has
        # just started refuses everybody until it has read them. An admission's 403 is a verdict on the object.
        return Unavailable(f"{method} {path}: {code} {message}")
    if code == 429 or code >= 500:
        after = response.headers.get("Retry-After", "")
        return Unavailable(f"{method} {path}: {code} {message}", after=float(after) if after.isdigit() else None)
    kinds: dict[int, type[Refused]] = {
        404: NotFound,
        410: Expired,
        409: AlreadyExists if reason == "AlreadyExists" else Conflict,
    }
    return kinds.get(code, Refused)(f"{method} {path}: {code} {message}", status=code, reason=reason)
