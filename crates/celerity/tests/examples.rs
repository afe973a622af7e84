//! The examples say what they claim to say.

use std::path::Path;

use celerity_testkit::environment::root;
use serde_json::Value;

/// The YAML documents of a text, comments and empty documents left out.
fn documents(text: &str) -> Vec<Value> {
    let parsed: Vec<Value> = serde_saphyr::from_multiple(text).expect("valid YAML");
    parsed.into_iter().filter(|document| !document.is_null()).collect()
}

fn documents_of_folder(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "yaml"));
    files.sort();
    files.iter().flat_map(|file| documents(&std::fs::read_to_string(file).expect("readable"))).collect()
}

/// The fenced `yaml` blocks of a Markdown text.
fn yaml_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in markdown.lines() {
        match (&mut open, line) {
            (None, "```yaml") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn the_tutorial_has_19_documents_in_examples() {
    assert_eq!(documents_of_folder(&root().join("examples/tutorial")).len(), 19);
}

#[test]
fn our_rendering_means_what_the_tutorial_says_in_the_same_order() {
    let Some(file) = celerity_testkit::shared("mission/tutorial.md") else { return };
    let text = std::fs::read_to_string(file).expect("readable");
    let theirs: Vec<Value> = yaml_blocks(&text).iter().flat_map(|block| documents(block)).collect();
    let ours = documents_of_folder(&root().join("examples/tutorial"));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{}", theirs["metadata"]["name"]);
    }
}

#[test]
fn every_example_is_readable_yaml_with_a_kind_and_a_name() {
    for folder in ["tutorial", "mesh", "own-services"] {
        for document in documents_of_folder(&root().join("examples").join(folder)) {
            assert!(document["kind"].is_string() && document["metadata"]["name"].is_string(), "{folder}: {document}");
        }
    }
}
