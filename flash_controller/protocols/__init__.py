"""How an image gets into a device: an adapter for each protocol, all behind `base.Updater`."""

from __future__ import annotations

import ssl
from typing import assert_never

from crds.models.leafdevice import UpdateProtocol
from flash_controller.protocols.base import DialIn, Judge, Updater
from flash_controller.protocols.bluest import BlueST
from flash_controller.protocols.fluidos_ota import FluidosOTA
from flash_controller.protocols.mcumgr import MCUmgr
from flash_controller.protocols.nubificus import NubificusOTA
from flash_controller.protocols.smp_framing import Datagrams, Fragments, Lines


def open_updater(protocol: UpdateProtocol, link: DialIn, *, tls: ssl.SSLContext, judge: Judge) -> Updater:
    """The adapter of a device's protocol.

    Args:
        protocol: of the LeafDevice's `spec.update`.
        link: leased for the device; `address` and `request` matter to the protocols whose device dials in.
        tls: where the device dials in, our side, with the certificate that its firmware pins.
        judge: where the device dials in, of the evidence that it shows.
    """
    match protocol:
        case "MCUmgrUDP":
            return MCUmgr(link, Datagrams(link.max_frame))
        case "MCUmgrSerial":
            return MCUmgr(link, Lines(), console=True)
        case "MCUmgrBLE":
            return MCUmgr(link, Fragments(link.max_frame))
        case "NubificusOTA":
            return NubificusOTA(link, tls=tls, judge=judge)
        case "FluidosOTA":
            return FluidosOTA(link, tls=tls, judge=judge)
        case "BlueST":
            return BlueST(link)
        case _:
            assert_never(protocol)
