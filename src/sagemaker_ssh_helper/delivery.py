"""
The library on its way into a job that its request describes: within the job's code, or as an input beside it.

Where a request says what program runs, that program is started by ours, after ssh.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any, Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from sagemaker_ssh_helper import archive
from sagemaker_ssh_helper.archive import PACKAGE, STARTER
from sagemaker_ssh_helper.errors import LaunchRefused

_SUBMIT_DIRECTORY = "sagemaker_submit_directory"
_PROGRAM = "sagemaker_program"

_CODE = ("sm_drivers", "code")
"""Inputs by which the SageMaker SDK brings a job's code, in both versions."""

MAX_CHANNELS = 20  # of CreateTrainingJob's model, as the two below
MAX_PROCESSING_INPUTS = 10
MAX_ARGUMENTS = 100

_START = 'p=$(command -v python3 || command -v python) && exec "$p" "$0" "$@"; exec "$@"'
"""For ``/bin/sh -c``: the starter by any Python of the image; without one, the job without ssh."""


def with_library(session: Any, name: str, request: Mapping[str, Any]) -> Dict[str, Any]:
    """
    A copy of the request of job ``name`` that brings the library and starts ssh before the job's program.

    A request that does not tell the job's program, or has brought the library already, stays as it is.
    ``session`` is a boto3 session, to read and write S3 with. Raises LaunchRefused when there is no room for
    one more input, the source archive is none or lacks its entry point, or S3 refuses.
    """
    changed = dict(request)
    if "ContainerEntrypoint" in (request.get("AlgorithmSpecification") or {}):
        return _with_channel(session, name, changed)
    if "ContainerEntrypoint" in (request.get("AppSpecification") or {}):
        return _with_processing_input(session, name, changed)
    changed.update(_with_archive(session, name, request, "HyperParameters"))
    static = "StaticHyperParameters"
    if request.get("TrainingJobDefinition"):
        changed["TrainingJobDefinition"] = _with_archive(
            session, name, request["TrainingJobDefinition"], static
        )
    if request.get("TrainingJobDefinitions"):
        changed["TrainingJobDefinitions"] = [
            _with_archive(session, f"{name}/{number}", definition, static)
            for number, definition in enumerate(request["TrainingJobDefinitions"], 1)
        ]
    return changed


def _with_channel(session: Any, name: str, request: Dict[str, Any]) -> Dict[str, Any]:
    """A training job's request, the library being a channel."""
    channels = list(request.get("InputDataConfig") or ())
    if any(channel.get("ChannelName") == PACKAGE for channel in channels):
        return request
    _check_room(name, len(channels), MAX_CHANNELS, "channels")
    sources = {
        channel["ChannelName"]: (channel.get("DataSource") or {}).get("S3DataSource") or {}
        for channel in channels
    }
    output = request["OutputDataConfig"]["S3OutputPath"]
    folder = _beside_code({key: source.get("S3Uri") for key, source in sources.items()}) or output
    source: Dict[str, Any] = {
        "S3DataType": "S3Prefix",
        "S3Uri": _upload_starter(session, name, folder),
        "S3DataDistributionType": "FullyReplicated",
    }
    if any(each.get("InstanceGroupNames") for each in sources.values()):
        # SageMaker takes groups for all channels or for none.
        groups = request["ResourceConfig"].get("InstanceGroups") or ()
        source["InstanceGroupNames"] = [group["InstanceGroupName"] for group in groups]
    ours = {"ChannelName": PACKAGE, "DataSource": {"S3DataSource": source}, "InputMode": "File"}
    return {
        **request,
        "InputDataConfig": [*channels, ours],
        "AlgorithmSpecification": _started(name, request["AlgorithmSpecification"], "/opt/ml/input/data"),
    }


def _with_processing_input(session: Any, name: str, request: Dict[str, Any]) -> Dict[str, Any]:
    """A processing job's request, the library being an input."""
    inputs = list(request.get("ProcessingInputs") or ())
    if any(each.get("InputName") == PACKAGE for each in inputs):
        return request
    outputs = (request.get("ProcessingOutputConfig") or {}).get("Outputs") or ()
    folder = _beside_code({each["InputName"]: (each.get("S3Input") or {}).get("S3Uri") for each in inputs})
    folder = folder or next((each["S3Output"]["S3Uri"] for each in outputs if each.get("S3Output")), None)
    if folder is None:
        # Nothing of this job is in S3 that it could be put beside.
        return request
    _check_room(name, len(inputs), MAX_PROCESSING_INPUTS, "inputs")
    ours = {
        "InputName": PACKAGE,
        "S3Input": {
            "S3Uri": _upload_starter(session, name, folder),
            "LocalPath": f"/opt/ml/processing/input/{PACKAGE}",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "FullyReplicated",
        },
    }
    return {
        **request,
        "ProcessingInputs": [*inputs, ours],
        "AppSpecification": _started(name, request["AppSpecification"], "/opt/ml/processing/input"),
    }


