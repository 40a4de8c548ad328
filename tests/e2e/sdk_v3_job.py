"""
A user's program with the SageMaker Python SDK 3, run by test_sdk_v3.py in an environment that has it.

    sdk_v3_job.py SCENARIO ROLE FOLDER

Launches what SCENARIO names, with files in FOLDER, and tells its name as a line of JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

from sagemaker_ssh_helper.launch import enable_for_session

TRAIN = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
arguments = parser.parse_args()
files = os.listdir(os.environ["SM_CHANNEL_TRAINING"])
print("training for", arguments.epochs, "epochs with", files, flush=True)
"""


class User:
    """What every scenario begins with: a session, a role, a folder."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        self.folder = folder
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


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (trainer_of_an_enabled_session, trainer_whose_session_is_enabled)
}


if __name__ == "__main__":
    print(json.dumps({"name": SCENARIOS[sys.argv[1]](User(sys.argv[2], Path(sys.argv[3])))}), flush=True)
