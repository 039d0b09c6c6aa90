"""The configuration that tests give to `tidegate serve`: the one place that knows its shape."""

import harness


def settings(server, has_policy):
    """Plain S3 without a policy; with a simulator, the classes IA and Archive of one bucket as tiers `ia`, `archive`."""
    return {}
