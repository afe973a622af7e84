//! What `done` is given: the run in wrk's terms. Durations and latencies are microseconds, rates requests per second.

use mlua::{Lua, MetaMethod, Table, UserData, UserDataFields, UserDataMethods};

use crate::Summary;
use crate::summary::ErrorKind;

/// `summary`.
pub(crate) fn summary(lua: &Lua, run: &Summary) -> mlua::Result<Table> {
    let count = |kinds: &[ErrorKind]| kinds.iter().filter_map(|kind| run.errors.get(kind)).sum::<u64>();
    let errors = lua.create_table()?;
    errors.set("connect", count(&ErrorKind::UNCONNECTED))?;
    errors.set("read", count(&[ErrorKind::Closed, ErrorKind::Reset, ErrorKind::Protocol]))?;
    // A write that fails is told as what made it fail: the connection was reset or closed.
    errors.set("write", 0)?;
    errors.set("status", run.statuses.iter().filter(|(status, _)| **status > 399).map(|(_, n)| n).sum::<u64>())?;
    errors.set("timeout", count(&[ErrorKind::Timeout]))?;
    let out = lua.create_table()?;
    out.set("duration", run.duration_ns / 1000)?;
    out.set("requests", run.succeeded + run.failed_answers)?;
    out.set("bytes", run.bytes_received)?;
    out.set("errors", errors)?;
    Ok(out)
}

/// Values in order with their counts.
pub(crate) struct Stats {
    values: Vec<(f64, u64)>,
    min: f64,
    max: f64,
    mean: f64,
    stdev: f64,
}

/// `latency`: from the histogram, so values are told to three digits.
pub(crate) fn latency(run: &Summary) -> Stats {
    let histogram = &run.response;
    Stats {
        values: histogram.buckets().map(|(ns, count)| ((ns / 1000) as f64, count)).collect(),
        min: (histogram.min_ns() / 1000) as f64,
        max: (histogram.max_ns() / 1000) as f64,
        mean: histogram.mean_ns() / 1e3,
        stdev: histogram.stdev_ns() / 1e3,
    }
}

/// `requests`: the rate of a thread, one value for each bin of the run's timeline. The last bin is rarely whole.
pub(crate) fn requests(run: &Summary, threads: usize) -> Stats {
    let width = run.timeline.bin_ns.max(1);
    let whole = usize::try_from(run.duration_ns / width).unwrap_or(usize::MAX).max(1);
    let share = 1e9 / width as f64 / threads.max(1) as f64;
    let mut rates: Vec<f64> =
        run.timeline.bins.iter().take(whole).map(|bin| ((bin.succeeded + bin.failed) as f64 * share).round()).collect();
    rates.sort_by(f64::total_cmp);
    let n = rates.len().max(1) as f64;
    let mean = rates.iter().sum::<f64>() / n;
    let stdev = (rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / n).sqrt();
    let mut values: Vec<(f64, u64)> = Vec::new();
    for &rate in &rates {
        match values.last_mut() {
            Some((last, count)) if *last == rate => *count += 1,
            _ => values.push((rate, 1)),
        }
    }
    Stats { min: rates.first().copied().unwrap_or(0.0), max: rates.last().copied().unwrap_or(0.0), values, mean, stdev }
}

impl Stats {
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    pub(crate) fn stdev(&self) -> f64 {
        self.stdev
    }

    pub(crate) fn max(&self) -> f64 {
        self.max
    }

    /// The share of values within one standard deviation of the mean, in percent: wrk's "+/- Stdev".
    pub(crate) fn within_stdev_percent(&self) -> f64 {
        let total: u64 = self.values.iter().map(|(_, n)| n).sum();
        let (low, high) = (self.mean - self.stdev, self.mean + self.stdev);
        let inside: u64 = self.values.iter().filter(|(v, _)| (low..=high).contains(v)).map(|(_, n)| n).sum();
        inside as f64 * 100.0 / total.max(1) as f64
    }

    fn percentile(&self, percent: f64) -> f64 {
        let total: u64 = self.values.iter().map(|(_, n)| n).sum();
        let rank = ((percent / 100.0 * total as f64).round() as u64).max(1);
        let mut seen = 0;
        let found = self.values.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.or(self.values.last()).map_or(0.0, |(value, _)| *value)
    }
}

impl UserData for Stats {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("min", |_, this| Ok(this.min));
        fields.add_field_method_get("max", |_, this| Ok(this.max));
        fields.add_field_method_get("mean", |_, this| Ok(this.mean));
        fields.add_field_method_get("stdev", |_, this| Ok(this.stdev));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("percentile", |_, this, percent: f64| Ok(this.percentile(percent)));
        // wrk counts from 1, as Lua does.
        methods.add_meta_method(MetaMethod::Call, |_, this, place: usize| {
            let found = place.checked_sub(1).and_then(|place| this.values.get(place));
            let &(value, count) = found.ok_or_else(|| mlua::Error::runtime("there are fewer values than that"))?;
            Ok((value, count))
        });
        methods.add_meta_method(MetaMethod::Len, |_, this, ()| Ok(this.values.len()));
    }
}
