from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.managed_instances import (
    ManagedInstance,
    ManagedInstances,
    PingTiming,
    page,
)


def register(instances: ManagedInstances, **tags: str) -> ManagedInstance:
    return instances.register(
        activation_id="a",
        name="n",
        iam_role="r",
        role_arn="arn",
        fingerprint="f",
        public_key="k",
        tags=tags,
        now=1.0,
    )


def select(instances: ManagedInstances, *filters: Any) -> Any:
    return list(instances.select(filters, 1.0, PingTiming()))


def test_index_follows_the_tags() -> None:
    instances = ManagedInstances()
    one, two = register(instances, a="1"), register(instances, a="1", b="2")
    instances.set_tags(one, {"a": "3"})
    assert select(instances, ("tag:a", ["1"])) == [two]
    assert select(instances, ("tag:a", ["1", "3"])) == [one, two]
    assert select(instances, ("tag-key", ["a", "b"]), ("tag:b", ["2"])) == [two]

    instances.remove(two)

    assert select(instances, ("tag:b", ["2"])) == []
    assert select(instances, ("tag-key", ["a"])) == [one]
    assert select(instances) == [one]
    assert instances.get(two.id) is None


def test_ids_have_the_form_of_the_api() -> None:
    instances = ManagedInstances()
    ids = {register(instances).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 20 and one.startswith("mi-") and int(one[3:], 16) >= 0 for one in ids)


def test_tag_filter_does_not_look_at_everything() -> None:
    instances = ManagedInstances()
    for number in range(20_000):
        register(instances, job=f"job-{number % 5000}")

    class Untouchable(list[ManagedInstance]):
        def __iter__(self) -> Any:
            raise AssertionError("all instances were looked at")

    instances._ordered = Untouchable(instances._ordered)

    assert len(select(instances, ("tag:job", ["job-17"]))) == 4


def test_pages_cover_a_large_fleet_once() -> None:
    instances = ManagedInstances()
    expected = [register(instances).id for _ in range(1003)]
    seen: list[str] = []
    token: str | None = None
    while True:
        selected, token = page(select(instances), 50, token)
        seen += [instance.id for instance in selected]
        if token is None:
            break

    assert seen == expected


@pytest.mark.parametrize(
    ("pinged_at", "connected", "closed_at", "now", "expected"),
    [
        (None, False, None, 10.0, "ConnectionLost"),
        (9.0, False, None, 10.0, "Online"),
        (9.0, False, None, 9.0 + 900, "ConnectionLost"),
        (None, True, None, 10.0, "Online"),
        (1.0, True, None, 9999.0, "Online"),
        (1.0, False, 9.0, 13.9, "Online"),
        (8.0, False, 9.0, 14.0, "ConnectionLost"),
        (9.5, False, 9.0, 14.0, "Online"),
        (9.5, False, 9.0, 9.5 + 900, "ConnectionLost"),
    ],
)
def test_ping_status(pinged_at: Any, connected: bool, closed_at: Any, now: float, expected: str) -> None:
    instance = register(ManagedInstances())
    instance.pinged_at, instance.connected, instance.channel_closed_at = pinged_at, connected, closed_at

    assert instance.ping_status(now, PingTiming(grace=5.0, window=900.0)) == expected


def test_information_of_the_wrong_type_is_left_out() -> None:
    instance = register(ManagedInstances())
    instance.update({"AgentVersion": 3, "PlatformType": "Linux", "ComputerName": "c" * 1000}, 2.0)
    instance.update({"PlatformType": ""}, 3.0)

    assert (instance.agent_version, instance.platform_type) == ("", "Linux")
    assert len(instance.computer_name) == 256
    assert instance.pinged_at == 3.0
