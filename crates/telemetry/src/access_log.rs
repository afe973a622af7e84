//! The access log: a line of JSON per request, with Envoy's field names and the ledger beside them.
//!
//! ```text
//!   worker: AccessLog::log ──► its own buffer ──full, or flush()──► bounded channel ──► writer thread ──► file
//! ```
//!
//! A worker writes its line into its own buffer and hands over whole buffers: one wake-up of the writer for a hundred
//! lines. Where the writer is behind (a slow disk), the buffer is dropped and its lines are counted: a log never holds
//! up a request.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::flags::ResponseFlags;
use crate::json::{push_json_bytes, push_json_str, push_rfc3339};
use crate::ledger::{Breakdown, Category};
use crate::metrics::{Exposition, Registry, names};
use crate::rng::Rng;

/// A buffer is handed over when it is this full: about a hundred lines.
const BUFFER_BYTES: usize = 64 * 1_024;
/// Buffers on their way to the writer, of all workers together: 4 MB. More means that the disk is slower than the
/// traffic, and then no queue is long enough.
const BUFFERS_MAX: usize = 64;
/// A field of the request is cut to this: a line stays near a kilobyte whatever a client sends.
const FIELD_BYTES_MAX: usize = 2_048;
/// After a failed write the writer counts lines as failed for so long before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub enum Target {
    Stdout,
    /// Opened for appending, made if it is not there.
    File(PathBuf),
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// One of so many requests that went well; 1 logs all of them, 0 none. Errors (status 0 or from 500 up, or any
    /// response flag but that of the cache) are always logged.
    pub one_in: u64,
}

impl Choice {
    pub const ALL: Self = Self { one_in: 1 };
    pub const ONLY_ERRORS: Self = Self { one_in: 0 };

    /// Whether this request is logged. Ask before the line's fields are put together.
    #[inline]
    pub fn wants(self, status: u16, flags: ResponseFlags, rng: &mut Rng) -> bool {
        status == 0
            || status >= 500
            || flags.is_trouble()
            || self.one_in == 1
            || (self.one_in > 1 && rng.below(self.one_in) == 0)
    }
}

/// One request's line. Bytes that are not UTF-8 are replaced; an empty field is written as null.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// When the request's first byte came: milliseconds since 1970, UTC.
    pub start_time_unix_ms: u64,
    pub method: &'a [u8],
    pub path: &'a [u8],
    pub authority: &'a [u8],
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    pub response_code: u16,
    /// One of few words: what is counted.
    pub response_code_details: &'a str,
    /// A sentence of what went wrong with this request; empty where nothing did.
    pub failure: &'a str,
    pub connection_termination_details: &'a str,
    pub response_flags: ResponseFlags,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub route_name: &'a str,
    pub upstream_cluster: &'a str,
    pub upstream_host: &'a str,
    pub upstream_local_address: &'a str,
    pub upstream_transport_failure_reason: &'a str,
    pub downstream_local_address: &'a str,
    pub downstream_remote_address: &'a str,
    pub requested_server_name: &'a str,
    pub request_id: &'a [u8],
    pub user_agent: &'a [u8],
    pub x_forwarded_for: &'a [u8],
    pub trace_id: Option<u128>,
    /// `None` leaves out `duration`, `upstream_service_time` and the ledger.
    pub ledger: Option<&'a Breakdown>,
}

impl Record<'_> {
    /// Appends the line and its newline.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"start_time\":\"");
        push_rfc3339(out, self.start_time_unix_ms);
        out.push(b'"');
        text(out, "method", self.method);
        text(out, "path", self.path);
        text(out, "authority", self.authority);
        text(out, "protocol", self.protocol.as_bytes());
        number(out, "response_code", u64::from(self.response_code));
        text(out, "response_code_details", self.response_code_details.as_bytes());
        text(out, "failure", self.failure.as_bytes());
        text(out, "connection_termination_details", self.connection_termination_details.as_bytes());
        key(out, "response_flags");
        let _ = write!(out, "\"{}\"", self.response_flags);
        number(out, "bytes_received", self.bytes_received);
        number(out, "bytes_sent", self.bytes_sent);
        if let Some(ledger) = self.ledger {
            number(out, "duration", ledger.total_ns() / 1_000_000);
            let rows = ledger.categories();
            let wait = rows[Category::Service as usize] + ledger.state(crate::State::RoundTrip);
            number(out, "upstream_service_time", wait / 1_000_000);
            number(out, "duration_us", ledger.total_ns() / 1_000);
            number(out, "attempts", u64::from(ledger.attempts));
            key(out, "ledger_us");
            for (at, (category, ns)) in Category::ALL.iter().zip(rows).enumerate() {
                let open = if at == 0 { '{' } else { ',' };
                let _ = write!(out, "{open}\"{}\":{}.{:03}", category.as_str(), ns / 1_000, ns % 1_000);
            }
            out.push(b'}');
        }
        text(out, "route_name", self.route_name.as_bytes());
        text(out, "upstream_cluster", self.upstream_cluster.as_bytes());
        text(out, "upstream_host", self.upstream_host.as_bytes());
        text(out, "upstream_local_address", self.upstream_local_address.as_bytes());
        text(out, "upstream_transport_failure_reason", self.upstream_transport_failure_reason.as_bytes());
        text(out, "downstream_local_address", self.downstream_local_address.as_bytes());
        text(out, "downstream_remote_address", self.downstream_remote_address.as_bytes());
        text(out, "requested_server_name", self.requested_server_name.as_bytes());
        text(out, "request_id", self.request_id);
        text(out, "user_agent", self.user_agent);
        text(out, "x_forwarded_for", self.x_forwarded_for);
        if let Some(trace_id) = self.trace_id {
            key(out, "trace_id");
            let _ = write!(out, "\"{trace_id:032x}\"");
        }
        out.extend_from_slice(b"}\n");
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    push_json_str(out, name);
    out.push(b':');
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    if value.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        push_json_bytes(out, &value[..value.len().min(FIELD_BYTES_MAX)]);
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    let _ = write!(out, "{value}");
}

