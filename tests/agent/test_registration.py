"""The managed instance: registered once, its credentials renewed in time, its key replaced when asked."""

import json
import logging
import stat
from email.utils import formatdate
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from agent.agent_thread import make_config
from agent.fake_service import MI, FakeService
from agent.http_server import Reply, ScriptedServer
from sagemaker_ssh_helper.agent import registration, rsa
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry
from sagemaker_ssh_helper.agent.registration import InstanceRole, Registration, load, register
from sagemaker_ssh_helper.agent.rsa import PrivateKey
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import CredentialsExpired, LocalSetup, ServiceError
from sagemaker_ssh_helper.names import InstanceId

pytestmark = pytest.mark.container

CONFIG = make_config()
THROTTLED = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})
DENIED = (400, {"__type": "AccessDeniedException", "message": "no"})


@pytest.fixture(scope="module")
def keys() -> List[PrivateKey]:
    return [rsa.generate(["openssl", "python"]) for _ in range(2)]


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, keys: List[PrivateKey]) -> StateDir:
    """A state folder in which the set-up has left the instance's key."""
    import base64

    found = StateDir.open(str(tmp_path / "state"), create=True)
    found.write(found.agent_key, base64.b64encode(keys[0].serialize()))
    return found


def make_api(service: FakeService) -> AwsApi:
    return AwsApi("eu-west-1", environ={"AWS_ENDPOINT_URL": service.url}, retry=Retry(attempts=1))


