//! What is refused, exactly where, with which words and which way out.
//!
//! `§` in a case stands before the place that the finding must name; it is taken out before the text is read.

#![allow(clippy::unwrap_used, clippy::panic)]

use tidegate_policies::{
    CheckOptions, Class, ConfiguredTier, Diagnostic, MAX_DOCUMENT_BYTES, PriceBook, Severity, check, parse,
};

/// A chain of two billed tiers; the cases add rules.
const HEAD: &str = "\
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: t }
tiers:
  - { name: ia, class: IA }
  - { name: archive, class: Archive }
rules:
";

/// Reads a case; returns its findings and the line and column of its mark.
fn run(text: &str, options: &CheckOptions) -> (Vec<Diagnostic>, (u64, u64)) {
    let mark = text.find('§').unwrap_or_else(|| panic!("no mark in\n{text}"));
    let before = &text[..mark];
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    (check("p.yaml", &text.replacen('§', "", 1), options).diagnostics, (line, column))
}

/// One case: its only finding has the severity, stands at the mark, and contains all the words (in field, message or help).
fn expect(text: &str, severity: Severity, words: &[&str]) {
    expect_with(text, severity, words, &CheckOptions::default());
}

fn expect_with(text: &str, severity: Severity, words: &[&str], options: &CheckOptions) {
    let (found, place) = run(text, options);
    let shown: String = found.iter().map(|d| format!("{d}\n")).collect();
    assert_eq!(found.len(), 1, "one finding expected in\n{text}\n{shown}");
    let finding = &found[0];
    assert_eq!((finding.line, finding.column), place, "place of\n{shown}in\n{text}");
    assert_eq!(finding.severity, severity, "{shown}");
    assert!(!finding.help.is_empty(), "no way out in {shown}");
    for word in words {
        assert!(shown.contains(word), "{word:?} is not in\n{shown}");
    }
}

#[test]
fn documents_that_are_not_policies_are_refused() {
    let whole = [
        ("a§: b: c\n", &["not valid YAML", "indentation"][..]),
        (
            "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\nrules: []\n---\n§a: 1\n",
            &["several YAML documents", "remove the line `---`"],
        ),
        ("§just text\n", &["expected a map", "the text \"just text\""]),
        ("§kind: LifecyclePolicy\nmetadata: {name: t}\nrules: []\n", &["`apiVersion` is missing", "tidegate/v1"]),
        (
            "apiVersion: §tidegate/v2\nkind: LifecyclePolicy\nmetadata: {name: t}\nrules: []\n",
            &["apiVersion: ", "not supported"],
        ),
        (
            "apiVersion: tidegate/v1\nkind: §Policy\nmetadata: {name: t}\nrules: []\n",
            &["kind: ", "write `kind: LifecyclePolicy`"],
        ),
        ("§apiVersion: tidegate/v1\nkind: LifecyclePolicy\nrules: []\n", &["`metadata` is missing"]),
        (
            "§apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\n",
            &["`rules` is missing", "rules: []"],
        ),
        (
            "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: §'a b'}\nrules: []\n",
            &["metadata.name", "not a usable name"],
        ),
        (
            "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\n§rule: []\nrules: []\n",
            &["unknown field `rule`", "did you mean `rules`?"],
        ),
        (
            "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\nrules: §{}\n",
            &["expected a list, found a map", "- "],
        ),
        (
            "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {name: t}\nrules: []\n§rules: []\n",
            &["given twice (first in line 4)", "keep one"],
        ),
    ];
    for (text, words) in whole {
        // The first case has its mark where the parser stops, not where a reader would look.
        let text = if text.starts_with("a§") { "a: b§: c\n" } else { text };
        expect(text, Severity::Error, words);
    }
    let huge = format!("§{HEAD}  []\n{}", "#".repeat(MAX_DOCUMENT_BYTES));
    expect(&huge, Severity::Error, &["the limit is 1048576"]);
}

