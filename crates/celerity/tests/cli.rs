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
        &["proxy", "--config", "x", "--locality", "a/b/c/d"],
        &["proxy", "--config", "x", "--locality", "a//c"],
    ] {
        let output = celerity(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(stderr(&celerity(&["analyse"])).contains("analyze"));
    assert!(stderr(&celerity(&["up", "--for", "30"])).contains("30s, 5m or 250ms"));
}

#[test]
fn a_label_that_is_given_twice_is_refused() {
    let root = celerity_testkit::environment::root().join("examples/mesh").display().to_string();
    for labels in [&["a=b,a=c"][..], &["a=b", "--labels", "a=c"]] {
        let output = celerity(&[&["proxy", "--config", &root, "--labels"], labels].concat());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output), "error: --labels names a twice, as b and as c: keep one\n");
    }
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

#[test]
fn analyze_ends_with_one_for_an_error_only() {
    let root = celerity_testkit::environment::root();
    let path = |inside: &str| root.join(inside).display().to_string();
    let (tutorial, mesh) = (path("examples/tutorial"), path("examples/mesh"));
    let output = celerity(&["analyze", "--format", "json", &tutorial, &mesh]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let codes: Vec<_> = findings.as_array().expect("a list").iter().map(|finding| finding["code"].as_str()).collect();
    assert!(codes.len() > 10 && codes.iter().all(|code| code.is_some_and(|code| code.starts_with("CEL"))), "{codes:?}");

    let folder = celerity_testkit::TempDir::new();
    let wrong = folder.write(
        "a.yaml",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b}\nspec: {hots: a}\n",
    );
    let output = celerity(&["analyze", &wrong.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("a.yaml:4: error CEL") && text.contains("hots") && !text.contains('\x1b'), "{text}");
}

#[test]
fn translate_says_why_there_is_no_cluster_and_what_the_proxy_refuses() {
    let root = celerity_testkit::environment::root();
    let output = celerity(&["translate", &root.join("examples/tutorial").display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("no Service and no ServiceEntry was read"), "{}", stderr(&output));

    let folder = celerity_testkit::TempDir::new();
    let lua = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f}\nspec:\n  configPatches:\n  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}\n    patch:\n      operation: INSERT_FIRST\n      value: {name: envoy.filters.http.lua, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inline_code: x}}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n";
    let path = folder.write("a.yaml", lua).display().to_string();
    let translated = celerity(&["translate", &path]);
    let said = stderr(&translated);
    assert_eq!(translated.status.code(), Some(0), "{said}");
    assert!(said.contains("`celerity proxy` refuses this") && said.contains("lua"), "{said}");
    assert!(said.contains("say nothing to a mesh: 1"), "{said}");
    let nowhere =
        ["--outbound", "127.0.0.1:0", "--inbound", "off", "--admin", "off", "--prometheus", "off", "--health", "off"];
    let started = celerity(&[&["proxy", "--config", &path][..], &nowhere].concat());
    let said = stderr(&started);
    assert_eq!(started.status.code(), Some(1), "{said}");
    assert!(said.contains("a.yaml:6: EnvoyFilter default/f configPatches[0].patch: listener outbound"), "{said}");
    let analyzed = celerity(&["analyze", &path]);
    assert_eq!(analyzed.status.code(), Some(1));
    let text = String::from_utf8_lossy(&analyzed.stdout).into_owned();
    assert!(text.contains("a.yaml:6: error CEL0411") && text.contains("info CEL0010"), "{text}");
}

#[test]
fn translate_says_where_each_resource_came_from() {
    let root = celerity_testkit::environment::root();
    let path = |inside: &str| root.join(inside).display().to_string();
    let output = celerity(&["translate", "--explain", &path("examples/own-services")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("# from") && text.contains("services.yaml:") && text.contains("VirtualService default/api"),
        "{text}"
    );
    let json = celerity(&["translate", "--format", "json", &path("examples/own-services")]);
    let resources: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(resources["static_resources"]["clusters"].is_array());
}

/// A command with something on its standard input, and its standard output a file.
fn with_input(arguments: &[&str], input: &str, output: Option<&str>) -> Output {
    use std::io::Write;
    use std::process::Stdio;
    let into = output.map_or_else(Stdio::piped, |path| {
        Stdio::from(std::fs::OpenOptions::new().write(true).open(path).expect("it opens"))
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_celerity"));
    command.args(arguments).stdin(Stdio::piped()).stdout(into).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http}]}\n";

#[test]
fn standard_input_is_a_path_and_a_full_disk_an_error() {
    for verb in ["analyze", "translate"] {
        let output = with_input(&[verb, "--format", "json", "-"], ENTRY, None);
        assert_eq!(output.status.code(), Some(0), "{verb}: {}", stderr(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON");
        let output = with_input(&[verb, "--format", "json", "-"], ENTRY, Some("/dev/full"));
        let said = stderr(&output);
        assert_ne!(output.status.code(), Some(0), "{verb}");
        assert!(said.contains("error: standard output cannot be written") && said.lines().count() == 1, "{said}");
    }
    let wrong = with_input(&["analyze", "-"], "a: [", None);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stdout).starts_with("-:"), "{:?}", wrong.stdout);
}

#[test]
fn a_file_that_cannot_be_read_is_a_finding_among_others() {
    let folder = celerity_testkit::TempDir::new();
    folder.write("a.yaml", &ENTRY.replace("hosts:", "hots:"));
    folder.write("values.yaml", "replicas: 2\n");
    std::fs::write(folder.path().join("b.yaml"), [0xff, 0xfe]).expect("written");
    let path = folder.path().display().to_string();
    let output = celerity(&["analyze", "--format", "json", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found: Vec<_> = found.as_array().expect("a list").iter().map(|one| (&one["code"], &one["file"])).collect();
    let has =
        |code: &str, file: &str| found.iter().any(|(c, f)| *c == code && f.as_str().is_some_and(|f| f.ends_with(file)));
    assert!(has("CEL0002", "a.yaml") && has("CEL0001", "b.yaml") && has("CEL0010", "values.yaml"), "{found:?}");
    let named = celerity(&["analyze", &folder.path().join("values.yaml").display().to_string()]);
    assert_eq!(named.status.code(), Some(1), "what is named must be right");
}
