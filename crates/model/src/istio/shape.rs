//! The types of fields that Kubernetes has and that have no bearing on a mesh. Nothing of them is kept; a value of another type is
//! refused all the same, as the API server would.

use super::node::{self, Node, Style, Value};
use super::reader::{Cx, text};

/// Tells of a value that is of another type.
pub(crate) type Shape = fn(&Node<'_>, &mut Cx) -> bool;

pub(crate) fn mapping(node: &Node<'_>, cx: &mut Cx) -> bool {
    let fits = matches!(node.value, Value::Map(_));
    if !fits {
        cx.wrong_type(node, "a mapping");
    }
    fits
}

pub(crate) fn text_map(node: &Node<'_>, cx: &mut Cx) -> bool {
    let Value::Map(entries) = &node.value else { return mapping(node, cx) };
    let fits = |cx: &mut Cx, entry: &node::Entry<'_>| {
        cx.within(&entry.key, (entry.line, entry.column), |cx| text(&entry.node, cx, "a string").is_some())
    };
    // To the end: every error is told.
    entries.iter().filter(|entry| !fits(cx, entry)).count() == 0
}

pub(crate) fn string(node: &Node<'_>, cx: &mut Cx) -> bool {
    text(node, cx, "a string").is_some()
}

pub(crate) fn strings(node: &Node<'_>, cx: &mut Cx) -> bool {
    list(node, cx, string)
}

pub(crate) fn whole_number(node: &Node<'_>, cx: &mut Cx) -> bool {
    let fits = matches!(&node.value, Value::Scalar { text, style: Style::Plain } if node::integer(text).is_some());
    if !fits {
        cx.wrong_type(node, "a whole number, without quotes");
    }
    fits
}

pub(crate) fn boolean(node: &Node<'_>, cx: &mut Cx) -> bool {
    let fits = matches!(&node.value, Value::Scalar { text, style: Style::Plain } if node::boolean(text).is_some());
    if !fits {
        cx.wrong_type(node, "true or false, without quotes");
    }
    fits
}

pub(crate) fn traffic_policy(node: &Node<'_>, cx: &mut Cx) -> bool {
    one_of(node, cx, &["Cluster", "Local"])
}

pub(crate) fn ip_families(node: &Node<'_>, cx: &mut Cx) -> bool {
    list(node, cx, |item, cx| one_of(item, cx, &["IPv4", "IPv6"]))
}

pub(crate) fn ip_family_policy(node: &Node<'_>, cx: &mut Cx) -> bool {
    one_of(node, cx, &["SingleStack", "PreferDualStack", "RequireDualStack"])
}

fn one_of(node: &Node<'_>, cx: &mut Cx, words: &[&str]) -> bool {
    let Some(found) = text(node, cx, "one of the words that the field knows") else { return false };
    let fits = words.contains(&found);
    if !fits {
        cx.bad(format!("{found:?} is not one of {}", words.join(", ")));
    }
    fits
}

fn list(node: &Node<'_>, cx: &mut Cx, item: Shape) -> bool {
    let Value::List(items) = &node.value else {
        cx.wrong_type(node, "a list, each item on a line that starts with a dash");
        return false;
    };
    let fits = |cx: &mut Cx, (index, one): (usize, &Node<'_>)| {
        cx.within_item(index, (one.line, one.column), |cx| item(one, cx))
    };
    items.iter().enumerate().filter(|one| !fits(cx, *one)).count() == 0
}