#[test]
fn wrong_chains_of_tiers_are_refused() {
    let cases = [
        (
            "  - { name: nas }\n  - { name: §ia, class: IA }\n",
            &["configuration has no tier `ia`", "use one of: nas"][..],
        ),
        ("  - { name: §nas, class: IA }\n", &["tiers[0].class", "`nas` has no class", "remove `class`"]),
        ("  - { name: §ias }\n", &["tiers[0].name", "did you mean `nas`?"]),
    ];
    let options = CheckOptions {
        configured_tiers: Some(vec![ConfiguredTier { name: "nas".into(), class: None }]),
        ..CheckOptions::default()
    };
    let head = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\nrules: []\ntiers:\n";
    for (tiers, words) in cases {
        expect_with(&format!("{head}{tiers}"), Severity::Error, words, &options);
    }
    let cases = [
        (
            "  - { name: cold, class: Archive }\n  - { name: §ia, class: IA }\n",
            &["tiers[1]", "warmer than `cold`", "put `ia` before `cold`"][..],
        ),
        ("  - { name: ia, class: IA }\n  - { name: §nas }\n", &["no class, so online", "put `nas` before `ia`"]),
        ("  - { name: ia, class: IA }\n  - { name: §ia, class: IA }\n", &["twice (first in line 6)"]),
        ("  - { name: ia, class: §Ia }\n", &["tiers[0].class", "did you mean `IA`?"]),
        ("  - { name: ia, class: §Glacier }\n", &["use one of: Standard, IA, Archive, ColdArchive, DeepColdArchive"]),
        ("  - { name: §hot }\n", &["the gateway's own disk"]),
        ("  - §{ class: IA }\n", &["`name` is missing"]),
    ];
    for (tiers, words) in cases {
        expect(&format!("{head}{tiers}"), Severity::Error, words);
    }
}

/// The rules of each case come below [`HEAD`].
fn rules(cases: &[(&str, Severity, &[&str])]) {
    for (rules, severity, words) in cases {
        expect(&format!("{HEAD}{rules}"), *severity, words);
    }
}

#[test]
fn fields_that_do_not_read_are_refused() {
    use Severity::Error;
    rules(&[
        (
            "  - { id: a, expiration: { after: 30d }, §transition: [] }\n",
            Error,
            &["rules[0].transition: unknown field", "did you mean `transitions`?"],
        ),
        (
            "  - { id: a, expiration: { §days: 30 , after: 1d} }\n",
            Error,
            &["rules[0].expiration.days", "fields here: after, since"],
        ),
        ("  - §{ expiration: { after: 30d } }\n", Error, &["`id` is missing"]),
        ("  - { id: §12, expiration: { after: 30d } }\n", Error, &["found the number 12", "put it in quotes"]),
        (
            "  - { id: a, expiration: { after: §0d } }\n",
            Error,
            &["rules[0].expiration.after", "is zero", "status: disabled"],
        ),
        ("  - { id: a, expiration: { after: §30 } }\n", Error, &["not a duration", "30d, 12h, 90m or 45s"]),
        ("  - { id: a, expiration: { after: §1M } }\n", Error, &["not a duration", "a month is 30d"]),
        ("  - { id: a, expiration: { after: §40000d } }\n", Error, &["too long", "36500d"]),
        ("  - { id: a, expiration: §{ since: creation } }\n", Error, &["`after` is missing", "after: 365d"]),
        ("  - { id: a, expiration: { after: 1d, since: §creaton } }\n", Error, &["did you mean `creation`?"]),
        (
            "  - { id: a, status: §on, expiration: { after: 1d } }\n",
            Error,
            &["rules[0].status", "use one of: enabled, disabled"],
        ),
        (
            "  - id: a\n    §filter:\n    expiration: { after: 1d }\n",
            Error,
            &["rules[0].filter", "found nothing", "remove the line"],
        ),
        ("  - { id: a, abortIncompleteMultipartUpload: { after: §0s } }\n", Error, &["is zero"]),
        ("  - { id: a, transitions: [§{ to: ia }] }\n", Error, &["no trigger", "whenFull: 85%"]),
        (
            "  - { id: a, transitions: [{ to: ia, after: 3d, §whenFull: 80% }] }\n",
            Error,
            &["one trigger, this has two", "two transitions"],
        ),
        ("  - { id: a, transitions: [{ to: ia, §since: creation, whenFull: 80% }] }\n", Error, &["no starting point"]),
        ("  - { id: a, transitions: [{ to: ia, whenFull: §100% }] }\n", Error, &["outside 1% to 99%"]),
        ("  - { id: a, transitions: [{ to: ia, whenFull: §85 }] }\n", Error, &["not a fill level", "such as 85%"]),
        (
            "  - { id: a, transitions: [{ to: §ai, after: 30d }] }\n",
            Error,
            &["no tier `ai`", "use one of: ia, archive"],
        ),
        (
            "  - { id: a, transitions: [{ to: §archiv, after: 30d }] }\n",
            Error,
            &["rules[0].transitions[0].to", "did you mean `archive`?"],
        ),
        ("  - { id: a, transitions: [§{ after: 30d }] }\n", Error, &["`to` is missing"]),
        (
            "  - { id: a, layout: §native, transitions: [{ to: ia, after: 30d }] }\n",
            Error,
            &["rules[0].layout", "not available in this version", "layout: packed"],
        ),
    ]);
}

