"""The image of an attempt: pulled when the device needs it, after all that must hold was found to hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from crds.kube.client import Kube
from crds.models.firmware import BoardImage, Firmware, Release
from crds.models.flash_report import Running
from crds.models.trust import Trust
from flash_controller.adapters.access import registry_of
from flash_controller.domain.preflight import check_device, check_image, lacks
from flash_controller.oci.cache import Cache
from flash_controller.oci.pull import Pulled, pull
from flash_controller.protocols.base import Installed, Updater
from flash_controller.reasons import FlashReason
from flash_controller.runner.leaf import FollowedLeaf
from flash_controller.runner.reporter import Reporter
from flash_controller.runner.settings import RunnerSettings


class Images:
    """One device's image.

    Args:
        kube: where pull secrets are.
        settings: of the attempt.
        firmware: where the image comes from.
        release: that it belongs to.
        part: of it, for the board.
        leaf: what the device proves.
        proves: whether it can.
        reporter: told of what is found.
        clock: the time.
    """

    def __init__(
        self,
        kube: Kube,
        settings: RunnerSettings,
        *,
        firmware: Firmware,
        release: Release,
        part: BoardImage,
        leaf: FollowedLeaf,
        proves: bool,
        reporter: Reporter,
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._firmware = firmware
        self._release = release
        self._part = part
        self._leaf = leaf
        self._proves = proves
        self._reporter = reporter
        self._clock = clock
        self._pulled: Pulled | None = None

    async def measurement(self) -> str:
        """What the device will have to measure; where the index does not say it, the image does.

        Raises:
            Retryable: the image cannot be had now.
            Terminal: it cannot be had.
        """
        return self._part.measurement or (await self._pull()).image.measurement

    async def fetch(self, updater: Updater, installed: Installed) -> bytes:
        """The image, if it is for this device.

        Raises:
            Retryable: it cannot be had now.
            Terminal: the device is not to be touched.
        """
        trust = self._leaf.trust
        check_device(
            installed,
            trust,
            release=self._release,
            part=self._part,
            attestation=self._settings.attestation,
            policy=self._settings.policy,
            proving=self._proves,
            now=self._clock(),
        )
        self._reporter.found(_ran(installed, trust), lacks=lacks(updater.capabilities, proving=self._proves))
        pulled = await self._pull()
        check_image(pulled.image, release=self._release, part=self._part, trust=trust)
        return pulled.data

    async def _pull(self) -> Pulled:
        if self._pulled is None:
            await self._reporter.enter("Downloading", FlashReason.PULLING)
            async with await registry_of(self._kube, self._firmware) as registry:
                self._pulled = await pull(
                    registry,
                    digest=self._settings.digest,
                    board=self._part.board,
                    cache=Cache(self._settings.cache),
                    progress=self._reporter.counted,
                )
        return self._pulled


def _ran(installed: Installed, trust: Trust | None) -> Running:
    """What the device ran before, as it proved it, or else as it says."""
    if trust is not None and trust.firmware is not None:
        return Running(
            application=trust.application, version=trust.firmware.version, measurement=trust.firmware.measurement
        )
    active = installed.active
    return Running(
        application=installed.application,
        version=active.version if active else "",
        measurement=(active.measurement or None) if active else None,
    )
