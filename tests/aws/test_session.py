"""Who calls AWS, where: the order of flags, environment and files, and the endpoints of every partition."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from sagemaker_ssh_helper.aws.session import SERVICES, Session, UpgradeForm, is_awss, partition_of
from sagemaker_ssh_helper.errors import CredentialsExpired, CredentialsMissing, LocalSetup, RegionMissing

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(autouse=True)
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for AWS's files, and no variable of AWS's but those that name them."""
    import os

    for name in list(os.environ):
        if name.startswith("AWS_") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def write_profiles(folder: Path) -> None:
    (folder / "config").write_text(
        "[default]\nregion = us-west-2\n[profile work]\nregion = eu-central-1\n[profile bare]\n"
    )
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s\n"
        "[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = s\naws_session_token = t\n"
    )


@pytest.mark.parametrize(
    ("flag", "environment", "region", "origin", "warned"),
    [
        (None, {"AWS_REGION": "eu-west-1"}, "eu-west-1", "AWS_REGION", False),
        (None, {"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1", "AWS_DEFAULT_REGION", False),
        (
            None,
            {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"},
            "eu-west-1",
            "AWS_REGION",
            False,
        ),
        (
            None,
            {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"},
            "eu-west-1",
            "AWS_REGION",
            True,
        ),
        ("sa-east-1", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "x"}, "sa-east-1", "--region", False),
        (None, {}, "us-west-2", "profile default", False),
        (None, {"AWS_PROFILE": "work"}, "eu-central-1", "profile work", False),
    ],
)
def test_the_region_comes_from_the_first_that_names_one(
    aws_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str | None,
    environment: dict[str, str],
    region: str,
    origin: str,
    warned: bool,
) -> None:
    write_profiles(aws_files)
    set_environment(monkeypatch, **KEYS, **environment)
    session = Session.open(region=flag)

    assert (session.region, session.region_origin, bool(session.warnings)) == (region, origin, warned)


def test_a_warning_about_two_regions_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS, AWS_REGION="eu-west-1", AWS_DEFAULT_REGION="us-east-1")
    (line,) = Session.open().warnings

    assert "AWS_REGION=eu-west-1" in line
    assert "AWS_DEFAULT_REGION=us-east-1" in line


def test_the_region_of_the_machine_is_the_last_resort_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Metadata(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(200)
            self.end_headers()
            text = b"eu-north-1b" if self.path.endswith("/placement/availability-zone/") else b"a token"
            self.wfile.write(text)

        do_GET = do_PUT = answer

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        endpoint = f"http://127.0.0.1:{server.server_port}/"
        set_environment(monkeypatch, **KEYS, AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint)
        try:
            session = Session.open()
        finally:
            server.shutdown()
            thread.join()
    assert (session.region, session.region_origin) == ("eu-north-1", "instance metadata")
    (line,) = session.warnings
    assert "eu-north-1" in line
    assert "--region" in line


def test_without_a_region_anywhere_the_error_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS)
    with pytest.raises(RegionMissing, match="export AWS_REGION"):
        Session.open()


@pytest.mark.parametrize("text", ["eu west 1", "https://x", "eu-west-1/../", "-"])
def test_what_is_no_region_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    set_environment(monkeypatch, **KEYS, AWS_REGION=text)
    with pytest.raises(RegionMissing, match="is not a valid AWS region"):
        Session.open()


@pytest.mark.parametrize(
    ("profile", "environment", "access_key", "token"),
    [
        (None, KEYS, "AKIDENV", None),
        (None, {**KEYS, "AWS_SESSION_TOKEN": "t"}, "AKIDENV", "t"),
        (None, {}, "AKIDDEFAULT", None),
        (None, {"AWS_PROFILE": "work"}, "AKIDWORK", "t"),
        ("work", KEYS, "AKIDWORK", "t"),
        # botocore's own rule: keys in the environment win over a profile named there.
        (None, {**KEYS, "AWS_PROFILE": "work"}, "AKIDENV", None),
    ],
)
def test_credentials_come_in_botocores_order(
    aws_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    profile: str | None,
    environment: dict[str, str],
    access_key: str,
    token: str | None,
) -> None:
    write_profiles(aws_files)
    set_environment(monkeypatch, **environment)
    found = Session.open(profile, "eu-west-1").credentials()

    assert (found.access_key, found.token) == (access_key, token)


@pytest.mark.parametrize(
    ("profile", "environment", "origin"),
    [
        (None, KEYS, "AWS_ACCESS_KEY_ID"),
        ("work", {}, "shared-credentials-file"),
        (None, {"AWS_PROFILE": "work"}, "shared-credentials-file"),
    ],
)
def test_it_is_known_where_the_keys_came_from(
    aws_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    profile: str | None,
    environment: dict[str, str],
    origin: str,
) -> None:
    write_profiles(aws_files)
    set_environment(monkeypatch, **environment)
    session = Session.open(profile, "eu-west-1")
    session.credentials()

    assert session.credentials_origin == origin


def test_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS)
    assert "secret" not in repr(Session.open(region="eu-west-1").credentials())


