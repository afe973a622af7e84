//! Two ways to read flags: Go's (`-name=value`, `-name value`, one or two dashes) and getopt's (`-t12`, `--timeout=2s`).

use super::Usage;

/// A flag that was given, or an argument that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arg {
    Flag { name: String, value: String },
    Plain(String),
}

/// Go's `flag` package: flags end at the first argument that is none, or at `--`. `switches` are those without a value,
/// which may be given `=true` or `=false`; `valued` those with one. Any other is refused by its name.
pub(super) fn go(tool: &str, args: &[String], valued: &[&str], switches: &[&str]) -> Result<Vec<Arg>, Usage> {
    let mut out = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(text) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|text| !text.is_empty())
        else {
            if arg != "--" {
                out.push(Arg::Plain(arg.clone()));
            }
            out.extend(rest.by_ref().cloned().map(Arg::Plain));
            break;
        };
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let value = if switches.contains(&name) {
            match inline.as_deref() {
                None | Some("true" | "1" | "t") => "true".to_owned(),
                Some("false" | "0" | "f") => "false".to_owned(),
                Some(other) => return Err(Usage::new(format!("{tool}: -{name} is on or off, not `{other}`"))),
            }
        } else if valued.contains(&name) {
            inline
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| Usage::new(format!("{tool}: -{name} needs a value")))?
        } else {
            return Err(unknown(tool, &format!("-{name}")));
        };
        out.push(Arg::Flag { name: name.to_owned(), value });
    }
    Ok(out)
}

/// getopt_long with its reordering: flags may stand behind plain arguments, up to `--`, behind which nothing is a flag.
/// `long` pairs long names with the short one that they stand for; a name of `valued` takes a value. The second list is
/// what follows `--`.
pub(super) fn getopt(
    tool: &str,
    args: &[String],
    valued: &[&str],
    switches: &[&str],
    long: &[(&str, &str)],
) -> Result<(Vec<Arg>, Vec<String>), Usage> {
    let mut out = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            break;
        }
        if let Some(text) = arg.strip_prefix("--") {
            let (name, inline) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let name = long.iter().find(|(long, _)| *long == name).map_or(name, |(_, short)| short);
            let value = if valued.contains(&name) {
                inline
                    .or_else(|| rest.next().cloned())
                    .ok_or_else(|| Usage::new(format!("{tool}: {arg} needs a value")))?
            } else if switches.contains(&name) && inline.is_none() {
                "true".to_owned()
            } else {
                return Err(unknown(tool, arg));
            };
            out.push(Arg::Flag { name: name.to_owned(), value });
        } else if let Some(text) = arg.strip_prefix('-').filter(|text| !text.is_empty()) {
            let mut letters = text.chars();
            while let Some(letter) = letters.next() {
                let name = letter.to_string();
                if valued.contains(&name.as_str()) {
                    let inline = letters.as_str();
                    let value = if inline.is_empty() { rest.next().cloned() } else { Some(inline.to_owned()) };
                    let value = value.ok_or_else(|| Usage::new(format!("{tool}: -{name} needs a value")))?;
                    out.push(Arg::Flag { name, value });
                    break;
                }
                if !switches.contains(&name.as_str()) {
                    return Err(unknown(tool, &format!("-{name}")));
                }
                out.push(Arg::Flag { name, value: "true".into() });
            }
        } else {
            out.push(Arg::Plain(arg.clone()));
        }
    }
    Ok((out, rest.cloned().collect()))
}

fn unknown(tool: &str, flag: &str) -> Usage {
    Usage::new(format!("{tool}: the flag `{}` is not supported", flag.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn flag(name: &str, value: &str) -> Arg {
        Arg::Flag { name: name.into(), value: value.into() }
    }

    #[test]
    fn getopt_takes_values_beside_behind_and_after_an_equals_sign() {
        let long = [("threads", "t"), ("latency", "L")];
        let read = |text: &str| getopt("wrk", &args(text), &["t", "c"], &["L", "v"], &long);
        let (out, extra) = read("-t12 -c 400 --threads=3 --latency http://a -vt4 -- -x y").expect("flags");
        let plain = Arg::Plain("http://a".into());
        let flags = [
            flag("t", "12"),
            flag("c", "400"),
            flag("t", "3"),
            flag("L", "true"),
            plain,
            flag("v", "true"),
            flag("t", "4"),
        ];
        assert_eq!(out, flags);
        assert_eq!(extra, ["-x", "y"]);
        assert!(read("-x").is_err_and(|e| e.0.contains("`-x`")));
        assert!(read("-t").is_err());
    }

    #[test]
    fn go_takes_one_dash_or_two_and_ends_at_the_first_plain_argument() {
        let read = |text: &str| go("hey", &args(text), &["z"], &["h2"]);
        let out = read("-z 30s --z=5s -h2 -h2=false url -z").expect("flags");
        assert_eq!(out[..4], [flag("z", "30s"), flag("z", "5s"), flag("h2", "true"), flag("h2", "false")]);
        assert_eq!(out[4..], [Arg::Plain("url".into()), Arg::Plain("-z".into())]);
        assert!(read("-foo").is_err_and(|e| e.0.contains("`-foo`")));
        assert!(read("-h2=x").is_err() && read("-z").is_err());
    }

    proptest! {
        #[test]
        fn any_arguments_are_survived(list: Vec<String>) {
            let _ = go("t", &list, &["a"], &["b"]);
            let _ = getopt("t", &list, &["a"], &["b"], &[("aa", "a")]);
        }
    }
}
