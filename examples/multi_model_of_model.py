"""An endpoint of many models, around a Model object; each model's archive carries the library."""

import io
import sys
import tarfile
import time
from pathlib import Path

import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.pytorch import PyTorchModel, PyTorchPredictor
from sagemaker.serializers import JSONSerializer
from sagemaker.utils import repack_model

from sagemaker_ssh_helper.wrapper import SSHMultiModelWrapper

role = sys.argv[1]

session = sagemaker.Session()
name = f"ssh-multi-model-of-{int(time.time())}"
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

model = PyTorchModel(
    model_data=f"{prefix}/trained/model.tar.gz",
    entry_point="inference.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHMultiModelWrapper.dependency_dir()],
    framework_version="2.3",
    py_version="py311",
    role=role,
    sagemaker_session=session,
)
mdm = MultiDataModel(name=name, model_data_prefix=f"{prefix}/models/", model=model, sagemaker_session=session)

ssh_wrapper = SSHMultiModelWrapper.create(mdm, connection_wait_time_seconds=0)
mdm.deploy(initial_instance_count=1, instance_type="ml.m5.xlarge", wait=True)
predictor = PyTorchPredictor(
    mdm.endpoint_name, session, serializer=JSONSerializer(), deserializer=JSONDeserializer()
)

mdm.add_model(model_data_source=f"{prefix}/repacked/model.tar.gz", model_data_path="one.tar.gz")

# A model's script is loaded with the first request for it, and ssh starts then.
print(predictor.predict([1, 2, 3], initial_args={"TargetModel": "one.tar.gz"}))
ssh_wrapper.print_ssh_info()

input("Press Enter to delete the endpoint. ")
predictor.delete_endpoint()
