//! Any text gives findings or a policy, never a panic and never a silent refusal; and the documentation's examples work.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use tidegate_policies::{PriceBook, Report, check};

const EXAMPLE: &str = include_str!("../examples/data-lake.yaml");
const DOCS: &str = include_str!("../../docs/policies.md");

/// Either a policy, or at least one error that has a place inside the text and a way out.
fn answers(text: &str) -> Report {
    let report = check("t", text, &Default::default());
    if report.policy.is_none() {
        assert!(!report.diagnostics.is_empty(), "refused without a word:\n{text}");
    }
    for finding in &report.diagnostics {
        assert!(!finding.help.is_empty() && !finding.message.is_empty(), "{finding:?}");
        assert!(finding.line as usize <= text.lines().count() + 1, "{finding}\nin\n{text}");
    }
    report
}

#[test]
fn strange_documents_are_refused_with_a_finding() {
    let deep_flow = "[".repeat(10_000);
    let deep_block: String = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let previous = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{previous}]\n"));
    }
    let strange = [
        "",
        "\n\n",
        "~",
        "[]",
        "{}",
        "---\n",
        "%YAML 9.9\n---\na",
        "1: 2\n",
        "? [a]\n: b\n",
        "&a *a",
        "a: &a [*a]\n",
        "\u{0}",
        "\u{feff}a: b",
        "<<: {a: b}\n",
        "!!binary x",
        "- - - -",
        "a: |\n",
        "\"",
        "{a: b",
        "a:\t- b",
    ];
    for text in strange.into_iter().chain([deep_flow.as_str(), deep_block.as_str(), bomb.as_str()]) {
        assert!(answers(text).policy.is_none(), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_example_is_answered(at in 0..EXAMPLE.len(), len in 0..40usize, with in "[ -~\n§]{0,6}") {
        let boundary = |mut i: usize| { while !EXAMPLE.is_char_boundary(i) { i -= 1 } i };
        let (start, end) = (boundary(at), boundary((at + len).min(EXAMPLE.len())));
        answers(&format!("{}{with}{}", &EXAMPLE[..start], &EXAMPLE[end..]));
    }
}

/// The fenced YAML blocks of the documentation.
fn blocks() -> Vec<&'static str> {
    DOCS.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap()).collect()
}

#[test]
fn the_documentation_shows_a_policy_without_findings_and_a_price_book_that_reads() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 2);
    let report = answers(blocks[0]);
    assert!(report.policy.is_some() && report.diagnostics.is_empty(), "{:?}", report.diagnostics);
    let sections: std::collections::BTreeMap<String, PriceBook> = serde_saphyr::from_str(blocks[1]).unwrap();
    let book = &sections["prices"];
    assert_eq!(book.as_of, "2026-01-15");
    assert_eq!(book.hot.unwrap().to_string(), "0.05");
    assert_eq!(book.deep_cold_archive.put.unwrap().to_string(), "3.5");
    assert_eq!(book.ia.min_days, 30);
}
