"""What a cluster needs before our managers run on it: the kinds, ours and those of others, and the accounts."""

from pathlib import Path
from typing import Final, Literal

from scripts.testbed.api import load
from scripts.testbed.cluster import Cluster

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
KINDS: Final = REPOSITORY / "crds" / "manifests"
ACCOUNTS: Final = REPOSITORY / "deploy" / "rbac"


def install(cluster: Cluster, *, kubeedge: Literal["v1alpha2", "v1beta1"] = "v1beta1") -> None:
    """Applies the CRDs and the RBAC manifests; may be repeated.

    Args:
        cluster: Where.
        kubeedge: Which of the two shapes of KubeEdge's devices, which exclude each other, the cluster has.
    """
    folders = [KINDS / "ours", KINDS / "fluidos", KINDS / f"kubeedge-{kubeedge}", ACCOUNTS]
    cluster.apply([document for folder in folders for document in load(folder)])
