"""
ssh in the steps of a SageMaker pipeline: its definition holds requests that SageMaker makes itself, later.

A step's request has no name, and may leave values open until the pipeline runs.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Mapping

from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.launch import (
    MODEL_REQUEST,
    PROCESSING_REQUEST,
    TRAINING_REQUEST,
    TUNING_REQUEST,
    RequestKind,
)

Enable = Callable[[RequestKind, str, Mapping[str, Any]], Dict[str, Any]]
"""Gives a step's request with ssh, from its kind, a name for it and the request."""

_KINDS = {
    "Training": TRAINING_REQUEST,
    "Processing": PROCESSING_REQUEST,
    "Tuning": TUNING_REQUEST,
    "Model": MODEL_REQUEST,
}


def with_ssh(pipeline: str, definition: str, enable: Enable) -> str:
    """
    A pipeline's definition with ``enable`` applied to each step's request, those within conditions included.

    What is no JSON object with steps stays as it is: SageMaker says what is wrong with it.
    """
    try:
        parsed = json.loads(definition)
    except ValueError:
        return definition
    if not isinstance(parsed, dict) or not isinstance(parsed.get("Steps"), list):
        return definition
    return json.dumps({**parsed, "Steps": _steps(pipeline, parsed["Steps"], enable)})


def with_ssh_in_s3(
    pipeline: str, location: Mapping[str, Any], session: Any, enable: Enable
) -> Dict[str, Any]:
    """
    Where the definition with ssh is: beside the one at ``location`` (its ``Bucket`` and ``ObjectKey``).

    Raises LaunchRefused when it cannot be read or written.
    """
    from botocore.exceptions import ClientError

    s3 = session.client("s3")
    bucket, key = location["Bucket"], location["ObjectKey"]
    version = {"VersionId": location["VersionId"]} if location.get("VersionId") else {}
    new_key = f"{key.rpartition('/')[0]}/ssh/{pipeline}/{key.rpartition('/')[2]}".lstrip("/")
    try:
        definition = s3.get_object(Bucket=bucket, Key=key, **version)["Body"].read()
        changed = with_ssh(pipeline, definition.decode("utf-8", "replace"), enable)
        s3.put_object(Bucket=bucket, Key=new_key, Body=changed.encode())
    except ClientError as error:
        raise LaunchRefused(
            f"the definition of {pipeline} cannot be read and written beside s3://{bucket}/{key}: {error}",
            fix="Ask for s3:GetObject and s3:PutObject there, or give the definition in the request",
        ) from error
    return {"Bucket": bucket, "ObjectKey": new_key}


def _steps(pipeline: str, steps: List[Any], enable: Enable) -> List[Any]:
    return [_step(pipeline, step, enable) if isinstance(step, dict) else step for step in steps]


def _step(pipeline: str, step: Dict[str, Any], enable: Enable) -> Dict[str, Any]:
    arguments = step.get("Arguments")
    if not isinstance(arguments, dict):
        return step
    if step.get("Type") == "Condition":
        branches = {
            branch: _steps(pipeline, arguments[branch], enable)
            for branch in ("IfSteps", "ElseSteps")
            if isinstance(arguments.get(branch), list)
        }
        return {**step, "Arguments": {**arguments, **branches}}
    kind = _KINDS.get(str(step.get("Type")))
    if kind is None:
        return step
    return {**step, "Arguments": enable(kind, f"{pipeline}-{step.get('Name', '')}", arguments)}
