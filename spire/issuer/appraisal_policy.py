"""The site's policy as the cluster holds it: ConfigMap `fluidos-edge-appraisal`, and catalogs of firmware beside it.

No ConfigMap accepts nothing. One that cannot be read changes nothing: the last good policy stays, and if there was none
since the start, no evidence is taken and no trust withdrawn until there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kube, Object
from crds.kube.config_map import FollowedConfigMap
from crds.kube.watch import Change, Gone, Put
from crds.models.appraisal import CONFIG_MAP, KEY, AppraisalPolicy, KnownFirmware
from spire.domain.site import Site, site_of
from spire.issuer.appraisal_metrics import POLICY_GOOD, POLICY_REFUSED
from spire.observers import Observers

log = structlog.get_logger(__name__)


class ReferenceValues(Protocol):
    """Firmware that is known from elsewhere than the policy: a catalog."""

    @property
    def current(self) -> Iterable[KnownFirmware] | None:
        """All of it; None while that is not known."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever it is another."""


class Policies:
    """The policy in force.

    Args:
        kube: the API server.
        namespace: of the ConfigMap.
        catalogs: of firmware that is known beside what the ConfigMap names.
    """

    def __init__(self, kube: Kube, *, namespace: str, catalogs: Sequence[ReferenceValues] = ()) -> None:
        self._config_map = FollowedConfigMap(
            kube,
            name=CONFIG_MAP,
            namespace=namespace,
            reporter="identity-issuer",
            reason="PolicyRefused",
            action="Appraise",
        )
        self._catalogs = catalogs
        self._policy: AppraisalPolicy | None = None
        self._catalog: tuple[KnownFirmware, ...] = ()
        self._site: Site | None = None
        self._observers: Observers[[]] = Observers()
        self._broken = False
        for catalog in catalogs:
            catalog.on_change(self._cataloged)

    @property
    def current(self) -> Site | None:
        """What the site accepts; None while that is not known."""
        return self._site

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever another policy is in force."""
        self._observers.add(callback)

    async def run(self) -> None:
        """Follow the ConfigMap until cancelled."""
        await self._config_map.run(self.seen, listed=self._listed)

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

    def _listed(self) -> None:
        if self._site is None and self._policy is None and not self._broken:
            self._use(None)

    def _cataloged(self) -> None:
        if self._policy is not None:
            self._use(self._policy)

    def _use(self, policy: AppraisalPolicy | None) -> None:
        """Go by this policy and what the catalogs say now; none accepts nothing, whatever they say."""
        known = [each.current for each in self._catalogs]
        catalog = tuple(firmware for each in known for firmware in each or ())
        before = self._site
        if policy is None:
            self._site = Site() if before is None or self._policy is not None else before
        elif before is None or (policy, catalog) != (self._policy, self._catalog):
            site = site_of(policy, catalog=catalog)
            # Half of what is known would withdraw the trust of the devices that the other half knows.
            self._site = None if None in known else site
        self._policy, self._catalog, self._broken = policy, catalog, False
        self._config_map.withdraw_complaint()
        POLICY_GOOD.set(policy is not None)
        if self._site is not before:
            self._observers.tell()

    def _complain(self, obj: Object, error: InvalidField) -> None:
        log.error("appraisal policy refused, the last good one stays", error=str(error), kept=self._policy is not None)
        POLICY_REFUSED.inc()
        POLICY_GOOD.set(0)
        self._broken = True
        kept = "the last good policy stays" if self._policy else "no evidence is taken"
        self._config_map.complain(obj, [f"{error}; {kept}"])


def _policy_of(config_map: Object) -> AppraisalPolicy:
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        raise InvalidField(field=f"data[{KEY}]", value=None, expected="the policy")
    return AppraisalPolicy.parse_yaml(text, field=KEY)
