"""
Systems Manager operations: documents.
"""

from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator.documents import Document
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.ssm_state import State, moment


class DocumentOperations:
    """The operations, for one local cloud. Only session documents can be made and changed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.operations: Mapping[str, Operation] = {
            "CreateDocument": self.create_document,
            "UpdateDocument": self.update_document,
            "DeleteDocument": self.delete_document,
            "GetDocument": self.get_document,
            "DescribeDocument": self.describe_document,
        }

    async def create_document(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        authorize_document(self._state, call, params["Name"])
        if params.get("DocumentType", "Session") != "Session":
            raise ApiError("InvalidDocumentContent", "The local cloud makes session documents only.")
        _check_format(params)
        document = self._state.documents.create(params["Name"], params["Content"])
        return {"DocumentDescription": self._describe(document)}

    async def update_document(self, call: Call) -> Mapping[str, Any]:
        params = call.params
        authorize_document(self._state, call, params["Name"])
        _check_format(params)
        document = self._state.documents.update(
            params["Name"], params["Content"], params.get("DocumentVersion")
        )
        return {"DocumentDescription": self._describe(document)}

    async def delete_document(self, call: Call) -> Mapping[str, Any]:
        authorize_document(self._state, call, call.params["Name"])
        self._state.documents.delete(call.params["Name"])
        return {}

    async def get_document(self, call: Call) -> Mapping[str, Any]:
        document = self._find(call)
        return {
            "Name": document.name,
            "CreatedDate": moment(document.created_at),
            "DocumentVersion": str(document.version),
            "Status": "Active",
            "Content": document.text,
            "DocumentType": document.kind,
            "DocumentFormat": "JSON",
        }

    async def describe_document(self, call: Call) -> Mapping[str, Any]:
        return {"Document": self._describe(self._find(call))}

    def _find(self, call: Call) -> Document:
        authorize_document(self._state, call, call.params["Name"])
        return self._state.documents.find(call.params["Name"])

    def _describe(self, document: Document) -> Mapping[str, Any]:
        version = str(document.version)
        return {
            "Name": document.name,
            "Hash": document.digest,
            "HashType": "Sha256",
            "Owner": document.owner if document.owner == "Amazon" else self._state.cloud.account_id,
            "CreatedDate": moment(document.created_at),
            "Status": "Active",
            "DocumentVersion": version,
            "LatestVersion": version,
            "DefaultVersion": version,
            "Description": document.content.get("description", ""),
            "Parameters": [
                {
                    "Name": name,
                    "Type": definition["type"],
                    "Description": definition.get("description", ""),
                    **({"DefaultValue": definition["default"]} if "default" in definition else {}),
                }
                for name, definition in document.parameters.items()
            ],
            "PlatformTypes": list(document.platforms),
            "DocumentType": document.kind,
            "SchemaVersion": document.content["schemaVersion"],
            "DocumentFormat": "JSON",
            "Tags": [],
        }


def authorize_document(state: State, call: Call, name: str) -> None:
    """Asks by the document's own ARN where there is one, so that refusals do not tell what exists."""
    cloud = state.cloud
    try:
        arn = state.documents.find(name).arn(cloud.region, cloud.account_id)
    except ApiError:
        arn = name if name.startswith("arn:") else state.arn(f"document/{name}")
    cloud.iam.authorize(call.principal, f"ssm:{call.operation}", arn, {})


def _check_format(params: Mapping[str, Any]) -> None:
    if params.get("DocumentFormat", "JSON") != "JSON":
        raise ApiError("InvalidDocumentContent", "The local cloud reads documents in JSON only.")
