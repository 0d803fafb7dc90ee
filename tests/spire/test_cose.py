"""COSE_Sign1 and COSE_Key against the COSE working group's examples and against hostile forms of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spire.domain import cbor, cose, keys
from spire.domain.errors import Malformed, Untrusted
from spire.domain.keys import Curve
from tests.spire.support import seeded

# cose-wg/Examples: ecdsa-examples/ecdsa-sig-01, ecdsa-sig-02, eddsa-examples/eddsa-sig-01 and their keys.
EXAMPLES = {
    "ES256": (
        {
            1: 2,
            -1: 1,
            -2: "bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff",
            -3: "20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e",
        },
        (
            "d28445a201260300a10442313154546869732069732074686520636f6e74656e742e58406520bbaf2081d7e0ed0f95f7"
            "6eb0733d667005f7467cec4b87b9381a6ba1ede8e00df29f32a37230f39a842a54821fdd223092819d7728efb9d3a008"
            "0b75380b"
        ),
    ),
    "ES384": (
        {
            1: 2,
            -1: 2,
            -2: "9132723f6292b010619dbe248d698c17b58756c639e7150f81bee4eb8ac37236ad0a1a19d67be32a66263e1e524d129c",
            -3: "98cd3078c554d832ac603c4326410ff61662459b41f1f3df5dbcc83598ff7c5ed8411ca735679d1c4cb3009397d9ef2c",
        },
        (
            "d28444a1013822a104445033383454546869732069732074686520636f6e74656e742e58605f150abd1c7d25b32065a1"
            "4e05d6cb1f665d10769ff455ea9a2e0adab5de63838db257f0949c41e13330e110eba7b912f34e1546fb1366a2568faa"
            "91ec3e6c8d42f4a67a0edf731d88c9aead52258b2e2c4740ef614f02e9d91e9b7b59622a3c"
        ),
    ),
    "EdDSA": (
        {1: 1, -1: 6, -2: "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},
        (
            "d28445a201270300a10442313154546869732069732074686520636f6e74656e742e58407142fd2ff96d56db85bee905"
            "a76ba1d0b7321a95c8c4d3607c5781932b7afb8711497dfa751bf40b58b3bcc32300b1487f3db34085eef013bf08f4a4"
            "4d6fef0d"
        ),
    ),
}


def example_key(name: str) -> dict[int, object]:
    return {
        label: bytes.fromhex(value) if isinstance(value, str) else value for label, value in EXAMPLES[name][0].items()
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_messages_verify(name: str) -> None:
    key = cose.decode_key(example_key(name), field="key")
    data = bytes.fromhex(EXAMPLES[name][1])
    assert data[:1] == cose.TAG
    message = cose.parse(data[1:], field="message", limit=1024)
    assert message.payload == b"This is the content."
    message.verify(key, what="message")


@pytest.mark.parametrize("curve", Curve)
def test_a_signature_is_of_one_key_over_one_message(curve: Curve) -> None:
    key, other = seeded("one", curve), seeded("two", curve)
    data = cose.sign1(key, b"payload")
    message = cose.parse(data, field="message", limit=1024)
    message.verify(key.public_key(), what="message")
    with pytest.raises(Untrusted, match="the signature is wrong"):
        message.verify(other.public_key(), what="message")


def test_an_algorithm_goes_with_its_curve_only() -> None:
    message = cose.parse(cose.sign1(seeded("one"), b"payload"), field="message", limit=1024)
    for curve in (Curve.P384, Curve.ED25519):
        with pytest.raises(Untrusted, match="does not go with its issuer's key"):
            message.verify(seeded("one", curve).public_key(), what="message")


PROTECTED = cbor.encode({1: -7})
SIGNATURE = bytes(64)


@pytest.mark.parametrize(
    "message",
    [
        [PROTECTED, {}, b"payload"],
        [PROTECTED, {}, b"payload", SIGNATURE, b""],
        [PROTECTED, {}, None, SIGNATURE],
        [PROTECTED, [], b"payload", SIGNATURE],
        [b"", {1: -7}, b"payload", SIGNATURE],
        [PROTECTED, {1: -7}, b"payload", SIGNATURE],
        [cbor.encode({1: -7, 2: [33]}), {}, b"payload", SIGNATURE],
        [cbor.encode({1: "ES256"}), {}, b"payload", SIGNATURE],
        [cbor.encode([1, -7]), {}, b"payload", SIGNATURE],
        [PROTECTED + b"\x00", {}, b"payload", SIGNATURE],
        {"not": "an array"},
    ],
)
def test_forms_that_are_no_plain_sign1_are_refused(message: object) -> None:
    with pytest.raises(Malformed):
        cose.parse(cbor.encode(message), field="message", limit=1024)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_untrusted(length: int) -> None:
    message = cose.parse(cbor.encode([PROTECTED, {}, b"payload", bytes(length)]), field="message", limit=1024)
    with pytest.raises(Untrusted):
        message.verify(seeded("one").public_key(), what="message")


@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("for_certificate", [False, True])
def test_keys_survive_the_trip(curve: Curve, for_certificate: bool) -> None:
    key = seeded("one", curve).public_key()
    encoded = cose.encode_key(key, for_certificate=for_certificate)
    assert keys.raw(cose.decode_key(encoded, field="key")) == keys.raw(key)


@pytest.mark.parametrize(
    "change",
    [
        {1: 1},
        {1: 4},
        {3: -8},
        {4: [1]},
        {-1: 7},
        {-1: 2},
        {-2: b""},
        {-2: bytes(31)},
        {-2: bytes(33)},
        {-3: True},  # a compressed point
        {-3: bytes(31)},
        {-3: b"\xff" * 32},  # not on the curve
        {-4: bytes(32)},  # a private key
        {2: b"kid"},
    ],
)
def test_keys_that_are_not_plain_public_keys_are_refused(change: dict[int, object]) -> None:
    good = cose.encode_key(seeded("one").public_key())
    with pytest.raises(Malformed):
        cose.decode_key({**good, **change}, field="key")


@pytest.mark.parametrize("curve", Curve)
def test_a_key_is_the_same_key_whichever_way_it_is_read(curve: Curve) -> None:
    encoded = cbor.encode(cose.encode_key(seeded("key", curve).public_key(), for_certificate=True))
    for position in range(len(encoded)):
        for flip in (0, 1, 0x20, 0x80):
            data = encoded[:position] + bytes([encoded[position] ^ flip]) + encoded[position + 1 :]
            assert key_of(read_at_once, data) == key_of(read_in_steps, data)


def read_at_once(data: bytes) -> keys.PublicKey:
    return keys.from_raw(*cose.read_key(data, field="key"))


def read_in_steps(data: bytes) -> keys.PublicKey:
    return cose.decode_key(cbor.decode(data, field="key", limit=cose.MAX_KEY), field="key")


def key_of(read: Callable[[bytes], keys.PublicKey], data: bytes) -> bytes | None:
    try:
        return keys.raw(read(data))
    except Malformed:
        return None
