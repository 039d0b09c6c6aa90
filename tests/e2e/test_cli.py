"""Every command of `tidegate`, for people and with --json, against a live server, a stopped one, and none."""

import json
import resource

import jsonschema
import pytest
import yaml

from harness import DAY, ROOT, TIDEGATE, run, wait_until
from settings import policy

BUCKET = "data"
EXAMPLES = sorted((ROOT / "policies" / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    from harness import OssSim, Tidegate

    folder = tmp_path_factory.mktemp("cli")
    sim = OssSim(folder / "sim").start()
    server = Tidegate(folder / "gateway", sim=sim, policy=policy(BUCKET)).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    for i in range(20):
        client.put_object(Bucket=BUCKET, Key=f"logs/{i:02}", Body=b"line %d\n" % i * 500)
    client.put_object(Bucket=BUCKET, Key="with space/ü", Body=b"x" * 100)
    yield server
    server.kill()
    sim.kill()


LIVE = [
    ("stats",),
    ("tier", "list"),
    ("tier", "probe", "ia"),
    ("tier", "packs", "ia"),
    ("object", "status", f"s3://{BUCKET}/logs/01"),
    ("object", "status", f"s3://{BUCKET}/with space/ü"),
    ("policy", "plan", "--horizon", "60d"),
    ("policy", "show"),
    ("policy", "reload"),
    ("gc", "--dry-run"),
    ("gc",),
    ("scrub",),
    ("fsck",),
    ("fsck", "--estimate"),
    ("check",),
]


@pytest.mark.parametrize("command", LIVE, ids=" ".join)
def test_a_command_speaks_to_people_and_to_programs(running, command):
    text = running.cli(*command)
    assert text.out.strip(), text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text.out)
    assert running.cli(*command, json_output=True).json is not None
    assert "\x1b[" not in text.out, "no colours when the output is no terminal"


def test_object_status_tells_where_why_and_what_next(running):
    status = running.status(BUCKET, "logs/01")
    assert status["residency"] == "Hot"
    assert status["next"]["rule"] == "cool-down"
    assert "ia" in status["next"]["decision"]
    assert status["chunks"] >= 1 and status["packs"]
    text = running.cli("object", "status", f"s3://{BUCKET}/logs/01").out
    assert "cool-down" in text


@pytest.mark.parametrize("url", ["s3://data/nothing", "s3://nothing/k", "data/logs/01", "s3://"])
def test_object_status_of_what_is_not_there_fails(running, url):
    result = running.cli("object", "status", url, check=False)
    assert result.code != 0 and result.err.strip() and "panicked" not in result.err, result


def test_a_plan_shows_what_would_move_and_moves_nothing(running):
    before = running.sim.objects()
    plan = running.cli("policy", "plan", json_output=True).json
    assert plan
    assert running.sim.objects() == before
    assert running.status(BUCKET, "logs/01")["residency"] == "Hot"


def test_unknown_arguments_are_usage_errors(running):
    for args in (["nonsense"], ["stats", "--nonsense"], ["tier"], ["clock", "advance", "30"]):
        result = running.cli(*args, check=False, with_config=False)
        assert result.code == 2, (args, result)


def test_help_and_version_need_no_server():
    assert "serve" in run([TIDEGATE, "--help"]).stdout
    assert run([TIDEGATE, "--version"]).stdout.startswith("tidegate ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_printed(shell):
    assert "tidegate" in run([TIDEGATE, "completions", shell]).stdout


def two_triggers(document):
    document["rules"][0]["transitions"][0]["whenFull"] = "80%"


def test_policy_schema_is_a_json_schema_that_the_examples_fit(running):
    schema = running.cli("policy", "schema", with_config=False).json
    assert "$schema" in schema and schema["properties"]["rules"]
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    for example in EXAMPLES:
        validator(schema).validate(yaml.safe_load(example.read_text()))
    for change, _ in [*BROKEN[:2], (lambda d: d["rules"][0].update(filter=None), "filter"), (two_triggers, "whenFull")]:
        document = policy(BUCKET)
        change(document)
        with pytest.raises(jsonschema.ValidationError):
            validator(schema).validate(document)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_policy_check_accepts_each_example(example):
    run([TIDEGATE, "policy", "check", example])


BROKEN = [
    (lambda d: d.update(colour="red"), "colour"),
    (lambda d: d["rules"][0]["transitions"][0].update(after="0d"), "after"),
    (lambda d: d["rules"][0]["transitions"][0].update(to="nowhere"), "nowhere"),
    (lambda d: d["rules"][0]["transitions"].reverse() or d["rules"][0]["transitions"][0].update(after="1d"), "archive"),
    (lambda d: d["rules"].append(d["rules"][0]), "cool-down"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_policy_check_names_file_line_and_the_way_out(tmp_path, number):
    change, word = BROKEN[number]
    document = json.loads(json.dumps(policy(BUCKET)))
    change(document)
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.dump(document, sort_keys=False, Dumper=plain_dumper()))
    result = run([TIDEGATE, "policy", "check", file], check=False)
    assert result.returncode == 3, result
    said = result.stdout + result.stderr
    assert "broken.yaml:" in said and word in said, said


def plain_dumper():
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    return Plain


def test_commands_without_a_server_say_so(gateway):
    server = gateway()
    for args in (["stats"], ["gc"], ["tier", "list"], ["object", "status", "s3://a/b"], ["policy", "plan"]):
        result = server.cli(*args, check=False)
        assert result.code == 4, (args, result)
        assert result.err.strip(), args


def test_check_refuses_a_broken_configuration(gateway):
    server = gateway()
    server.settings["s3"]["listne"] = "127.0.0.1:1"
    server.write_config()
    result = server.cli("check", check=False)
    assert result.code == 3
    assert "listne" in result.err + result.out and "tidegate.yaml" in result.err + result.out
    started = server.start(wait=False).process.wait()
    assert started == result.code


def test_journal_dump_shows_what_happened(gateway):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x")
    server.stop()
    text = server.cli("journal", "dump").out
    assert text.strip()
    for line in server.cli("journal", "dump", json_output=True).out.splitlines():
        json.loads(line)


def test_serve_without_a_configuration_prints_a_generated_key_once(tmp_path):
    import re
    import socket

    from harness import Process

    for port in (9000, 9320):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something listens on the default port {port} of this machine")

    def begin():
        argv = ["sh", "-c", f"cd '{tmp_path}' && exec '{TIDEGATE}' serve"]
        process = Process(argv, tmp_path / "serve.log")
        process.wait_line(r"127\.0\.0\.1:9000")
        return process

    process = begin()
    stored = json.loads((tmp_path / "tidegate-data" / "access-key.json").read_text())
    process.wait_line(re.escape(stored["access_key"]))
    assert process.stop() == 0
    process = begin()
    assert process.stop() == 0
    assert stored["secret_key"] not in "".join(process.lines), "the second start prints no secret"


def test_the_admin_listener_answers_probes_and_metrics(running):
    from harness import http

    assert http("GET", running.admin_url + "/livez")[0] == 200
    assert http("GET", running.admin_url + "/readyz")[0] == 200
    assert http("GET", running.admin_url + "/nothing")[0] == 404
    text = http("GET", running.admin_url + "/metrics")[1]
    names = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    ours = [n for n in names if n.startswith("tidegate_")]
    assert len(ours) > 15, sorted(names)
    for name in ours:
        if names[name] == "counter":
            assert name.endswith("_total"), name
        assert not name.endswith(("_ms", "_milliseconds", "_kb", "_mb")), f"{name}: base units only"
    documented = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert set(ours) <= documented
    assert http("POST", running.admin_url + "/gc", b"{}")[0] in (401, 403, 404, 405), "the API is on the socket only"


def test_every_metric_that_operators_are_promised_is_there_and_moves(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET)).start()
    before = server.metrics()
    hot, cold = '{residency="hot",tier=""}', '{residency="cold",tier="archive"}'
    assert before[f"tidegate_objects{hot}"] == before[f"tidegate_objects{cold}"] == 0, "shown before there is any"
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    for i in range(4):
        client.put_object(Bucket=BUCKET, Key=f"k{i}", Body=b"the same text " * 10_000)
    client.get_object(Bucket=BUCKET, Key="k0")["Body"].read()
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=BUCKET, Key="missing")
    moving = [
        'tidegate_http_requests_total{operation="PutObject",status_class="2xx"}',
        'tidegate_http_request_duration_seconds_count{operation="PutObject"}',
        'tidegate_http_errors_total{code="NoSuchKey"}',
        "tidegate_http_request_bytes_total",
        "tidegate_http_response_bytes_total",
        "tidegate_journal_sync_duration_seconds_count",
        "tidegate_oldest_dirty_byte_age_seconds",
        f"tidegate_objects{hot}",
        f"tidegate_object_bytes{hot}",
    ]

    def standing():
        now = server.metrics()
        return [name for name in moving if now.get(name, 0) <= before.get(name, 0)]

    # A request is counted when the last byte of its answer is written, which may be just after the client has it.
    wait_until("all of them to grow", lambda: not standing())
    after = server.metrics()
    logical, unique = after[f"tidegate_object_bytes{hot}"], after["tidegate_local_unique_bytes"]
    assert logical / unique > 3.5, "deduplication"
    assert unique / after["tidegate_local_stored_bytes"] > 5, "compression"

    sim.stop()
    server.advance_own(100 * DAY)
    assert server.metrics()["tidegate_oldest_dirty_byte_age_seconds"] > 99 * DAY
    wait_until("the lag to show", lambda: server.metrics()["tidegate_oldest_due_lag_seconds"] > 0)
    wait_until("the queue to show", lambda: server.metrics()['tidegate_transition_queue_versions{tier="archive"}'] == 4)
    errors = 'tidegate_tier_requests_total{operation="PutObject",outcome="not_sent",tier="archive"}'
    wait_until("the tier's errors to show", lambda: server.metrics().get(errors, 0) > 0)
    sim.start()
    sim.advance(100 * DAY)
    wait_until("the objects to move", lambda: server.metrics()[f"tidegate_objects{cold}"] == 4)
    moved = server.metrics()
    assert moved["tidegate_oldest_dirty_byte_age_seconds"] == moved["tidegate_oldest_due_lag_seconds"] == 0
    assert moved['tidegate_remote_pack_bytes{state="stored",tier="archive"}'] > 0

    server.lose_local_packs()
    client.restore_object(Bucket=BUCKET, Key="k0", RestoreRequest={"Days": 1})
    wait_until("the restore to age", lambda: server.metrics()["tidegate_oldest_restore_age_seconds"] > 0)
    assert server.metrics()["tidegate_restores_open"] == 1
    server.advance(3600)
    wait_until("the restore to end", lambda: server.metrics()["tidegate_restores_open"] == 0)
    assert server.metrics()["tidegate_oldest_restore_age_seconds"] == 0


def test_the_id_of_a_refused_request_leads_to_its_line_in_the_log(gateway):
    from s3util import send

    server = gateway(log={"format": "json", "level": "info"}).start()
    _, headers, body = send(server, "GET", "/nothing/here?x-private=1")
    request_id = headers["x-amz-request-id"]
    assert f"<RequestId>{request_id}</RequestId>".encode() in body

    def found():
        lines = [line for line in server.process.lines if request_id in line]
        return [json.loads(line) for line in lines]

    (line,) = wait_until("the request's line in the log", found)
    wanted = {"method": "GET", "path": "/nothing/here", "operation": "GetObject", "status": 404, "code": "NoSuchBucket"}
    assert {k: line[k] for k in wanted} == wanted
    assert isinstance(line["ms"], int) and isinstance(line["bytes"], int), line
    assert "x-private" not in json.dumps(line)


def test_a_scrub_reads_what_was_written_last(gateway, rng):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    body = rng.randbytes(300_000)
    client.put_object(Bucket=BUCKET, Key="k", Body=body)
    report = server.cli("scrub", json_output=True).json
    assert report["chunks"] >= 3 and report["bytes"] >= len(body) and report["damaged"] == []
    client.put_object(Bucket=BUCKET, Key="l", Body=body[::-1])
    assert server.cli("scrub", json_output=True).json["chunks"] > report["chunks"]


def test_the_secret_is_in_no_log_and_no_answer(running):
    from harness import OSS_SECRET, SECRET_KEY

    text = (running.folder / "tidegate.log").read_text()
    text += running.cli("check").out + running.cli("check", json_output=True).out + running.cli("stats").out
    assert SECRET_KEY not in text and OSS_SECRET not in text


def test_stats_count_logical_unique_and_stored_bytes(gateway, rng):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    body = rng.randbytes(1_000_000)
    for key in "abcd":
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    stats = server.stats()
    assert (stats["objects"], stats["logical_bytes"]) == (4, 4_000_000)
    assert stats["hot"] == {"objects": 4, "bytes": 4_000_000}
    assert 1_000_000 <= stats["local"]["unique_bytes"] < 1_100_000
    assert 3.5 < stats["local"]["dedup_ratio"] < 4.1


def test_the_clock_moves_only_when_it_may(gateway):
    server = gateway(debug={"adjustable_clock": False}).start()
    result = server.cli("clock", "advance", "1d", check=False)
    assert result.code not in (0, 2, 101) and "adjustable_clock" in result.err, result


def test_a_clock_that_was_moved_stays_moved_when_the_server_is_killed(gateway):
    server = gateway().start()
    moved = json.loads(server.cli("clock", "advance", "40d", "--json").out)
    server.kill()
    server.start()
    now = json.loads(server.cli("clock", "advance", "1s", "--json").out)
    assert moved["offset_ms"] == 40 * DAY * 1000
    assert now["offset_ms"] == moved["offset_ms"] + 1000
    assert now["now"] >= moved["now"]


def test_a_transition_shows_in_stats_and_tier_list(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET)).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x" * 1000)
    server.advance(31 * DAY)

    def objects_in_ia():
        return next((t["objects"] for t in server.stats()["tiers"] if t["name"] == "ia"), 0) == 1

    wait_until("stats to count the object in ia", objects_in_ia)
    assert "ia" in server.cli("tier", "list").out
    packs = server.cli("tier", "packs", "ia", json_output=True).json
    assert [p["state"] for p in packs] == ["live"]
    assert [(key.endswith(packs[0]["name"]), size) for key, size in sim.objects().items()] == [(True, packs[0]["bytes"])]


def test_serve_raises_its_limit_of_open_files_and_says_when_that_is_too_low(gateway):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        server = gateway(s3={"max_connections": 10**12}).start()
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    server.process.wait_line("s3.max_connections and store.packs.max_open_files may need more open files")


def test_check_refuses_a_write_timeout_that_the_system_does_not_take(gateway):
    server = gateway(s3={"write_timeout_seconds": "30d"})
    result = server.cli("check", check=False)
    assert result.code == 3 and "write_timeout_seconds" in result.out + result.err, result
