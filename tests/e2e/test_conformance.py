"""`tidegate tier ram-policy` and `tidegate tier conformance`: the real program against the simulator, which here and there
answers otherwise than it should."""

import json
import signal
import subprocess

import pytest
from botocore.exceptions import ClientError

from harness import DAY, OSS_KEY, read_body, wait_until
from s3util import MIB
from settings import policy

BUCKET = "data"


@pytest.fixture
def offline(gateway, sim):
    """A configuration with tiers on the simulator; no server runs."""
    return gateway(sim=sim)


def faults(sim, *rules):
    sim.admin("PUT", "/faults", {"seed": 1, "rules": list(rules)})


def broken(operation):
    return {"kind": "error", "status": 500, "code": "InternalError", "op": operation}


def requests(sim, operation):
    return sum(r["count"] for r in sim.admin("GET", "/requests") if r["operation"] == operation)


def test_a_store_that_answers_as_the_simulator_does_differs_in_nothing(offline, sim, tmp_path):
    record = tmp_path / "answers.json"
    result = offline.cli("tier", "conformance", "--tier", "ia", "--record", record, json_output=True)
    report = result.json
    assert report["ok"] and report["different"] == 0 and report["skipped"] == 0 and report["same"] > 100, report
    assert sim.objects() == {}, "nothing is left"
    assert report["prefix"].startswith("tidegate/ia/tidegate-conformance/")
    assert report["prefix"] in result.err and "CNY" in result.err, "what is written and what it costs is said before"
    kept = json.loads(record.read_text())
    assert len(kept["steps"]) == report["same"]
    assert all("x-oss-request-id" in dict(s["raw"]["headers"]) for s in kept["steps"])


def test_the_class_of_the_tier_does_not_matter_and_people_get_a_table(offline, sim):
    result = offline.cli("tier", "conformance", "--tier", "deep")
    assert "0 different" in result.out and "archive-restore-again" in result.out
    assert "DIFFERENT" not in result.out
    assert sim.objects() == {}


def test_a_difference_is_shown_with_both_answers_and_by_the_exit_code(offline, sim):
    faults(sim, broken("RestoreObject"))
    result = offline.cli("tier", "conformance", "--tier", "ia", check=False)
    assert result.code == 3, result
    shown = result.out.split("archive-restore: ")[1]
    assert "simulator: 202" in shown and "store:     500" in shown, shown[:400]
    report = offline.cli("tier", "conformance", "--tier", "ia", check=False, json_output=True).json
    different = {s["step"] for s in report["steps"] if s["outcome"] == "different"}
    assert {"archive-restore", "cold-restore-bulk"} <= different and "put" not in different, different
    assert sim.objects() == {}, "nothing is left"


def test_a_dry_run_says_what_it_would_do_and_asks_nothing(offline, sim):
    result = offline.cli("tier", "conformance", "--tier", "ia", "--dry-run")
    assert "tidegate/ia/tidegate-conformance/" in result.out and "CNY" in result.out
    plan = offline.cli("tier", "conformance", "--tier", "ia", "--dry-run", json_output=True).json
    assert plan["requests"] > 100 and 0 < float(plan["cost"]) < 0.05
    assert sim.admin("GET", "/requests") == []


def test_a_record_that_cannot_be_written_is_told_before_anything_is_asked(offline, sim, tmp_path):
    record = tmp_path / "no such folder" / "answers.json"
    result = offline.cli("tier", "conformance", "--tier", "ia", "--record", record, check=False)
    assert result.code == 1 and str(record) in result.err, result
    assert sim.admin("GET", "/requests") == []


def test_a_store_that_cannot_be_reached_is_a_failure_and_not_a_difference(offline, sim):
    sim.stop()
    result = offline.cli("tier", "conformance", "--tier", "ia", check=False)
    assert result.code == 1 and "cannot be reached" in result.out, result


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
def test_a_run_that_is_ended_removes_what_it_wrote(offline, sim, end):
    # It waits in the middle of an upload in parts.
    faults(sim, {"kind": "slow", "delay_ms": 60_000, "op": "ListParts"})
    argv = [offline.binary, "tier", "conformance", "--tier", "ia", "--config", offline.config]
    run = subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until("two parts to be there", lambda: requests(sim, "UploadPart") >= 2)
        assert sim.objects() != {}
        run.send_signal(end)
        out, err = run.communicate(timeout=180)
    finally:
        run.kill()
    assert run.returncode == 1 and "stopped before the end" in out, (out, err)
    assert "1 uploads" in out, out
    assert sim.objects() == {}, "nothing is left"