def test_a_profile_that_is_not_there_is_named_with_those_that_are(aws_files: Path) -> None:
    write_profiles(aws_files)
    with pytest.raises(CredentialsMissing, match=r"nobody.*profiles there are: bare, default, work"):
        Session.open("nobody", "eu-west-1")


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialsMissing, match="no AWS credentials were found"):
        Session.open(region="eu-west-1").credentials()


def test_a_stale_sso_sign_in_names_the_command_that_renews_it(aws_files: Path) -> None:
    (aws_files / "config").write_text(
        "[profile sso]\nregion=eu-west-1\nsso_session=s\nsso_account_id=1\nsso_role_name=r\n"
        "[sso-session s]\nsso_region=eu-west-1\nsso_start_url=https://example.com\n"
    )
    with pytest.raises(CredentialsExpired, match="aws sso login --profile sso"):
        Session.open("sso").credentials()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no section here\n", r"line 1: no section begins before it\). Put \[default\]"),
        (b"[a]\nx = 1\n[a]\n", r"line 3: the section \[a\] is there twice\). Make one of the two"),
        (b"[a]\nx = 1\nx = 2\n", r"line 3: x is there twice in \[a\]\). Take one of them out"),
        (b"[a]\nx = 1\nSECRET\n", r"line 3: neither NAME = VALUE nor \[a section\]\). Mend that line"),
        (b"[a]\ns3 =\n  y = 1\n  SECRET\n", r"line 4: an indented line without NAME = VALUE\). Mend"),
        (b"\xef\xbb\xbf[a]\nx = 1\n", r"line 1: a byte order mark \(UTF-8\)\). Save the file"),
        (b"[a]\nx = 1\n[caf\xe9]\n", r"line 3: a character that is not UTF-8\). Save the file as UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_broken_file_is_named_with_its_line_and_the_way_out(
    aws_files: Path, name: str, content: bytes, told: str
) -> None:
    (aws_files / name).write_bytes(content)
    with pytest.raises(CredentialsMissing, match=rf"/{name} cannot be read \({told}") as error:
        Session.open(region="eu-west-1")
    assert "SECRET" not in str(error.value)