#[test]
fn filters_that_never_match_are_refused() {
    use Severity::{Error, Warning};
    rules(&[
        (
            "  - { id: a, filter: { glob: §'' }, expiration: { after: 1d } }\n",
            Error,
            &["never matches", "remove the line"],
        ),
        (
            "  - { id: a, filter: { glob: §'a[b' }, expiration: { after: 1d } }\n",
            Error,
            &["rules[0].filter.glob", "not a valid pattern", "[abc]"],
        ),
        (
            "  - { id: a, filter: { contentType: §'{a' }, expiration: { after: 1d } }\n",
            Error,
            &["rules[0].filter.contentType"],
        ),
        (
            "  - { id: a, filter: { size: { min: 2MiB, max: §1MiB } }, expiration: { after: 1d } }\n",
            Error,
            &["1MiB is below the smallest, 2MiB", "swap"],
        ),
        (
            "  - { id: a, filter: { size: { min: §5GB } }, expiration: { after: 1d } }\n",
            Error,
            &["not a size", "write 5GiB"],
        ),
        (
            "  - { id: a, filter: { bucket: §Logs }, expiration: { after: 1d } }\n",
            Error,
            &["rules[0].filter.bucket", "never match"],
        ),
        (
            "  - { id: a, filter: { tags: { year: §2024 } }, expiration: { after: 1d } }\n",
            Error,
            &["rules[0].filter.tags.year", "put it in quotes"],
        ),
        ("  - { id: a, filter: { §tag: { a: b } }, expiration: { after: 1d } }\n", Error, &["did you mean `tags`?"]),
        (
            "  - { id: a, filter: { prefix: §'logs/*' }, expiration: { after: 1d } }\n",
            Warning,
            &["no special meaning", "`glob`"],
        ),
        ("  - { id: a, filter: { prefix: §/logs }, expiration: { after: 1d } }\n", Warning, &["begins with `/`"]),
    ]);
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    use Severity::Error;
    rules(&[
        ("  - { id: §a }\n", Error, &["`a` does nothing", "add `transitions`"]),
        (
            "  - { id: a, expiration: { after: 1d } }\n  - { id: §a, filter: { prefix: x }, abortIncompleteMultipartUpload: { after: 1d } }\n",
            Error,
            &["another rule has the id `a` (line 8)"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, after: 30d }], expiration: { after: §30d } }\n",
            Error,
            &["rules[0].expiration", "it never happens", "later than 30d"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, after: 30d, since: lastAccess }], expiration: { after: §20d } }\n",
            Error,
            &["30d since lastAccess"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, after: 30d }, { to: archive, after: §30d }] }\n",
            Error,
            &["rules[0].transitions[1]", "never reached", "longer than 30d"],
        ),
        (
            "  - { id: a, transitions: [{ to: archive, after: 30d }, { to: ia, after: §90d }] }\n",
            Error,
            &["to a warmer tier", "only grow colder"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, after: 30d }, { to: ia, after: §90d }] }\n",
            Error,
            &["target twice", "shorter"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, whenFull: 80% }, { to: archive, whenFull: §70% }] }\n",
            Error,
            &["at 70% everything goes to the colder `archive`"],
        ),
        (
            "  - { id: a, transitions: [{ to: ia, whenFull: 80% }, { to: ia, whenFull: §90% }] }\n",
            Error,
            &["two fill levels", "keep the lower"],
        ),
        (
            "  - { id: a, filter: { tags: { a: b } }, abortIncompleteMultipartUpload: { after: §7d } }\n",
            Error,
            &["an unfinished upload has no tags", "rule of its own"],
        ),
    ]);
}

