//! The latency ledger, histograms, metric series, access log and trace context.
