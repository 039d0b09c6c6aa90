use super::*;

fn env(name: &str, _: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("0123456789abcdef-from-env".to_owned()),
        "PORT" => Some("9555".to_owned()),
        "SECRET" => Some("hunter2hunter2".to_owned()),
        "WINDOW" => Some("45s".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Problem> {
    Config::read("t.yaml", text, &env)
}

#[test]
fn an_empty_document_gives_the_defaults() {
    for text in ["", "# nothing\n", "---\n# nothing\n"] {
        let config = read(text).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("./tidegate-data"));
        assert_eq!(config.engine_settings().data_dir, config.data_dir);
        assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9320");
        assert_eq!(config.admin_socket(), PathBuf::from("./tidegate-data/admin.sock"));
        assert_eq!(config.classes["STANDARD"], "hot");
        assert!(config.policy.is_none() && config.tiers.is_empty() && !config.debug.adjustable_clock);
    }
}

#[test]
fn wrong_documents_are_refused_with_place_field_and_help() {
    let table: &[(&str, u64, u64, &str, &str, &str)] = &[
        ("datadir: /x\n", 1, 1, "datadir", "no setting", "did you mean data_dir"),
        ("log:\n  level: info\n  form: json\n", 3, 3, "log.form", "no setting", "did you mean format"),
        ("log:\n  format: yaml\n", 2, 11, "log.format", "not one of the values", "text, json"),
        ("debug:\n  adjustable_clock: 7\n", 2, 21, "debug.adjustable_clock", "", ""),
        ("admin:\n  listen: nowhere\n", 2, 11, "admin.listen", "", ""),
        ("admin: 5\n", 1, 8, "admin", "", ""),
        ("data_dir: /a\ndata_dir: /b\n", 2, 1, "data_dir", "twice", "remove one"),
        (
            "s3:\n  access_keys:\n    - access_key: a\n",
            3,
            7,
            "s3.access_keys[0].secret_key",
            "missing",
            "add secret_key",
        ),
        ("admin:\n  token: ${NOT_SET}\n", 2, 10, "admin.token", "NOT_SET is not set", "$${NOT_SET}"),
        ("admin:\n  token: ${bad name}\n", 2, 10, "admin.token", "does not name an environment variable", "$${"),
        ("admin:\n  token: \"x${TOKEN\"\n", 2, 10, "admin.token", "no closing }", "$${"),
        ("admin:\n  token_file: /no/such/file\n", 2, 15, "admin.token_file", "/no/such/file cannot be read", ""),
        (
            "s3:\n  shutdown_timeout_seconds: 1ms\n",
            2,
            29,
            "s3.shutdown_timeout_seconds",
            "not a whole number of seconds",
            "",
        ),
        ("s3:\n  listen: ${SECRET}\n", 2, 11, "s3.listen", "the value of ${SECRET} does not fit", ""),
        ("tiers:\n  a:\n    type: floppy\n", 3, 5, "tiers.a.type", "not one of the values", "directory"),
        ("classes: [a]\n", 1, 10, "classes", "settings are expected here", "name: value"),
    ];
    let mut wrong = Vec::new();
    for (text, line, column, field, message, help) in table {
        let problem = read(text).unwrap_err();
        let shown = problem.to_string();
        let good = problem.message.contains(message)
            && problem.help.contains(help)
            && !shown.contains("hunter2")
            && shown.starts_with(&format!("t.yaml:{line}:{column}: {field}: "));
        if !good {
            wrong.push(format!("{text:?}\n    gave {shown:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn variables_are_replaced_in_plain_and_quoted_text_and_numbers_and_never_shown() {
    let config = read(
        "admin:\n  token: \"${TOKEN}\"\n  listen: 127.0.0.1:${PORT}\ns3:\n  shutdown_timeout_seconds: ${WINDOW}\n",
    )
    .unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), "0123456789abcdef-from-env");
    assert_eq!(config.admin.listen.port(), 9555);
    assert_eq!(config.s3.shutdown_timeout_seconds, 45);
    assert!(!format!("{config:?}").contains("from-env"));
    let config = read("policy: /a/$${PORT}/b\n").unwrap();
    assert_eq!(config.policy.unwrap(), PathBuf::from("/a/${PORT}/b"));
}

#[test]
fn secrets_may_be_kept_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "quite-a-secret\n").unwrap();
    let text = format!(
        "admin:\n  token_file: {0}\ns3:\n  access_keys:\n    - access_key: AK\n      secret_key_file: {0}\n",
        path.display()
    );
    let config = read(&text).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), "quite-a-secret");
    assert_eq!(config.s3.access_keys[0].secret_key.expose(), "quite-a-secret");
    assert!(!format!("{config:?}").contains("quite-a-secret"));
}

