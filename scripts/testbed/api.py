"""The administrator's few calls to a testbed cluster, over plain HTTPS.

The managers speak through `kubernetes.aio`; what sets a cluster up for them should not depend on what it tests.
"""

import json
import ssl
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import yaml

FIELD_MANAGER: Final = "testbed"
TIMEOUT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05
NEEDED_BY_OTHERS: Final = ("Namespace", "CustomResourceDefinition")

Document = dict[str, Any]


class ApiError(RuntimeError):
    """The API server refused a request: `status` is its HTTP code, the message is its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests of one user to one API server.

    A connection a request: they are few, and none breaks when the server restarts.

    Args:
        port: Of 127.0.0.1.
        ca: The PEM file that vouches for the server.
        certificate: PEM files of the client's certificate and key.
    """

    def __init__(self, *, port: int, ca: Path, certificate: tuple[Path, Path]) -> None:
        self._port = port
        self._ca = ca
        self._certificate = certificate
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca)
        context.load_cert_chain(*self._certificate)
        return context

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """Sends one request and returns the parsed answer, or its text where it is not JSON.

        A server that says 429 is asked again for ten seconds: it does so while the storage of a new kind is made.

        Raises:
            ApiError: Any status but 2xx.
            OSError: Nobody answered.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self._request(method, path, body=body, content_type=content_type, query=query or {})
            except ApiError as error:
                if error.status != 429 or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _request(self, method: str, path: str, *, body: object, content_type: str, query: Mapping[str, str]) -> Any:
        connection = HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type, "Accept": "application/json, */*"},
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        except HTTPException as error:  # a server that stops closes in the middle of an answer
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        is_json = answer.getheader("Content-Type", "").startswith("application/json")
        value = json.loads(text) if is_json else text
        if not 200 <= answer.status < 300:
            message = value.get("message", text) if isinstance(value, dict) else text
            raise ApiError(answer.status, f"{method} {path}: {answer.status}: {message}")
        return value

    def ready(self) -> bool:
        """Whether `/readyz` says so; False while nobody answers."""
        try:
            self.request("GET", "/readyz")
        except (ApiError, OSError):
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether there is an object at this path."""
        try:
            self.request("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def apply(self, documents: Iterable[Document]) -> None:
        """Applies objects (server-side, forced): Namespaces and CustomResourceDefinitions before what may need them.

        Raises:
            ApiError: An object is refused or of a kind that the server does not know.
            TimeoutError: A CustomResourceDefinition is not established after 10 s.
        """
        documents = list(documents)
        first = [each for each in documents if each["kind"] in NEEDED_BY_OTHERS]
        for document in first:
            self._apply_one(document)
        self._await_established([each for each in first if each["kind"] == "CustomResourceDefinition"])
        for document in documents:
            if document["kind"] not in NEEDED_BY_OTHERS:
                self._apply_one(document)

    def _apply_one(self, document: Document) -> None:
        self.request(
            "PATCH",
            self.path_of(document),
            body=document,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
        )

    def path_of(self, document: Document) -> str:
        """The path of an object by its apiVersion, kind, namespace (`default` when absent) and name.

        Raises:
            ApiError: The server does not know the kind.
        """
        resource, namespaced = self._resource(document["apiVersion"], document["kind"])
        metadata = document["metadata"]
        group_version = _group_version_path(document["apiVersion"])
        namespace = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{group_version}{namespace}/{resource}/{quote(metadata['name'])}"

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        if (api_version, kind) not in self._resources:
            found = self.request("GET", _group_version_path(api_version))
            for entry in found["resources"]:
                if "/" not in entry["name"]:
                    self._resources[api_version, entry["kind"]] = entry["name"], entry["namespaced"]
        try:
            return self._resources[api_version, kind]
        except KeyError:
            raise ApiError(404, f"the server has no kind {kind} in {api_version}") from None

    def _await_established(self, definitions: list[Document]) -> None:
        """Waits until each CRD is served *and* listed by discovery, which follows a moment later."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        for definition in definitions:
            while not self._is_served(self.path_of(definition)):
                if time.monotonic() > deadline:
                    name = definition["metadata"]["name"]
                    raise TimeoutError(f"{name} is not established after {TIMEOUT_SECONDS:g} s")
                time.sleep(POLL_SECONDS)

    def _is_served(self, path: str) -> bool:
        definition = self.request("GET", path)
        conditions = definition.get("status", {}).get("conditions") or []  # null for its first moments
        if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return False
        group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
        versions = [each["name"] for each in definition["spec"]["versions"] if each["served"]]
        try:
            for version in versions:
                self._resource(f"{group}/{version}", kind)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True


def _group_version_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def load(path: Path) -> list[Document]:
    """The objects in a YAML file, or in every `*.yaml` of a folder in the order of their names.

    Raises:
        ValueError: A document is not an object with apiVersion, kind and metadata.name.
    """
    documents = []
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
        for number, document in enumerate(yaml.safe_load_all(file.read_text()), start=1):
            if document is None:
                continue
            match document:
                case {"apiVersion": str(), "kind": str(), "metadata": {"name": str()}}:
                    documents.append(document)
                case _:
                    raise ValueError(f"{file}, document {number}: needs apiVersion, kind and metadata.name")
    return documents
