//! The same as a page: one file, nothing loaded from elsewhere.

use std::fmt::Write;

use celerity_telemetry::Category;

use super::{Account, Answer, Distribution, Kind, Row, draw, millis, percent};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.4 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; white-space: normal; }
td.bar { width: 55%; padding: 0; }
.track { position: relative; height: 1.1rem; }
.track i { position: absolute; top: .15rem; bottom: .15rem; min-width: 1px; border-radius: 2px; }
.whole { opacity: .35; }
.total { font-weight: 600; }
.note { color: #777; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin: 0 .3rem 0 1rem; }
";

fn colour(category: Category) -> &'static str {
    match category {
        Category::Network => "#4c78a8",
        Category::Processing => "#54a6a6",
        Category::Queueing => "#e0a030",
        Category::Protocol => "#9d6fb0",
        Category::Config => "#5aa454",
        Category::Service => "#8a8a8a",
        Category::Unattributed => "#d0433f",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn framed(title: &str, body: &str) -> String {
    let title = escaped(title);
    let mut key = String::from("<p class=\"key\">");
    for category in Category::ALL {
        // Writing to a String cannot fail, here and below.
        let _ = write!(key, "<i style=\"background:{}\"></i>{}", colour(category), category.as_str());
    }
    key.push_str("</p>");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n{body}\n{key}\n</body></html>\n"
    )
}

/// One request.
pub fn page(title: &str, answer: &Answer, account: &Account) -> String {
    let tls = answer.tls.as_deref().map_or_else(String::new, |tls| format!(", {}", escaped(tls)));
    let mut body = format!(
        "<p>{} from {}, {} bytes of body{tls}; {} in all</p>\n<table>\n",
        answer.status,
        answer.address,
        answer.body_bytes,
        millis(account.total_ns as f64)
    );
    let share = |ns: u64| ns as f64 / account.total_ns.max(1) as f64 * 100.0;
    for part in &account.parts {
        let (fill, class) = match part.kind {
            Kind::Leaf(category) => (colour(category), ""),
            Kind::Segment | Kind::Hop => ("#888", " class=\"whole\""),
        };
        let mut bars = String::new();
        for (start, ns) in part.spans.iter().filter(|(_, ns)| *ns > 0) {
            let _ = write!(
                bars,
                "<i{class} style=\"left:{:.3}%;width:{:.3}%;background:{fill}\"></i>",
                share(*start),
                share(*ns)
            );
        }
        let _ = writeln!(
            body,
            "<tr><td style=\"padding-left:{}rem\">{}</td><td>{}</td><td>{}</td><td class=\"bar\"><div class=\"track\">{bars}</div></td></tr>",
            0.5 + 1.2 * part.depth as f64,
            escaped(&part.name),
            millis(part.ns as f64),
            percent(part.ns as f64, account.total_ns as f64)
        );
    }
    body.push_str("</table>\n");
    for note in &account.notes {
        let _ = writeln!(body, "<p class=\"note\">{}</p>", escaped(note));
    }
    body.push_str(
        "<p class=\"note\">Of a hop only durations are known: its states stand in the order in which they usually come, and \
         the network's time is drawn half before and half after.</p>",
    );
    framed(title, &body)
}

/// Many requests.
pub fn distribution_page(title: &str, failed: &[(String, u64)], found: &Distribution) -> String {
    let mut body = format!("<p>{} requests, one after the other</p>\n", found.requests);
    for (reason, count) in failed {
        let _ = writeln!(body, "<p>{count} failed: {}</p>", escaped(reason));
    }
    body.push_str(
        "<table>\n<tr><th></th><th>p50</th><th>p95</th><th>p99</th><th>middle</th><th>slow</th><th>slow - middle</th><th></th></tr>\n",
    );
    let longest = found.total.tail_ns.max(found.total.median_ns).max(1.0);
    let mut write_row = |row: &Row, class: &str| {
        let bar = |ns: f64, top: &str, opacity: &str| {
            let width = ns / longest * 100.0;
            format!(
                "<i style=\"left:0;width:{width:.3}%;{top};opacity:{opacity};background:{}\"></i>",
                colour(row.category)
            )
        };
        let bars = bar(row.median_ns, "bottom:50%", "1") + &bar(row.tail_ns, "top:50%", ".6");
        let _ = writeln!(
            body,
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"bar\"><div class=\"track\">{bars}</div></td></tr>",
            escaped(&draw::display_name(&row.name)),
            millis(row.p50_ns as f64),
            millis(row.p95_ns as f64),
            millis(row.p99_ns as f64),
            millis(row.median_ns),
            millis(row.tail_ns),
            millis(row.tail_ns - row.median_ns)
        );
    };
    for row in &found.rows {
        write_row(row, "");
    }
    write_row(&found.total, " class=\"total\"");
    let _ = writeln!(
        body,
        "</table>\n<p class=\"note\">middle: mean of {} requests from p{} to p{} (upper bar); slow: of {} from p{} to p{} (lower \
         bar). Means of one cohort add up to its total; percentiles of parts do not.</p>",
        found.median.requests,
        found.median.from * 100.0,
        found.median.to * 100.0,
        found.tail.requests,
        found.tail.from * 100.0,
        found.tail.to * 100.0
    );
    framed(title, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Segments;

    #[test]
    fn the_page_loads_nothing_and_escapes_what_it_was_told() {
        let answer = Answer {
            segments: Segments { wait_ns: 1_000, ..Segments::default() },
            status: 200,
            headers: Vec::new(),
            body_bytes: 0,
            hops: Vec::new(),
            address: ([127, 0, 0, 1], 80).into(),
            reused: false,
            tls: None,
        };
        let account = Account::of(&answer.segments, &answer.hops);
        let page = page("GET http://a/?<script>", &answer, &account);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(!page.contains("src=") && !page.contains("href="));
    }
}
