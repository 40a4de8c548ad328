"""An endpoint of a framework's model."""

import io
import sys
import tarfile
from pathlib import Path

import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.pytorch import PyTorchModel
from sagemaker.serializers import JSONSerializer

from sagemaker_ssh_helper.wrapper import SSHModelWrapper

role = sys.argv[1]

# Whatever a training job leaves in /opt/ml/model; here nothing.
session = sagemaker.Session()
archive = io.BytesIO()
tarfile.open(fileobj=archive, mode="w:gz").close()
key = "ssh-endpoint/model.tar.gz"
session.boto_session.client("s3").put_object(
    Bucket=session.default_bucket(), Key=key, Body=archive.getvalue()
)

model = PyTorchModel(
    model_data=f"s3://{session.default_bucket()}/{key}",
    entry_point="inference.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHModelWrapper.dependency_dir()],
    framework_version="2.3",
    py_version="py311",
    role=role,
    sagemaker_session=session,
)

ssh_wrapper = SSHModelWrapper.create(model, connection_wait_time_seconds=0)
predictor = model.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.xlarge",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    wait=True,
)
ssh_wrapper.print_ssh_info()
print(predictor.predict([1, 2, 3]))

input("Press Enter to delete the endpoint. ")
predictor.delete_endpoint()
