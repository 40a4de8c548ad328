"""
IAM's policy simulator, which moto does not have. The rest of IAM is moto's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sagemaker_ssh_helper.emulator import policies
from sagemaker_ssh_helper.emulator.policies import Context, Document
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Cloud, Operation


class IamService:
    """SimulatePrincipalPolicy and SimulateCustomPolicy."""

    name = "iam"
    anonymous: frozenset[str] = frozenset()

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.operations: Mapping[str, Operation] = {
            "SimulatePrincipalPolicy": self.simulate_principal_policy,
            "SimulateCustomPolicy": self.simulate_custom_policy,
        }

    async def simulate_principal_policy(self, call: Call) -> Mapping[str, Any]:
        source = call.params["PolicySourceArn"]
        self._cloud.iam.authorize(call.principal, "iam:SimulatePrincipalPolicy", source)
        extra = _documents(call.params.get("PolicyInputList", []))
        context = _context(call.params)

        def decide(action: str, resource: str) -> policies.Verdict:
            return self._cloud.iam.simulate(source, action, resource, context, extra)

        return _results(call.params, decide)

    async def simulate_custom_policy(self, call: Call) -> Mapping[str, Any]:
        self._cloud.iam.authorize(call.principal, "iam:SimulateCustomPolicy")
        documents = _documents(call.params["PolicyInputList"])
        context = _context(call.params)

        def decide(action: str, resource: str) -> policies.Verdict:
            return policies.evaluate(documents, action, resource, context)

        return _results(call.params, decide)


def _results(params: Mapping[str, Any], decide: Any) -> Mapping[str, Any]:
    # More than 1000 results never come from one request here, so there is only ever one page.
    return {
        "EvaluationResults": [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": decide(action, resource).value,
                "MatchedStatements": [],
                "MissingContextValues": [],
            }
            for action in params["ActionNames"]
            for resource in params.get("ResourceArns") or ["*"]
        ],
        "IsTruncated": False,
    }


def _context(params: Mapping[str, Any]) -> Context:
    entries: Sequence[Mapping[str, Any]] = params.get("ContextEntries", [])
    return {
        entry["ContextKeyName"]: entry.get("ContextKeyValues", [])
        if entry.get("ContextKeyType", "string").endswith("List")
        else (entry.get("ContextKeyValues") or [""])[0]
        for entry in entries
        if "ContextKeyName" in entry
    }


def _documents(texts: Sequence[str]) -> list[Document]:
    try:
        return [policies.parse(text) for text in texts]
    except ValueError:
        raise ApiError("InvalidInput", "A policy is not a policy document.", 400) from None
