"""SPIFFE IDs and trust domains: parsed once at the border, compared as values (SPIFFE-ID 2, section 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crds.errors import InvalidField
from spire.domain.ueid import Ueid

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+", re.ASCII)
_SEGMENT_WORDS = "letters, digits, '.', '-' and '_' between single slashes"
_SCHEME = "spiffe://"
MAX_ID = 2048


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """One cluster's root of identity.

    Attributes:
        name: lower-case letters, digits, dots, dashes and underscores.
    """

    name: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidField(field="trustDomain", value=self.name, expected="1 to 255 of a-z, 0-9, '.', '-', '_'")

    def __str__(self) -> str:
        return self.name

    def spiffe_id(self, *segments: str) -> SpiffeId:
        """An ID in this domain.

        Raises:
            InvalidField: a segment is empty or has characters that an ID cannot have.
        """
        for segment in segments:
            if not is_segment(segment):
                raise InvalidField(field="spiffeID.path", value=segment, expected=_SEGMENT_WORDS)
        return SpiffeId(self, "".join(f"/{segment}" for segment in segments))


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """Who somebody is.

    Attributes:
        trust_domain: who says so.
        path: empty (the trust domain itself) or `/` and segments.
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        first, *segments = self.path.split("/")
        if first or not all(is_segment(segment) for segment in segments):
            raise InvalidField(field="spiffeID.path", value=self.path, expected=_SEGMENT_WORDS)
        if len(str(self)) > MAX_ID:
            raise InvalidField(field="spiffeID", value=str(self), expected=f"at most {MAX_ID} bytes")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read `spiffe://<trust domain>/<path>`; nothing is normalised, so equal text is equal identity.

        Raises:
            InvalidField: it is no SPIFFE ID.
        """
        if len(text) > MAX_ID or not text.startswith(_SCHEME):
            raise InvalidField(field="spiffeID", value=text, expected="spiffe://<trust domain>/<path>")
        name, slash, path = text.removeprefix(_SCHEME).partition("/")
        return cls(TrustDomain(name), slash + path)


def is_segment(text: str) -> bool:
    """Whether a text can be one segment of a path."""
    return _SEGMENT.fullmatch(text) is not None


def device_spiffe_id(trust_domain: TrustDomain, *, ueid: Ueid, application: str) -> SpiffeId:
    """`spiffe://<td>/device/<ueid hex>/app/<application>`.

    Raises:
        InvalidField: the application's name cannot stand in an ID.
    """
    return trust_domain.spiffe_id("device", str(ueid), "app", application)
