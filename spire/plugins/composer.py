"""SPIRE's CredentialComposer: no certificate for a device's ID but for the key that its evidence named.

Of the certificate it sets one thing, the subject: CN is the device's UEID, whatever the request asked for.
Source: spire-plugin-sdk, server/credentialcomposer/v1.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
from pydantic import Field

from crds.errors import Terminal
from crds.models.base import Model, validate
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.plugins.attestor import NAME
from spire.plugins.bindings import Bindings
from spire.plugins.host import Context, Handlers, log, unary
from spire.plugins.settings import parse_json
from spire.proto import spire_pb2 as pb

GUARDED: Final = (f"/spire/agent/{NAME}/", "/device/")


class ComposerSettings(Model):
    """`plugin_data_file` of the composer."""

    bindings: Annotated[str, Field(min_length=1, max_length=1024)]
    """Folder that is shared with the attestor, or with our issuer."""
    max_age_seconds: Annotated[int, Field(ge=1, le=86400)] = 3600
    """How long evidence is good for certificates of its key."""


class Composer:
    """See `host.Plugin`."""

    type = "CredentialComposer"
    service = "spire.plugin.server.credentialcomposer.v1.CredentialComposer"

    def __init__(self) -> None:
        self._bindings: Bindings | None = None
        self._max_age = timedelta(hours=1)
        self._trust_domain: TrustDomain | None = None

    def handlers(self) -> Handlers:
        """See `host.Plugin`. Methods that are not here leave SPIRE's defaults."""
        compose = unary(self._compose, pb.ComposeX509SvidRequest)
        return {"ComposeAgentX509SVID": compose, "ComposeWorkloadX509SVID": compose}

    def configure(self, *, trust_domain: str, text: str) -> Callable[[], None]:
        """See `host.Plugin`."""
        settings = validate(ComposerSettings, parse_json(text), field="plugin_data_file")
        domain, bindings = TrustDomain(trust_domain), Bindings(Path(settings.bindings))
        max_age = timedelta(seconds=settings.max_age_seconds)

        def apply() -> None:
            self._trust_domain, self._bindings, self._max_age = domain, bindings, max_age
            bindings.prune(max_age=max_age)

        return apply

    async def _compose(self, request: Any, context: Context) -> Any:
        attributes = request.attributes
        try:
            spiffe_id = SpiffeId.parse(request.spiffe_id)
            if not spiffe_id.path.startswith(GUARDED):
                return pb.ComposeX509SvidResponse(attributes=attributes)
            if self._bindings is None:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the composer is not configured")
            ueid = self._bindings.check(spiffe_id, public_key=request.public_key, max_age=self._max_age)
        except Terminal as error:
            log("warn", "refused", spiffe_id=request.spiffe_id, error=error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{error.reason}: {error}")
        # What else SPIRE set, even fields that our messages do not list, goes back as it came.
        attributes.subject.Clear()
        attributes.subject.common_name = str(ueid)
        return pb.ComposeX509SvidResponse(attributes=attributes)
