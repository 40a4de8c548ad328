"""Trust: what is pinned, what is refused, and what ssh is told before the first byte."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.client import known_hosts, trust
from sagemaker_ssh_helper.client.files import config_dir, state_dir
from sagemaker_ssh_helper.client.ssh_words import LoginName
from sagemaker_ssh_helper.errors import HostKeyChanged, HostNotTrusted, UsageError
from sagemaker_ssh_helper.names import InstanceId, ResourceKind
from sagemaker_ssh_helper.public_keys import parse_host_key

HOST = "My-Job.training.sagemaker"
LAUNCH, OTHER = "1" * 32, "2" * 32


def key(number: int) -> str:
    import base64

    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return "ssh-ed25519 " + base64.b64encode(blob).decode()


def instance(number: int = 1) -> Instance:
    return Instance(
        id=InstanceId(f"mi-{number:017x}"),
        ping_status="Online",
        kind=ResourceKind.TRAINING,
        name="My-Job",
        node="algo-1",
    )


def tags(number: int = 1, **more: str) -> dict[str, str]:
    return {"SSHHostKey": key(number), "SSHLaunchId": LAUNCH, "SSHOwner": "me", **more}


def establish(
    node: Instance | None = None,
    of_node: dict[str, str] | None = None,
    known: Sequence[str] = (LAUNCH,),
    **options: bool,
) -> trust.Pin:
    return trust.establish(
        node or instance(),
        tags() if of_node is None else of_node,
        launch_ids=lambda claimed: known,
        **options,
    )


def known_lines() -> list[str]:
    path = known_hosts.path()
    return path.read_text().splitlines() if path.exists() else []


def test_a_container_of_our_launch_is_pinned() -> None:
    pin = establish(
        of_node=tags(SSHPort="2222", SSHUser="ubuntu", SSHKeys="AAAAAAAAAAAAAAAA bbbbbbbbbbbbbbb-")
    )

    assert pin.host_key is not None
    assert pin.host_key.line == key(1)
    assert (pin.port, pin.user, pin.owner) == (2222, "ubuntu", "me")
    assert pin.keys == {"AAAAAAAAAAAAAAAA", "bbbbbbbbbbbbbbb-"}
    assert trust.load(instance().id) == pin


def test_known_launch_ids_are_asked_at_the_first_time_only() -> None:
    asked: list[str] = []

    def launch_ids(claimed: str) -> list[str]:
        asked.append(claimed)
        return [LAUNCH]

    for _ in range(3):
        trust.establish(instance(), tags(), launch_ids=launch_ids)
    assert asked == [LAUNCH]


@pytest.mark.parametrize("changed", [tags(2), {"SSHLaunchId": LAUNCH}])
def test_a_tag_that_changes_is_refused_and_the_pin_stays(changed: dict[str, str]) -> None:
    pin = establish()
    with pytest.raises(HostKeyChanged, match=r"pinned SHA256:.*do not log in") as caught:
        establish(of_node=changed)
    assert str(state_dir()) in str(caught.value)
    assert trust.load(instance().id) == pin


def test_another_launch_id_is_refused_whatever_the_user_says() -> None:
    for trust_first_use in (False, True):
        with pytest.raises(HostNotTrusted, match="another activation uses this name"):
            establish(of_node=tags(SSHLaunchId=OTHER), trust_first_use=trust_first_use)
    assert trust.load(instance().id) is None


@pytest.mark.parametrize(("of_node", "known"), [(tags(), ()), (tags(SSHLaunchId=""), (LAUNCH,))])
def test_without_proof_the_user_has_to_say_so(of_node: dict[str, str], known: Sequence[str]) -> None:
    with pytest.raises(HostNotTrusted, match="--trust-first-use My-Job"):
        establish(of_node=of_node, known=known)
    assert establish(of_node=of_node, known=known, trust_first_use=True).host_key is not None


def test_a_pinned_container_that_takes_another_name_is_proven_again() -> None:
    establish()
    renamed = dataclasses.replace(instance(), name="Other-Job")
    with pytest.raises(HostNotTrusted, match="not the one of that launch"):
        establish(renamed, known=[OTHER])
    assert establish().name == "My-Job"


def test_a_node_without_a_host_key_tag_has_its_key_learnt_by_ssh() -> None:
    old_node = {"SSHOwner": "me"}
    with pytest.raises(HostNotTrusted, match=r"has no SSHHostKey tag.*--trust-first-use"):
        establish(of_node=old_node)
    known_hosts_before = "my-job.training.sagemaker ssh-ed25519 AAAA mi-0\n"
    config_dir().mkdir(parents=True)
    known_hosts.path().write_text(known_hosts_before)
    pin = establish(of_node=old_node, trust_first_use=True)
    trust.announce(pin, HOST)
    assert known_lines() == []

    # What ssh then writes is kept, for that instance.
    known_hosts.path().write_text("my-job.training.sagemaker ssh-ed25519 LEARNT\n")
    again = trust.load(instance().id)
    assert again is not None
    trust.announce(again, HOST)
    assert known_lines() == ["my-job.training.sagemaker ssh-ed25519 LEARNT"]
    assert establish(of_node=old_node).host_key is None


@pytest.mark.parametrize("text", ["", "ssh-rsa AAAA", key(1) + "\n" + key(2), "x"])
def test_a_host_key_tag_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HostNotTrusted, match="is not a valid host key"):
        establish(of_node=tags(SSHHostKey=text), trust_first_use=True)


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "22x", "²"])
def test_a_port_that_is_none_is_22(port: str) -> None:
    assert establish(of_node=tags(SSHPort=port)).port == 22


@pytest.mark.parametrize("user", ["", "-x", "a b", "a\nProxyCommand x", "a;b", "%h", "$(id)"])
def test_a_login_name_that_is_none_goes_nowhere(user: str) -> None:
    assert establish(of_node=tags(SSHUser=user)).user is None


def test_ssh_is_told_the_key_under_the_name_it_looks_up() -> None:
    config_dir().mkdir(parents=True)
    known_hosts.path().write_text(
        "other ssh-ed25519 AAAA mi-9\nmy-job.training.sagemaker ssh-ed25519 OLD mi-0\n"
    )
    trust.announce(establish(), HOST)

    assert known_lines() == [
        "other ssh-ed25519 AAAA mi-9",
        f"my-job.training.sagemaker {key(1)} {instance().id}",
    ]


def test_a_name_used_again_by_a_new_container_replaces_its_own_line() -> None:
    trust.announce(establish(), HOST)
    trust.announce(establish(instance(2), tags(2)), HOST)

    assert known_lines() == [f"my-job.training.sagemaker {key(2)} {instance(2).id}"]


def test_nothing_is_written_when_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = establish()
    trust.announce(pin, HOST)
    before = known_hosts.path().stat().st_mtime_ns, known_hosts.path().stat().st_ino
    trust.announce(pin, HOST)
    assert (known_hosts.path().stat().st_mtime_ns, known_hosts.path().stat().st_ino) == before


def test_login_names_are_written_for_ssh_and_taken_back() -> None:
    trust.write_user_line("a.training.sagemaker", LoginName("ubuntu"))
    trust.write_user_line("b.training.sagemaker", LoginName("app"))
    trust.write_user_line("a.training.sagemaker", LoginName("nobody"))
    assert trust.hosts_path().read_text() == (
        "Host b.training.sagemaker\n  User app\nHost a.training.sagemaker\n  User nobody\n"
    )
    trust.write_user_line("b.training.sagemaker", LoginName("root"))
    assert trust.hosts_path().read_text() == "Host a.training.sagemaker\n  User nobody\n"


def test_only_the_last_hundreds_of_login_names_are_kept() -> None:
    lines = "".join(f"Host h{number}.training.sagemaker\n  User u\n" for number in range(500))
    config_dir().mkdir(parents=True)
    trust.hosts_path().write_text(lines)
    trust.write_user_line("new.training.sagemaker", LoginName("u"))
    kept = trust.hosts_path().read_text()

    assert kept.count("Host ") == 500
    assert "h0." not in kept
    assert kept.endswith("Host new.training.sagemaker\n  User u\n")


def test_a_container_that_runs_as_root_needs_no_line(home: Path) -> None:
    trust.write_user_line("a.training.sagemaker", LoginName("root"))
    trust.write_user_line("a.training.sagemaker", None)
    assert not trust.hosts_path().exists()


@pytest.mark.parametrize(
    ("host", "user"),
    [
        ("a.training.sagemaker", "root\nHost *\n  ProxyCommand touch /tmp/x"),
        ("a.training.sagemaker", "u\n"),
        ("a.training.sagemaker", "two words"),
        ("a.training.sagemaker", ""),
        ("*", "u"),
        ("a b", "u"),
        ("a\nMatch all", "u"),
        ("!a", "u"),
        ("", "u"),
    ],
)
def test_what_ssh_would_read_otherwise_is_not_written_whoever_says_it(host: str, user: str) -> None:
    with pytest.raises(UsageError, match="is not"):
        trust.write_user_line(host, user)  # type: ignore[arg-type]  # as code that forgot the check
    assert not trust.hosts_path().exists()


def test_lines_that_we_did_not_write_so_are_left_out() -> None:
    config_dir().mkdir(parents=True)
    trust.hosts_path().write_text("Host *\n  User evil\nHost a.training.sagemaker\n  User %h\n")
    trust.write_user_line("b.training.sagemaker", LoginName("app"))
    assert trust.hosts_path().read_text() == "Host b.training.sagemaker\n  User app\n"


def test_an_id_that_is_none_reaches_no_file() -> None:
    with pytest.raises(UsageError, match="is not the id of a managed instance"):
        known_hosts.line_of(HOST, parse_host_key(key(1)), InstanceId("mi-1\n* ssh-ed25519 AAAA"))


def test_keys_that_were_delivered_are_remembered_beside_those_of_the_tag() -> None:
    pin = trust.remember_key(establish(of_node=tags(SSHKeys="A" * 16)), "B" * 16)
    assert pin.keys == {"A" * 16, "B" * 16}
    assert establish(of_node=tags(SSHKeys="A" * 16)).keys == {"A" * 16, "B" * 16}


def test_a_pin_stands_in_for_the_tags_for_some_minutes() -> None:
    pin = trust.establish(instance(), tags(), launch_ids=lambda claimed: [LAUNCH], now=lambda: 1000.0)

    assert pin.fresh(1000.0)
    assert pin.fresh(1000.0 + trust.FRESH_TIMEOUT - 1)
    assert not pin.fresh(1000.0 + trust.FRESH_TIMEOUT)
    assert not pin.fresh(999.0)


def test_pins_of_instances_long_gone_are_dropped_with_their_lines() -> None:
    old = trust.establish(instance(1), tags(1), launch_ids=lambda claimed: [LAUNCH], now=lambda: 0.0)
    trust.announce(old, "old.training.sagemaker")
    trust.establish(
        instance(2), tags(2), launch_ids=lambda claimed: [LAUNCH], now=lambda: trust.KEPT_TIMEOUT + 1
    )

    assert trust.load(instance(1).id) is None
    assert trust.load(instance(2).id) is not None
    assert known_lines() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"mi-1": 5}', '{"mi-00000000000000001": {"host_key": "x"}}']
)
def test_a_broken_store_is_an_empty_one(text: str) -> None:
    state_dir().mkdir(parents=True)
    (state_dir() / "pins.json").write_text(text)
    assert trust.load(instance().id) is None
    assert establish().host_key is not None
    assert json.loads((state_dir() / "pins.json").read_text()).keys() >= {instance().id}


def _pin_many(first: int) -> None:
    for number in range(first, first + 10):
        pin = establish(instance(number), tags(number))
        trust.announce(pin, f"job-{number}.training.sagemaker")


def test_processes_that_pin_at_once_lose_nothing() -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_pin_many, args=(first,)) for first in (10, 30, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(json.loads((state_dir() / "pins.json").read_text())) == 30
    assert len(known_lines()) == 30
