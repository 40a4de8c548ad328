"""An endpoint of many models, without a Model object; each model's archive carries the library."""

import io
import sys
import tarfile
import time
from pathlib import Path

import numpy
import sagemaker
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.pytorch import PyTorchPredictor
from sagemaker.utils import repack_model

from sagemaker_ssh_helper.wrapper import SSHMultiModelWrapper

role = sys.argv[1]

session = sagemaker.Session()
name = f"ssh-multi-model-{int(time.time())}"
prefix = f"s3://{session.default_bucket()}/{name}"
archive = io.BytesIO()
tarfile.open(fileobj=archive, mode="w:gz").close()
session.boto_session.client("s3").put_object(
    Bucket=session.default_bucket(), Key=f"{name}/trained/model.tar.gz", Body=archive.getvalue()
)
repack_model(
    inference_script="inference.py",
    source_directory=str(Path(__file__).parent / "source"),
    dependencies=[SSHMultiModelWrapper.dependency_dir()],
    model_uri=f"{prefix}/trained/model.tar.gz",
    repacked_model_uri=f"{prefix}/repacked/model.tar.gz",
    sagemaker_session=session,
)

mdm = MultiDataModel(
    name=name,
    model_data_prefix=f"{prefix}/models/",
    image_uri="763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-inference:2.3-cpu-py311",
    role=role,
    env={"SAGEMAKER_PROGRAM": "inference.py"},
    sagemaker_session=session,
)

ssh_wrapper = SSHMultiModelWrapper.create(mdm, connection_wait_time_seconds=0)
mdm.deploy(initial_instance_count=1, instance_type="ml.m5.xlarge", wait=True)
predictor = PyTorchPredictor(mdm.endpoint_name, session)

mdm.add_model(model_data_source=f"{prefix}/repacked/model.tar.gz", model_data_path="one.tar.gz")

# A model's script is loaded with the first request for it, and ssh starts then.
print(predictor.predict(numpy.array([1, 2, 3]), target_model="one.tar.gz").tolist())
ssh_wrapper.print_ssh_info()

input("Press Enter to delete the endpoint. ")
predictor.delete_endpoint()
