"""
The AWS side on loopback, for tests and demos: our own Systems Manager, message gateway and SageMaker in front
of moto's S3, STS, IAM, CloudWatch Logs, KMS and SNS, on one port. Needs the ``emulator`` extra.

Start it with ``sm-ssh emulator start`` or ``sm-ssh emulator run -- COMMAND``; see
docs/reference/local-cloud.md.
"""
