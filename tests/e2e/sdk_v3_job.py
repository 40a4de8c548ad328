"""
A user's program with the SageMaker Python SDK 3, run by test_sdk_v3.py in an environment that has it.

    sdk_v3_job.py SCENARIO ROLE FOLDER

Launches what SCENARIO names, with files in FOLDER, and tells what it is called as a line of JSON.
"""

import json
import secrets
import sys
import tarfile
from pathlib import Path
from typing import Any, Callable

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, Networking, SourceCode

from sagemaker_ssh_helper.errors import LaunchRefused
from sagemaker_ssh_helper.launch import enable_for_session
from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper, SSHModelWrapper, SSHProcessorWrapper

TRAIN = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
arguments, _ = parser.parse_known_args()
files = os.listdir(os.environ["SM_CHANNEL_TRAINING"])
print("training for", arguments.epochs, "epochs with", files, flush=True)
print("accuracy=0.5", flush=True)
"""


class User:
    """What every scenario begins with: a session, a role, a folder."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        self.folder = folder
        self.name = secrets.token_hex(4)
        self.boto3_session = boto3.Session()

    def session(self) -> Session:
        """The SDK's session, whose clients are made here."""
        account = self.boto3_session.client("sts").get_caller_identity()["Account"]
        bucket = f"sagemaker-{self.boto3_session.region_name}-{account}"
        return Session(boto_session=self.boto3_session, default_bucket=bucket)

    def write(self, name: str, content: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    def trainer(self, session: Session) -> ModelTrainer:
        source = self.write("source/train.py", TRAIN)
        return ModelTrainer(
            training_image="image",
            source_code=SourceCode(source_dir=str(Path(source).parent), entry_script="train.py"),
            role=self.role,
            base_job_name="trainer",
            compute=Compute(instance_type="ml.m5.xlarge", instance_count=1),
            hyperparameters={"epochs": 3},
            sagemaker_session=session,
        )

    def train(self, trainer: ModelTrainer) -> str:
        data = self.write("data.csv", "1,2,3")
        trainer.train([InputData(channel_name="training", data_source=data)], wait=False)
        return str(trainer._latest_training_job.training_job_name)


def trainer_of_an_enabled_session(user: User) -> Any:
    enable_for_session(user.boto3_session)
    return user.train(user.trainer(user.session()))


def trainer_whose_session_is_enabled(user: User) -> Any:
    session = user.session()
    trainer = user.trainer(session)
    # The SDK makes its client for jobs with the first of them, and keeps it.
    first = user.train(trainer)
    # It names jobs by the second.
    trainer.base_job_name = "second"
    enable_for_session(session)
    return [first, user.train(trainer)]


PROCESS = """
import sys
print("processing with", sys.argv[1:], flush=True)
"""


BY_HAND = """
import sys
sys.path.append("/opt/ml/processing/input")
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()
"""


def script_processor(user: User) -> Any:
    from sagemaker.core.processing import ScriptProcessor

    processor = ScriptProcessor(
        role=user.role,
        image_uri="image",
        command=["python3"],
        instance_count=1,
        instance_type="ml.m5.xlarge",
        base_job_name="script",
        sagemaker_session=user.session(),
    )
    wrapper = SSHProcessorWrapper.create(processor)
    code = user.write("process.py", BY_HAND + PROCESS)
    processor.run(code=code, inputs=[wrapper.augmented_input()], arguments=["--epochs", "3"], wait=False)
    return wrapper.processing_job_name()


def framework_processor(user: User) -> Any:
    from sagemaker.core.processing import FrameworkProcessor

    enable_for_session(user.boto3_session)
    processor = FrameworkProcessor(
        role=user.role,
        image_uri="image",
        command=["python3"],
        instance_count=1,
        instance_type="ml.m5.xlarge",
        base_job_name="framework",
        sagemaker_session=user.session(),
    )
    code = Path(user.write("source/process.py", PROCESS))
    processor.run(code=code.name, source_dir=str(code.parent), arguments=["--epochs", "3"], wait=False)
    return processor.latest_job.processing_job_name


INFERENCE = """
import sagemaker_ssh_helper
sagemaker_ssh_helper.setup_and_start_ssh()

def predict_fn(data, model):
    return [x * 2 for x in data]
"""


def model_builder(user: User, session: Session) -> Any:
    """A builder of a model that brings its script and the library."""
    from sagemaker.serve import ModelBuilder

    code = Path(user.write("model/code/inference.py", INFERENCE))
    packed = user.folder / "model.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(code, arcname="code/inference.py")
        library = Path(SSHModelWrapper.dependency_dir())
        tar.add(library, arcname=f"code/{library.name}")
    return ModelBuilder(
        image_uri="image",
        s3_model_data_url=session.upload_data(str(packed), key_prefix="models"),
        model_path=session.upload_data(str(packed), key_prefix="models"),
        role_arn=user.role,
        env_vars={"SAGEMAKER_PROGRAM": "inference.py"},
        instance_type="ml.m5.xlarge",
        sagemaker_session=session,
    )


def endpoint(user: User) -> Any:
    session = user.session()
    builder = model_builder(user, session)
    wrapper = SSHModelWrapper.create(builder, connection_wait_time_seconds=0)
    builder.build(model_name=f"model-{user.name}")
    builder.deploy(endpoint_name=f"endpoint-{user.name}", wait=False)
    wrapper.wait_for_endpoint()
    return wrapper.endpoint_name()


def transform_job(user: User) -> Any:
    session = user.session()
    enable_for_session(session, connection_wait_time_seconds=60)
    builder = model_builder(user, session)
    builder.build(model_name=f"model-{user.name}")
    transformer = builder.transformer(instance_count=1, instance_type="ml.m5.xlarge")
    data = session.upload_data(user.write("data.json", "[1, 2]"), key_prefix=f"transform-{user.name}")
    transformer.transform(data, content_type="application/json", wait=False, logs=False)
    return transformer.latest_transform_job.transform_job_name


def wrapped_trainer(user: User) -> Any:
    trainer = user.trainer(user.session())
    wrapper = SSHEstimatorWrapper.create(trainer)
    user.train(trainer)
    assert len(wrapper.get_instance_ids(timeout_in_sec=60)) == 1
    return {"name": wrapper.training_job_name(), "again": refusal(SSHEstimatorWrapper.create, trainer)}


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    try:
        call(*arguments)
    except LaunchRefused as error:
        return str(error)
    return "not refused"


def isolated_trainer(user: User) -> Any:
    session = user.session()
    enable_for_session(session)
    trainer = user.trainer(session)
    trainer.base_job_name = "isolated"
    trainer.networking = Networking(enable_network_isolation=True)
    return [refusal(SSHEstimatorWrapper.create, trainer), refusal(user.train, trainer)]


def tuning_job(user: User) -> Any:
    from sagemaker.core.parameter import IntegerParameter
    from sagemaker.train.tuner import HyperparameterTuner

    trainer = user.trainer(user.session())
    SSHEstimatorWrapper.create(trainer)
    data = user.session().upload_data(user.write("data.csv", "1,2,3"), key_prefix=f"tuning-{user.name}")
    tuner = HyperparameterTuner(
        trainer,
        objective_metric_name="accuracy",
        hyperparameter_ranges={"width": IntegerParameter(1, 9)},
        metric_definitions=[{"Name": "accuracy", "Regex": "accuracy=([0-9.]+)"}],
        max_jobs=1,
        base_tuning_job_name="tuning",
    )
    tuner.tune({"training": data}, wait=False)
    return tuner.latest_tuning_job.hyper_parameter_tuning_job_name


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        trainer_of_an_enabled_session,
        trainer_whose_session_is_enabled,
        script_processor,
        framework_processor,
        wrapped_trainer,
        isolated_trainer,
        tuning_job,
        endpoint,
        transform_job,
    )
}


if __name__ == "__main__":
    told = SCENARIOS[sys.argv[1]](User(sys.argv[2], Path(sys.argv[3])))
    # The SDK draws panels on the line that it leaves.
    print()
    print(json.dumps(told), flush=True)
