"""
Models, endpoint configurations and endpoints.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sagemaker_ssh_helper.emulator.job_host import JobHost
from sagemaker_ssh_helper.emulator.job_operations import check_no_nul, check_s3_uri
from sagemaker_ssh_helper.emulator.job_record import utc_now
from sagemaker_ssh_helper.emulator.job_storage import StorageError
from sagemaker_ssh_helper.emulator.model_server import STARTUP_TIMEOUT, Answer, ModelServer, ServerFailed
from sagemaker_ssh_helper.emulator.resource_table import (
    ResourceTable,
    boolean,
    check_tags,
    invalid,
    unsupported,
)
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Caller, Cloud, Operation
from sagemaker_ssh_helper.errors import trace_of
from sagemaker_ssh_helper.names import ResourceKind, endpoint_target

logger = logging.getLogger(__name__)

MODEL = "model"
CONFIG = "endpoint-config"
ENDPOINT = ResourceKind.INFERENCE.arn_type


@dataclass
class Stored:
    """A model or an endpoint configuration: what was asked for, as it came."""

    name: str
    request: Mapping[str, Any]
    arn: str
    created_at: datetime
    tags: dict[str, str]
    primary_status: str = ""

    @property
    def modified_at(self) -> datetime:
        return self.created_at


@dataclass
class Variant:
    """One production variant that serves."""

    name: str
    weight: float
    model_name: str
    servers: list[ModelServer]


@dataclass
class Endpoint:
    """One endpoint."""

    name: str
    arn: str
    created_at: datetime
    tags: dict[str, str]
    config_name: str
    primary_status: str = "Creating"
    modified_at: datetime = field(default_factory=utc_now)
    failure_reason: str | None = None
    variants: list[Variant] = field(default_factory=list)
    work: asyncio.Task[None] | None = None
    """What creates, updates or deletes it now."""

    def change(self, status: str) -> None:
        logger.info("= %s is %s", self.name, status)
        self.primary_status = status
        self.modified_at = utc_now()


class Hosting:
    """Their calls, and the servers of the endpoints."""

    def __init__(self, cloud: Cloud, table: ResourceTable, host: JobHost) -> None:
        self._cloud = cloud
        self._table = table
        self._host = host
        self.operations: Mapping[str, Operation] = {
            "CreateModel": self._create_model,
            "DescribeModel": self._describe_model,
            "ListModels": self._list_models,
            "DeleteModel": self._delete_model,
            "CreateEndpointConfig": self._create_config,
            "DescribeEndpointConfig": self._describe_config,
            "ListEndpointConfigs": self._list_configs,
            "DeleteEndpointConfig": self._delete_config,
            "CreateEndpoint": self._create_endpoint,
            "UpdateEndpoint": self._update_endpoint,
            "DescribeEndpoint": self._describe_endpoint,
            "ListEndpoints": self._list_endpoints,
            "DeleteEndpoint": self._delete_endpoint,
        }
        cloud.on_close(self._close)

    # -- models ----------------------------------------------------------------------------------------------

    async def _create_model(self, call: Call) -> Mapping[str, Any]:
        request = call.params
        arn = self._table.arn(MODEL, request["ModelName"])
        isolation = boolean(request.get("EnableNetworkIsolation", False))
        tags = self._table.may_create(call, arn, {"sagemaker:NetworkIsolation": isolation})
        if "ExecutionRoleArn" not in request:
            raise invalid("ExecutionRoleArn is required.")
        self._host.credentials(call, request["ExecutionRoleArn"]).close()
        _check_model(request)
        self._add(Stored(request["ModelName"], request, arn, utc_now(), tags), "model")
        return {"ModelArn": arn}

    async def _describe_model(self, call: Call) -> Mapping[str, Any]:
        model = self._table.authorized(call, self._table.arn(MODEL, call.params["ModelName"]))
        shown = {key: value for key, value in model.request.items() if key != "Tags"}
        shown["EnableNetworkIsolation"] = model.request.get("EnableNetworkIsolation", False)
        return {**shown, "ModelArn": model.arn, "CreationTime": model.created_at}

    async def _list_models(self, call: Call) -> Mapping[str, Any]:
        return self._list(
            call,
            MODEL,
            "Models",
            lambda model: {
                "ModelName": model.name,
                "ModelArn": model.arn,
                "CreationTime": model.created_at,
            },
        )

    async def _delete_model(self, call: Call) -> Mapping[str, Any]:
        self._table.remove(self._table.authorized(call, self._table.arn(MODEL, call.params["ModelName"])).arn)
        return {}

    # -- endpoint configurations -----------------------------------------------------------------------------

    async def _create_config(self, call: Call) -> Mapping[str, Any]:
        request = call.params
        name = request["EndpointConfigName"]
        arn = self._table.arn(CONFIG, name)
        tags = self._table.may_create(call, arn)
        check_tags(tags)
        for variant in request["ProductionVariants"]:
            where = f"variant {variant['VariantName']}"
            if "ServerlessConfig" in variant:
                raise unsupported(f"ServerlessConfig ({where})")
            if "ModelName" not in variant:
                raise unsupported(f"A variant without a model ({where})")
            self._model(variant["ModelName"])
        if "AsyncInferenceConfig" in request:
            raise unsupported("AsyncInferenceConfig")
        self._add(Stored(name, request, arn, utc_now(), tags), "endpoint configuration")
        return {"EndpointConfigArn": arn}

    async def _describe_config(self, call: Call) -> Mapping[str, Any]:
        config = self._table.authorized(call, self._table.arn(CONFIG, call.params["EndpointConfigName"]))
        shown = {key: value for key, value in config.request.items() if key != "Tags"}
        return {**shown, "EndpointConfigArn": config.arn, "CreationTime": config.created_at}

    async def _list_configs(self, call: Call) -> Mapping[str, Any]:
        return self._list(
            call,
            CONFIG,
            "EndpointConfigs",
            lambda config: {
                "EndpointConfigName": config.name,
                "EndpointConfigArn": config.arn,
                "CreationTime": config.created_at,
            },
        )

    async def _delete_config(self, call: Call) -> Mapping[str, Any]:
        arn = self._table.arn(CONFIG, call.params["EndpointConfigName"])
        self._table.remove(self._table.authorized(call, arn).arn)
        return {}

    # -- endpoints -------------------------------------------------------------------------------------------

    async def _create_endpoint(self, call: Call) -> Mapping[str, Any]:
        name, config_name = call.params["EndpointName"], call.params["EndpointConfigName"]
        arn = self._table.arn(ENDPOINT, name)
        tags = self._table.may_create(call, arn)
        check_tags(tags)
        self._config(config_name)
        endpoint = Endpoint(name, arn, utc_now(), tags, config_name)
        self._add(endpoint, "endpoint")
        endpoint.work = self._host.run(self._bring_up(endpoint, config_name), arn)
        return {"EndpointArn": arn}

    async def _update_endpoint(self, call: Call) -> Mapping[str, Any]:
        endpoint = self._endpoint(call)
        config_name = call.params["EndpointConfigName"]
        self._config(config_name)
        if endpoint.primary_status not in ("InService", "Failed"):
            raise invalid(f"Cannot update in-progress endpoint {endpoint.arn!r}.")
        endpoint.change("Updating")
        endpoint.work = self._host.run(self._bring_up(endpoint, config_name), endpoint.arn)
        return {"EndpointArn": endpoint.arn}

    async def _describe_endpoint(self, call: Call) -> Mapping[str, Any]:
        endpoint = self._endpoint(call)
        shown: dict[str, Any] = {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "EndpointConfigName": endpoint.config_name,
            "EndpointStatus": endpoint.primary_status,
            "CreationTime": endpoint.created_at,
            "LastModifiedTime": endpoint.modified_at,
        }
        if endpoint.failure_reason is not None:
            shown["FailureReason"] = endpoint.failure_reason
        if endpoint.variants:
            shown["ProductionVariants"] = [
                {
                    "VariantName": variant.name,
                    "CurrentWeight": variant.weight,
                    "DesiredWeight": variant.weight,
                    "CurrentInstanceCount": len(variant.servers),
                    "DesiredInstanceCount": len(variant.servers),
                }
                for variant in endpoint.variants
            ]
        return shown

    async def _list_endpoints(self, call: Call) -> Mapping[str, Any]:
        return self._list(
            call,
            ENDPOINT,
            "Endpoints",
            lambda endpoint: {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "CreationTime": endpoint.created_at,
                "LastModifiedTime": endpoint.modified_at,
                "EndpointStatus": endpoint.primary_status,
            },
        )

    async def _delete_endpoint(self, call: Call) -> Mapping[str, Any]:
        endpoint = self._endpoint(call)
        if endpoint.primary_status == "Deleting":
            raise invalid(f"Cannot update in-progress endpoint {endpoint.arn!r}.")
        endpoint.change("Deleting")
        if endpoint.work is not None:
            endpoint.work.cancel()
        endpoint.work = self._host.run(self._take_down(endpoint, endpoint.work), endpoint.arn)
        return {}

    async def invoke(
        self,
        caller: Caller,
        name: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        target_model: str | None,
        target_variant: str | None,
    ) -> tuple[Answer, str]:
        """
        What the endpoint's model answers, and the variant that did.

        Raises ApiError: ``ValidationError`` for no such endpoint, ``ModelError`` for a model that fails.
        """
        arn = self._table.arn(ENDPOINT, name)
        self._cloud.iam.authorize(caller, "sagemaker:InvokeEndpoint", arn)
        endpoint = self._table.get(arn)
        if endpoint is None or not endpoint.variants:
            raise ApiError(
                "ValidationError", f"Endpoint {name} of account {self._cloud.account_id} not found."
            )
        variants = [each for each in endpoint.variants if target_variant in (None, each.name)]
        if not variants:
            raise ApiError("ValidationError", f"Variant {target_variant} is not found in {name}.")
        weights = [variant.weight for variant in variants]
        variant = random.choices(variants, weights if any(weights) else None)[0]
        server = random.choice(variant.servers)
        if server.multi_model and not target_model:
            raise ApiError("ValidationError", "Missing required parameter TargetModel.")
        if target_model and not server.multi_model:
            raise ApiError("ValidationError", "Model does not support multi-model: leave out TargetModel.")
        try:
            if target_model:
                answer = await server.invoke_model(target_model, body, headers)
            else:
                answer = await server.invoke(body, headers)
        except StorageError as error:
            raise ApiError("ValidationError", f"Failed to download model data: {error}") from error
        except ServerFailed as error:
            raise _model_error(500, str(error), name) from error
        if answer.status >= 300:
            raise _model_error(answer.status, answer.body.decode("utf-8", "replace"), name)
        return answer, variant.name

    async def _bring_up(self, endpoint: Endpoint, config_name: str) -> None:
        """Serve by this configuration. When that fails, an endpoint that served before goes on as it was."""
        config = self._config(config_name)
        variants: list[Variant] = []
        try:
            for wanted in config.request["ProductionVariants"]:
                servers = [
                    self._server(endpoint, wanted) for _ in range(wanted.get("InitialInstanceCount", 1))
                ]
                weight = wanted.get("InitialVariantWeight", 1.0)
                variants.append(Variant(wanted["VariantName"], weight, wanted["ModelName"], servers))
            starts = [server.start() for variant in variants for server in variant.servers]
            await asyncio.gather(*starts)
        except asyncio.CancelledError:
            await _stop(variants)
            raise
        except Exception as error:
            if not isinstance(error, (ServerFailed, StorageError, ApiError)):
                logger.error("! %s: the local cloud failed:\n%s", endpoint.name, trace_of(error))
            await _stop(variants)
            endpoint.failure_reason = str(error)[:1024]
            endpoint.change("InService" if endpoint.variants else "Failed")
            return
        before, endpoint.variants = endpoint.variants, variants
        endpoint.config_name, endpoint.failure_reason = config_name, None
        endpoint.change("InService")
        await _stop(before)

    async def _take_down(self, endpoint: Endpoint, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        variants, endpoint.variants = endpoint.variants, []
        await _stop(variants)
        self._table.remove(endpoint.arn)

    def _server(self, endpoint: Endpoint, wanted: Mapping[str, Any]) -> ModelServer:
        model = self._model(wanted["ModelName"])
        variant, instance_id = wanted["VariantName"], f"i-{secrets.token_hex(9)[:17]}"
        isolated = model.request.get("EnableNetworkIsolation", False)
        # An isolated container has no way to Systems Manager.
        has_agent = wanted.get("EnableSSMAccess", False) and not isolated
        return ModelServer(
            container_of(model.request),
            self._host.session_credentials(model.request["ExecutionRoleArn"]),
            self._cloud,
            self._host.settings,
            self._host.executor,
            group=f"{ResourceKind.INFERENCE.log_group}/{endpoint.name}",
            stream=f"{variant}/{instance_id}",
            isolated=isolated,
            startup_timeout=wanted.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT),
            native_target=endpoint_target(endpoint.name, variant, instance_id) if has_agent else None,
        )

    async def _close(self) -> None:
        """End what serves; what is being brought up is the host's to end."""
        for endpoint in self._table.of_type(ENDPOINT):
            for variant in endpoint.variants:
                for server in variant.servers:
                    server.kill()
            await _stop(endpoint.variants)

    # -- what they share -------------------------------------------------------------------------------------

    def _add(self, record: Any, label: str) -> None:
        if self._table.get(record.arn) is not None:
            raise invalid(f"Cannot create already existing {label} {record.arn!r}.")
        self._table.add(record)

    def _list(self, call: Call, arn_type: str, member: str, summarize: Any) -> Mapping[str, Any]:
        self._cloud.iam.authorize(call.principal, f"sagemaker:{call.operation}")
        return self._table.page(call, self._table.of_type(arn_type), member, summarize)

    def model(self, name: str) -> Stored:
        """The model of this name. Raises ApiError."""
        return self._model(name)

    def _model(self, name: str) -> Stored:
        return self._needed(MODEL, name, "model")

    def _config(self, name: str) -> Stored:
        return self._needed(CONFIG, name, "endpoint configuration")

    def _needed(self, arn_type: str, name: str, label: str) -> Stored:
        arn = self._table.arn(arn_type, name)
        found: Stored | None = self._table.get(arn)
        if found is None:
            raise invalid(f'Could not find {label} "{arn}".')
        return found

    def _endpoint(self, call: Call) -> Endpoint:
        arn = self._table.arn(ENDPOINT, call.params["EndpointName"])
        try:
            endpoint: Endpoint = self._table.authorized(call, arn)
        except ApiError as error:
            if error.message != "Requested resource not found.":
                raise
            raise invalid(f'Could not find endpoint "{arn}".') from error
        return endpoint


