"""
The names, arguments and defaults that users write: a change here is a decision, and breaks their programs.

``public_surface.txt`` holds what programs of the helper before this one call; a call of each must be taken,
by position and by keyword. ``OWN`` holds what is ours beside it.
"""

import importlib
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, List

import pytest

DOCUMENTED = (Path(__file__).parent / "public_surface.txt").read_text().splitlines()

OWN = """
detached_sagemaker.DetachedEstimator.describe(self)
detached_sagemaker.DetachedEstimator.fit(self, *args, **kwargs)
detached_sagemaker.DetachedJob.__init__(self, kind, name, session)
detached_sagemaker.DetachedJob.describe(self)
detached_sagemaker.DetachedProcessor.describe(self)
detached_sagemaker.DetachedProcessor.run(self, *args, **kwargs)
ide.NotebookInstance.get_status(self)
ide.NotebookInstance.start(self)
ide.NotebookInstance.stop(self)
ide.SSHIDE.delete_app(self, app_name, app_type='KernelGateway')
ide.SSHIDE.get_instance_ids(self, app_name, timeout_in_sec=0)
interactive_sagemaker.SageMakerCoreApp.set_ping_status(self, ping_status)
interactive_sagemaker.SageMakerCoreApp.set_ssh_owner(self, ssh_owner)
interactive_sagemaker.SageMakerCoreApp.set_ssm_instance_id(self, ssm_instance_id)
manager.SSMManager.get_instance_ids_of(self, kind, name, *, timeout_in_sec=0, count=1,
    over=None)
manager.SSMManager.get_registered_ids_of(self, kind, name)
proxy.SSMProxy.connect_to_node_of(self, target, instance_id)
wrapper.SSHEnvironmentWrapper.attach_arn(cls, arn, sagemaker_session=None)
wrapper.SSHEnvironmentWrapper.fqdn(self)
wrapper.SSHEnvironmentWrapper.is_job_in_progress(self)
wrapper.SSHEnvironmentWrapper.resource_name(self)
wrapper.SSHEstimatorWrapper.resource_name(self)
wrapper.SSHIDEWrapper.resource_name(self)
wrapper.SSHModelWrapper.endpoint_name(self)
wrapper.SSHModelWrapper.resource_name(self)
wrapper.SSHNotebookInstanceWrapper.resource_name(self)
wrapper.SSHProcessorWrapper.processing_job_name(self)
wrapper.SSHProcessorWrapper.resource_name(self)
wrapper.SSHTransformerWrapper.resource_name(self)
wrapper.SSHTransformerWrapper.transform_job_name(self)
launch.enable_for_session(session=None, **options)
launch.enable_ssh(request, session=None, *, connection_wait_time_seconds=600,
    connection_wait_time=None, ssh_instance_count=2, local_user_id=None, log_to_stdout=False)
"""

ENTRIES = re.sub(r"\n +", " ", OWN).strip().splitlines()

WHOLE = ["detached_sagemaker", "ide", "interactive_sagemaker", "log", "manager", "proxy", "sm_ssh", "wrapper"]
"""Modules of which everything public is listed."""


def place_of(line: str) -> "tuple[str, List[str]]":
    """The module of an entry, and the names in it."""
    parts = line.partition("(")[0].split(".")
    module = "sagemaker_ssh_helper"
    return (f"{module}.{parts[0]}", parts[1:]) if len(parts) > 1 else (module, parts)


def signature_of(thing: Any) -> str:
    """As a definition reads, without annotations."""
    signature = inspect.signature(getattr(thing, "__func__", thing))
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def found(module_name: str, path: List[str]) -> Any:
    """What a path names; a class method as it is written, with its ``cls``."""
    holder: Any = importlib.import_module(module_name)
    for name in path[:-1]:
        holder = getattr(holder, name)
    return vars(holder)[path[-1]]


@pytest.mark.parametrize("line", ENTRIES)
def test_what_is_public_keeps_its_signature(line: str) -> None:
    module, path = place_of(line)
    assert signature_of(found(module, path)) == "".join(line.partition("(")[1:])


@pytest.mark.parametrize("line", DOCUMENTED)
def test_what_programs_call_is_taken_by_position_and_by_keyword(line: str) -> None:
    module, path = place_of(line)
    thing: Any = importlib.import_module(module)
    for name in path:
        thing = getattr(thing, name)
    arguments = line.partition("(")[2][:-1]
    wanted = inspect.signature(eval(f"lambda {arguments}: 0", {"timedelta": timedelta})).parameters
    ours = [each for each in inspect.signature(thing).parameters.values() if each.name != "self"]
    for position, want in enumerate(wanted.values()):
        have = ours[position]
        assert (have.kind, have.name) == (want.kind, want.name)
        # Ours may have a default where the caller had to say it.
        assert have.default == want.default or want.default is inspect.Parameter.empty
    for more in ours[len(wanted) :]:
        assert more.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or more.default is not more.empty


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_public_is_missing_in_the_lists(name: str) -> None:
    listed = {line.partition("(")[0] for line in [*ENTRIES, *DOCUMENTED]}
    module = importlib.import_module(f"sagemaker_ssh_helper.{name}")
    classes = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__ and not each.__name__.startswith("_")
    ]
    methods = {
        f"{name}.{each.__name__}.{method}"
        for each in classes
        for method, value in vars(each).items()
        if inspect.isfunction(getattr(value, "__func__", value)) and not method.startswith("_")
    }
    assert methods
    assert methods <= listed
