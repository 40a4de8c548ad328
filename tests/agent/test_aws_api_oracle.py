"""Our endpoints are botocore's, in every region it knows."""

import botocore.session

from sagemaker_ssh_helper.agent.aws_api import endpoint_url


def test_endpoints_of_all_regions() -> None:
    session = botocore.session.Session()
    compared = 0
    for partition in session.get_available_partitions():
        for region in session.get_available_regions("ssm", partition_name=partition):
            if "fips" in region:
                continue
            client = session.create_client("ssm", region, aws_access_key_id="a", aws_secret_access_key="b")
            assert endpoint_url("ssm", region, {}) == client.meta.endpoint_url
            compared += 1

    assert compared > 30
