"""A batch transform job."""

import io
import sys
import tarfile
from pathlib import Path

import sagemaker
from sagemaker.pytorch import PyTorchModel

from sagemaker_ssh_helper.wrapper import SSHModelWrapper, SSHTransformerWrapper

role = sys.argv[1]

session = sagemaker.Session()
bucket = session.default_bucket()
s3 = session.boto_session.client("s3")
archive = io.BytesIO()
tarfile.open(fileobj=archive, mode="w:gz").close()
s3.put_object(Bucket=bucket, Key="ssh-transform/model.tar.gz", Body=archive.getvalue())
s3.put_object(Bucket=bucket, Key="ssh-transform/input/data.json", Body=b"[1, 2, 3]")

model = PyTorchModel(
    model_data=f"s3://{bucket}/ssh-transform/model.tar.gz",
    entry_point="inference.py",
    source_dir=str(Path(__file__).parent / "source"),
    dependencies=[SSHModelWrapper.dependency_dir()],
    framework_version="2.3",
    py_version="py311",
    role=role,
    sagemaker_session=session,
)

# The model is loaded before the first record is sent: until the wait is over there is time to look around.
ssh_model_wrapper = SSHModelWrapper.create(model, connection_wait_time_seconds=300)
transformer = model.transformer(instance_count=1, instance_type="ml.m5.xlarge")
ssh_wrapper = SSHTransformerWrapper.create(transformer, ssh_model_wrapper)

transformer.transform(f"s3://{bucket}/ssh-transform/input", content_type="application/json", wait=False)
ssh_wrapper.print_ssh_info()
ssh_wrapper.wait_transform_job()
print(transformer.output_path)
