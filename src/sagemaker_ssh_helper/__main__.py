"""``python -m sagemaker_ssh_helper`` is ``sm-ssh``."""

import sys

from sagemaker_ssh_helper.cli.main import main

sys.exit(main())
