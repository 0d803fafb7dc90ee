"""Part numbers of microcontrollers, and the families that they belong to."""

from __future__ import annotations

import re

# Vendors' part numbers say the family beyond doubt; anything else stays as it was declared.
_FAMILIES = re.compile(
    r"(?:AT)?(?P<family>STM(?:32|8)|NRF5[1-4]|NRF91|ESP32|ESP8266|RP2(?=0|3)|EFR32|EFM32|SAM(?:D|E|L|R)(?=\d)|GD32|MSP430)",
    re.IGNORECASE,
)


def mcu_family(mcu: str) -> str:
    """The family that a part number belongs to (`STM32U585AI` is an STM32, `nRF52840` an nRF52), or nothing."""
    found = _FAMILIES.match(mcu)
    return found["family"].upper().replace("NRF", "nRF") if found else ""
