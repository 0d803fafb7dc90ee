"""UEID, the universal entity identifier of RFC 9711: the one name of a device, whatever it runs and whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from spire.domain import dice, keys
from spire.domain.errors import Malformed
from spire.domain.keys import PublicKey

_RANDOM, _EUI, _IMEI = 1, 2, 3
_SIZES = {_RANDOM: {17, 25, 33}, _EUI: {7, 9}, _IMEI: {15}}


@dataclass(frozen=True, slots=True, order=True)
class Ueid:
    """A type byte and the identifier itself.

    Attributes:
        value: 7 to 33 bytes; the first says RAND (1), EUI (2) or IMEI (3) and fixes how many follow.
    """

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) not in _SIZES.get(self.value[0] if self.value else 0, ()):
            raise Malformed(field="ueid", value=self.value, expected="type 1, 2 or 3 and an identifier of its length")

    def __str__(self) -> str:
        return self.value.hex()

    @classmethod
    def of_uds(cls, key: PublicKey) -> Ueid:
        """The UEID of a device whose manufacturer certified none: type RAND, 128 bits derived from its UDS key.

        That is short enough for an X.509 common name (64 characters) and too long to be hit twice.
        """
        return cls.of_raw_uds(keys.raw(key))

    @classmethod
    def of_raw_uds(cls, key: bytes) -> Ueid:
        """The same of a key as `keys.raw` gives it."""
        return cls(bytes([_RANDOM]) + dice.kdf(16, key, salt=b"", info=b"UEID"))