#[test]
fn rules_that_another_rule_always_overrules_are_refused() {
    use Severity::{Error, Warning};
    rules(&[
        (
            "  - { id: all, expiration: { after: 30d } }\n  - { id: §keep, filter: { prefix: hold/ }, expiration: { after: 365d } }\n",
            Error,
            &["`keep` is never reached", "`all` (line 8)", "narrow the filter of `all`"],
        ),
        (
            "  - { id: §late, filter: { bucket: logs, prefix: app/x }, transitions: [{ to: ia, after: 60d }] }\n  - { id: early, filter: { prefix: app/ }, transitions: [{ to: archive, after: 60d }] }\n",
            Error,
            &["`late` is never reached", "moves it to `archive` after 60d"],
        ),
        (
            "  - { id: one, filter: { suffix: .gz }, expiration: { after: 9d } }\n  - { id: §two, filter: { suffix: .tar.gz }, expiration: { after: 9d } }\n",
            Error,
            &["`two` is never reached"],
        ),
        (
            "  - { id: one, abortIncompleteMultipartUpload: { after: 1d } }\n  - { id: §two, filter: { bucket: logs }, abortIncompleteMultipartUpload: { after: 2d } }\n",
            Error,
            &["aborts its unfinished uploads after 1d"],
        ),
        (
            "  - { id: one, transitions: [{ to: ia, whenFull: 70% }] }\n  - { id: §two, filter: { bucket: logs }, transitions: [{ to: ia, whenFull: 80% }] }\n",
            Error,
            &["when the hot disk is 70% full"],
        ),
        (
            "  - { id: all, expiration: { after: 30d } }\n  - { id: b, filter: { prefix: b/ }, transitions: [{ to: ia, after: §40d }], abortIncompleteMultipartUpload: { after: 1d } }\n",
            Warning,
            &["rules[1].transitions[0]", "never happens", "`all`"],
        ),
    ]);
    // Disabled rules overrule nothing, and the first of two equal rules is reached.
    let fine = "  - { id: a, status: disabled, expiration: { after: 1d } }\n  - { id: b, expiration: { after: 2d } }\n  - { id: c, filter: { bucket: xyz, tags: { a: b } }, expiration: { after: 1d } }\n";
    assert!(check("p", &format!("{HEAD}{fine}"), &CheckOptions::default()).diagnostics.is_empty());
}

#[test]
fn transitions_that_can_only_lose_money_are_refused_with_the_sum() {
    use Severity::Error;
    rules(&[
        // Five days in IA are billed as thirty: 0.08, and the PUTs. On the hot disk, counted as Standard, they are 0.02.
        (
            "  - { id: a, transitions: [{ to: ia, after: §30d }, { to: archive, after: 35d }] }\n",
            Error,
            &[
                "rules[0].transitions[0]",
                "to move on 5d later can only lose money",
                "0.0802 CNY per GB",
                "0.08 for the 30d",
                "0.00016 for PUT",
                "against 0.02 CNY for staying on the hot disk",
                "prices of 2024-11-20",
                "at least 21d (move on after 51d)",
            ],
        ),
        // The same by another rule that matches whatever this one matches.
        (
            "  - { id: a, filter: { prefix: x/ }, transitions: [{ to: ia, after: §30d }] }\n  - { id: b, expiration: { after: 35d } }\n",
            Error,
            &["rules[0].transitions[0]", "to expire 5d later by the rule `b` can only lose money", "expire after 51d"],
        ),
        // An expiration soon after: Archive bills 60 days.
        (
            "  - { id: a, transitions: [{ to: archive, after: §30d }], expiration: { after: 40d } }\n",
            Error,
            &["to expire 10d later", "0.0662 CNY", "against 0.04 CNY", "at least 17d (expire after 47d)"],
        ),
        // From IA, ten days before the end: staying in IA costs 10 of 30 days, Archive all of 60.
        (
            "  - { id: a, transitions: [{ to: ia, after: 30d }, { to: archive, after: §90d }], expiration: { after: 100d } }\n",
            Error,
            &[
                "rules[0].transitions[1]",
                "0.066 for the 60d",
                "against 0.0267 CNY for staying in `ia` (IA)",
                "at least 25d",
            ],
        ),
        // Different clocks, and still provable: the object is at most ten days in IA.
        (
            "  - { id: a, transitions: [{ to: ia, after: §30d, since: lastAccess }], expiration: { after: 40d } }\n",
            Error,
            &["to expire 10d later"],
        ),
    ]);
    let native = format!(
        "{HEAD}  - {{ id: a, layout: native, filter: {{ size: {{ max: §32KiB }} }}, transitions: [{{ to: ia, after: 30d }}] }}\n"
    );
    let (found, place) = run(&native, &CheckOptions::default());
    assert_eq!(found.len(), 2, "{found:?}");
    let floor = found.iter().find(|d| d.field == "rules[0].filter.size.max").unwrap();
    assert_eq!((floor.line, floor.column), place);
    assert!(
        floor.message.contains(
            "at most 32KiB are billed as 64KiB each in IA: 0.16 CNY per GB and month and 0.3277 for PUT, against 0.12"
        ),
        "{floor}"
    );
}

#[test]
fn a_move_between_tiers_of_one_class_saves_nothing() {
    let text = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\ntiers: [{ name: a, class: IA }, { name: b, class: IA }]\nrules:\n  - { id: r, transitions: [{ to: a, after: 10d }, { to: b, after: §90d }] }\n";
    expect(
        text,
        Severity::Error,
        &["to stay can only lose money", "for staying in `a` (IA)", "no stay there is cheaper"],
    );
}

