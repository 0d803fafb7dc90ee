"""What an SMP server's error codes, and answers that make no sense, mean to us: whether another try helps."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import cbor2
from smp.error import MGMT_ERR, ErrorV1
from smp.exceptions import SMPException
from smp.image_management import IMG_MGMT_ERR, ImageManagementErrorV1, ImageManagementErrorV2
from smpclient.exceptions import SMPClientException

from crds.errors import EdgeError, Retryable, Terminal
from flash_controller.reasons import ProtocolReason

GARBLED: Final = (SMPClientException, SMPException, cbor2.CBORError, ValueError, TypeError)
"""What smp raises of an answer that is no CBOR, no map, or has other fields."""

# By name: the numbers of the groups' codes overlap.
_MAY_PASS: Final = frozenset(
    {code.name for code in (MGMT_ERR.EUNKNOWN, MGMT_ERR.ENOMEM, MGMT_ERR.ETIMEOUT, MGMT_ERR.EBADSTATE, MGMT_ERR.EBUSY)}
    | {code.name for code in (IMG_MGMT_ERR.UNKNOWN, IMG_MGMT_ERR.NO_FREE_MEMORY, IMG_MGMT_ERR.FLASH_OPEN_FAILED)}
)


def refusal(what: str, code: IntEnum) -> EdgeError:
    """The error for a request that a server refused."""
    said = f"the device refuses {what}: {code.name}"
    if code.name in _MAY_PASS:
        return Retryable(said)
    reason = ProtocolReason.NOT_SUPPORTED if code is MGMT_ERR.ENOTSUP else ProtocolReason.DEVICE_REFUSED
    return Terminal(said, reason=reason)


def upload_refusal(answer: bytes) -> EdgeError:
    """The same for an answer to a chunk that brings no offset."""
    for kind in (ImageManagementErrorV1, ImageManagementErrorV2):
        try:
            error = kind.loads(answer)
        except GARBLED:
            continue
        return refusal("an upload", error.rc if isinstance(error, ErrorV1) else error.err.rc)
    return Retryable(f"the device's answer to an upload is not understood: {answer[:64].hex()}")
