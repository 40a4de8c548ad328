"""
The only place on the user's machine that talks to AWS: dicts in, our types out.

Importing it loads nothing of AWS's libraries.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.json_rpc import Client


class AWS:
    """
    One account and region, as code that uses the helper as a library names it.

    Args:
        region: its name; else the one that environment, profile or ``boto_session`` name.
        boto_session: a boto3 session to take credentials from.
    """

    def __init__(self, region: str | None = None, boto_session: Any = None) -> None:
        self._region = region
        self.boto_session = boto_session

    @cached_property
    def client(self) -> Client:
        """Calls AWS. Raises RegionMissing or CredentialsMissing at the first use."""
        from sagemaker_ssh_helper.aws.json_rpc import Client
        from sagemaker_ssh_helper.aws.session import Session

        if self.boto_session is not None:
            return Client(Session.from_boto3(self.boto_session, self._region))
        return Client(Session.open(region=self._region))

    @property
    def region_name(self) -> str:
        """The region that is called. Raises RegionMissing when none is known."""
        return self._region or self.client.session.region

    @property
    def partition(self) -> str:
        """``aws``, ``aws-cn``, ``aws-us-gov``…"""
        from sagemaker_ssh_helper.aws.session import partition_of

        return partition_of(self.region_name).name

    def get_console_domain(self) -> str:
        """The host of the region's console: ``console.aws.amazon.com`` and its like in other partitions."""
        from sagemaker_ssh_helper.aws import console

        return console.domain(self.region_name)

    def get_sts_endpoint(self) -> str:
        """The address of the region's own Security Token Service."""
        from sagemaker_ssh_helper.aws.session import partition_of

        return f"https://sts.{self.region_name}.{partition_of(self.region_name).dns_suffix}"

    @staticmethod
    def is_arn(arn: str) -> bool:
        """Whether a text has the form of an ARN, of whatever partition and service."""
        return re.fullmatch(r"arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:\d*:.+", arn) is not None