#[test]
fn numbers_may_carry_units_wherever_they_stand() {
    #[derive(Debug, Deserialize)]
    struct Sizes {
        plain: u64,
        size: u64,
        time_ms: u64,
        maybe: Option<u32>,
        list: Vec<u64>,
        wait: std::time::Duration,
        signed: i32,
        ratio: f64,
    }
    let nothing = |_: &str, _: &str| None;
    let context = reader::Context::new(&nothing);
    let text =
        "plain: 5\nsize: 64MiB\ntime_ms: 2m\nmaybe: 1KiB\nlist: [1, 2B, 3KiB]\nwait: 250ms\nsigned: -3\nratio: 0.5\n";
    let sizes: Sizes =
        serde_saphyr::with_deserializer_from_str(text, |de| Sizes::deserialize(reader::Layer::new(de, &context)))
            .unwrap();
    assert_eq!((sizes.plain, sizes.size, sizes.time_ms, sizes.maybe), (5, 64 << 20, 120_000, Some(1024)));
    assert_eq!(sizes.wait.as_millis(), 250);
    assert_eq!((sizes.list, sizes.signed, sizes.ratio), (vec![1, 2, 3072], -3, 0.5));
    let bad = text.replace("1KiB", "9GiB");
    let error =
        serde_saphyr::with_deserializer_from_str(&bad, |de| Sizes::deserialize(reader::Layer::new(de, &context)));
    assert!(error.is_err());
    assert_eq!(context.path(), "maybe");
}

#[test]
fn serve_without_a_file_has_a_directory_tier_inside_its_data() {
    let config = Config::without_file(Some(PathBuf::from("/srv/odd: \"${name}")), &env).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/srv/odd: \"${name}"));
    assert_eq!(config.tiers.keys().collect::<Vec<_>>(), ["cold"]);
    assert!(format!("{:?}", config.tiers["cold"]).contains("cold-tier"));
    assert_eq!(config.classes["STANDARD_IA"], "cold");
}

#[test]
fn the_check_finds_what_a_reader_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let base = format!("data_dir: {}\n", dir.path().join("new/store").display());
    let cases: &[(String, &str, &str)] = &[
        (format!("{base}classes: {{STANDARD: hot, GLACIER: archive}}\n"), "classes.GLACIER", "no tier \"archive\""),
        (format!("{base}classes: {{COLD: hot}}\n"), "classes.COLD", "not a storage class"),
        (
            format!("{base}tiers: {{a: {{type: directory, path: /x}}}}\nclasses: {{STANDARD: a}}\n"),
            "classes.STANDARD",
            "would leave the local disks",
        ),
        (format!("{base}tiers: {{hot: {{type: directory, path: /x}}}}\n"), "tiers.hot", "taken"),
        (format!("{base}tiers: {{A/b: {{type: directory, path: /x}}}}\n"), "tiers.A/b", "not a name"),
        (format!("{base}policy: /no/such/policy.yaml\n"), "policy", "cannot be read"),
        (format!("{base}log: {{level: loud}}\n"), "log.level", "not a level"),
        (format!("{base}admin: {{token: short}}\n"), "admin.token", "too short"),
        (format!("data_dir: {}\n", file.join("below").display()), "data_dir", "not a directory"),
        ("data_dir: ''\n".to_owned(), "data_dir", "empty"),
    ];
    for (text, field, message) in cases {
        let (problems, _) = check("t.yaml", &read(text).unwrap());
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0].field, *field, "{problems:?}");
        assert!(problems[0].message.contains(message), "{problems:?}");
        assert!(!problems[0].help.is_empty(), "{problems:?}");
    }
    let (problems, findings) = check("t.yaml", &read(&base).unwrap());
    assert!(problems.is_empty() && findings.is_empty(), "{problems:?}");
    assert!(!dir.path().join("new").exists(), "the check must not create anything");
}

