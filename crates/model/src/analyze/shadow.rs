//! Which routes an earlier one of the same VirtualService takes everything from.
//!
//! Comparing each route with each earlier one would take seconds for some ten thousand. A route is compared with those only whose
//! path can be wider than its own, found by their text.

use std::collections::{BTreeMap, HashMap};

use super::routes::is_for_sidecars;
use crate::istio::{HttpMatch, HttpRoute, StringMatch};

/// Comparisons for one VirtualService, some tenths of a second. Only tens of thousands of routes that differ in nothing but headers
/// come near; what is beyond is not claimed to be shadowed.
const COMPARISONS_MAX: usize = 2_000_000;

/// For each route the first earlier one that matches everything that it matches.
pub(super) fn shadowed_by(routes: &[HttpRoute]) -> Vec<Option<usize>> {
    let mut earlier = Earlier::default();
    let mut comparisons = 0;
    let mut found = Vec::with_capacity(routes.len());
    for (index, route) in routes.iter().enumerate() {
        let mut candidates = match comparisons <= COMPARISONS_MAX {
            true => earlier.candidates(route.matches.first().unwrap_or(&EVERYTHING)),
            false => Vec::new(),
        };
        comparisons += candidates.len();
        candidates.sort_unstable();
        candidates.dedup();
        let fits = |at: &&usize| routes.get(**at).is_some_and(|before| covers(before, route));
        found.push(candidates.iter().find(fits).copied());
        earlier.add(index, route);
    }
    found
}

/// Routes by what their paths are, in lower case: to find too many is no harm.
#[derive(Default)]
struct Earlier {
    /// Exact paths and prefixes.
    by_text: HashMap<String, Vec<usize>>,
    by_regex: HashMap<String, Vec<usize>>,
    /// Those that may match any path.
    any_path: Vec<usize>,
}

impl Earlier {
    fn add(&mut self, index: usize, route: &HttpRoute) {
        if route.matches.is_empty() {
            self.any_path.push(index);
        }
        for one in &route.matches {
            match &one.uri {
                Some(StringMatch::Prefix(text)) if text == "/" || text.is_empty() => self.any_path.push(index),
                Some(StringMatch::Exact(text) | StringMatch::Prefix(text)) => {
                    self.by_text.entry(text.to_lowercase()).or_default().push(index);
                }
                Some(StringMatch::Regex(pattern)) if pattern != ".*" => {
                    self.by_regex.entry(pattern.clone()).or_default().push(index);
                }
                _ => self.any_path.push(index),
            }
        }
    }

    /// The routes of which a match may cover `narrow`.
    fn candidates(&self, narrow: &HttpMatch) -> Vec<usize> {
        let mut found = self.any_path.clone();
        match &narrow.uri {
            Some(StringMatch::Exact(text) | StringMatch::Prefix(text)) => {
                let text = text.to_lowercase();
                let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
                for head in ends.filter_map(|end| text.get(..end)) {
                    found.extend(self.by_text.get(head).into_iter().flatten());
                }
            }
            Some(StringMatch::Regex(pattern)) => found.extend(self.by_regex.get(pattern).into_iter().flatten()),
            Some(StringMatch::Present) | None => {}
        }
        found
    }
}

/// Every request of `later` is taken by `earlier`. Sound, not complete: what is not understood is not claimed.
fn covers(earlier: &HttpRoute, later: &HttpRoute) -> bool {
    if earlier.matches.is_empty() {
        return true;
    }
    let later_matches: &[HttpMatch] = if later.matches.is_empty() { &[const { EVERYTHING }] } else { &later.matches };
    later_matches.iter().all(|later| earlier.matches.iter().any(|earlier| match_covers(earlier, later)))
}

/// A match without conditions.
pub(super) const EVERYTHING: HttpMatch = HttpMatch {
    name: None,
    uri: None,
    ignore_uri_case: None,
    scheme: None,
    method: None,
    authority: None,
    headers: BTreeMap::new(),
    without_headers: BTreeMap::new(),
    query_params: BTreeMap::new(),
    port: None,
    source_labels: BTreeMap::new(),
    source_namespace: None,
    gateways: Vec::new(),
};

