"""A training job and an endpoint in an own image, without entry_point and source_dir."""

import sys

from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer

from sagemaker_ssh_helper.wrapper import SSHEstimatorWrapper, SSHModelWrapper

role = sys.argv[1]

estimator = Estimator(
    image_uri="555555555555.dkr.ecr.eu-west-1.amazonaws.com/byoc-ssh:latest",
    role=role,
    instance_count=1,
    instance_type="ml.m5.xlarge",
    max_run=60 * 30,
)

ssh_wrapper = SSHEstimatorWrapper.create(estimator, connection_wait_time_seconds=600)
estimator.fit(wait=False)
ssh_wrapper.print_ssh_info()
ssh_wrapper.wait_training_job()

model = estimator.create_model(predictor_cls=Predictor)
ssh_model_wrapper = SSHModelWrapper.create(model, connection_wait_time_seconds=0)
predictor = model.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.xlarge",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
    wait=True,
)
ssh_model_wrapper.print_ssh_info()
print(predictor.predict([1, 2, 3]))

input("Press Enter to delete the endpoint. ")
predictor.delete_endpoint()