#[test]
fn the_commented_example_is_read_checked_and_has_the_defaults_that_it_names() {
    let text = include_str!("../../../deploy/config.example.yaml");
    let with_secrets = |name: &str, _: &str| Some(format!("value-of-{name}"));
    let mut config = Config::read("config.example.yaml", text, &with_secrets).unwrap();
    assert_eq!(config.tiers.keys().collect::<Vec<_>>(), ["archive", "cluster", "ia", "nas"]);
    assert!(!format!("{config:?}").contains("value-of-OSS_KEY_SECRET"));
    let defaults = Config::default();
    // The limit of the disk comes from the file system below.
    config.data_dir.clone_from(&defaults.data_dir);
    let (ours, defaults) = (config.engine_settings(), defaults.engine_settings());
    assert_eq!(format!("{:?}", ours.meta), format!("{:?}", defaults.meta));
    assert_eq!(format!("{:?}", ours.tiering), format!("{:?}", defaults.tiering));
    assert_eq!(
        format!("{:?}", (ours.chunks, ours.local, ours.disk)),
        format!("{:?}", (defaults.chunks, defaults.local, defaults.disk))
    );
    assert_eq!(format!("{:?}", ours.limits), format!("{:?}", defaults.limits));
    assert_eq!(config.prices, Config::default().prices);
    let hook = &config.notifications.targets["thumbnails"];
    let defaults = super::notifications::TargetSection { url: hook.url.clone(), ..Default::default() };
    assert_eq!(format!("{hook:?}"), format!("{defaults:?}"));
    let s3 = S3Settings { access_keys: Vec::new(), storage_classes: Vec::new(), ..config.s3.clone() };
    assert_eq!(s3, S3Settings { storage_classes: Vec::new(), ..S3Settings::default() });
    let dir = tempfile::tempdir().unwrap();
    config.data_dir = dir.path().join("data");
    assert_eq!(check("config.example.yaml", &config).0, []);
}

#[test]
fn the_store_refuses_what_the_engine_would_refuse() {
    for (text, field) in [
        ("store: {chunks: {min: 3}}", "store.chunks.min"),
        ("store: {chunks: {min: 64KiB}}", "store.chunks"),
        ("store: {packs: {open_packs: 0}}", "store.packs.open_packs"),
        ("store: {journal: {queue_depth: 0}}", "store.journal.queue_depth"),
        ("store: {durability: relaxed, relaxed_sync_ms: 0}", "store.relaxed_sync_ms"),
        ("store: {limits: {max_put_bytes: 0}}", "store.limits.max_put_bytes"),
        ("store: {tiering: {workers: 0}}", "store.tiering.workers"),
        ("store: {tiering: {pack_bytes: 1}}", "store.tiering.pack_bytes"),
        ("store: {tiering: {retry_min_ms: 10m}}", "store.tiering.retry_max_ms"),
        ("admin: {listen: '127.0.0.1:9000'}", "admin.listen"),
        ("s3: {listen: '127.0.0.1:9320'}", "s3.listen"),
        (
            "admin: {socket: /tmp/another-very-long-name-a-very-long-name-a-very-long-name-a-very-long-name-a-very-long-name-a-very-long-name}",
            "admin.socket",
        ),
        ("store: {hot: {max_bytes: 1MiB, compaction_reserve: 1MiB}}", "store.hot"),
    ] {
        let (problems, _) = check("t.yaml", &read(text).unwrap());
        assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), [field], "{problems:?}");
        assert!(problems[0].line == 1 && !problems[0].help.is_empty(), "{problems:?}");
    }
    let small = read("store: {hot: {max_bytes: 48MiB}}").unwrap().engine_settings();
    assert_eq!(small.disk.compaction_reserve, 6 << 20);
}

