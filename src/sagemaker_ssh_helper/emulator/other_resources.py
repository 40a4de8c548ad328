"""
The kinds of resources that the local cloud does not run: there are none of them.

An account without notebook instances lists none, and has none to describe; so does this cloud, and tools that
look at every kind work. Creating one is what is not implemented.
"""

from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation

_LISTS = {
    "ListNotebookInstances": "NotebookInstances",
    "ListApps": "Apps",
}

_DESCRIPTIONS = ("DescribeNotebookInstance", "DescribeApp")


def operations(cloud: Cloud) -> dict[str, Operation]:
    """The read operations of those kinds."""

    def listing(operation: str, member: str) -> Operation:
        async def none(call: Call) -> Mapping[str, Any]:
            cloud.iam.authorize(call.principal, f"sagemaker:{operation}", "*", {})
            return {member: []}

        return none

    def description(operation: str) -> Operation:
        async def not_found(call: Call) -> Mapping[str, Any]:
            cloud.iam.authorize(call.principal, f"sagemaker:{operation}", "*", {})
            raise ApiError("ValidationException", "Requested resource not found.")

        return not_found

    return {
        **{operation: listing(operation, member) for operation, member in _LISTS.items()},
        **{operation: description(operation) for operation in _DESCRIPTIONS},
    }