def container_of(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one container definition of a CreateModel request that was checked."""
    found: Mapping[str, Any] = model.get("PrimaryContainer") or model["Containers"][0]
    return found


def _check_model(request: Mapping[str, Any]) -> None:
    containers = request.get("Containers", [])
    if ("PrimaryContainer" in request) == bool(containers):
        raise invalid("Specify either PrimaryContainer or Containers, but not both.")
    if len(containers) > 1:
        raise unsupported("More than one container in a model")
    definition = container_of(request)
    for member in ("ModelPackageName", "ModelDataSource", "InferenceSpecificationName"):
        if member in definition:
            raise unsupported(member)
    check_no_nul(definition.get("Environment", {}))
    check_tags({tag["Key"]: tag["Value"] for tag in request.get("Tags", ())})
    if "ModelDataUrl" in definition:
        check_s3_uri(definition["ModelDataUrl"], "ModelDataUrl")
    elif definition.get("Mode") == "MultiModel":
        raise invalid("ModelDataUrl is required for a multi-model container.")


def _model_error(status: int, message: str, name: str) -> ApiError:
    return ApiError(
        "ModelError",
        f"Received {'client' if status < 500 else 'server'} error ({status}) from primary with message "
        f'"{message[:1000]}". See the log group {ResourceKind.INFERENCE.log_group}/{name}.',
        424,
        {"OriginalStatusCode": status, "OriginalMessage": message[:1000]},
    )


async def _stop(variants: list[Variant]) -> None:
    servers = [server for variant in variants for server in variant.servers]
    await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
