"""
What is wrong with the credentials, the files and the variables of AWS on this machine: one error each.

botocore raises its own errors for what its authors expected, and those of Python for the rest. Their text may
hold what a file or a program said, keys among it: only that of botocore's own is shown.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sagemaker_ssh_helper.aws_errors import Kind, kind_of
from sagemaker_ssh_helper.errors import (
    ClockSkewed,
    CredentialsExpired,
    CredentialsMissing,
    LocalSetup,
    SSHHelperError,
    reason_of,
    shown_url,
)
from sagemaker_ssh_helper.proxy_variables import find_proxy

_FILES = {
    "AWS_CONFIG_FILE": os.path.join("~", ".aws", "config"),
    "AWS_SHARED_CREDENTIALS_FILE": os.path.join("~", ".aws", "credentials"),
}

_NUMBERS = ("AWS_METADATA_SERVICE_TIMEOUT", "AWS_METADATA_SERVICE_NUM_ATTEMPTS", "AWS_MAX_ATTEMPTS")

_URL = re.compile(r"[!-~]+")

_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

# What comes of a helper that cannot be run, or prints something else than it should. botocore's parsers have
# an error of their own for answers of STS.
_OF_HELPERS = (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)

_SHOWN = 300
"""Characters of a foreign text."""


def credential_error(error: Exception, profile: str | None, session: Any) -> SSHHelperError:
    """Ours for what comes while botocore's ``session`` gets credentials."""
    from botocore import exceptions

    of_profile = f" of profile {profile}" if profile else ""
    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    kind = type(error).__name__
    if isinstance(error, exceptions.ConfigParseError):
        return file_error(error)
    if isinstance(error, (exceptions.HTTPClientError, *_OF_HELPERS)):
        unusable = _unusable_proxy()
        if unusable is not None:
            return unusable
    said = _words(error).rstrip(".")
    if kind in ("UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError") or kind.startswith(
        "SSO"
    ):
        return CredentialsExpired(
            f"the SSO sign-in{of_profile} has expired", evidence=said, fix=f"Run: {login}"
        )
    if kind.startswith("Login"):
        return CredentialsExpired(
            f"the sign-in{of_profile} has expired",
            evidence=said,
            fix=f"Run: {login.replace('sso login', 'login')}",
        )
    code = (
        error.response.get("Error", {}).get("Code", "") if isinstance(error, exceptions.ClientError) else ""
    )
    if kind_of(code) is Kind.EXPIRED or code == "UnauthorizedException":
        return CredentialsExpired(
            f"the credentials{of_profile} have expired", evidence=said, fix=f"Run: {login}"
        )
    if kind_of(code, said) is Kind.SKEWED:
        fix = "Set the clock, then try again"
        return ClockSkewed("this machine's clock is wrong", evidence=said, fix=fix)
    what = f"the AWS credentials{of_profile} cannot be loaded"
    if isinstance(error, (exceptions.BotoCoreError, exceptions.ClientError)):
        return CredentialsMissing(
            what, evidence=said, fix="See what AWS's own tools say: aws sts get-caller-identity"
        )
    program = _helper(session) if isinstance(error, _OF_HELPERS) else ""
    if program:
        return CredentialsMissing(
            what,
            evidence=f"the program that credential_process names, {program}, {_failure_of_helper(error)}",
            fix="Run it by hand: it has to print AWS's JSON with Version, AccessKeyId and SecretAccessKey",
        )
    return CredentialsMissing(
        what,
        evidence=_odd_number(session) or _without_content(error),
        fix="See what AWS's own tools say: aws sts get-caller-identity",
    )


def _unusable_proxy() -> LocalSetup | None:
    """What is wrong with the variable that names botocore's proxy; None when nothing is."""
    for tls in (True, False):
        try:
            find_proxy(tls, "amazonaws.com", 443, os.environ)
        except LocalSetup as error:
            return error
    return None


def _words(error: Exception) -> str:
    """What may be shown of it: not what other libraries said, which some of botocore's errors quote."""
    from botocore import exceptions

    if isinstance(error, exceptions.HTTPClientError):
        return network_reason(error)
    return str(error)[:_SHOWN]


def file_error(error: Exception) -> CredentialsMissing:
    """Ours for botocore's ConfigParseError: which file, which line, and what to do there."""
    path = str(getattr(error, "kwargs", {}).get("path", "")) or _broken_file()
    line, problem, fix = _fault(path)
    where = f"line {line}: " if line else ""
    return CredentialsMissing(f"AWS's file {path} cannot be read", evidence=f"{where}{problem}", fix=fix)


def settings_error(error: Exception) -> SSHHelperError:
    """Ours for what comes while botocore reads its files and variables."""
    from botocore import exceptions

    if isinstance(error, exceptions.ConfigParseError):
        return file_error(error)
    unusable = _unusable_proxy()
    if unusable is not None:
        return unusable
    evidence = _words(error) if isinstance(error, exceptions.BotoCoreError) else None
    return LocalSetup(
        "AWS's settings cannot be used",
        evidence=_odd_number() or evidence or _without_content(error),
        fix="Look through ~/.aws/config and the variables that begin with AWS_",
    )


