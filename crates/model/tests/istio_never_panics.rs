//! Whatever the text, reading ends with a configuration or with errors.

mod common;

use proptest::prelude::*;

/// Words that a document is made of, so that mutations reach beyond the YAML parser.
const SEED: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: a\nspec:\n  host: b\n  trafficPolicy:\n    connectionPool:\n      tcp: {maxConnections: 1, connectTimeout: 30ms}\n    loadBalancer:\n      consistentHash: {httpHeaderName: x}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  config.yaml: |\n    proxy: {concurrency: 2}\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,400}") {
        let _ = common::read(&text);
    }

    #[test]
    fn yaml_like_text(text in "([a-c]|: |- |\\n|\\n  |\\[|\\]|\\{|\\}|&a |\\*a|'|\"|\\||>|---\\n|#|!!str |0x|~){0,60}") {
        let _ = common::read(&text);
    }

    #[test]
    fn a_document_with_a_part_replaced(at in 0usize..SEED.len(), length in 0usize..30, with in "[a-z0-9:{}\\[\\]&*|> \\n-]{0,20}") {
        let end = (at + length).min(SEED.len());
        let text = format!("{}{}{}", &SEED[..at], with, &SEED[end..]);
        let _ = common::read(&text);
    }
}