pub(super) fn match_covers(wide: &HttpMatch, narrow: &HttpMatch) -> bool {
    let folded = wide.ignore_uri_case == Some(true);
    is_for_sidecars(wide)
        && (folded || narrow.ignore_uri_case != Some(true) || wide.uri.is_none())
        && path_covers(wide.uri.as_ref(), narrow.uri.as_ref(), folded)
        && covers_text(wide.scheme.as_ref(), narrow.scheme.as_ref(), false)
        && covers_text(wide.method.as_ref(), narrow.method.as_ref(), false)
        && covers_text(wide.authority.as_ref(), narrow.authority.as_ref(), false)
        && covers_map(&wide.headers, &narrow.headers)
        && wide.without_headers.iter().all(|(name, value)| narrow.without_headers.get(name) == Some(value))
        && covers_map(&wide.query_params, &narrow.query_params)
        && (wide.port.is_none() || wide.port == narrow.port)
        && wide.source_labels.iter().all(|(name, value)| narrow.source_labels.get(name) == Some(value))
        && (wide.source_namespace.is_none() || wide.source_namespace == narrow.source_namespace)
}

fn path_covers(wide: Option<&StringMatch>, narrow: Option<&StringMatch>, folded: bool) -> bool {
    // Every path starts with a slash.
    matches!(wide, Some(StringMatch::Prefix(prefix)) if prefix == "/") || covers_text(wide, narrow, folded)
}

fn covers_map(wide: &BTreeMap<String, StringMatch>, narrow: &BTreeMap<String, StringMatch>) -> bool {
    wide.iter().all(|(name, value)| match (value, narrow.get(name)) {
        (StringMatch::Present, found) => found.is_some(),
        (value, found) => found.is_some() && covers_text(Some(value), found, false),
    })
}

fn covers_text(wide: Option<&StringMatch>, narrow: Option<&StringMatch>, folded: bool) -> bool {
    let fold = |text: &str| if folded { text.to_lowercase() } else { text.to_owned() };
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(StringMatch::Prefix(wide)), Some(StringMatch::Prefix(narrow) | StringMatch::Exact(narrow))) => {
            fold(narrow).starts_with(&fold(wide))
        }
        (Some(StringMatch::Exact(wide)), Some(StringMatch::Exact(narrow))) => fold(wide) == fold(narrow),
        (Some(wide @ StringMatch::Regex(pattern)), Some(narrow)) => pattern == ".*" || (!folded && wide == narrow),
        (Some(wide), Some(narrow)) => wide == narrow,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::istio::read;

    /// As one compares each with each.
    fn by_hand(routes: &[HttpRoute]) -> Vec<Option<usize>> {
        let first = |(at, route)| routes.iter().take(at).position(|before| covers(before, route));
        routes.iter().enumerate().map(first).collect()
    }

    #[test]
    fn what_is_found_by_its_text_is_what_comparing_each_finds() {
        let matches = [
            "uri: {prefix: /a}",
            "uri: {exact: /a/b}",
            "uri: {prefix: /A/b}, ignoreUriCase: true",
            "uri: {prefix: /a/B/c}",
            "uri: {regex: '/x.*'}",
            "uri: {regex: '/x.*'}, method: {exact: GET}",
            "headers: {h: {exact: v}}",
            "uri: {prefix: /q}, headers: {h: {exact: v}}",
            "uri: {prefix: ''}, port: 81",
            "uri: {prefix: /}",
            "uri: {prefix: /z}",
            "uri: {regex: .*}",
            "queryParams: {q: {}}",
        ];
        let route = |one: &str| format!("  - {{match: [{{{one}}}], route: [{{destination: {{host: a}}}}]}}\n");
        for start in 0..matches.len() {
            let turned = matches.iter().cycle().skip(start).take(matches.len());
            let http: String = turned.map(|one| route(one)).collect();
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [a]\n  http:\n{http}"
            );
            let config = read(&[(Arc::from("a.yaml"), text.as_str())]).expect("right");
            let routes = &config.virtual_services.first().expect("one").spec.http;
            assert_eq!(shadowed_by(routes), by_hand(routes), "{start}");
        }
    }
}