class Pauses:
    """Sleeps at once, and remembers how long it was asked to."""

    def __init__(self) -> None:
        self.seconds: List[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def registered(keys: List[PrivateKey]) -> Registration:
    return Registration(InstanceId(MI), "eu-west-1", "finger", CONFIG.activation_id, keys[0], 1.0)


# --- registering ---------------------------------------------------------------------------------


def test_registration_sends_the_activation_and_the_key(
    service: FakeService, state: StateDir, keys: List[PrivateKey], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = register(state, CONFIG, make_api(service))

    ((operation, body, _),) = service.calls
    assert found.instance_id == MI
    assert operation == "RegisterManagedInstance"
    assert body["ActivationId"] == CONFIG.activation_id
    assert body["ActivationCode"] == "the-activation-code"
    assert body["PublicKey"] == keys[0].public_key
    assert body["Fingerprint"] == found.fingerprint
    expected = f"Successfully registered the instance with AWS SSM using Managed instance-id: {MI}"
    assert expected in [record.getMessage() for record in caplog.records]
    assert "the-activation-code" not in caplog.text


def test_registration_is_kept_privately_and_the_key_file_removed(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    found = register(state, CONFIG, make_api(service))

    path = Path(state.registration_json)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(state) == found
    assert found.key == keys[0]
    assert not Path(state.agent_key).exists()
    assert str(keys[0].d) not in repr(found)


def test_registration_of_the_same_activation_is_used_again(service: FakeService, state: StateDir) -> None:
    first = register(state, CONFIG, make_api(service))
    second = register(state, CONFIG, make_api(service))
    service.answers["RegisterManagedInstance"] = [(200, {"InstanceId": "mi-00000000000000002"})]
    third = register(state, make_config(activation_id="22222222-0000"), make_api(service))

    assert second == first
    assert third.instance_id == "mi-00000000000000002"
    assert third.fingerprint != first.fingerprint
    assert len(service.calls) == 2


def test_damaged_registration_is_not_used(
    service: FakeService, state: StateDir, caplog: pytest.LogCaptureFixture
) -> None:
    state.write(state.registration_json, b'{"instance_id": "mi-1"')
    found = register(state, CONFIG, make_api(service))

    assert found.instance_id == MI
    assert "is damaged" in caplog.text


def test_missing_key_is_made(service: FakeService, state: StateDir) -> None:
    Path(state.agent_key).unlink()

    assert register(state, CONFIG, make_api(service)).key.n.bit_length() == 2048


def test_passing_troubles_are_waited_out_with_growing_pauses(
    service: FakeService, state: StateDir, caplog: pytest.LogCaptureFixture
) -> None:
    service.answers["RegisterManagedInstance"] = [
        THROTTLED,
        (500, {"__type": "InternalServerError"}),
        *[THROTTLED] * 6,
        (200, {"InstanceId": MI}),
    ]
    pauses = Pauses()
    found = register(state, CONFIG, make_api(service), sleep=pauses, chance=lambda: 1.0)

    assert found.instance_id == MI
    assert pauses.seconds == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "ThrottlingException" in caplog.text


@pytest.mark.parametrize("code", ["InvalidActivation", "ActivationExpired", "RegistrationLimitExceeded"])
def test_refused_activation_is_final_and_leaves_nothing(
    service: FakeService, state: StateDir, code: str
) -> None:
    service.answers["RegisterManagedInstance"] = [(400, {"__type": code})]
    with pytest.raises(ServiceError, match=code):
        register(state, CONFIG, make_api(service), sleep=Pauses())

    assert len(service.calls) == 1
    assert not Path(state.registration_json).exists()


def test_registration_that_cannot_be_kept_is_explained(
    service: FakeService, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateDir, "write", full)
    with pytest.raises(LocalSetup, match=r"cannot be kept \(.*No space left on device\)\. Make room in"):
        register(state, CONFIG, make_api(service))


@pytest.mark.parametrize(
    "change", [{"instance_id": None}, {"private_key": "x"}, {"private_key": ""}, {"registered_at": "x"}]
)
def test_other_json_is_no_registration(keys: List[PrivateKey], change: Dict[str, Any]) -> None:
    fields = {**json.loads(registered(keys).serialize()), **change}
    if fields["instance_id"] is None:
        del fields["instance_id"]

    with pytest.raises(ValueError, match=r"."):
        Registration.parse(json.dumps(fields).encode())


# --- credentials ---------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_role(service: FakeService, state: StateDir, keys: List[PrivateKey], clock: Any) -> InstanceRole:
    api = make_api(service)
    return InstanceRole(state, registered(keys), api, now=clock, elapsed=clock, chance=lambda: 0.0)


def token(expires_at: float, update: bool = False) -> Tuple[int, Dict[str, Any]]:
    return 200, {
        "AccessKeyId": "ASIANODE",
        "SecretAccessKey": "s",
        "SessionToken": "t",
        "TokenExpirationDate": expires_at,
        "UpdateKeyPair": update,
    }


def test_credentials_are_renewed_at_half_of_their_life(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600), token(4000)]
    clock = Clock()
    role = make_role(service, state, keys, clock)
    pauses = [role.refresh()]
    clock.now = 1800
    pauses.append(role.refresh())

    assert pauses == [1800, 1100]
    assert role.get().expires_at == 4000


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_life_of_a_token_is_counted_by_the_services_clock(
    state: StateDir, keys: List[PrivateKey], skew: float
) -> None:
    """A container whose clock is two hours off; by that clock the token is over, or lives for three hours."""
    now = 1700000000.0
    wrong = Reply(400, {"__type": "InvalidSignatureException"}, {"Date": formatdate(now, usegmt=True)})
    with ScriptedServer(wrong, Reply(*token(now + 3600))) as server:
        api = AwsApi("eu-west-1", environ={"AWS_ENDPOINT_URL": server.url}, now=lambda: now + skew)
        role = InstanceRole(state, registered(keys), api)
        pause = role.refresh()

    assert pause == 1800
    assert role.is_valid


def test_expired_token_is_renewed_at_once_but_not_in_a_loop(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(-5)]

    assert make_role(service, state, keys, Clock()).refresh() == 1.0


def test_credentials_that_ran_out_are_not_given(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(100)]
    clock = Clock()
    role = make_role(service, state, keys, clock)
    with pytest.raises(CredentialsExpired):
        role.get()
    role.refresh()
    valid_early = role.is_valid
    clock.now = 96
    with pytest.raises(CredentialsExpired):
        role.get()

    assert valid_early
    assert not role.is_valid


def test_refused_token_pauses_as_official_agents_do(
    service: FakeService, state: StateDir, keys: List[PrivateKey], caplog: pytest.LogCaptureFixture
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [
        THROTTLED,
        (400, {"__type": "ValidationException"}),
        *[(500, b"")] * 14,
        DENIED,
        (400, {"__type": "MachineFingerprintDoesNotMatch"}),
    ]
    role = make_role(service, state, keys, Clock())
    pauses = [role.refresh() for _ in range(18)]

    assert pauses[:4] == [11, 12, 14, 18]
    # Nobody gets in without credentials, so that is never long.
    assert pauses[4:16] == [26] + [30] * 11
    assert pauses[16:] == [1500, 1500]
    assert "MachineFingerprintDoesNotMatch" in role.problem
    assert "ThrottlingException" in caplog.text


def test_pauses_grow_long_while_there_are_credentials(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600), (500, b"")]
    role = make_role(service, state, keys, Clock())
    pauses = [role.refresh() for _ in range(17)]

    assert (pauses[0], pauses[-1]) == (1800, 1800)


# --- credentials that somebody needs now -----------------------------------------------------------


def asked(service: FakeService) -> int:
    return [name for name, _, _ in service.calls].count("RequestManagedInstanceRoleToken")


def test_credentials_are_renewed_when_somebody_needs_some(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(100), token(3700)]
    clock = Clock()
    role = make_role(service, state, keys, clock)
    renewals: List[float] = []
    role.on_renewed = lambda: renewals.append(clock.now)
    role.refresh()
    clock.now = 100

    assert role.current().expires_at == 3700
    assert role.due_in() == 1800
    assert renewals == [0, 100]
    assert asked(service) == 2


def test_many_who_need_credentials_ask_once(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600), token(3700)]
    clock = Clock()
    role = make_role(service, state, keys, clock)
    role.refresh()
    clock.now = 60

    assert [role.renew() for _ in range(5)] == [True] * 5
    assert asked(service) == 2


def test_a_service_in_trouble_is_asked_by_those_in_need_every_half_minute_at_most(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    """85 seconds of trouble: an attempt to connect is made every second, and the last pause is bounded."""
    service.answers["RequestManagedInstanceRoleToken"] = [token(100), (500, b"")]
    clock = Clock()
    role = make_role(service, state, keys, clock)
    role.refresh()
    for second in range(100, 185):
        clock.now = second
        with pytest.raises(CredentialsExpired):
            role.current()
    tried = asked(service) - 1
    service.answers["RequestManagedInstanceRoleToken"] = [token(9999)]
    while not role.is_valid:
        clock.now += 1
        role.renew()

    assert tried == 6
    assert clock.now <= 185 + 30


def test_a_clock_that_is_set_ends_no_credentials(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600)]
    wall, elapsed = Clock(), Clock()
    role = InstanceRole(state, registered(keys), make_api(service), now=wall, elapsed=elapsed)
    role.refresh()
    for jump in (7200, -7200):
        wall.now = jump
        assert role.get().expires_at == 3600


def test_unreachable_service_pauses_too(
    service: FakeService, state: StateDir, keys: List[PrivateKey]
) -> None:
    api = AwsApi("eu-west-1", environ={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, retry=Retry(attempts=1))
    role = InstanceRole(state, registered(keys), api, now=Clock(), chance=lambda: 1.0)

    assert role.refresh() == pytest.approx(1.2 + 10 + 9)


# --- key rotation --------------------------------------------------------------------------------


@pytest.fixture
def rotating(
    service: FakeService, state: StateDir, keys: List[PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> InstanceRole:
    """A role whose next refresh brings the wish for a new key, which will be the second one."""
    monkeypatch.setattr("sagemaker_ssh_helper.agent.registration.rsa.generate", lambda roads: keys[1])
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600, True), token(3600)]
    return make_role(service, state, keys, Clock())


def stored_key(state: StateDir) -> Any:
    found = load(state)
    return found.key if found else None


def test_new_key_is_sent_kept_and_used(
    service: FakeService, state: StateDir, keys: List[PrivateKey], rotating: InstanceRole
) -> None:
    rotating.refresh()
    rotating.refresh()

    assert service.operations() == [
        "RequestManagedInstanceRoleToken",
        "UpdateManagedInstancePublicKey",
        "RequestManagedInstanceRoleToken",
    ]
    assert service.calls[1][1] == {"NewPublicKey": keys[1].public_key, "NewPublicKeyType": "Rsa"}
    assert stored_key(state) == keys[1]
    assert rotating.is_valid


def test_refused_key_leaves_the_old_one(
    service: FakeService, state: StateDir, keys: List[PrivateKey], rotating: InstanceRole
) -> None:
    service.answers["UpdateManagedInstancePublicKey"] = [(400, {"__type": "InvalidPublicKey"})]
    rotating.refresh()

    assert service.operations()[-1] == "RequestManagedInstanceRoleToken"
    assert stored_key(state) is None
    assert rotating._registration.key == keys[0]
    assert rotating.is_valid


def test_key_that_was_taken_without_an_answer_is_found_out(
    service: FakeService, state: StateDir, keys: List[PrivateKey], rotating: InstanceRole
) -> None:
    service.answers["UpdateManagedInstancePublicKey"] = [(500, b"")]
    service.answers["RequestManagedInstanceRoleToken"] = [token(3600, True), DENIED, token(3600)]
    rotating.refresh()

    assert stored_key(state) == keys[1]
    assert rotating._registration.key == keys[1]


def test_key_that_cannot_be_kept_is_taken_back(
    service: FakeService,
    state: StateDir,
    keys: List[PrivateKey],
    rotating: InstanceRole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise LocalSetup("disk full")

    monkeypatch.setattr(registration, "save", full)
    rotating.refresh()

    sent = [body["NewPublicKey"] for name, body, _ in service.calls if name.startswith("Update")]
    assert sent == [keys[1].public_key, keys[0].public_key]
    assert rotating._registration.key == keys[0]


def test_key_that_cannot_be_made_is_not_missed(
    service: FakeService, state: StateDir, rotating: InstanceRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(roads: Any) -> None:
        raise LocalSetup("no RSA key could be made")

    monkeypatch.setattr("sagemaker_ssh_helper.agent.registration.rsa.generate", fail)
    pause = rotating.refresh()

    assert pause == 1800
    assert rotating.is_valid
