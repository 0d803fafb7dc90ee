"""What a site accepts as a device: the content of ConfigMap `fluidos-edge-appraisal`, key `policy.yaml`.

A key that nobody knows is refused and not ignored: a word misspelt must not make a policy milder than it reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import ConfigDict, Field

from crds.errors import InvalidField
from crds.models.base import MAX_COUNT, Distinct, Model, validate
from crds.models.trust import Hex, UeidText

CONFIG_MAP: Final = "fluidos-edge-appraisal"
KEY: Final = "policy.yaml"

Named = Annotated[str, Field(min_length=1, max_length=128)]
Pem = Annotated[str, Field(max_length=16384, pattern=r"-----BEGIN CERTIFICATE-----")]
Measurement = Annotated[Hex, Field(min_length=64)]
Mac = Annotated[str, Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]
MAX_ENTRIES: Final = 4096


class _Strict(Model):
    model_config = ConfigDict(extra="forbid")


class TrustedManufacturer(_Strict):
    """Somebody who is believed about hardware."""

    name: Named
    """As devices' status shows it. Another root of the same manufacturer gets another name, so that each can be
    withdrawn with all that was trusted by it."""
    root: Pem
    """Certificate of the key that certifies devices, in PEM; one."""
    names_devices: bool = False
    """Believed when it certifies a UEID; one that is not cannot take the name of another's device."""


class BootCode(_Strict):
    """Code that starts other code and measures it honestly."""

    measurement: Measurement


class KnownFirmware(_Strict):
    """An application's code as the layer below measures it."""

    measurement: Measurement
    application: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    """The name that its certificate must say; it becomes part of the SPIFFE ID."""
    version: Named | None = None
    """The version that its certificate must say; any, where absent."""


class LegacyDevice(_Strict):
    """A device with a certificate of Nubificus' older dialect, which proves nothing but is what it has."""

    mac: Mac
    root: Pem


class AppraisalPolicy(_Strict):
    """Everything that must hold of a device. What is not said accepts nothing."""

    manufacturers: Annotated[tuple[TrustedManufacturer, ...], Field(max_length=256), Distinct("name")] = ()
    boot: Annotated[tuple[BootCode, ...], Field(max_length=MAX_ENTRIES)] = ()
    firmware: Annotated[tuple[KnownFirmware, ...], Field(max_length=MAX_ENTRIES)] = ()
    modes: Annotated[tuple[Literal["Normal", "Debug", "Recovery", "NotConfigured"], ...], Field(min_length=1)] = (
        "Normal",
    )
    """In which every layer may have started."""
    security_counters: dict[str, Annotated[int, Field(ge=0, le=MAX_COUNT)]] = Field(default_factory=dict)
    """By application, the floor of its counter."""
    revoked: Annotated[tuple[UeidText, ...], Field(max_length=MAX_ENTRIES * 16)] = ()
    """Devices that are refused whatever they prove."""
    legacy: Annotated[tuple[LegacyDevice, ...], Field(max_length=MAX_ENTRIES), Distinct("mac")] = ()

    @classmethod
    def parse_yaml(cls, text: str, *, field: str = KEY) -> Self:
        """Read the ConfigMap's text.

        Raises:
            InvalidField: names what is wrong, its value and what was expected.
        """
        try:
            said: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, and stricter
        except yaml.YAMLError as error:
            raise InvalidField(field=field, value=text, expected=f"YAML ({error})") from error
        return validate(cls, {} if said is None else said, field=field)


class _Loader(yaml.SafeLoader):
    """YAML without the two ways in which a reader is misled: a key twice, and an alias that swells."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-PyYAML has no type for it
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the base class' signature
        """Refuse a key that is there twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
