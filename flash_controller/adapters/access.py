"""What it takes to ask the registry of a Firmware: its pull secret, and whose certificates its own is issued by."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from typing import Final

from crds.errors import InvalidField, Retryable
from crds.kube.client import CONFIG_MAPS, Kind, Kube, NotFound, Object
from crds.models.firmware import Firmware, Reference
from flash_controller.oci.credentials import Credentials
from flash_controller.oci.registry import Registry
from flash_controller.reasons import FirmwareReason

SECRETS: Final = Kind("v1", "secrets")
LOGIN: Final = ".dockerconfigjson"
AUTHORITIES: Final = "ca.crt"


class Missing(Retryable):
    """Something that a Firmware refers to is not there, or not to be read, yet.

    Attributes:
        reason: a CamelCase reason for a condition.
    """

    def __init__(self, message: str, *, reason: FirmwareReason) -> None:
        super().__init__(message)
        self.reason = reason


async def registry_of(kube: Kube, firmware: Firmware) -> Registry:
    """The registry of a Firmware, to be entered, with what the Firmware refers to.

    Raises:
        Missing: it is not there, or we have no right to it.
        InvalidField: it is there and not what it has to be; nothing of a secret is in the message.
    """
    spec = firmware.spec
    credentials = authorities = None
    if spec.pull_secret_ref is not None:
        where = f"Secret {spec.pull_secret_ref.name}"
        secret = await _referred(
            kube, SECRETS, spec.pull_secret_ref, firmware, where, FirmwareReason.CREDENTIALS_MISSING
        )
        credentials = _credentials(secret, where)
    if spec.certificate_ref is not None:
        where = f"ConfigMap {spec.certificate_ref.name}"
        config_map = await _referred(
            kube, CONFIG_MAPS, spec.certificate_ref, firmware, where, FirmwareReason.CERTIFICATE_MISSING
        )
        authorities = (config_map.get("data") or {}).get(AUTHORITIES)
        if authorities is None:
            raise InvalidField(field=f"{where}.data", value=None, expected=f"a key {AUTHORITIES} with certificates")
    return Registry(spec.repository, credentials=credentials, authorities=authorities, plain_http=spec.plain_http)


async def _referred(
    kube: Kube, kind: Kind, reference: Reference, firmware: Firmware, where: str, reason: FirmwareReason
) -> Object:
    path = kind.path(namespace=firmware.metadata.namespace, name=reference.name)
    try:
        return await kube.request("GET", path)
    except (NotFound, Retryable) as error:
        raise Missing(f"{where}: {error}", reason=reason) from error


def _credentials(secret: Object, where: str) -> Credentials:
    try:
        return Credentials.parse(b64decode((secret.get("data") or {})[LOGIN], validate=True))
    except (KeyError, Error) as error:
        expected = f"a Secret of type kubernetes.io/dockerconfigjson, with the key {LOGIN}"
        raise InvalidField(field=f"{where}.data", value="(not shown)", expected=expected) from error
