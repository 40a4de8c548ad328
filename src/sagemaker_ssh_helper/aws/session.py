"""
Who calls AWS, where: profile, region, credentials, endpoints and signatures, without building a boto client.

With keys in the environment nothing of botocore but its signer is loaded; every other source of credentials
(profiles, SSO, assumed roles, processes, containers, instance metadata) is botocore's own chain.
"""

from __future__ import annotations

import datetime
import enum
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from sagemaker_ssh_helper.aws import diagnosis, right_time
from sagemaker_ssh_helper.aws_errors import Clock, check_key, hide_sent
from sagemaker_ssh_helper.errors import (
    CredentialsMissing,
    LocalSetup,
    RegionMissing,
    SSHHelperError,
    shown_url,
)
from sagemaker_ssh_helper.proxy_variables import find_proxy, names_proxy

_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")
# Settings that only botocore's own resolution gets right; met in a config file, they take us there.
_CONFIGURED = re.compile(
    r"^\s*(endpoint_url|ca_bundle|use_fips_endpoint|use_dualstack_endpoint|services)\s*=", re.M
)


@dataclass(frozen=True)
class Service:
    """How one AWS JSON service is addressed."""

    name: str
    """botocore's name, also the signing name."""
    target_prefix: str
    """The part of ``X-Amz-Target`` before the operation."""
    host: str
    """The host without region and partition."""
    environment: str
    """The service's part of ``AWS_ENDPOINT_URL_<SERVICE>``."""
    json_version: str = "1.1"


SERVICES = {
    service.name: service
    for service in (
        Service("ssm", "AmazonSSM", "ssm", "SSM"),
        Service("sagemaker", "SageMaker", "api.sagemaker", "SAGEMAKER"),
        Service("kms", "TrentService", "kms", "KMS"),
        Service("logs", "Logs_20140328", "logs", "CLOUDWATCH_LOGS"),
        # Not a JSON service: called by its query protocol, for GetCallerIdentity alone.
        Service("sts", "", "sts", "STS"),
    )
}

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

MESSAGES_SIGNING_NAME = "ssmmessages"
"""The signing name of the message gateway, where data channels are opened."""


class UpgradeForm(enum.Enum):
    """
    How a WebSocket's upgrade is signed, in the order in which they are tried.

    The URL of a real session ends in ``&cell-number=`` and base64 as it is, with ``+``, ``/`` and ``=``. The
    official client's signer decodes the query and encodes it again, which botocore's does not: it signs what
    stands there. The service has to do as the official client does; whether it, too, reads ``+`` as a blank
    is not known.
    """

    GO = "as Go encodes it"
    """``/`` is %2F, ``=`` is %3D, and ``+``, which means a blank in a form, is %20."""
    PLUS = "with + as %2B"
    UNSIGNED = "unsigned"
    """As clients before 1.2.764.0 did it: the token alone is the proof."""

    def canonical(self, query: str) -> str:
        """The query that is signed."""
        decode = unquote_plus if self is UpgradeForm.GO else unquote
        pairs = (pair.partition("=") for pair in query.split("&") if pair)
        return "&".join(
            f"{quote(decode(name), safe='-_.~')}={quote(decode(value), safe='-_.~')}"
            for name, _, value in pairs
        )

    def next(self) -> UpgradeForm | None:
        """What to try when this one is refused."""
        forms = list(UpgradeForm)
        return forms[forms.index(self) + 1] if self is not forms[-1] else None


@dataclass(frozen=True, repr=False)
class Credentials:
    """Keys to sign with. They are never printed."""

    access_key: str
    secret_key: str
    token: str | None = None


