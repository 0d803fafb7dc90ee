"""Whether a device is said to be in the hands of a job."""

from __future__ import annotations

from datetime import UTC, datetime

from crds.kube.watch import Gone, Put
from crds.models.firmwarerollout import DeviceFlash
from flash_controller.domain.jobs import RunnerForm, job_of
from flash_controller.domain.selection import Target
from flash_controller.flashing import Flashing
from flash_controller.jobstore import JobStore
from tests.flash_controller.rollouts.site import Site
from tests.flash_controller.rollouts.test_selection import rollout


async def test_a_device_that_was_removed_and_is_found_again_is_still_in_the_hands_of_its_job(site: Site) -> None:
    jobs = JobStore(site.kube, namespace="fluidos")
    flashing = Flashing(site.kube, jobs, lambda: datetime.now(UTC))
    form = RunnerForm(namespace="fluidos", image="edge:1", folder="/var/lib/x")
    job = job_of(rollout(), DeviceFlash(name="t-1"), Target("thermo", "sha256:a"), node="node", form=form)
    job["metadata"]["annotations"]["edge.fluidos.eu/flash-namespace"] = site.namespace
    jobs.seen(Put(("fluidos", job["metadata"]["name"]), job))
    key = site.namespace, "t-1"
    site.leaf("t-1")
    flashing.leaf_seen(Gone(key))
    flashing.leaf_seen(Put(key, {"metadata": {"name": "t-1", "namespace": site.namespace}}))
    assert len(flashing.queue) == 1, "it is looked at, though nothing happens to the job"
    await flashing.reconcile(key)
    assert await site.flashing("t-1") == "True"
