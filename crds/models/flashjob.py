"""FlashJob of Nubificus' operator, in the shape that it defines; what runs it here is a FirmwareRollout.

Its `uuid` is a list of UIDs of Akri Instances, which change when a device is discovered anew. `hostEndpoint`, `device`,
`applicationType` and `externalIP` were never read there, and `flashjobPodImage` is of no use here.
Source: nubificus/flashjob_operator (api/v1alpha1, internal/controller).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from crds.models.base import Conditions, Crd, Model, Resource

Unread = Annotated[str | None, Field(json_schema_extra={"nullable": True})]
"""Samples write null."""


class FlashJobSpec(Model):
    """One firmware for some devices."""

    uuid: tuple[str, ...]
    firmware: str
    """`registry/path:tag` or `registry/path@digest`."""
    version: str
    """For people; it is compared with nothing."""
    flashjob_pod_image: str | None = None
    host_endpoint: Unread = None
    device: Unread = None
    application_type: Unread = None
    external_ip: Annotated[Unread, Field(alias="externalIP")] = None


class FlashJobStatus(Model):
    """How far it has come. The last message counts, whichever device it is of."""

    phase: str | None = None
    message: str | None = None
    completed_uuids: Annotated[tuple[str, ...] | None, Field(alias="completedUUIDs")] = None
    host_endpoint: str | None = None
    conditions: Conditions = ()
    """Declared there and never written."""


class FlashJob(Resource):
    """An order to flash devices."""

    crd: ClassVar[Crd] = Crd(
        group="application.flashjob.nbfc.io", version="v1alpha1", kind="FlashJob", plural="flashjobs"
    )

    spec: FlashJobSpec
    status: FlashJobStatus | None = None
