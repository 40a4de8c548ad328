"""What all tests share: how long Hypothesis looks. ``HYPOTHESIS_PROFILE=deep`` looks for hours."""

import os

from hypothesis import HealthCheck, settings

# No deadlines: two cores are shared, and a slow example is no bug.
settings.register_profile(
    "fast", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("deep", settings.get_profile("fast"), max_examples=20000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
