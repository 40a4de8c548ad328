"""
``python scripts/refresh_certificates.py``: take over the certificate authorities of the installed certifi.

For newer ones: ``python -m pip install --upgrade certifi`` first. What certifi says of each authority stays
behind: a quarter of its file.
"""

import re
from pathlib import Path

import certifi

BUNDLE = Path(__file__).parents[1] / "src" / "sagemaker_ssh_helper" / "agent" / "cacert.pem"

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----\n.+?\n-----END CERTIFICATE-----\n", re.DOTALL)
_HEADER = """\
# certifi {version}
# Mozilla's certificate authorities, as certifi has them, without its comments.
# Subject to the terms of the Mozilla Public License, v. 2.0: http://mozilla.org/MPL/2.0/
# Written by scripts/refresh_certificates.py.
"""


def bundle(text: str, version: str) -> str:
    """Our file: the certificates of certifi's ``text``, below where they are from and the licence."""
    return _HEADER.format(version=version) + "".join(_CERTIFICATE.findall(text))


if __name__ == "__main__":
    BUNDLE.write_text(bundle(certifi.contents(), certifi.__version__), encoding="ascii")
    print(f"{BUNDLE}: certifi {certifi.__version__}")