/// What became of the lines, for the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    pub written: AtomicU64,
    /// The writer was behind.
    pub dropped: AtomicU64,
    /// The write failed: a full disk, a closed pipe.
    pub failed: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counts {
    /// What the last failed write said; `None` once a write has succeeded again.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("the access log {path} cannot be opened: {source}; give a path in a folder that this process may write to")]
    Open { path: PathBuf, source: io::Error },
    #[error("the access log's writer thread cannot be started: {0}")]
    Thread(io::Error),
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

/// How long the writer may take for what is queued when it is to end: whoever reads its pipe may have stopped.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// The writer thread and the way to it. Dropping it writes what is queued, and does not wait for workers that still hold an end:
/// what they write later is lost.
pub struct AccessLogWriter {
    sender: Option<SyncSender<Batch>>,
    recycled: Arc<Mutex<Vec<Vec<u8>>>>,
    counts: Arc<Counts>,
    reopen: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLogWriter {
    /// Opens the target and starts the writer.
    pub fn start(target: Target) -> Result<Self, AccessLogError> {
        let sink: Box<dyn Write + Send> = match &target {
            Target::Stdout => Box::new(io::stdout()),
            Target::File(path) => {
                Box::new(open(path).map_err(|source| AccessLogError::Open { path: path.clone(), source })?)
            }
        };
        Self::start_on(sink, target)
    }

    fn start_on(sink: Box<dyn Write + Send>, target: Target) -> Result<Self, AccessLogError> {
        let (sender, receiver) = sync_channel(BUFFERS_MAX);
        let counts = Arc::new(Counts::default());
        let recycled = Arc::new(Mutex::new(Vec::new()));
        let reopen = Arc::new(AtomicBool::new(false));
        let ending = Arc::new(AtomicBool::new(false));
        let thread = {
            let (counts, recycled, reopen) = (Arc::clone(&counts), Arc::clone(&recycled), Arc::clone(&reopen));
            let ending = Arc::clone(&ending);
            std::thread::Builder::new()
                .name("access-log".into())
                .spawn(move || write_all(sink, &target, batches(&receiver, &ending), &counts, &recycled, &reopen))
                .map_err(AccessLogError::Thread)?
        };
        Ok(Self { sender: Some(sender), recycled, counts, reopen, ending, thread: Some(thread) })
    }

    /// A worker's end.
    pub fn worker(&self) -> Option<AccessLog> {
        self.sender.as_ref().map(|sender| AccessLog {
            sender: sender.clone(),
            recycled: Arc::clone(&self.recycled),
            counts: Arc::clone(&self.counts),
            buffer: Vec::new(),
            lines: 0,
        })
    }

    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Puts the counts of lines into the registry's exposition.
    pub fn register(&self, registry: &Registry) {
        let counts = Arc::clone(&self.counts);
        registry.collector(move |text| {
            let family = &names::ACCESS_LOG_LINES;
            text.family(family.name, family.help, "counter");
            for (result, count) in
                [("written", &counts.written), ("dropped", &counts.dropped), ("failed", &counts.failed)]
            {
                text.sample(family.name, &Exposition::labels(&[("result", result)]), count.load(Relaxed));
            }
        });
    }

    /// Asks the writer to open its file anew before the next write: for log rotation.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.ending.store(true, Relaxed);
        if let Some(sender) = self.sender.take() {
            // Wakes a writer that waits; one that writes looks when it is done.
            let _ = sender.try_send(Batch::default());
        }
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + LAST_LINES_MAX;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// What the workers send, until they have all gone, or until the log is to end and nothing more is queued.
fn batches<'r>(receiver: &'r Receiver<Batch>, ending: &'r AtomicBool) -> impl Iterator<Item = Batch> + 'r {
    std::iter::from_fn(|| if ending.load(Relaxed) { receiver.try_recv().ok() } else { receiver.recv().ok() })
}

fn open(path: &PathBuf) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Opening a pipe that nobody reads would wait for a reader, and the start with it: so it is an error (ENXIO, open(2)).
    let file = OpenOptions::new().create(true).append(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // SAFETY: `file` is open, and F_SETFL takes an int; all flags that it can clear are to be clear but O_APPEND.
    let result = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETFL, libc::O_APPEND) };
    if result == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

fn write_all(
    mut sink: Box<dyn Write + Send>,
    target: &Target,
    batches: impl Iterator<Item = Batch>,
    counts: &Counts,
    recycled: &Mutex<Vec<Vec<u8>>>,
    reopen: &AtomicBool,
) {
    let mut failed_at: Option<Instant> = None;
    for mut batch in batches {
        if let (true, Target::File(path)) = (reopen.load(Relaxed), target) {
            // What cannot be opened is tried again with the next lines; until then they go where they went.
            match open(path) {
                Ok(file) => {
                    reopen.store(false, Relaxed);
                    set_error(counts, None);
                    sink = Box::new(file);
                }
                Err(error) => set_error(counts, Some(&error)),
            }
        }
        let resting = failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        let result = if resting { None } else { Some(sink.write_all(&batch.bytes).and_then(|()| sink.flush())) };
        match result {
            Some(Ok(())) => {
                counts.written.fetch_add(batch.lines, Relaxed);
                if failed_at.take().is_some() {
                    set_error(counts, None);
                }
            }
            Some(Err(error)) => {
                counts.failed.fetch_add(batch.lines, Relaxed);
                failed_at = Some(Instant::now());
                set_error(counts, Some(&error));
            }
            None => _ = counts.failed.fetch_add(batch.lines, Relaxed),
        }
        batch.bytes.clear();
        if let Ok(mut spare) = recycled.try_lock()
            && spare.len() < BUFFERS_MAX
        {
            spare.push(batch.bytes);
        }
    }
}

fn set_error(counts: &Counts, error: Option<&io::Error>) {
    *counts.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
}

/// One worker's end of the access log.
pub struct AccessLog {
    sender: SyncSender<Batch>,
    recycled: Arc<Mutex<Vec<Vec<u8>>>>,
    counts: Arc<Counts>,
    buffer: Vec<u8>,
    lines: u64,
}

impl AccessLog {
    /// Adds a line: about a microsecond. Never waits.
    pub fn log(&mut self, record: &Record<'_>) {
        record.write(&mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Hands over what is there. Call it once a second or so, or a quiet worker's lines stay with it. Never waits.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        // The writer holds this lock for a push; where it does just now, a new buffer costs less than waiting.
        let spare = self.recycled.try_lock().ok().and_then(|mut spare| spare.pop());
        let bytes = std::mem::replace(&mut self.buffer, spare.unwrap_or_default());
        let batch = Batch { bytes, lines: std::mem::take(&mut self.lines) };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = self.sender.try_send(batch) {
            self.counts.dropped.fetch_add(batch.lines, Relaxed);
            let mut bytes = batch.bytes;
            bytes.clear();
            self.buffer = bytes;
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Tick};
    use crate::ledger::{Ledger, State};
    use std::sync::mpsc::channel;

    fn line(record: &Record<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        record.write(&mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_line_is_json_with_envoy_s_names() {
        let clock = Clock::instant_only();
        let mut ledger = Ledger::start(State::Route, Tick(0));
        ledger.enter(State::AwaitResponse, Tick(1_500));
        let closed = ledger.finish(Tick(3_000_000), &clock);
        let value = line(&Record {
            start_time_unix_ms: 1_709_210_096_007,
            method: b"GET",
            path: b"/a\"b\\c\n\x01\xff",
            response_code: 503,
            response_flags: ResponseFlags::UPSTREAM_OVERFLOW,
            trace_id: Some(0xabc),
            ledger: Some(&closed),
            ..Record::default()
        });
        assert_eq!(value["start_time"], "2024-02-29T12:34:56.007Z");
        assert_eq!(value["path"], "/a\"b\\c\n\u{1}\u{fffd}");
        assert_eq!(value["response_flags"], "UO");
        assert_eq!(value["duration"], 3);
        assert_eq!(value["ledger_us"]["processing"], 1.5);
        assert_eq!(value["authority"], serde_json::Value::Null);
        assert_eq!(value["trace_id"], "00000000000000000000000000000abc");
    }

    #[test]
    fn a_field_is_cut_to_its_bound() {
        let path = vec![b'x'; 100_000];
        let value = line(&Record { path: &path, ..Record::default() });
        assert_eq!(value["path"].as_str().map(str::len), Some(FIELD_BYTES_MAX));
    }

    #[test]
    fn errors_are_always_wanted() {
        let mut rng = Rng::seeded(1);
        assert!(!Choice::ONLY_ERRORS.wants(200, ResponseFlags::NONE, &mut rng));
        assert!(Choice::ONLY_ERRORS.wants(503, ResponseFlags::NONE, &mut rng));
        assert!(Choice::ONLY_ERRORS.wants(200, ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, &mut rng));
        assert!(!Choice::ONLY_ERRORS.wants(200, ResponseFlags::RESPONSE_FROM_CACHE_FILTER, &mut rng));
        assert!(Choice::ALL.wants(200, ResponseFlags::NONE, &mut rng));
        let some = (0..10_000).filter(|_| Choice { one_in: 10 }.wants(200, ResponseFlags::NONE, &mut rng)).count();
        assert!((700..1_300).contains(&some), "{some}");
    }

    /// Blocks until it is let go, then fails or not.
    struct Gate {
        open: Receiver<()>,
        fail: bool,
        entered: std::sync::mpsc::Sender<()>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.open.recv();
            if self.fail { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_disk_drops_lines_and_stops_nobody() {
        let (release, open) = channel();
        let (entered, inside) = channel();
        let writer = AccessLogWriter::start_on(Box::new(Gate { open, fail: false, entered }), Target::Stdout).unwrap();
        let mut log = writer.worker().unwrap();
        let counts = Arc::clone(writer.counts());
        log.log(&Record::default());
        log.flush();
        inside.recv().unwrap();
        // The writer is stuck with one batch; the channel takes its bound, and the rest is dropped.
        for _ in 0..BUFFERS_MAX + 10 {
            log.log(&Record::default());
            log.flush();
        }
        assert_eq!(counts.dropped.load(Relaxed), 10);
        drop(release);
        drop(log);
        drop(writer);
        assert_eq!(counts.written.load(Relaxed), BUFFERS_MAX as u64 + 1);
    }

    #[test]
    fn a_worker_that_does_not_end_holds_up_no_end() {
        let (entered, inside) = channel();
        let (release, open) = channel();
        drop(release);
        let writer = AccessLogWriter::start_on(Box::new(Gate { open, fail: false, entered }), Target::Stdout).unwrap();
        let counts = Arc::clone(writer.counts());
        let mut held = writer.worker().unwrap();
        held.log(&Record::default());
        held.flush();
        inside.recv().unwrap();
        held.log(&Record::default());
        held.flush();
        drop(writer);
        assert_eq!(counts.written.load(Relaxed), 2, "what was queued is written");
        // A pipe that nobody reads: the end does not wait for it either.
        let (_stuck, open) = channel::<()>();
        let (entered, inside) = channel();
        let writer = AccessLogWriter::start_on(Box::new(Gate { open, fail: false, entered }), Target::Stdout).unwrap();
        let mut held = writer.worker().unwrap();
        held.log(&Record::default());
        held.flush();
        inside.recv().unwrap();
        drop(writer);
    }

    #[test]
    fn a_full_disk_is_counted_and_said() {
        let (release, open) = channel();
        let (entered, _inside) = channel();
        drop(release);
        let writer = AccessLogWriter::start_on(Box::new(Gate { open, fail: true, entered }), Target::Stdout).unwrap();
        let counts = Arc::clone(writer.counts());
        let registry = Registry::new(crate::metrics::Limits::default());
        writer.register(&registry);
        let mut log = writer.worker().unwrap();
        for _ in 0..5 {
            log.log(&Record::default());
            log.flush();
        }
        drop(log);
        drop(writer);
        assert_eq!(counts.failed.load(Relaxed), 5);
        assert!(counts.last_error().is_some());
        let mut text = Vec::new();
        registry.expose(Instant::now(), &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("{result=\"failed\"} 5"));
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_wait() {
        let path = std::env::temp_dir().join(format!("celerity-access-log-{}.pipe", std::process::id()));
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let result = AccessLogWriter::start(Target::File(path.clone()));
        std::fs::remove_file(&path).unwrap();
        assert!(result.err().unwrap().to_string().contains(".pipe"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = AccessLogWriter::start(Target::File("/nonexistent/folder/access.log".into())).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/folder/access.log"));
    }
}
