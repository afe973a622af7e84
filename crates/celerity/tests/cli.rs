//! The command line as a shell sees it: exit codes and where messages go.

use std::process::{Command, Output};

fn celerity(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_celerity")).args(arguments).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_is_two_and_says_what_is_known() {
    for arguments in [
        &["analyse"][..],
        &["analyze"],
        &["proxy"],
        &["up", "--for", "30"],
        &["proxy", "--config", "x", "--admin", "15000"],
    ] {
        let output = celerity(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(stderr(&celerity(&["analyse"])).contains("analyze"));
    assert!(stderr(&celerity(&["up", "--for", "30"])).contains("30s, 5m or 250ms"));
}

#[test]
fn help_is_zero_and_lists_only_what_there_is() {
    let output = celerity(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for verb in ["up", "proxy", "analyze", "translate"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} is not in\n{text}");
    }
    assert!(!text.contains("rollback") && !text.contains('\x1b'));
}

#[test]
fn a_path_that_is_not_there_is_one_and_one_sentence() {
    for verb in ["analyze", "translate"] {
        let output = celerity(&[verb, "/nowhere/at-all.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        let text = stderr(&output);
        assert!(text.starts_with("error: /nowhere/at-all.yaml cannot be read") && text.lines().count() == 1, "{text}");
    }
}
