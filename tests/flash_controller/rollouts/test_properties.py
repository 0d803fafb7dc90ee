"""What holds of every rollout, whatever devices, users and managers do."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from crds.models.firmwarerollout import Desired
from crds.models.flash_report import FINAL_STATES
from flash_controller.domain.rollout import Plan, retrying_of
from tests.flash_controller.rollouts.world import World

STRATEGIES = st.fixed_dictionaries(
    {
        "batchSize": st.integers(1, 4),
        "maxFailurePercent": st.sampled_from([0, 20, 50, 100]),
        "soakSeconds": st.sampled_from([0, 30]),
    },
    optional={"canary": st.one_of(st.builds(lambda n: {"count": n}, st.integers(1, 5)), st.just({"percent": 20}))},
)
OUTCOMES = ("Confirmed", "RolledBack", "Failed", "Retry", "Die")
MISHAPS = 40
"""Steps in which managers are killed and devices take their time."""


def end(world: World, name: str, outcome: str) -> None:
    match outcome:
        case "Die":
            world.end(name, None)
        case "Retry":
            world.end(name, "Failed", retryable=True)
        case "Confirmed" if world.jobs[name].goal == "RollBack":
            world.end(name, "RolledBack")
        case "Confirmed" | "RolledBack" | "Failed":
            world.end(name, outcome)


def pass_on(world: World, plan: Plan, *, ends: str | None, chance: Random) -> None:
    """A job ends, or time passes."""
    if world.active and ends:
        end(world, chance.choice(sorted(world.active)), ends)
    elif plan.again is not None:
        world.now = max(world.now, plan.again)


def is_sound(world: World) -> None:
    """Of every moment."""
    assert world.flying <= max(world.spec.strategy.batch_size, 1)
    most = (world.spec.retries + 1) * (2 if world.spec.desired == "RollBack" else 1)
    assert all(each.attempts <= most for each in world.devices)
    tried = [each.batch for each in world.devices if each.attempts]
    for each in world.devices:
        settled = each.state in FINAL_STATES or not retrying_of(world.spec, each).allowed
        assert settled or world.spec.desired == "RollBack" or each.batch >= max(tried, default=0)


@settings(max_examples=100, deadline=None)
@given(
    chance=st.randoms(use_true_random=False),
    count=st.integers(1, 9),
    strategy=STRATEGIES,
    retries=st.integers(0, 2),
    order=st.sampled_from(["Run", "Cancel", "RollBack"]),
    moment=st.integers(0, 20),
)
def test_rollouts_come_to_an_end_however_devices_fail_and_managers_forget(
    chance: Random, count: int, strategy: dict[str, object], retries: int, order: Desired, moment: int
) -> None:
    world = World.of(count, strategy=strategy, retries=retries)
    written = world.devices
    for step in range(200):
        calm = step >= MISHAPS
        if step == moment:
            world.wish(desired=order)
        if step == MISHAPS:
            world.wish(strategy=world.spec.strategy.model_copy(update={"max_failure_percent": 100}))
        plan = world.look()
        is_sound(world)
        if plan.finished and calm:
            break
        if calm or chance.random() < 0.6:
            written = world.devices
        world.devices = written  # or a manager is killed, and another one knows what was written
        pass_on(world, plan, ends=chance.choice(OUTCOMES) if calm or chance.random() < 0.5 else None, chance=chance)
    else:
        raise AssertionError(f"no end: {plan}")
    assert not world.active
    if order == "RollBack":
        assert not [each for each in world.devices if each.state == "Confirmed" and each.attempts]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 20), strategy=STRATEGIES.filter(lambda each: "canary" in each))
def test_a_canary_of_which_all_fail_leaves_the_rest_untouched(count: int, strategy: dict[str, object]) -> None:
    world = World.of(count, strategy=strategy | {"maxFailurePercent": 99})
    canaries = {each.name for each in world.devices if each.batch == 0}
    for _ in range(50):
        world.look_on()
        world.end_all("Failed")
        world.wait(3600)
    assert set(world.began) == canaries
    assert all(each.state == "Pending" for each in world.devices if each.name not in canaries)