def test_an_empty_profile_variable_is_none(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profiles(aws_files)
    set_environment(monkeypatch, AWS_PROFILE="", AWS_DEFAULT_PROFILE="")
    assert Session.open(region="eu-west-1").credentials().access_key == "AKIDDEFAULT"
    set_environment(monkeypatch, AWS_PROFILE="work", AWS_DEFAULT_PROFILE="default")
    assert Session.open(region="eu-west-1").credentials().access_key == "AKIDWORK"


def test_a_file_that_is_none_is_told_when_there_are_no_keys(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(aws_files))
    with pytest.raises(CredentialsMissing, match=f"no file that can be read: AWS_CONFIG_FILE={aws_files}"):
        Session.open(region="eu-west-1").credentials()


@pytest.mark.parametrize("url", ["localhost:1234", "ftp://x", "http://", "http://x:99999", "http://a:p@ b"])
def test_an_endpoint_that_is_not_a_url_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    set_environment(monkeypatch, **KEYS, AWS_ENDPOINT_URL_SSM=url)
    with pytest.raises(LocalSetup, match="AWS_ENDPOINT_URL_SSM is not a valid URL") as error:
        Session.open(region="eu-west-1").endpoint_url("ssm")
    assert "a:p" not in str(error.value)


def test_the_regions_of_every_partition_have_botocores_endpoints() -> None:
    plain = botocore.session.Session()
    checked = 0
    for partition in plain.get_available_partitions():
        regions = plain.get_available_regions("ssm", partition)
        for region in regions[:2]:
            ours = Session(region=region)
            for name in SERVICES:
                theirs = plain.create_client(
                    name, region_name=region, aws_access_key_id="a", aws_secret_access_key="b"
                ).meta
                # Where botocore itself says that the service is not there, there is nothing to compare.
                if region not in plain.get_available_regions(name, partition):
                    continue
                assert ours.endpoint_url(name) == theirs.endpoint_url
                checked += 1
        assert not regions or partition_of(regions[0]).name == partition
    assert checked > 20


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"AWS_ENDPOINT_URL": "http://localhost:1/"}, "http://localhost:1"),
        (
            {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ENDPOINT_URL_SSM": "http://localhost:2"},
            "http://localhost:2",
        ),
        ({"AWS_ENDPOINT_URL_SAGEMAKER": "http://localhost:3"}, "https://ssm.eu-west-1.amazonaws.com"),
        (
            {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "https://ssm.eu-west-1.amazonaws.com",
        ),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_REGION": "us-east-1"},
            "https://ssm-fips.us-east-1.amazonaws.com",
        ),
    ],
)
def test_endpoints_of_the_environment_win(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str
) -> None:
    set_environment(monkeypatch, **{**KEYS, "AWS_REGION": "eu-west-1", **environment})
    assert Session.open().endpoint_url("ssm") == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("[default]\nendpoint_url = http://localhost:4\n", "http://localhost:4"),
        (
            "[default]\nservices = s\n[services s]\nssm =\n  endpoint_url = http://localhost:5\n",
            "http://localhost:5",
        ),
        ("[default]\nuse_dualstack_endpoint = true\n", "https://ssm.eu-west-1.api.aws"),
    ],
)
def test_endpoints_of_awss_config_file_are_botocores(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch, text: str, url: str
) -> None:
    (aws_files / "config").write_text(text)
    set_environment(monkeypatch, **KEYS)
    assert Session.open(region="eu-west-1").endpoint_url("ssm") == url


def test_certificates_come_from_the_environment_or_the_config_file(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, **KEYS)
    assert Session.open(region="eu-west-1").ca_bundle() is True
    one, other = aws_files / "one.pem", aws_files / "other.pem"
    one.touch()
    (aws_files / "config").write_text(f"[default]\nca_bundle = {one}\n")
    assert Session.open(region="eu-west-1").ca_bundle() == str(one)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
    with pytest.raises(LocalSetup, match=r"is not there .*other\.pem"):
        Session.open(region="eu-west-1").ca_bundle()
    other.touch()
    assert Session.open(region="eu-west-1").ca_bundle() == str(other)


