"""A training job that keeps a GPU machine for people, until nobody is there and the GPU has nothing to do."""

import sys
from pathlib import Path

from sagemaker.debugger import ProfilerConfig, ProfilerRule, rule_configs
from sagemaker.pytorch import PyTorch

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper

role = sys.argv[1]

low_gpu = rule_configs.LowGPUUtilization(
    scan_interval_us=60_000_000,  # look every minute
    patience=2,  # not in the first two minutes
    window=1200,  # at the last 1200 values, which are two minutes
    threshold_p95=50,  # at least half used, 95 % of the time
    threshold_p5=0,  # short breaks do not matter
)

estimator = PyTorch(
    entry_point="train_placeholder.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHEstimatorWrapper.dependency_dir()],
    base_job_name="ssh-placeholder",
    framework_version="2.3",
    py_version="py311",
    role=role,
    instance_count=1,
    instance_type="ml.g4dn.xlarge",
    max_run=60 * 60,
    profiler_config=ProfilerConfig(system_monitor_interval_millis=100),
    rules=[ProfilerRule.sagemaker(low_gpu)],
)

# The script itself waits, as long as somebody needs it.
ssh_wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=0)
estimator.fit(wait=False)
ssh_wrapper.print_ssh_info()

status = ssh_wrapper.wait_training_job_with_status()
for rule in ssh_wrapper.rule_job_summary():
    print(rule["RuleConfigurationName"], rule["RuleEvaluationStatus"])
print(status)
