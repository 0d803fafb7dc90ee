"""What a cluster needs before our managers run on it: kinds of ours and of others, accounts, and admission policies."""

from pathlib import Path
from typing import Final, Literal

from scripts.testbed.api import load
from scripts.testbed.cluster import Cluster

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
KINDS: Final = REPOSITORY / "crds" / "manifests"
ACCOUNTS: Final = REPOSITORY / "deploy" / "rbac"
POLICIES: Final = REPOSITORY / "deploy" / "policies"


def install(cluster: Cluster, *, kubeedge: Literal["v1alpha2", "v1beta1"] = "v1beta1") -> None:
    """Applies the CRDs, the RBAC manifests and the admission policies; may be repeated.

    Args:
        cluster: Where.
        kubeedge: Which of the two shapes of KubeEdge's devices, which exclude each other, the cluster has.
    """
    kinds = ("ours", "fluidos", f"kubeedge-{kubeedge}", "kubeedge-rules", "nubificus", "akri")
    folders = [*(KINDS / each for each in kinds), ACCOUNTS, POLICIES]
    cluster.apply([document for folder in folders for document in load(folder)])
