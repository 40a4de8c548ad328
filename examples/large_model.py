"""An endpoint of a Deep Learning Container for large model inference: serving.properties and model.py."""

import io
import sys
import tarfile
import time
from pathlib import Path

import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer

from sagemaker_ssh_helper.wrapper import SSHModelWrapper

role = sys.argv[1]

session = sagemaker.Session()
name = f"ssh-large-model-{int(time.time())}"

# The library lies beside model.py, which starts ssh.
source = Path(__file__).parent / "source" / "lmi"
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    tar.add(source / "serving.properties", "serving.properties")
    tar.add(source / "model.py", "model.py")
    tar.add(SSHModelWrapper.dependency_dir(), "sagemaker_ssh_helper")
session.boto_session.client("s3").put_object(
    Bucket=session.default_bucket(), Key=f"{name}/model.tar.gz", Body=archive.getvalue()
)

model = Model(
    name=name,
    image_uri="763104351884.dkr.ecr.eu-west-1.amazonaws.com/djl-inference:0.29.0-lmi11.0.0-cu124",
    model_data=f"s3://{session.default_bucket()}/{name}/model.tar.gz",
    role=role,
    predictor_cls=Predictor,
    sagemaker_session=session,
)

ssh_wrapper = SSHModelWrapper.create(model, connection_wait_time_seconds=0)
predictor = model.deploy(
    initial_instance_count=1,
    instance_type="ml.g5.2xlarge",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    wait=True,
)
ssh_wrapper.print_ssh_info()
print(predictor.predict([1, 2, 3]))

input("Press Enter to delete the endpoint. ")
predictor.delete_endpoint()