def test_a_key_that_may_not_delete_leaves_something_and_says_so(offline, sim):
    allowed = offline.cli("tier", "ram-policy", "--tier", "ia", "--conformance").json
    for statement in allowed["Statement"]:
        statement["Action"] = [a for a in statement["Action"] if a != "oss:DeleteObject"]
    sim.admin("PUT", "/policies", {"access_key": OSS_KEY, "policy": allowed})
    result = offline.cli("tier", "conformance", "--tier", "ia", check=False)
    assert result.code == 3 and "left behind: tidegate/ia/tidegate-conformance/" in result.out, result


def test_only_tiers_on_oss_have_a_policy_and_a_conformance(offline):
    for command in (["ram-policy"], ["conformance"]):
        unknown = offline.cli("tier", *command, "--tier", "nowhere", check=False)
        assert unknown.code == 1 and "archive, deep, ia" in unknown.err, unknown
    offline.settings["tiers"]["nas"] = {"type": "directory", "path": str(offline.folder / "nas")}
    offline.write_config()
    other = offline.cli("tier", "ram-policy", "--tier", "nas", check=False)
    assert other.code == 1 and "not of type oss" in other.err, other


def test_the_generated_policies_are_enough_for_the_whole_life_of_an_object(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET))
    # One key for all tiers: what each of them needs.
    statements = []
    for tier in ("ia", "archive", "deep"):
        statements += server.cli("tier", "ram-policy", "--tier", tier).json["Statement"]
    assert "oss:RestoreObject" not in statements[0]["Action"]
    sim.admin("PUT", "/policies", {"access_key": OSS_KEY, "policy": {"Version": "1", "Statement": statements}})
    # Between the moves of the two clocks a request may be on its way: what is refused here shall be for the policy alone.
    sim.admin("PUT", "/clock", {"skew_check": False})
    server.start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    bodies = {f"k/{n}": bytes([n]) * (MIB + n) for n in range(5)}
    for key, body in bodies.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def all_in(tier):
        def is_there(key):
            residency = server.status(BUCKET, key)["residency"]
            return residency != "Hot" and residency.get("Cold", {}).get("tier") == tier

        wait_until(f"all objects to be in {tier}", lambda: all(is_there(k) for k in bodies))

    server.advance(31 * DAY)
    all_in("ia")
    server.lose_local_packs()
    assert read_body(client, BUCKET, "k/1") == bodies["k/1"]
    server.advance(60 * DAY)
    all_in("archive")
    server.lose_local_packs()
    with pytest.raises(ClientError, match="InvalidObjectState"):
        read_body(client, BUCKET, "k/2")
    client.restore_object(Bucket=BUCKET, Key="k/2", RestoreRequest={"Days": 1})

    def thawed():
        # The request to the tier goes out some time after the answer to the client, so time goes on in steps.
        server.advance(60)
        return "Restored" in server.status(BUCKET, "k/2")["residency"]

    wait_until("k/2 to be readable", thawed, every=0.2)
    assert read_body(client, BUCKET, "k/2") == bodies["k/2"]
    for key in bodies:
        client.delete_object(Bucket=BUCKET, Key=key)

    def gone():
        server.advance(DAY)
        server.cli("gc")
        return sim.objects() == {}

    wait_until("the tiers to be empty", gone, every=1)
    for report in server.cli("tier", "probe", json_output=True).json:
        assert report["ok"], report
    refused = {r["code"] for r in sim.admin("GET", "/requests") if r["status"] == 403}
    # The probe's GET of an archived object is refused for its state. Only a permission must never be what was missing.
    assert refused == {"InvalidObjectState"}, refused


def test_only_the_variables_of_the_tier_that_is_asked_must_be_set(gateway, sim):
    secret = {"access_key": "a", "secret_key": "${NOT_SET_S3}"}
    gate = gateway(sim=sim, s3={"access_keys": [secret]})
    gate.settings["tiers"]["deep"]["credentials"]["access_key_secret"] = "${NOT_SET_DEEP}"
    gate.write_config()
    assert gate.cli("tier", "conformance", "--tier", "ia", "--dry-run").code == 0
    for tier in ("ia", "deep"):
        assert gate.cli("tier", "ram-policy", "--tier", tier).json["Statement"]
    refused = gate.cli("tier", "conformance", "--tier", "deep", "--dry-run", check=False)
    assert refused.code == 3 and "NOT_SET_DEEP" in refused.err, refused
    refused = gate.cli("check", check=False)
    assert refused.code == 3 and "NOT_SET_S3" in refused.out + refused.err, refused
