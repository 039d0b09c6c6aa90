"""`tidegate fsck`: the real program finds damage that was made for real, in the cloud and on disk, and repairs what is decidable."""

import pathlib

import pytest
from botocore.exceptions import ClientError

from harness import DAY, http, read_body
from settings import policy
from test_tiering import wait_tier

BUCKET = "data"


@pytest.fixture
def nas(gateway, tmp_path):
    """A gateway whose cold tier is a directory, with three objects there, in its second epoch."""
    share = tmp_path / "nas"
    rules = policy(BUCKET)
    rules["tiers"] = [{"name": "nas"}]
    rules["rules"][0]["transitions"] = [{"to": "nas", "after": "30d"}]
    server = gateway(policy=rules, tiers={"nas": {"type": "directory", "path": str(share)}}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    for n in range(3):
        client.put_object(Bucket=BUCKET, Key=f"logs/{n}", Body=bytes([n]) * 50_000)
    server.advance(31 * DAY)
    wait_tier(server, [f"logs/{n}" for n in range(3)], "nas")
    server.lose_local_packs()
    return server, share


def fsck(server, *args):
    """(exit code, report)."""
    result = server.cli("fsck", *args, json_output=True, check=False)
    return result.code, result.json


def kinds(report):
    return {(total["kind"], total["tier"]): total["count"] for total in report["totals"]}


def packs(share):
    return sorted(p for p in share.rglob("*.pack"))


def test_a_sound_store_is_clean_for_people_and_programs(nas):
    server, _ = nas
    code, report = fsck(server)
    assert (code, report["remaining"], report["findings"]) == (0, 0, []), report
    assert report["tiers"][0]["matched"] == report["tiers"][0]["live"] >= 1
    text = server.cli("fsck")
    assert "clean" in text.out and "nas" in text.out and "packs on record" in text.err, text
    assert server.cli("fsck", "--local").code == 0


def test_what_is_missing_in_a_tier_is_named_by_key_and_left(nas):
    server, share = nas
    pack = packs(share)[0]
    pack.rename(share / "kept")
    code, report = fsck(server, "--remote", "--repair")
    assert code == 3 and kinds(report)["dangling_pack", "nas"] == 1, report
    dangling = next(f for f in report["findings"] if f["kind"] == "dangling_pack")
    assert dangling["what"] == str(pack.relative_to(share)) and dangling["repair"] == "no"
    suffering = {f["what"] for f in report["findings"] if f["kind"] == "affected_object"}
    assert suffering and suffering <= {f"{BUCKET} / logs/{n}" for n in range(3)}, report
    (share / "kept").rename(pack)
    assert fsck(server)[0] == 0
    assert read_body(server.client(), BUCKET, "logs/2") == b"\x02" * 50_000


def test_orphans_are_deleted_once_they_are_old(nas):
    server, share = nas
    pack = packs(share)[0]
    orphan = pack.with_name("0" * 11 + "1" + "a" * 20 + ".pack")
    orphan.write_bytes(b"left over")
    foreign = share / "packs" / ("f" * 32) / "00000001" / orphan.name
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"another's")
    assert not pack.parent.name.endswith("2"), "the packs are of the first epoch"
    code, report = fsck(server)
    assert code == 3 and kinds(report) == {("orphan_pack", "nas"): 1}, report
    assert report["findings"][0]["repair"] == "possible" and report["tiers"][0]["foreign"] == 1
    text = server.cli("fsck", check=False)
    assert text.code == 3 and "orphan pack" in text.out and "--repair" in text.out, text
    assert orphan.exists()
    code, report = fsck(server, "--repair")
    assert (code, report["remaining"], report["findings"][0]["repair"]) == (0, 0, "done"), report
    assert not orphan.exists() and foreign.exists() and packs(share)[0].exists()
    assert fsck(server)[0] == 0


def test_a_local_pack_that_went_away_is_found(nas):
    server, _ = nas
    server.client().put_object(Bucket=BUCKET, Key="hot", Body=b"h" * 70_000)
    server.cli("scrub")  # seals
    for file in pathlib.Path(server.data, "packs").glob("*.pack"):
        file.rename(file.with_suffix(".away"))
    code, report = fsck(server, "--local")
    assert code == 3 and kinds(report)["missing_pack", None] >= 1, report
    assert any(f["kind"] == "lost_chunks" and f["what"] == f"{BUCKET} / hot" for f in report["findings"]), report
    for file in pathlib.Path(server.data, "packs").glob("*.away"):
        file.rename(file.with_suffix(".pack"))
    assert fsck(server, "--local")[0] == 0


def test_a_tier_that_went_from_the_configuration_is_warned_of(nas):
    server, _ = nas
    server.stop()
    taken = {name: server.settings.pop(name) for name in ("tiers", "policy")}
    server.write_config()
    server.start()
    status, text = http("GET", server.admin_url + "/readyz")
    assert status == 200 and "3 objects are in tier nas, which the configuration does not name any more" in text, text
    assert "packs are in a tier that the configuration does not name any more" in "".join(server.process.lines)
    with pytest.raises(ClientError) as failed:
        read_body(server.client(), BUCKET, "logs/2")
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    code, report = fsck(server)
    assert code == 3 and kinds(report)["not_checked", "nas"] == 1, report
    server.stop()
    server.settings |= taken
    server.write_config()
    server.start()
    assert "configuration does not name" not in http("GET", server.admin_url + "/readyz")[1]
    assert read_body(server.client(), BUCKET, "logs/2") == b"\x02" * 50_000


def test_an_estimate_costs_nothing_and_is_what_is_then_asked(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET)).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x" * 50_000)
    server.advance(31 * DAY)
    wait_tier(server, ["k"], "ia")

    def listings():
        return sum(r["count"] for r in sim.admin("GET", "/requests") if r["operation"] == "ListObjectsV2")

    before = listings()
    estimate = server.cli("fsck", "--estimate", json_output=True).json
    assert estimate == server.cli("fsck", "--dry-run", json_output=True).json
    assert [t["tier"] for t in estimate["tiers"]] == ["archive", "deep", "ia"] and estimate["cost"] > 0
    assert "CNY" in server.cli("fsck", "--estimate").out
    assert listings() == before, "an estimate asks no tier"
    code, report = fsck(server, "--tier", "ia")
    assert (code, report["estimate"]["tiers"][0]["list_requests"]) == (0, 1), report
    assert listings() == before + 1


def test_what_is_asked_wrongly_is_refused(nas):
    server, _ = nas
    local = server.cli("fsck", "--local", "--tier", "nas", check=False)
    assert local.code == 2 and "--remote" in local.err, local
    unknown = server.cli("fsck", "--tier", "nope", check=False)
    assert unknown.code == 1 and "configured: nas" in unknown.err, unknown
    server.stop()
    assert server.cli("fsck", check=False).code == 4