#[test]
fn what_is_found_wrong_after_reading_has_a_place_too() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "data_dir: {}\ntiers:\n  Cold:\n    type: directory\n    path: /x\nclasses:\n  GLACIER: nowhere\ns3:\n  max_parts: 0\n\
         store:\n  chunks: {{min: 3}}\nlog:\n  level: loud\nadmin: {{token: short}}\npolicy: /no/such/policy.yaml\n",
        dir.path().display()
    );
    let (problems, _) = check("t.yaml", &read(&text).unwrap());
    let found: Vec<(String, u64, u64)> = problems.iter().map(|p| (p.field.clone(), p.line, p.column)).collect();
    let wanted = [
        ("tiers.Cold", 3, 3),
        ("classes.GLACIER", 7, 12),
        ("s3.max_parts", 9, 14),
        ("store.chunks.min", 11, 17),
        ("admin.token", 14, 16),
        ("log.level", 13, 10),
        ("policy", 15, 9),
    ];
    assert_eq!(found, wanted.map(|(field, line, column)| (field.to_owned(), line, column)), "{problems:?}");
    assert!(problems[2].to_string().starts_with("t.yaml:9:14: s3.max_parts: is 0\n  help: choose from 1"));
}

#[test]
fn the_price_book_of_the_configuration_is_what_policies_are_checked_against() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(
        &policy,
        "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\ntiers: [{name: ia, class: IA}]\nrules:\n  - \
         {id: a, transitions: [{to: ia, after: 30d}], expiration: {after: 35d}}\n",
    )
    .unwrap();
    let tiers = "tiers: {ia: {type: oss, endpoint: 'https://x', region: r, bucket: bkt, prefix: p, storage_class: IA, \
                 credentials: {source: static, access_key_id: a, access_key_secret: b}}}\n";
    let found = |prices: &str| {
        let config =
            read(&format!("data_dir: {}\npolicy: {}\n{tiers}{prices}", dir.path().display(), policy.display()));
        let config = config.unwrap();
        assert_eq!(config.engine_settings().prices, config.prices);
        let (problems, found) = check("t.yaml", &config);
        assert!(problems.is_empty(), "{problems:?}");
        found
    };
    assert!(found("")[0].message.contains("against 0.02 CNY for staying on the hot disk"));
    let dearer = found("prices: {asOf: \"2026-01-15\", currency: USD, hot: 0.25, ia: {storage: 0.4}}\n");
    let message = &dearer[0].message;
    assert!(
        message.contains("0.4002 USD") && message.contains("0.0417 USD") && message.contains("2026-01-15"),
        "{message}"
    );
    assert_eq!(found("prices: {hot: 9}\n"), []);
    for (text, place, field, words) in [
        ("prices:\n  hot: -1\n", (2, 8), "prices.hot", "is not an amount of money"),
        ("prices:\n  ia: {storge: 1}\n", (2, 8), "prices.ia.storge", "no setting storge"),
        ("prices:\n  ia: {minDays: soon}\n", (2, 17), "prices.ia.minDays", "soon"),
    ] {
        let problem = Config::read("c.yaml", text, &|_, _| None).unwrap_err();
        assert_eq!((problem.line, problem.column, problem.field.as_str()), (place.0, place.1, field), "{problem}");
        assert!(problem.message.contains(words), "{problem}");
    }
}