def check_endpoint(url: str, origin: str) -> str:
    """The URL. Raises LocalSetup when it is not a valid one."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and not parts.query and not parts.fragment
    except ValueError:
        valid = False
    if not valid or not _URL.fullmatch(url):
        raise LocalSetup(
            f"{origin} is not a valid URL",
            evidence=repr(shown_url(url)),
            fix="Write it like http://localhost:4566",
        )
    return url


def check_ca_bundle(path: str) -> str:
    """The path. Raises LocalSetup when there is nothing."""
    if not os.path.exists(os.path.expanduser(path)):
        raise LocalSetup(
            "the file of trusted certificates (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, ca_bundle) is not there",
            evidence=path[:200],
            fix="Unset it, or name the file that your network's administrators gave you",
        )
    return path


def unreadable_files(environ: Mapping[str, str]) -> str:
    """The variables that name a file of AWS's which cannot be read, for people; empty when there is none."""
    unreadable = [
        f"{name}={path}"
        for name in _FILES
        if (path := environ.get(name)) and not _is_readable(os.path.expanduser(path))
    ]
    return f"no file that can be read: {', '.join(unreadable)}" if unreadable else ""


def _is_readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _broken_file() -> str:
    for name, usual in _FILES.items():
        path = os.path.expanduser(os.environ.get(name) or usual)
        if os.path.isfile(path) and _fault(path)[0]:
            return path
    return os.path.expanduser(os.environ.get("AWS_CONFIG_FILE") or _FILES["AWS_CONFIG_FILE"])


def _fault(path: str) -> tuple[int, str, str]:
    """The line where the file cannot be understood (0 when there is none), the problem, and the way out."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return 0, error.strerror or type(error).__name__, "See who may read it: ls -l"
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return 1, f"a byte order mark ({encoding})", "Save the file as UTF-8 without one"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return line, "a character that is not UTF-8", "Save the file as UTF-8"
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.DuplicateSectionError as error:
        return error.lineno or 0, f"the section [{error.section}] is there twice", "Make one of the two"
    except configparser.DuplicateOptionError as error:
        problem = f"{error.option} is there twice in [{error.section}]"
        return error.lineno or 0, problem, "Take one of them out"
    except configparser.MissingSectionHeaderError as error:
        return error.lineno, "no section begins before it", "Put [default] or [profile NAME] above it"
    except configparser.ParsingError as error:
        line = error.errors[0][0] if error.errors else 0
        return line, "neither NAME = VALUE nor [a section]", "Mend that line, or put a # before it"
    except configparser.Error as error:
        return 0, type(error).__name__, "Compare it with: aws configure list"
    nested = _broken_nesting(parser)
    if nested:
        line = next((n for n, row in enumerate(text.splitlines(), 1) if row.strip() == nested), 0)
        return line, "an indented line without NAME = VALUE", "Mend that line, or take it out"
    return 0, "AWS's tools cannot read it either", "Compare it with: aws configure list"


def _broken_nesting(parser: configparser.RawConfigParser) -> str:
    """A value that begins with a line end is settings of its own to botocore."""
    for section in parser.sections():
        for value in parser[section].values():
            if value.startswith("\n"):
                for row in value.splitlines():
                    if row.strip() and "=" not in row:
                        return row.strip()
    return ""


def _helper(session: Any) -> str:
    """The program of the credential_process of this profile, or of one that its role comes from."""
    from botocore import exceptions

    try:
        profiles = session.full_config["profiles"]
        profile = session.get_config_variable("profile") or "default"
    except exceptions.BotoCoreError:
        return ""
    seen: set[str] = set()
    while profile in profiles and profile not in seen:
        seen.add(profile)
        command = profiles[profile].get("credential_process")
        if command:
            try:
                # What follows it may be a password.
                return shlex.split(command)[0]
            except ValueError:
                return str(command.split()[0])
        profile = profiles[profile].get("source_profile", "")
    return ""


def _failure_of_helper(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be run: {error.strerror or type(error).__name__}"
    if str(error) in ("No closing quotation", "No escaped character"):
        return "stands in a line whose quotes do not match"
    return "printed something else than keys in JSON"


def _odd_number(session: Any = None) -> str:
    """The variable, or the setting of a profile, that should be a number; empty when there is none."""
    settings = {name: os.environ.get(name) for name in _NUMBERS}
    if session is not None:
        of_profile = session.get_scoped_config()
        settings.update((name, of_profile.get(name)) for name in map(_as_setting, _NUMBERS))
    odd = [
        f"{name}={value[:40]!r}"
        for name, value in settings.items()
        if isinstance(value, str) and value and not re.fullmatch(r"\d{1,9}(\.\d+)?", value)
    ]
    return f"{odd[0]} is not a number" if odd else ""


def _as_setting(name: str) -> str:
    return name.removeprefix("AWS_").lower()


def _without_content(error: Exception) -> str:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or type(error).__name__}"
    return f"botocore ended with {type(error).__name__}"


def network_reason(error: Exception) -> str:
    """What failed, below the layers of wrapping around it, in the system's words or TLS's; else its type."""
    inner: BaseException = error
    while True:
        deeper = [getattr(inner, "reason", None), inner.__cause__, getattr(inner, "kwargs", {}).get("error")]
        causes = [cause for cause in (*deeper, *inner.args) if isinstance(cause, BaseException)]
        if not causes or causes[0] is inner:
            break
        inner = causes[0]
    refused = re.search(r"Tunnel connection failed: (\d{3})\b", str(inner))
    if refused:
        return f"the proxy answered {refused[1]}"
    said = reason_of(inner)
    # The outermost says more than "gaierror", or nothing.
    return said if said != type(inner).__name__ else type(error).__name__
