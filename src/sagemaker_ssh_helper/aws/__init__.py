"""
The only place on the user's machine that talks to AWS: dicts in, our types out.

Importing it loads nothing of AWS's libraries.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagemaker_ssh_helper.aws.json_rpc import Client


class AWS:
    """
    One account and region, as code that uses the helper as a library names it.

    Args:
        region_name: the region; else the one that environment, profile or ``boto_session`` name.
        boto_session: a boto3 session to take credentials from.
    """

    def __init__(self, region_name: str | None = None, boto_session: Any = None) -> None:
        self._region_name = region_name
        self._boto_session = boto_session

    @cached_property
    def client(self) -> Client:
        """Calls AWS. Raises RegionMissing or CredentialsMissing at the first use."""
        from sagemaker_ssh_helper.aws.json_rpc import Client
        from sagemaker_ssh_helper.aws.session import Session

        if self._boto_session is not None:
            return Client(Session.from_boto3(self._boto_session, self._region_name))
        return Client(Session.open(region=self._region_name))

    @property
    def region_name(self) -> str:
        """The region that is called."""
        return self.client.session.region

    @property
    def partition(self) -> str:
        """``aws``, ``aws-cn``, ``aws-us-gov``…"""
        from sagemaker_ssh_helper.aws.session import partition_of

        return partition_of(self.region_name).name
