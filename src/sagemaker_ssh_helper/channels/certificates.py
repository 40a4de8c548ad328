"""
What a TLS connection trusts.

``agent/cacert.pem`` is what certifi had on the day in its first line;
``scripts/refresh_certificates.py`` writes it.
"""

import os
import re
import ssl
from typing import Optional

from sagemaker_ssh_helper.errors import LocalSetup, reason_of

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUNDLED_CA = os.path.join(_PACKAGE, "agent", "cacert.pem")
"""Certificates for a system that has none."""

_VARIABLES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
# What OpenSSL finds in a folder: links named by the hash of a subject.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def default_ssl_context() -> ssl.SSLContext:
    """
    Certificates from ``AWS_CA_BUNDLE``, else ``SSL_CERT_FILE``, else the system's, else the bundled ones.

    Raises:
        LocalSetup: a variable names a file that holds none.
    """
    name = chosen_by()
    if name is None:
        context = ssl.create_default_context()
        if not _has_certificates(context):
            context.load_verify_locations(cafile=BUNDLED_CA)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
    return context_of(os.environ[name], name)


def context_of(path: str, named_by: str) -> ssl.SSLContext:
    """
    Certificates from a file or a folder, which ``named_by`` names.

    Raises:
        LocalSetup: there are none.
    """
    try:
        if os.path.isdir(path):
            context = ssl.create_default_context(capath=path)
        else:
            context = ssl.create_default_context(cafile=path)
    except OSError as error:  # includes ssl.SSLError
        raise LocalSetup(
            f"{named_by} names no usable file of certificates",
            evidence=f"{path}: {reason_of(error)}",
            fix=f"Point {named_by} to a PEM file, or unset it",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def chosen_by() -> Optional[str]:
    """The variable that says what is trusted; None: the system's certificates count, or the bundled ones."""
    return next((name for name in _VARIABLES if os.environ.get(name)), None)


def system_has_certificates() -> bool:
    """Whether this system knows any authority; the bundled ones are for those that do not."""
    return _has_certificates(ssl.create_default_context())


def bundled_date() -> str:
    """The day of the bundled certificates, such as ``2026-10-19``."""
    with open(BUNDLED_CA, encoding="ascii") as file:
        found = re.match(r"# certifi (\d+)\.(\d+)\.(\d+)", file.readline())
    assert found, "scripts/refresh_certificates.py writes this line"
    year, month, day = (int(number) for number in found.groups())
    return f"{year:04}-{month:02}-{day:02}"


def _has_certificates(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"]:
        return True
    folder = ssl.get_default_verify_paths().capath  # read only when a certificate is checked
    try:
        return folder is not None and any(_HASHED.fullmatch(name) for name in os.listdir(folder))
    except OSError:
        return False
