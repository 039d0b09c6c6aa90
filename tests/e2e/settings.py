"""The configuration that tests give to `tidegate serve`: the one place that knows its shape."""

import harness

# Names of the tiers that tests use; `classes` maps what S3 clients say to them.
TIERS = {"ia": "IA", "archive": "Archive", "deep": "ColdArchive"}
CLASSES = {"STANDARD": "hot", "STANDARD_IA": "ia", "GLACIER": "archive", "DEEP_ARCHIVE": "deep"}


def settings(server, has_policy):
    """Plain S3; with a simulator also one tier for each of its classes; with a policy also that."""
    result = {
        "data_dir": str(server.data),
        "s3": {
            "listen": f"127.0.0.1:{server.port}",
            "access_keys": [{"access_key": harness.ACCESS_KEY, "secret_key": harness.SECRET_KEY}],
            "region": harness.REGION,
            "domains": ["s3.test.local"],
        },
        "admin": {"listen": f"127.0.0.1:{server.admin_port}", "socket": str(server.socket)},
        "log": {"level": "info"},
        "debug": {"adjustable_clock": True},
        # What an operator would want in minutes, in parts of a second.
        "store": {
            "tiering": {
                "linger_ms": 300,
                "protect_linger_ms": 300,
                "poll_ms": 100,
                "retry_min_ms": 100,
                "retry_max_ms": 1000,
                "thaw_poll_ms": 200,
                "gc_interval_ms": 1000,
            }
        },
    }
    if server.sim:
        result["tiers"] = {name: oss_tier(server.sim, name, storage) for name, storage in TIERS.items()}
        result["classes"] = CLASSES
    if has_policy:
        result["policy"] = str(server.policy)
    return result


def oss_tier(sim, name, storage):
    return {
        "type": "oss",
        "endpoint": sim.endpoint,
        "region": "cn-hangzhou",
        "bucket": sim.bucket,
        "prefix": f"tidegate/{name}",
        "storage_class": storage,
        "credentials": {"source": "static", "access_key_id": harness.OSS_KEY, "access_key_secret": harness.OSS_SECRET},
        # Short waits, so that a stopped simulator is noticed within the bounds of a test.
        "connect_timeout_ms": 1000,
        "read_timeout_ms": 5000,
        "max_attempts": 2,
    }


def policy(bucket="data", ia_after="30d", archive_after="90d", expire_after=None, **filters):
    """A policy of one rule: hot -> ia -> archive."""
    rule = {
        "id": "cool-down",
        "filter": {"bucket": bucket, **filters},
        "transitions": [{"to": "ia", "after": ia_after}, {"to": "archive", "after": archive_after}],
    }
    if expire_after:
        rule["expiration"] = {"after": expire_after}
    return {
        "apiVersion": "tidegate/v1",
        "kind": "LifecyclePolicy",
        "metadata": {"name": "test"},
        "tiers": [{"name": "ia", "class": "IA"}, {"name": "archive", "class": "Archive"}],
        "rules": [rule],
    }
