"""The site's policy as the cluster holds it: ConfigMap `fluidos-edge-appraisal`, and catalogs of firmware beside it.

No ConfigMap accepts nothing. One that cannot be read changes nothing: the last good policy stays, and if there was none
since the start, no evidence is taken and no trust withdrawn until there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Protocol

import structlog

from crds.errors import InvalidField
from crds.kube.client import CONFIG_MAPS, Kube, Object
from crds.kube.events import emit
from crds.kube.watch import Change, Gone, Put, follow
from crds.models.appraisal import CONFIG_MAP, KEY, AppraisalPolicy, KnownFirmware
from crds.models.base import Crd, ObjectMeta, Resource, validate
from spire.domain.site import Site, site_of
from spire.issuer.appraisal_metrics import POLICY_GOOD, POLICY_REFUSED

log = structlog.get_logger(__name__)

REPORTER = "identity-issuer"


class ReferenceValues(Protocol):
    """Firmware that is known from elsewhere than the policy: a catalog."""

    @property
    def current(self) -> Iterable[KnownFirmware]:
        """All of it."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever it is another."""


class _ConfigMap(Resource):
    """What an Event is about."""

    crd: ClassVar[Crd] = Crd(group="", version="v1", kind="ConfigMap", plural="configmaps")


class Policies:
    """The policy in force.

    Args:
        kube: the API server.
        namespace: of the ConfigMap.
        catalogs: of firmware that is known beside what the ConfigMap names.
    """

    def __init__(self, kube: Kube, *, namespace: str, catalogs: Sequence[ReferenceValues] = ()) -> None:
        self._kube = kube
        self._namespace = namespace
        self._catalogs = catalogs
        self._policy: AppraisalPolicy | None = None
        self._catalog: tuple[KnownFirmware, ...] = ()
        self._site: Site | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._refused: tuple[Object, InvalidField] | None = None
        self._untold = asyncio.Event()
        self._synced = asyncio.Event()
        for catalog in catalogs:
            catalog.on_change(self._cataloged)

    @property
    def current(self) -> Site | None:
        """What the site accepts; None while that is not known."""
        return self._site

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever another policy is in force."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Follow the ConfigMap until cancelled."""
        only = {"fieldSelector": f"metadata.name={CONFIG_MAP}"}
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(
                    self._kube,
                    CONFIG_MAPS,
                    changed=self.seen,
                    synced=self._synced,
                    namespace=self._namespace,
                    query=only,
                )
            )
            group.create_task(self._run_complaints())
            await self._synced.wait()
            if self._site is None and self._refused is None:
                self._use(None)

    def seen(self, change: Change) -> None:
        """Take in the ConfigMap."""
        match change:
            case Gone():
                log.warning("no appraisal policy, nothing is accepted", config_map=CONFIG_MAP)
                self._use(None)
            case Put(_, obj):
                try:
                    self._use(_policy_of(obj))
                except InvalidField as error:
                    self._complain(obj, error)

    def _cataloged(self) -> None:
        if self._policy is not None:
            self._use(self._policy)

    def _use(self, policy: AppraisalPolicy | None) -> None:
        """Go by this policy and what the catalogs say now; none accepts nothing, whatever they say."""
        catalog = tuple(firmware for each in self._catalogs for firmware in each.current)
        same = self._site is not None and (policy, catalog) == (self._policy, self._catalog)
        if not same:
            self._site = Site() if policy is None else site_of(policy, catalog=catalog)
        self._policy, self._catalog, self._refused = policy, catalog, None
        POLICY_GOOD.set(policy is not None)
        if not same:
            for callback in self._callbacks:
                callback()

    def _complain(self, obj: Object, error: InvalidField) -> None:
        log.error("appraisal policy refused, the last good one stays", error=str(error), kept=self._policy is not None)
        POLICY_REFUSED.inc()
        POLICY_GOOD.set(0)
        self._refused = obj, error
        self._untold.set()

    async def _run_complaints(self) -> None:
        while True:
            await self._untold.wait()
            self._untold.clear()
            if self._refused is None:
                continue
            obj, error = self._refused
            await emit(
                self._kube,
                _ConfigMap(metadata=validate(ObjectMeta, obj["metadata"])),
                kind="Warning",
                reason="PolicyRefused",
                action="Appraise",
                note=f"{error}; {'the last good policy stays' if self._policy else 'no evidence is taken'}",
                reporter=REPORTER,
            )


def _policy_of(config_map: Object) -> AppraisalPolicy:
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        raise InvalidField(field=f"data[{KEY}]", value=None, expected="the policy")
    return AppraisalPolicy.parse_yaml(text, field=KEY)
