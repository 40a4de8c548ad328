"""
What a TLS connection trusts.
"""

import os
import ssl

from sagemaker_ssh_helper.errors import LocalSetup

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BUNDLED_CA = os.path.join(_PACKAGE, "agent", "cacert.pem")


def default_ssl_context() -> ssl.SSLContext:
    """
    Certificates from ``AWS_CA_BUNDLE``, else ``SSL_CERT_FILE``, else the system's, else the bundled ones.

    Raises:
        LocalSetup: a variable names a file that holds none.
    """
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if not path:
            continue
        try:
            if os.path.isdir(path):
                context = ssl.create_default_context(capath=path)
            else:
                context = ssl.create_default_context(cafile=path)
        except OSError as error:  # includes ssl.SSLError
            raise LocalSetup(
                f"{name} names no usable file of certificates",
                evidence=f"{path}: {error}",
                fix=f"Point {name} to a PEM file, or unset it",
            ) from error
        break
    else:
        context = ssl.create_default_context()
        if not _has_certificates(context) and os.path.exists(_BUNDLED_CA):
            context.load_verify_locations(cafile=_BUNDLED_CA)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _has_certificates(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"]:
        return True
    folder = ssl.get_default_verify_paths().capath  # read only when a certificate is checked
    try:
        return folder is not None and bool(os.listdir(folder))
    except OSError:
        return False
