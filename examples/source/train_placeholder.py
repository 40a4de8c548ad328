import time
from datetime import timedelta

from sagemaker_ssh_helper import is_last_session_timeout, is_profiler_issues_found, setup_and_start_ssh

setup_and_start_ssh()

# Five minutes after the last session, once the profiler has found that the GPU has nothing to do.
while not (is_last_session_timeout(timedelta(minutes=5)) and is_profiler_issues_found()):
    time.sleep(10)
