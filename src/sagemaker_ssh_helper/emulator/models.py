"""
botocore's models of the services we serve, and which protocol each speaks.
"""

import threading
from collections.abc import Mapping
from typing import Any

import botocore.session
from botocore.model import ServiceModel

from sagemaker_ssh_helper.emulator.wire import Family

FAMILIES: Mapping[str, Family] = {
    "ssm": Family.JSON,
    "ec2messages": Family.JSON,
    "sagemaker": Family.JSON,
    "logs": Family.JSON,
    "kms": Family.JSON,
    "tagging": Family.JSON,
    "sts": Family.QUERY,
    "iam": Family.QUERY,
    "sns": Family.QUERY,
    "s3": Family.S3,
}
"""The services by what their requests are signed for, which nearly always is botocore's name, too."""

_BOTOCORE_NAMES: Mapping[str, str] = {"tagging": "resourcegroupstaggingapi"}

TARGETS: Mapping[str, str] = {
    "AmazonSSM": "ssm",
    "EC2WindowsMessageDeliveryService": "ec2messages",
    "SageMaker": "sagemaker",
    "Logs_20140328": "logs",
    "TrentService": "kms",
    "ResourceGroupsTaggingAPI_20170126": "tagging",
}
"""What stands before the operation in ``X-Amz-Target``."""

UNMODELLED = frozenset({"ec2messages"})
"""Services that only agents call; botocore has no model of them."""


class Models:
    """Loaded when first asked for, once."""

    def __init__(self) -> None:
        self._loader = botocore.session.Session().get_component("data_loader")
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}

    def get(self, service: str) -> Any:
        """botocore's ServiceModel; None for a service that has none."""
        if service in UNMODELLED:
            return None
        with self._lock:
            if service not in self._models:
                name = _BOTOCORE_NAMES.get(service, service)
                self._models[service] = ServiceModel(self._loader.load_service_model(name, "service-2"), name)
            return self._models[service]

    def operation(self, service: str, name: str) -> Any:
        """botocore's OperationModel; None for an operation that is not in the model."""
        model = self.get(service)
        if model is None or name not in model.operation_names:
            return None
        return model.operation_model(name)

    def load(self) -> None:
        """Load them all; takes a fifth of a second."""
        for service in FAMILIES:
            self.get(service)