@pytest.mark.parametrize(
    ("form", "cell"), [(UpgradeForm.GO, "AA%20b%2Fc%3D"), (UpgradeForm.PLUS, "AA%2Bb%2Fc%3D")]
)
@pytest.mark.parametrize("sent", ["AA+b/c=", "AA+b%2Fc%3D"], ids=["as it comes", "half encoded"])
def test_an_upgrade_is_signed_for_the_message_gateway(
    monkeypatch: pytest.MonkeyPatch, form: UpgradeForm, cell: str, sent: str
) -> None:
    """The query is decoded and encoded again, as the signer of the official client does it."""
    set_environment(monkeypatch, **KEYS, AWS_SESSION_TOKEN="t")
    url = (
        "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me@x-1?role=publish_subscribe&cell-number="
    )
    headers = Session.open(region="eu-west-1").upgrade_headers(url + sent, form)
    request = AWSRequest(method="GET", url=(url + cell).replace("wss:", "https:"))
    signer = SigV4Auth(BotocoreCredentials("AKIDENV", "secret", "t"), "ssmmessages", "eu-west-1")
    request.context["timestamp"] = headers["X-Amz-Date"]
    request.headers["X-Amz-Date"] = headers["X-Amz-Date"]
    request.headers["X-Amz-Security-Token"] = "t"
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)

    assert headers["Authorization"].endswith(f"Signature={signature}")
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in headers["Authorization"]


def test_an_upgrade_may_be_left_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS)
    assert Session.open(region="eu-west-1").upgrade_headers("wss://h/p?a=b", UpgradeForm.UNSIGNED) == {}


GATEWAY = "ssmmessages.eu-west-1.amazonaws.com"
CHANNEL = "/v1/data-channel/s-1?role=publish_subscribe&cell-number=A+/="


@pytest.mark.parametrize(
    ("endpoint", "begin"),
    [
        ("https://vpce-1.ssmmessages.example.com", "wss://vpce-1.ssmmessages.example.com"),
        ("https://gateway.corp:443/", "wss://gateway.corp"),
        ("https://gateway.corp:8443/aws/", "wss://gateway.corp:8443/aws"),
        ("http://[::1]:4566", "ws://[::1]:4566"),
    ],
)
def test_the_channel_is_opened_at_the_endpoint_for_it(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, begin: str
) -> None:
    set_environment(monkeypatch, **KEYS, AWS_ENDPOINT_URL_SSMMESSAGES=endpoint)
    url = f"wss://{GATEWAY}{CHANNEL}"
    assert Session.open(region="eu-west-1").stream_url(url) == begin + CHANNEL

    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Session.open(region="eu-west-1").stream_url(url) == url


def test_the_general_endpoint_says_itself_where_its_channels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS, AWS_ENDPOINT_URL="http://localhost:1")
    url = f"wss://{GATEWAY}{CHANNEL}"
    assert Session.open(region="eu-west-1").stream_url(url) == url


@pytest.mark.parametrize("endpoint", ["localhost:1", "ftp://h", "https://", "https://h:x", "https://[::1"])
def test_an_endpoint_for_channels_that_is_none_is_told(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    set_environment(monkeypatch, **KEYS, AWS_ENDPOINT_URL_SSMMESSAGES=endpoint)
    with pytest.raises(LocalSetup, match=r"AWS_ENDPOINT_URL_SSMMESSAGES is no http or https URL"):
        Session.open(region="eu-west-1").stream_url(f"wss://{GATEWAY}{CHANNEL}")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, ""),
        ({"AWS_SESSION_TOKEN": "t"}, "a link that is lost after they have expired cannot be resumed"),
        (
            {"AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": "2026-12-01T10:00:00Z"},
            "a link that is lost after 2026-12-01T10:00:00Z cannot be resumed",
        ),
        (
            {"AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": "\x1b[31m soon"},
            "a link that is lost after they have expired cannot be resumed",
        ),
    ],
)
def test_keys_that_cannot_be_renewed_are_told(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], line: str
) -> None:
    set_environment(monkeypatch, **KEYS, **more)
    told = Session.open(region="eu-west-1").cannot_outlive

    assert line in told
    assert bool(told) == bool(line)


