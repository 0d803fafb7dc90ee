"""The factory of simulated boards: `python -m scripts.simulator.factory DIR BOARD...`.

Makes a manufacturer (`root.pem`, `root.key`) in DIR when there is none, a file `<board>.json` with the secret and the
certificate of each board that has none, and `policy.yaml`, by which an issuer accepts these boards with this firmware.
Prints the boards' UEIDs as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import orjson
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from pydantic import Field

from crds.errors import EdgeError, InvalidField
from crds.models.appraisal import AppraisalPolicy, BootCode, KnownFirmware, TrustedManufacturer
from crds.models.base import Model, validate
from scripts.simulator.dice import BOOT_LOADER, FORMS, Board, Image
from scripts.testbed.console import say
from spire.domain import dice, dice_cbor, dice_x509
from spire.domain.certificates import MAX_CERTIFICATE
from spire.domain.chain import Manufacturer
from spire.domain.keys import Curve, PublicKey
from spire.domain.ueid import Ueid

_SINCE: Final = datetime(2020, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(2050, 1, 1, tzinfo=UTC)


class BoardFile(Model):
    """A board on disk; its secret is why the file is for its owner alone."""

    uds: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){32}$", repr=False)]
    certificate: Annotated[str, Field(max_length=2 * MAX_CERTIFICATE, pattern=r"^([0-9a-f]{2})+$")]
    form: Literal["cbor", "x509"]

    def board(self) -> Board:
        """The board itself."""
        return Board(uds=bytes.fromhex(self.uds), certificate=bytes.fromhex(self.certificate), form=self.form)


@dataclass(frozen=True, slots=True)
class Factory:
    """A manufacturer: its root key and the certificate of that.

    Attributes:
        name: as policies call it.
        key: certifies hardware.
        certificate: self-signed.
    """

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def found(cls, name: str, *, key: ec.EllipticCurvePrivateKey | None = None) -> Self:
        """A new manufacturer, its key drawn at random by default."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, "root")]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .serial_number(1)
            .public_key(key.public_key())
            .not_valid_before(_SINCE)
            .not_valid_after(_UNTIL)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(dice_x509.usage(certifies=True, attests=False), critical=True)
            .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
        )
        return cls(name, key, certificate)

    @classmethod
    def open(cls, directory: Path, *, name: str = "simulated") -> Self:
        """The manufacturer whose files are in `directory`, founded when there are none.

        Raises:
            InvalidField: the files are no key and certificate.
        """
        root, secret = directory / "root.pem", directory / "root.key"
        if not root.exists():
            new = cls.found(name)
            directory.mkdir(parents=True, exist_ok=True)
            _write(secret, new.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            _write(root, new.pem)
            return new
        try:
            certificate = x509.load_pem_x509_certificate(root.read_bytes())
            key = load_pem_private_key(secret.read_bytes(), None)
            (organization,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        except (OSError, ValueError) as error:
            raise InvalidField(
                field="factory", value=str(directory), expected=f"root.pem and root.key ({error})"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidField(field="factory", value=str(secret), expected="a P-256 key")
        return cls(str(organization.value), key, certificate)

    @property
    def pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def anchor(self, *, names_devices: bool = False) -> Manufacturer:
        """What a verifier knows of it."""
        der = self.certificate.public_bytes(Encoding.DER)
        return Manufacturer.of_certificate(self.name, der, names_devices=names_devices)

    def board(self, uds: bytes, *, form: str = "cbor", curve: Curve = Curve.P256, ueid: Ueid | None = None) -> Board:
        """Burn a secret in and certify its key.

        Args:
            uds: 32 bytes.
            form: of the board's certificates, one of `dice.FORMS`.
            curve: of its keys.
            ueid: a name to certify.
        """
        subject = dice.Secrets.of_hardware(uds).key(curve).public_key()
        certificate = self._certify(subject, form=form, ueid=ueid)
        return Board(uds=uds, certificate=certificate, form=form, curve=curve, certified_ueid=ueid)

    def policy(self, firmware: Iterable[Image], *, boot: Iterable[bytes] = (BOOT_LOADER,)) -> AppraisalPolicy:
        """What an issuer needs to know to accept this factory's boards when they run this.

        Args:
            firmware: the applications.
            boot: the code that may start them.
        """
        return AppraisalPolicy(
            manufacturers=(TrustedManufacturer(name=self.name, root=self.pem.decode()),),
            boot=tuple(BootCode(measurement=Image(code=code).measurement.hex()) for code in boot),
            firmware=tuple(
                KnownFirmware(
                    measurement=image.measurement.hex(), application=image.application or "", version=image.version
                )
                for image in firmware
            ),
        )

    def _certify(self, subject: PublicKey, *, form: str, ueid: Ueid | None) -> bytes:
        if FORMS[form] is dice_x509:
            return dice_x509.uds_certificate(manufacturer=self.key, issuer=self.certificate, subject=subject, ueid=ueid)
        issuer = self.certificate.subject.rfc4514_string()
        return dice_cbor.uds_certificate(manufacturer=self.key, issuer=issuer, subject=subject, ueid=ueid)


def open_board(file: Path, *, factory: Factory, form: str = "cbor", seed: str | None = None) -> Board:
    """The board of a file, made when there is none.

    Args:
        file: where it is kept.
        factory: makes it.
        form: of its certificates.
        seed: makes the same secret again; drawn at random without it.

    Raises:
        InvalidField: the file is no board's.
    """
    if not file.exists():
        uds = secrets.token_bytes(32) if seed is None else hashlib.sha256(f"{seed}\0{file.stem}".encode()).digest()
        made = factory.board(uds, form=form)
        _write(file, orjson.dumps({"uds": uds.hex(), "certificate": made.certificate.hex(), "form": form}))
    return read_board(file)


def read_board(file: Path) -> Board:
    """The board of a file.

    Raises:
        InvalidField: it is no board's.
    """
    try:
        return validate(BoardFile, orjson.loads(file.read_bytes()), field=str(file)).board()
    except (OSError, orjson.JSONDecodeError) as error:
        raise InvalidField(field="board", value=str(file), expected=f"a file of the factory ({error})") from error


def policy_yaml(policy: AppraisalPolicy) -> str:
    """The policy as the issuer's ConfigMap has it."""
    said = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(said, sort_keys=False)


def main() -> int:
    """The command."""
    options = _parser().parse_args()
    try:
        factory = Factory.open(options.directory, name=options.name)
        policy = factory.policy(options.firmware)
        (options.directory / "policy.yaml").write_text(policy_yaml(policy))
        boards = {
            name: open_board(options.directory / f"{name}.json", factory=factory, form=options.form, seed=options.seed)
            for name in options.boards
        }
    except (EdgeError, OSError) as error:
        say(f"factory: {error}")
        return 2
    ueids = {name: str(board.ueid) for name, board in boards.items()}
    sys.stdout.buffer.write(orjson.dumps(ueids) + b"\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.simulator.factory", description="Makes simulated boards.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("boards", nargs="*", metavar="BOARD", help="name of a board, which becomes a file's")
    parser.add_argument("--name", default="simulated", help="of a new manufacturer (simulated)")
    parser.add_argument("--form", choices=sorted(FORMS), default="cbor", help="of the boards' certificates (cbor)")
    parser.add_argument("--seed", help="makes the same secrets again, for tests; random without it")
    parser.add_argument(
        "--firmware",
        type=_firmware,
        action="append",
        default=[],
        metavar="APPLICATION[@VERSION]=FILE",
        help="an image that the policy accepts; repeatable",
    )
    return parser


def _firmware(text: str) -> Image:
    header, _, file = text.partition("=")
    application, _, version = header.partition("@")
    try:
        return Image(code=Path(file).read_bytes(), application=application, version=version or None)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected APPLICATION[@VERSION]=FILE ({error})") from error


def _write(file: Path, data: bytes) -> None:
    """A new file for its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(data)


if __name__ == "__main__":
    sys.exit(main())
