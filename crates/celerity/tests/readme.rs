//! The README says what the code does.
//!
//! `CELERITY_UPDATE_README=1 cargo test -p celerity --test readme` writes the generated parts anew.

use celerity_testkit::environment::root;

/// The text between a pair of markers, without the line breaks around it.
fn part<'a>(text: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let after = text.split_once(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")).1;
    after.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}")).0
}

#[test]
fn the_table_of_what_acts_is_the_codes_own() {
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).expect("readable");
    let table = celerity_model::istio::support_table();
    let expected = format!("\n{}\n", table.trim());
    let found = part(&readme, "what-acts");
    if found != expected && std::env::var_os("CELERITY_UPDATE_README").is_some() {
        let marker = "<!-- what-acts:begin -->";
        let updated = readme.replacen(&format!("{marker}{found}"), &format!("{marker}{expected}"), 1);
        std::fs::write(&path, updated).expect("written");
        return;
    }
    assert_eq!(found, expected, "run CELERITY_UPDATE_README=1 cargo test -p celerity --test readme");
}

/// Every path that the README, ARCHITECTURE.md and docs/ link to is there.
#[test]
fn no_link_is_broken() {
    let mut files = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("examples/README.md")];
    files.extend(std::fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").path()));
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "md")) {
        let text = std::fs::read_to_string(file).expect("readable");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || link.contains("://") {
                continue;
            }
            let target = file.parent().expect("a folder").join(path);
            assert!(target.exists(), "{} links to {link}, which is not there", file.display());
        }
    }
}