#[test]
fn only_a_rule_in_force_that_matches_everything_shortens_a_stay() {
    for other in [
        "{ id: b, filter: { prefix: x/y/ }, expiration: { after: 35d } }",
        "{ id: b, status: disabled, expiration: { after: 35d } }",
        "{ id: b, expiration: { after: 35d, since: lastAccess } }",
        "{ id: b, expiration: { after: 60d } }",
    ] {
        let rules = format!(
            "  - {{ id: a, filter: {{ prefix: x/ }}, transitions: [{{ to: ia, after: 30d }}] }}\n  - {other}\n"
        );
        parse("p", &format!("{HEAD}{rules}")).unwrap_or_else(|found| panic!("{other}: {}", found[0]));
    }
}

#[test]
fn filters_that_no_key_can_fit_are_refused() {
    let cases = [
        ("prefix: logs/, §glob: '*.gz'", "prefix \"logs/\" and the glob \"*.gz\""),
        ("prefix: logs/, §glob: 'data/**'", "such as \"logs/**\""),
        ("suffix: .gz, §glob: '**/*.log'", "such as \"**.gz\""),
    ];
    for (filter, word) in cases {
        let rule = format!("  - {{ id: a, filter: {{ {filter} }}, expiration: {{ after: 9d }} }}\n");
        expect(&format!("{HEAD}{rule}"), Severity::Error, &["rules[0].filter.glob", "no key fits both", word]);
    }
    let twice =
        "  - { id: a, filter: { §metadata: { Source: x, x-amz-meta-source: z } }, expiration: { after: 9d } }\n";
    expect(&format!("{HEAD}{twice}"), Severity::Error, &["`source` is given twice", "keep one"]);
    for filter in [
        "prefix: logs/, glob: '**/*.gz'",
        "prefix: logs/a, glob: 'logs/*/*.gz'",
        "prefix: logs/app/, glob: 'logs/**'",
        "prefix: b, glob: '{a,b}/*'",
        "suffix: x.gz, glob: '*.gz'",
        "suffix: .gz, glob: 'a*'",
        "suffix: b, glob: '**/b'",
    ] {
        let rule = format!("  - {{ id: a, filter: {{ {filter} }}, expiration: {{ after: 9d }} }}\n");
        parse("p", &format!("{HEAD}{rule}")).unwrap_or_else(|found| panic!("{filter}: {}", found[0]));
    }
}

#[test]
fn prices_come_from_the_book_and_missing_ones_are_said_to_be_missing() {
    let rule = "  - { id: a, transitions: [{ to: ia, after: 30d }, { to: archive, after: 35d }] }\n";
    let mut prices: PriceBook = serde_json::from_str(r#"{"hot": 9}"#).unwrap();
    let clean = |prices: &PriceBook| {
        let options = CheckOptions { prices: prices.clone(), configured_tiers: None };
        check("p", &format!("{HEAD}{rule}"), &options).diagnostics
    };
    assert!(clean(&prices).is_empty(), "with a dear hot disk the same move pays");
    prices.ia.storage = None;
    let found = clean(&prices);
    assert!(!found.is_empty() && found.iter().all(|d| d.severity == Severity::Warning), "{found:?}");
    assert!(
        found[0].message.contains("the storage price of IA is not in the price book of 2024-11-20"),
        "{}",
        found[0]
    );
    let deep = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\ntiers: [{ name: d, class: DeepColdArchive }]\nrules:\n  - { id: r, transitions: [{ to: d, after: §10d }], expiration: { after: 150d } }\n";
    expect(deep, Severity::Warning, &["the price of PUT of DeepColdArchive"]);
    assert_eq!(Class::DeepColdArchive.as_str(), "DeepColdArchive");
}

#[test]
fn one_run_shows_all_findings_in_the_order_of_the_text() {
    let text = format!(
        "{HEAD}  - {{ id: a, expiration: {{ after: 0d }}, colour: red }}\n  - {{ id: b, transitions: [{{ to: x, after: 9 }}] }}\n"
    );
    let found = parse("many.yaml", &text).unwrap_err();
    let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(
        fields,
        ["rules[0].expiration.after", "rules[0].colour", "rules[1].transitions[0].to", "rules[1].transitions[0].after"]
    );
    let shown = found[0].to_string();
    assert!(shown.starts_with("many.yaml:8:35: rules[0].expiration.after: "), "{shown}");
    assert!(shown.contains("\n  help: "), "{shown}");
}
