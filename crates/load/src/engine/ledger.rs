//! The ledger that a mesh's response carries in `Server-Timing` (W3C Server Timing): a duration in milliseconds for each
//! category.

use celerity_telemetry::Category;
use celerity_telemetry::ledger::CATEGORIES;

/// Microseconds by category; `None` where no category is named. Names of others are passed over.
pub(super) fn parse_server_timing(value: &str) -> Option<[u32; CATEGORIES]> {
    let mut parts = [0; CATEGORIES];
    let mut found = false;
    for metric in value.split(',') {
        let mut fields = metric.split(';').map(str::trim);
        let name = fields.next().unwrap_or_default();
        let Some(at) = Category::ALL.iter().position(|category| category.as_str() == name) else { continue };
        let dur_ms = fields.find_map(|field| field.strip_prefix("dur=")?.parse::<f64>().ok());
        if let (Some(part), Some(dur_ms)) = (parts.get_mut(at), dur_ms) {
            *part = (dur_ms * 1000.0) as u32;
            found = true;
        }
    }
    found.then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_are_read_and_others_passed_over() {
        let parts = parse_server_timing("network;dur=0.412, cache;desc=\"hit, or not\", service;dur=2.5, total;dur=3")
            .expect("a ledger");
        assert_eq!((parts[Category::Network as usize], parts[Category::Service as usize]), (412, 2500));
        assert_eq!(parse_server_timing("db;dur=5"), None);
        assert_eq!(parse_server_timing("service;dur=-4").map(|p| p[Category::Service as usize]), Some(0));
    }
}
