"""`python -m tests.spire.evidence SEED`: what a site puts into `dice-agent.json`, for a node that is simulated."""

from __future__ import annotations

import base64
import json
import sys

from cryptography.hazmat.primitives.serialization import load_der_public_key

from spire.domain import keys
from tests.spire.support import device


def main() -> None:
    asked = json.load(sys.stdin)
    key = keys.supported(load_der_public_key(base64.b64decode(asked["key"])))
    evidence = device(sys.argv[1]).evidence(nonce=bytes.fromhex(asked["nonce"]), key=key)
    sys.stdout.buffer.write(evidence)


if __name__ == "__main__":
    main()