#[test]
fn what_the_parser_says_is_told_in_words_for_operators() {
    for (text, place, words) in [
        ("s3: {}\n---\nlog: {}\n", (3, 1), "several YAML documents"),
        ("- a\n", (1, 1), "settings are expected here"),
        ("s3:\n  listen: nonsense\n", (2, 11), "not an address with a port"),
        ("data_dir:\n", (1, 9), "has no value"),
        ("tiers: {a: b}\n", (1, 9), "settings are expected here"),
        ("s3: {domains: example.com}\n", (1, 15), "a list is expected here"),
        ("s3: {max_parts: 99999999999999999999}\n", (1, 17), "too large"),
        ("store: {packs: {pack_bytes: 64MB}}\n", (1, 29), "sizes are binary"),
        (
            "s3: {access_keys: [{access_key: a, secret_key: b, secret_key_file: /etc/hostname}]}\n",
            (1, 20),
            "given twice",
        ),
    ] {
        let problem = Config::read("c.yaml", text, &|_, _| None).unwrap_err();
        assert_eq!((problem.line, problem.column), place, "{problem}");
        assert!(problem.message.contains(words) && !problem.help.is_empty(), "{problem}");
    }
}

#[test]
fn what_is_wrong_in_a_tier_has_its_own_place() {
    let tier = "tiers:\n  a:\n    type: oss\n    endpoint: https://x\n    region: r\n    bucket: b\n    prefix: p\n";
    for (more, place, field, words) in [
        ("    storage_class: ia\n", (8, 20), "tiers.a.storage_class", "\"ia\" is not one of the values"),
        ("    part_size_bytes: 16MB\n", (8, 22), "tiers.a.part_size_bytes", "16MB"),
        ("    read_timeout_ms: 1w\n", (8, 22), "tiers.a.read_timeout_ms", "1w"),
        ("    regoin: r\n", (8, 5), "tiers.a.regoin", "no setting regoin"),
        ("    storage_class: IA\n    proxy: [x]\n", (9, 12), "tiers.a.proxy", ""),
    ] {
        let problem = Config::read("c.yaml", &format!("{tier}{more}"), &|_, _| None).unwrap_err();
        let found = (problem.line, problem.column, problem.field.as_str());
        assert_eq!(found, (place.0, place.1, field), "{problem}");
        assert!(problem.message.contains(words) && !problem.help.is_empty(), "{problem}");
    }
}

#[test]
fn check_refuses_what_a_tier_would_refuse_at_the_start() {
    let key = "credentials: {source: static, access_key_id: a, access_key_secret: b}";
    let base = "tiers:\n  a:\n    type: oss\n    region: r\n    endpoint: ENDPOINT\n    bucket: BUCKET\n    ";
    let case = |endpoint: &str, bucket: &str, more: &str| {
        let text = base.replace("ENDPOINT", endpoint).replace("BUCKET", bucket);
        let (problems, _) = check("t.yaml", &read(&format!("{text}{key}\n{more}")).unwrap());
        problems.iter().map(|p| format!("{p}\n")).collect::<String>()
    };
    assert_eq!(case("https://h.example", "bkt", ""), "");
    for (found, words) in [
        (case("ftp://h", "bkt", ""), ["t.yaml:5:15: tiers.a.endpoint: ", "only http and https"]),
        (case("https://h.example", "B_b", ""), ["t.yaml:6:13: tiers.a.bucket: ", "3 to 63 lower-case letters"]),
        (
            case("https://h.example", "bkt", "    ca_file: /no/such\n"),
            ["t.yaml:8:14: tiers.a.ca_file: ", "No such file"],
        ),
        (case("https://h.example", "bkt", "    concurrency: 0\n"), ["t.yaml:8:18: tiers.a.concurrency: ", "1 to 1000"]),
    ] {
        assert!(words.iter().all(|w| found.contains(w)) && found.matches("help:").count() == 1, "{found}");
    }
}

#[test]
fn a_variable_is_looked_up_with_the_setting_that_needs_it() {
    let text =
        "s3: {access_keys: [{access_key: a, secret_key: '${S3}'}]}\ntiers:\n  ia: {type: directory, path: '/${IA}'}\n";
    let asked = std::cell::RefCell::new(Vec::new());
    let note = |name: &str, path: &str| {
        asked.borrow_mut().push(format!("{name} for {path}"));
        Some(String::new())
    };
    Config::read("c.yaml", text, &note).unwrap();
    assert_eq!(asked.into_inner(), ["S3 for s3.access_keys[0].secret_key", "IA for tiers.ia.path"]);
}