@pytest.mark.parametrize(
    ("host", "theirs"),
    [
        (GATEWAY, True),
        ("ssmmessages.cn-north-1.amazonaws.com.cn", True),
        ("vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com", True),
        ("ssm.eu-west-1.api.aws", True),
        ("localhost", False),
        ("notamazonaws.com", False),
        ("amazonaws.com.evil.example", False),
    ],
)
def test_names_of_awss_endpoints_are_known(host: str, theirs: bool) -> None:
    assert is_awss(host) is theirs


def test_a_presigned_upgrade_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **KEYS)
    assert Session.open(region="eu-west-1").upgrade_headers("wss://h/p?X-Amz-Signature=ab") == {}


def test_a_boto3_session_is_a_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    given = boto3.Session(aws_access_key_id="AKIDBOTO", aws_secret_access_key="s", region_name="eu-west-3")
    session = Session.from_boto3(given)

    assert (session.region, session.credentials().access_key) == ("eu-west-3", "AKIDBOTO")
    with pytest.raises(RegionMissing, match="boto3 session has no region"):
        Session.from_boto3(boto3.Session())


def test_credentials_are_read_anew_when_they_were_written_anew(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profiles(aws_files)
    set_environment(monkeypatch, AWS_PROFILE="work")
    session = Session.open()
    assert session.credentials().access_key == "AKIDWORK"
    assert not session.renew()

    path = aws_files / "credentials"
    path.write_text(path.read_text().replace("AKIDWORK", "AKIDNEW"))
    assert session.credentials().access_key == "AKIDWORK"
    assert session.renew()
    assert session.credentials().access_key == "AKIDNEW"

    path.write_text("")
    with pytest.raises(CredentialsMissing):
        session.renew()


def test_keys_of_the_environment_and_of_others_are_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = boto3.Session(aws_access_key_id="AKIDBOTO", aws_secret_access_key="s", region_name="eu-west-3")
    set_environment(monkeypatch, **KEYS)
    for session in (Session.from_boto3(given), Session.open(region="eu-west-1")):
        assert not session.may_be_renewed
        assert not session.renew()


def test_credentials_that_were_of_no_use_before_are_read_anew(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws_files / "config").write_text(
        "[profile work]\nregion = eu-central-1\nsso_start_url = https://x.awsapps.com/start\n"
        "sso_region = eu-central-1\nsso_account_id = 111122223333\nsso_role_name = R\n"
    )
    session = Session.open("work")
    with pytest.raises(CredentialsExpired):
        session.credentials()
    with pytest.raises(CredentialsExpired):
        session.renew()

    write_profiles(aws_files)
    assert session.renew()
    assert session.credentials().access_key == "AKIDWORK"


def test_another_process_becomes_the_same_caller_by_its_environment(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws_files / "config").write_text("[profile another]\nregion=us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another's")
    own = Session.open(region="eu-west-1").environment()
    assert (own["AWS_REGION"], own["AWS_PROFILE"], own["AWS_SESSION_TOKEN"]) == (
        "eu-west-1",
        "another",
        "another's",
    )
    given = boto3.Session(
        aws_access_key_id="AKIAGIVEN", aws_secret_access_key="given", region_name="eu-west-2"
    )
    handed = Session.from_boto3(given).environment()
    assert (handed["AWS_REGION"], handed["AWS_ACCESS_KEY_ID"], handed["AWS_SECRET_ACCESS_KEY"]) == (
        "eu-west-2",
        "AKIAGIVEN",
        "given",
    )
    assert {"AWS_PROFILE", "AWS_SESSION_TOKEN"}.isdisjoint(handed)


def test_a_profile_is_handed_on_by_its_name_so_that_its_keys_can_be_renewed(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws_files / "config").write_text(
        "[profile dev]\naws_access_key_id=AKIAFILE\naws_secret_access_key=file\n"
    )
    given = boto3.Session(profile_name="dev", region_name="eu-west-1")
    handed = Session.from_boto3(given).environment()
    assert handed["AWS_PROFILE"] == "dev"
    assert "AWS_ACCESS_KEY_ID" not in handed