class Session:
    """
    One caller of AWS in one region.

    ``profile`` is the named one, or None; ``region_origin`` says where the region came from, for people;
    ``warnings`` are lines to show once; ``clock`` is AWS's, as far as an answer told it.
    """

    def __init__(
        self,
        *,
        region: str,
        region_origin: str = "given",
        profile: str | None = None,
        environ: Mapping[str, str] = os.environ,
        static: Credentials | None = None,
        botocore_session: Any = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.region = region
        self.region_origin = region_origin
        self.profile = profile
        self.warnings = warnings
        self._environ = environ
        self._static = static
        self._botocore = botocore_session
        self.clock = Clock()
        self._is_given = False
        self._may_ask = True
        self._source: Any = None
        self._used: Credentials | None = None
        self._endpoints: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        profile: str | None = None,
        region: str | None = None,
        environ: Mapping[str, str] = os.environ,
        *,
        defaults: Mapping[str, str] = MappingProxyType({}),
        defaults_origin: str = "",
    ) -> Session:
        """
        The caller that flags, environment, defaults and AWS's own files describe, in that order.

        ``defaults`` may name a ``profile`` and a ``region``, ``defaults_origin`` where they are from. A
        profile that a flag or the environment names brings its own region with it, before the default one.
        Credentials are looked for when they are first needed. Raises RegionMissing; CredentialsMissing when
        the named profile does not exist.
        """
        found, origin, warnings = _region_of_environment(environ)
        if region:
            found, origin, warnings = region, "--region", ()
        profile_name = profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or None
        static = None if profile else _keys_of_environment(environ)
        is_chosen = profile_name is not None
        if profile_name is None and static is None and defaults.get("profile"):
            # botocore knows flags and environment by itself.
            profile = profile_name = defaults["profile"]
        if found is None and not is_chosen and defaults.get("region"):
            found, origin, warnings = defaults["region"], defaults_origin, ()
        botocore_session = None
        if static is None or found is None or _needs_botocore(environ):
            botocore_session = _botocore_session(profile_name if profile else None)
            configured = _configured_region(botocore_session)
            if found is None and configured:
                found = configured
                origin = f"profile {profile_name or 'default'}"
            elif found is None and defaults.get("region"):
                found, origin, warnings = defaults["region"], defaults_origin, ()
            elif found is None:
                found, origin, warnings = _region_of_metadata(botocore_session)
        if not found:
            raise RegionMissing(
                "no AWS region is set",
                evidence="neither --region, AWS_REGION, AWS_DEFAULT_REGION nor the profile names one",
                fix="Add --region, or: export AWS_REGION=us-east-1 (yours)",
            )
        if not _REGION.fullmatch(found):
            raise RegionMissing(
                f"{found[:60]!r} is not a valid AWS region",
                evidence=f"from {origin}",
                fix="Use one like eu-west-1",
            )
        return cls(
            region=found,
            region_origin=origin,
            profile=profile_name,
            environ=environ,
            static=static,
            botocore_session=botocore_session,
            warnings=warnings,
        )

    @classmethod
    def from_boto3(cls, boto3_session: Any, region: str | None = None) -> Session:
        """The caller that a boto3 session stands for. Raises RegionMissing when it has no region."""
        found = region or boto3_session.region_name
        if not found:
            raise RegionMissing(
                "the boto3 session has no region", fix="Give it one: boto3.Session(region_name=…)"
            )
        # boto3 keeps its botocore session under this name since its first release; there is no public one.
        session = cls(region=found, region_origin="boto3 session", botocore_session=boto3_session._session)
        session._is_given = True
        return session

    def environment(self) -> dict[str, str]:
        """
        The environment in which another process of ours is this caller, in this region.

        With the profile that a boto3 session has, else with its keys of now. Raises as ``credentials`` does.
        """
        variables = {**self._environ, "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        if not self._is_given:
            return variables
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", *_KEYS):
            variables.pop(name, None)
        profile = self.botocore.get_config_variable("profile")
        if profile and getattr(self.botocore.get_credentials(), "method", "explicit") != "explicit":
            return {**variables, "AWS_PROFILE": profile}
        keys = self.credentials()
        values = (keys.access_key, keys.secret_key, keys.token)
        return {**variables, **{name: value for name, value in zip(_KEYS, values, strict=True) if value}}

    def in_region(self, region: str) -> Session:
        """The same caller in another region."""
        other = Session(
            region=region,
            region_origin=self.region_origin,
            profile=self.profile,
            environ=self._environ,
            static=self._static,
            botocore_session=self._botocore,
        )
        other.clock = self.clock
        other._is_given = self._is_given
        return other

    def other_regions(self) -> list[str]:
        """The regions beside this one that the environment or a profile names."""
        from botocore.exceptions import BotoCoreError

        named = [self._environ.get("AWS_REGION"), self._environ.get("AWS_DEFAULT_REGION")]
        try:
            named += [profile.get("region") for profile in self.botocore.full_config["profiles"].values()]
        except BotoCoreError:
            pass
        regions = dict.fromkeys(region for region in named if region and _REGION.fullmatch(region))
        return [region for region in regions if region != self.region]

    @property
    def botocore(self) -> Any:
        """botocore's session for the same caller, loaded now if it was not."""
        if self._botocore is None:
            self._botocore = _botocore_session(None)
        return self._botocore

    def client(self, service_name: str) -> Any:
        """
        A client of botocore's with our keys, certificates, proxy and clock.

        Raises as ``credentials`` does; LocalSetup for a proxy that cannot be used.
        """
        from botocore.config import Config

        keys = self.credentials()
        settings = {
            "region_name": self.region,
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "aws_session_token": keys.token,
            "verify": self.ca_bundle(),
        }
        url = self.botocore.create_client(service_name, **settings).meta.endpoint_url
        client = self.botocore.create_client(
            service_name, **settings, config=Config(proxies=proxies_for(url))
        )
        right_time.follow(client.meta.events, self.clock)
        return client

    def without_token(self, text: str) -> str:
        """What AWS says, without our session token: some answers quote the request."""
        token = self._used.token if self._used is not None else None
        headers = {"X-Amz-Security-Token": token} if token else {}
        return hide_sent(text.encode("utf-8", "replace"), headers).decode("utf-8")

    def credentials(self) -> Credentials:
        """
        The keys to sign with now, refreshed by their source when they are about to expire.

        May take a network call (SSO, assumed roles, metadata). Raises CredentialsMissing,
        CredentialsExpired.
        """
        if self._static is not None:
            self._used = self._static
            return self._static
        try:
            if self._source is None:
                if not self._is_given:
                    from sagemaker_ssh_helper.aws import mfa

                    # botocore knows --region and AWS_REGION not, and calls STS for roles somewhere.
                    self.botocore.set_config_variable("region", self.region)
                    mfa.prepare(self.botocore, mfa.Prompt(self.profile, lambda: self._may_ask))
                    right_time.follow(self.botocore.get_component("event_emitter"), self.clock)
                self._source = self.botocore.get_credentials()
                if hasattr(self._source, "_time_fetcher"):
                    # Whether they have expired is a matter of AWS's clock.
                    self._source._time_fetcher = self._now
            if self._source is None:
                looked = f"profile {self.profile}" if self.profile else "no keys in the environment"
                raise CredentialsMissing(
                    "no AWS credentials were found",
                    evidence=diagnosis.unreadable_files(self._environ) or looked,
                    fix="Sign in (aws sso login, aws configure), or name a profile: --profile, AWS_PROFILE",
                )
            try:
                frozen = self._source.get_frozen_credentials()
            except RuntimeError:
                # botocore's word for new keys that have expired by our clock. AWS may think otherwise.
                frozen = self._source._frozen_credentials
        except SSHHelperError:
            raise
        except Exception as error:  # of botocore, or of whatever it met: nothing of ours is called
            raise diagnosis.credential_error(error, self.profile, self.botocore) from error
        found = Credentials(frozen.access_key, frozen.secret_key, frozen.token or None)
        _check(found, ("the access key id", "the secret access key", "the session token"))
        self._used = found
        return found

    def ask_no_more(self) -> None:
        """From now on the terminal belongs to a session: keys that take a code cannot be had."""
        self._may_ask = False

    @property
    def credentials_origin(self) -> str:
        """Where the last keys came from, for people: variables, or botocore's word for one of its sources."""
        if self._static is not None:
            return "AWS_ACCESS_KEY_ID"
        return str(getattr(self._source, "method", "") or "botocore")

    @property
    def may_be_renewed(self) -> bool:
        """Somebody may sign in again, or write new keys, while this process runs."""
        return self._static is None and not self._is_given

    @property
    def cannot_outlive(self) -> str:
        """A line for a user whose keys expire and cannot be renewed meanwhile; empty for others."""
        if self._static is None or self._static.token is None:
            return ""
        ends = self._environ.get("AWS_CREDENTIAL_EXPIRATION", "").strip()
        known = re.fullmatch(r"[0-9TZ:.+-]{10,40}", ends)
        return (
            "the AWS keys are temporary ones from environment variables, which nothing can renew: a link "
            f"that is lost {f'after {ends}' if known else 'after they have expired'} cannot be resumed. "
            "Those of a profile are renewed"
        )

    def renew(self) -> bool:
        """
        Read the credentials anew from where they came from: files and caches are otherwise read once.

        Returns whether they are others now. Raises as ``credentials`` does.
        """
        if not self.may_be_renewed:
            return False
        before = self._used
        self._botocore = _botocore_session(self.profile)
        self._source = None
        return self.credentials() != before

    def endpoint_url(self, service_name: str) -> str:
        """Where the service is called, without a slash at the end."""
        if service_name not in self._endpoints:
            self._endpoints[service_name] = self._resolve_endpoint(SERVICES[service_name]).rstrip("/")
        return self._endpoints[service_name]

    def _resolve_endpoint(self, service: Service) -> str:
        environ = self._environ
        if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            for name in (f"AWS_ENDPOINT_URL_{service.environment}", "AWS_ENDPOINT_URL"):
                if environ.get(name):
                    return diagnosis.check_endpoint(environ[name], name)
        if _unusual_endpoints(environ) or (self._botocore is not None and _needs_botocore(environ)):
            try:
                client = self.botocore.create_client(
                    service.name, region_name=self.region, aws_access_key_id="-", aws_secret_access_key="-"
                )
            except Exception as error:  # of botocore, or of whatever its settings lead to
                raise diagnosis.settings_error(error) from error
            return diagnosis.check_endpoint(
                str(client.meta.endpoint_url), "endpoint_url in AWS's config file"
            )
        return f"https://{service.host}.{self.region}.{partition_of(self.region).dns_suffix}"

    def stream_url(self, url: str) -> str:
        """
        Where to connect for a session whose answer says ``url``: the same at AWS_ENDPOINT_URL_SSMMESSAGES.

        The general AWS_ENDPOINT_URL does not count: whoever answers there says where its sessions are.
        Raises LocalSetup.
        """
        environ = self._environ
        chosen = environ.get("AWS_ENDPOINT_URL_SSMMESSAGES")
        if not chosen or environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            return url
        try:
            endpoint, asked = urlsplit(chosen), urlsplit(url)
            scheme = {"http": "ws", "https": "wss"}.get(endpoint.scheme)
            port = endpoint.port
        except ValueError:
            scheme, port = None, None
        if not scheme or not endpoint.hostname:
            raise LocalSetup(
                "AWS_ENDPOINT_URL_SSMMESSAGES is no http or https URL",
                evidence=repr(shown_url(chosen)),
                fix="Set it to https://HOST, or unset it",
            )
        host = f"[{endpoint.hostname}]" if ":" in endpoint.hostname else endpoint.hostname
        # What is signed has no port that goes without saying.
        usual = port is None or (scheme, port) in (("ws", 80), ("wss", 443))
        netloc = host if usual else f"{host}:{port}"
        return asked._replace(
            scheme=scheme, netloc=netloc, path=endpoint.path.rstrip("/") + asked.path
        ).geturl()

    def ca_bundle(self) -> str | bool:
        """The file of trusted certificates, or True for botocore's own."""
        bundle = self._environ.get("AWS_CA_BUNDLE") or self._environ.get("REQUESTS_CA_BUNDLE")
        if not bundle and self._botocore is not None:
            bundle = self._botocore.get_config_variable("ca_bundle")
        return diagnosis.check_ca_bundle(str(bundle)) if bundle else True

    def signed_headers(
        self, method: str, url: str, signing_name: str, headers: Mapping[str, str], body: bytes = b""
    ) -> dict[str, str]:
        """``headers`` with those of SigV4 added. Raises as ``credentials`` does."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        keys = self.credentials()
        added = {"X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock.now()))}
        if keys.token:
            added["X-Amz-Security-Token"] = keys.token
        # The signer only knows the default ports of these two schemes.
        url = re.sub(r"^ws(s?)://", r"http\1://", url)
        request = AWSRequest(method=method, url=url, headers={**headers, **added}, data=body)
        request.context["timestamp"] = added["X-Amz-Date"]
        # Its own way to sign asks our clock for the time, right or wrong.
        signer = SigV4Auth(cast(Any, keys), signing_name, self.region)
        signature = signer.signature(
            signer.string_to_sign(request, signer.canonical_request(request)), request
        )
        names = signer.signed_headers(signer.headers_to_sign(request))
        parts = (f"Credential={signer.scope(request)}", f"SignedHeaders={names}", f"Signature={signature}")
        added["Authorization"] = f"AWS4-HMAC-SHA256 {', '.join(parts)}"
        return {**headers, **added}

    def upgrade_headers(self, url: str, form: UpgradeForm = UpgradeForm.GO) -> dict[str, str]:
        """
        The headers that sign the WebSocket upgrade of a data channel; none when the URL is presigned.

        What is asked for is the URL as it stands, whatever the form.
        """
        parts = urlsplit(url)
        if form is UpgradeForm.UNSIGNED or "X-Amz-Signature=" in parts.query:
            return {}
        signed = parts._replace(query=form.canonical(parts.query)).geturl()
        return self.signed_headers("GET", signed, MESSAGES_SIGNING_NAME, {})

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock.now(), datetime.timezone.utc)


def proxies_for(url: str) -> dict[str, str]:
    """The proxy for a service at ``url``, by its scheme, as botocore takes it. Raises LocalSetup."""
    from botocore.utils import get_environ_proxies

    parts = urlsplit(url)
    tls = parts.scheme == "https"
    proxy = find_proxy(tls, parts.hostname or "", parts.port or (443 if tls else 80), os.environ)
    if proxy is not None:
        if not f"{proxy.username}{proxy.password}".isascii():
            raise LocalSetup(
                f"the name or password in {proxy.variable} is not in ASCII",
                fix="Use a proxy whose name and password are",
            )
        return {parts.scheme: proxy.url}
    # Windows and macOS have settings of their own, which count where no variable is set.
    return {} if names_proxy(os.environ) else get_environ_proxies(url)


@dataclass(frozen=True)
class Partition:
    """``aws``, ``aws-cn``, ``aws-us-gov``…"""

    name: str
    dns_suffix: str


def partition_of(region: str) -> Partition:
    """The partition of a region, by botocore's table; an unknown region is taken to be in ``aws``."""
    for partition in _partitions():
        if region in partition["regions"] or re.match(partition["regionRegex"], region):
            return Partition(partition["id"], partition["outputs"]["dnsSuffix"])
    return Partition("aws", "amazonaws.com")


def is_awss(host: str) -> bool:
    """Whether this is the name of an endpoint of AWS's, in any of its partitions."""
    suffixes = {
        partition["outputs"][name]
        for partition in _partitions()
        for name in ("dnsSuffix", "dualStackDnsSuffix")
    }
    return host.lower().rstrip(".").endswith(tuple(f".{suffix}" for suffix in suffixes))


def _partitions() -> list[dict[str, Any]]:
    """botocore's table."""
    import botocore

    path = Path(botocore.__file__).parent / "data" / "partitions.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["partitions"]
    return found


def _region_of_environment(environ: Mapping[str, str]) -> tuple[str | None, str, tuple[str, ...]]:
    """The region, the variable it came from, and a warning when two variables disagree."""
    first, second = environ.get("AWS_REGION"), environ.get("AWS_DEFAULT_REGION")
    if first and second and first != second:
        line = f"AWS_REGION={first} is used, not AWS_DEFAULT_REGION={second}: set both the same, or one"
        return first, "AWS_REGION", (line,)
    if first:
        return first, "AWS_REGION", ()
    return second or None, "AWS_DEFAULT_REGION", ()


def _region_of_metadata(botocore_session: Any) -> tuple[str | None, str, tuple[str, ...]]:
    """The region of the machine, where it is one of AWS's; a second or two where it is none."""
    from botocore.utils import IMDSRegionProvider

    try:
        region = IMDSRegionProvider(botocore_session).provide()
    except Exception as error:  # of botocore, or of whatever its settings lead to
        raise diagnosis.settings_error(error) from error
    if not region:
        return None, "", ()
    line = f"region {region} is that of this machine (instance metadata); another one: --region, AWS_REGION"
    return str(region), "instance metadata", (line,)


def _keys_of_environment(environ: Mapping[str, str]) -> Credentials | None:
    access_key, secret_key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN")
    found = Credentials(access_key, secret_key, token or None)
    _check(found, _KEYS)
    return found


def _check(credentials: Credentials, names: tuple[str, ...]) -> None:
    """Raises CredentialsInvalid for those that no request can carry; ``names`` are for people."""
    check_key(credentials.access_key, names[0])
    check_key(credentials.secret_key, names[1])
    if credentials.token is not None:
        check_key(credentials.token, names[2])


def _unusual_endpoints(environ: Mapping[str, str]) -> bool:
    return any(
        environ.get(name, "").lower() == "true"
        for name in ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
    )


def _needs_botocore(environ: Mapping[str, str]) -> bool:
    """Whether AWS's config file sets something that we leave to botocore."""
    path = environ.get("AWS_CONFIG_FILE") or os.path.join("~", ".aws", "config")
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return _CONFIGURED.search(text) is not None


def _botocore_session(profile: str | None) -> Any:
    """botocore's session, whose files can be read. Raises CredentialsMissing, LocalSetup."""
    from botocore import exceptions
    from botocore.configprovider import ConstantProvider
    from botocore.session import Session as BotocoreSession

    try:
        session = BotocoreSession(profile=profile)
        if profile is None:
            # botocore takes an empty variable for a profile's name, and AWS_DEFAULT_PROFILE before the other.
            named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or None
            session.get_component("config_store").set_config_provider("profile", ConstantProvider(named))
        session.get_scoped_config()
    except exceptions.ProfileNotFound as error:
        known = ", ".join(sorted(session.available_profiles)) or "none"
        raise CredentialsMissing(
            str(error).rstrip("."),
            evidence=f"profiles there are: {known}",
            fix="Name one of those, or run aws configure",
        ) from error
    except Exception as error:  # of botocore, or of whatever it met in a file
        raise diagnosis.settings_error(error) from error
    return session


def _configured_region(session: Any) -> str | None:
    try:
        region = session.get_config_variable("region")
    except Exception as error:  # as above
        raise diagnosis.settings_error(error) from error
    return str(region) if region else None