def _started(name: str, application: Mapping[str, Any], inputs: str) -> Dict[str, Any]:
    """What runs, started by ours, whose input is in the folder ``inputs``."""
    command = [*application["ContainerEntrypoint"], *(application.get("ContainerArguments") or ())]
    _check_room(name, len(command) - 1, MAX_ARGUMENTS, "words in its command")
    return {
        **application,
        "ContainerEntrypoint": ["/bin/sh", "-c", _START, f"{inputs}/{PACKAGE}/{STARTER}"],
        "ContainerArguments": command,
    }


def _check_room(name: str, present: int, allowed: int, what: str) -> None:
    if present >= allowed:
        raise LaunchRefused(
            f"{name} has no room for the library: SageMaker takes {allowed} {what}",
            fix="Give it one less, or launch it without ssh",
        )


def _check_known(name: str, value: Any) -> None:
    if not isinstance(value, str):
        # A step of a pipeline may leave it open.
        raise LaunchRefused(
            f"where {name} has its code is not known before the pipeline runs, and the library goes with it",
            fix="Give the step its code as files or an S3 address, or create the pipeline without ssh",
        )


def _beside_code(uris: Mapping[str, Optional[str]]) -> Optional[str]:
    """The folder in S3 that the job's code lies in, from its inputs by name."""
    found = next((uri for name in _CODE if isinstance(uri := uris.get(name), str)), None)
    return found.rstrip("/").rpartition("/")[0] if found else None


def _upload_starter(session: Any, name: str, folder: str) -> str:
    """Put the starter below ``folder``, for job ``name``; the prefix that holds it alone."""
    from botocore.exceptions import ClientError

    _check_known(name, folder)
    url = urlsplit(folder)
    prefix = f"{url.path.strip('/')}/ssh/{name}".lstrip("/")
    try:
        session.client("s3").put_object(Bucket=url.netloc, Key=f"{prefix}/{STARTER}", Body=archive.starter())
    except ClientError as error:
        raise LaunchRefused(
            f"the library cannot be put beside the job's data, into s3://{url.netloc}/{prefix}: {error}",
            fix="Ask for s3:PutObject there, or launch the job with an output path that you may write to",
        ) from error
    return f"s3://{url.netloc}/{prefix}/"


def _with_archive(session: Any, name: str, holder: Mapping[str, Any], member: str) -> Dict[str, Any]:
    """What holds hyperparameters, its source archive being one with the library if it is in script mode."""
    hyperparameters = holder.get(member) or {}
    if _SUBMIT_DIRECTORY not in hyperparameters or _PROGRAM not in hyperparameters:
        return dict(holder)
    _check_known(name, hyperparameters[_PROGRAM])
    program, program_is_json = _plain(hyperparameters[_PROGRAM])
    _check_known(name, hyperparameters[_SUBMIT_DIRECTORY])
    location, location_is_json = _plain(hyperparameters[_SUBMIT_DIRECTORY])
    if program == archive.LAUNCHER:
        return dict(holder)
    url = urlsplit(location)
    if url.scheme != "s3":
        raise LaunchRefused(
            f"{name} takes its code from {location!r}, which is not in S3",
            fix="Upload it as s3://BUCKET/KEY/sourcedir.tar.gz",
        )
    s3 = session.client("s3")
    key = f"{url.path.lstrip('/').rpartition('/')[0]}/ssh/{name}/sourcedir.tar.gz".lstrip("/")
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        s3.download_fileobj(url.netloc, url.path.lstrip("/"), old)
        old.seek(0)
        archive.add_library(old, new, program)
        new.seek(0)
        s3.upload_fileobj(new, url.netloc, key)
    started = {
        **hyperparameters,
        _PROGRAM: _encoded(archive.LAUNCHER, program_is_json),
        _SUBMIT_DIRECTORY: _encoded(f"s3://{url.netloc}/{key}", location_is_json),
    }
    return {**holder, member: started}


def _plain(value: str) -> Tuple[str, bool]:
    """A hyperparameter's text, and whether it was JSON-encoded, as the SageMaker SDK does."""
    try:
        decoded = json.loads(value)
    except ValueError:
        return value, False
    return (decoded, True) if isinstance(decoded, str) else (value, False)


def _encoded(value: str, as_json: bool) -> str:
    return json.dumps(value) if as_json else value
