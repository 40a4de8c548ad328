"""
The names, arguments and defaults that users write: a change here is a decision, and breaks their programs.
"""

import importlib
import inspect
import re
from typing import Any, List

import pytest

SURFACE = """
wrapper.SSHEnvironmentWrapper.__init__(self, wrapped, ssh=None)
wrapper.SSHEnvironmentWrapper.attach(cls, resource_name, sagemaker_session=None)
wrapper.SSHEnvironmentWrapper.attach_arn(cls, arn, sagemaker_session=None)
wrapper.SSHEnvironmentWrapper.attach_to_resource(cls, resource, sagemaker_session=None)
wrapper.SSHEnvironmentWrapper.dependency_dir(cls)
wrapper.SSHEnvironmentWrapper.fqdn(self)
wrapper.SSHEnvironmentWrapper.get_cloudwatch_url(self)
wrapper.SSHEnvironmentWrapper.get_instance_id(self, retry=None, timeout_in_sec=900, index=0)
wrapper.SSHEnvironmentWrapper.get_instance_ids(self, retry=None, timeout_in_sec=900)
wrapper.SSHEnvironmentWrapper.get_metadata_url(self)
wrapper.SSHEnvironmentWrapper.is_job_in_progress(self)
wrapper.SSHEnvironmentWrapper.print_ssh_info(self)
wrapper.SSHEnvironmentWrapper.resource_name(self)
wrapper.SSHEnvironmentWrapper.ssm_role_from_iam_arn(iam_arn)
wrapper.SSHEnvironmentWrapper.start_ssm_connection(self, ssh_listen_port, retry=None, timeout_in_sec=900,
    extra_args='')
wrapper.SSHEnvironmentWrapper.start_ssm_connection_and_continue(self, ssh_listen_port, retry=None,
    timeout_in_sec=900, extra_args='')
wrapper.SSHEstimatorWrapper.create(cls, estimator, connection_wait_time_seconds=600,
    ssh_instance_count=2, local_user_id=None, log_to_stdout=False, connection_wait_time=None)
wrapper.SSHEstimatorWrapper.resource_name(self)
wrapper.SSHEstimatorWrapper.rule_job_summary(self)
wrapper.SSHEstimatorWrapper.stop_training_job(self)
wrapper.SSHEstimatorWrapper.training_job_name(self)
wrapper.SSHEstimatorWrapper.wait_training_job(self)
wrapper.SSHEstimatorWrapper.wait_training_job_with_status(self)
wrapper.SSHIDEWrapper.resource_name(self)
wrapper.SSHModelWrapper.create(cls, model, connection_wait_time_seconds=600, ssh_instance_count=2,
    local_user_id=None, log_to_stdout=False, connection_wait_time=None)
wrapper.SSHModelWrapper.endpoint_is_online(self)
wrapper.SSHModelWrapper.endpoint_name(self)
wrapper.SSHModelWrapper.resource_name(self)
wrapper.SSHModelWrapper.wait_for_endpoint(self)
wrapper.SSHNotebookInstanceWrapper.resource_name(self)
wrapper.SSHProcessorWrapper.augmented_input(self)
wrapper.SSHProcessorWrapper.create(cls, processor, connection_wait_time_seconds=600,
    ssh_instance_count=2, local_user_id=None, log_to_stdout=False, connection_wait_time=None)
wrapper.SSHProcessorWrapper.processing_job_name(self)
wrapper.SSHProcessorWrapper.resource_name(self)
wrapper.SSHProcessorWrapper.wait_processing_job(self)
wrapper.SSHTransformerWrapper.create(cls, transformer, ssh_model_wrapper)
wrapper.SSHTransformerWrapper.resource_name(self)
wrapper.SSHTransformerWrapper.transform_job_name(self)
wrapper.SSHTransformerWrapper.wait_transform_job(self)
manager.SSMManager.__init__(self, region_name=None, sleep_between_retries_in_seconds=2,
    redo_attempts=5, clock_timestamp_override=None, *, session=None)
aws.AWS.__init__(self, region_name=None, boto_session=None)
env.get_caller_script_name()
env.sm_get_node_rank()
manager.SSMManager.get_endpoint_instance_ids(self, endpoint_name, timeout_in_sec=0)
manager.SSMManager.get_notebook_instance_ids(self, instance_name, timeout_in_sec=0)
manager.SSMManager.get_studio_instance_ids(self, app_name, timeout_in_sec=0)
manager.SSMManager.get_processing_instance_ids(self, processing_job_name, timeout_in_sec=0)
manager.SSMManager.get_training_instance_ids(self, training_job_name, timeout_in_sec=0)
manager.SSMManager.get_transformer_instance_ids(self, transform_job_name, timeout_in_sec=0)
manager.SSMManager.list_all_instances_and_fetch_tags(self)
manager.SSMManager.list_expired_ssh_instances(self, expiration_days=0)
log.SSHLog.__init__(self, region_name=None, *, session=None)
log.SSHLog.get_endpoint_cloudwatch_url(self, endpoint_name)
log.SSHLog.get_endpoint_metadata_url(self, endpoint_name)
log.SSHLog.get_endpoint_ssm_instance_ids(self, endpoint_name, timeout_in_sec=0)
log.SSHLog.get_processing_cloudwatch_url(self, processing_job_name)
log.SSHLog.get_processing_metadata_url(self, processing_job_name)
log.SSHLog.get_training_cloudwatch_url(self, training_job_name)
log.SSHLog.get_training_metadata_url(self, training_job_name)
log.SSHLog.get_transform_cloudwatch_url(self, transform_job_name)
log.SSHLog.get_transform_metadata_url(self, transform_job_name)
proxy.SSMProxy.__init__(self, ssh_listen_port, extra_args='', region_name=None, *, session=None)
proxy.SSMProxy.connect_to_node_of(self, target, instance_id)
proxy.SSMProxy.connect_to_ssm_instance(self, instance_id)
proxy.SSMProxy.disconnect(self)
proxy.SSMProxy.run_command(self, command)
proxy.SSMProxy.run_command_with_output(self, command)
proxy.SSMProxy.terminate_waiting_loop(self)
ide.NotebookInstance.__init__(self, name, region_name=None, *, session=None)
ide.NotebookInstance.get_instance_ids(self, timeout_in_sec=0)
ide.NotebookInstance.get_status(self)
ide.NotebookInstance.start(self)
ide.NotebookInstance.stop(self)
ide.IDEAppStatus.is_in_transition(self)
ide.SSHIDE.__init__(self, domain_id, user, region_name=None, *, session=None)
ide.SSHIDE.delete_app(self, app_name, app_type='KernelGateway')
ide.SSHIDE.get_app_status(self, app_name, app_type='KernelGateway')
ide.SSHIDE.get_instance_ids(self, app_name, timeout_in_sec=0)
detached_sagemaker.DetachedEstimator.__init__(self, training_job_name, sagemaker_session=None)
detached_sagemaker.DetachedEstimator.attach(cls, training_job_name, sagemaker_session=None)
detached_sagemaker.DetachedProcessor.__init__(self, processing_job_name, sagemaker_session=None)
detached_sagemaker.DetachedProcessor.attach(cls, processing_job_name, sagemaker_session=None)
interactive_sagemaker.InteractiveSageMaker.__init__(self, sagemaker)
interactive_sagemaker.InteractiveSageMaker.list_hosts(self)
interactive_sagemaker.InteractiveSageMaker.print_hosts(self)
interactive_sagemaker.SageMaker.__init__(self, region_name=None, *, session=None)
interactive_sagemaker.SageMaker.list_ide_apps(self)
interactive_sagemaker.SageMaker.list_resources(self, kind)
sm_ssh.SageMakerSecureShellHelper.__init__(self, profile=None, region=None)
sm_ssh.SageMakerSecureShellHelper.connect(self, fqdn, *ssh_arguments)
sm_ssh.SageMakerSecureShellHelper.list(self, name='sagemaker')
sm_ssh.SageMakerSecureShellHelper.start_proxy(self, fqdn)
launch.enable_for_session(session=None, **options)
launch.enable_ssh(request, session=None, *, connection_wait_time_seconds=600,
    connection_wait_time=None, ssh_instance_count=2, local_user_id=None, log_to_stdout=False)
setup_and_start_ssh()
"""

ENTRIES = re.sub(r"\n +", " ", SURFACE).strip().splitlines()

WHOLE = ["detached_sagemaker", "ide", "interactive_sagemaker", "log", "proxy", "sm_ssh", "wrapper"]
"""Modules of which everything public is listed."""


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
    name, parenthesis, arguments = line.partition("(")
    parts = name.split(".")
    module = "sagemaker_ssh_helper"
    if len(parts) > 1:
        module = f"{module}.{parts.pop(0)}"
    assert signature_of(found(module, parts)) == parenthesis + arguments


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_public_is_missing_in_the_list(name: str) -> None:
    listed = {line.partition("(")[0] for line in ENTRIES}
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
