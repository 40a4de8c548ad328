"""``python -m sagemaker_ssh_helper.deregister_old_instances_from_ssm`` is ``sm-ssh deregister``."""

import sys

from sagemaker_ssh_helper.cli.cmd_deregister import main

if __name__ == "__main__":
    sys.exit(main())
