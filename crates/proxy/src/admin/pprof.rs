//! Profiles in the format of `pprof` tools: a gzipped protocol buffer (`profile.proto` of google/pprof).

use crate::blocking::{BlockingPool, PoolError};
use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pprof::protos::{self, Message as _};

/// A profile of `?seconds=` more than this is refused: somebody would have to wait for it.
pub const SECONDS_MAX: u64 = 300;

/// Go's default for `/debug/pprof/profile`.
pub const CPU_SECONDS_DEFAULT: u64 = 30;

/// Samples per second and thread. A prime, so that it does not run in step with timers, and low enough to cost under 1 %.
const CPU_SAMPLES_PER_S: i32 = 97;

/// How long the first heap profile samples when nobody said how long.
pub const HEAP_SECONDS_DEFAULT: u64 = 5;

/// A dump of more than this is refused: stacks are few, so something is wrong.
const DUMP_BYTES_MAX: u64 = 256 << 20;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of seconds makes no sense.
    #[error("seconds={0} is refused: 1 to {SECONDS_MAX}")]
    Seconds(u64),
    /// The CPU profiler is one per process.
    #[error("another CPU profile is being taken; try again when it is done")]
    Busy,
    /// The profiler could not start or report.
    #[error("the CPU profiler failed: {0}")]
    Cpu(String),
    /// jemalloc does not count.
    #[error("the allocator was not started with profiling: start with _RJEM_MALLOC_CONF=prof:true")]
    HeapOff,
    /// The pool for work that blocks takes no more.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// jemalloc said no.
    #[error("the heap profile could not be taken: {0}")]
    Heap(String),
}

fn check(seconds: u64) -> Result<Duration, Error> {
    if (1..=SECONDS_MAX).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(Error::Seconds(seconds)) }
}

static CPU_BUSY: AtomicBool = AtomicBool::new(false);

struct CpuTurn;

impl CpuTurn {
    fn take() -> Result<Self, Error> {
        if CPU_BUSY.swap(true, Ordering::AcqRel) { Err(Error::Busy) } else { Ok(Self) }
    }
}

impl Drop for CpuTurn {
    fn drop(&mut self) {
        CPU_BUSY.store(false, Ordering::Release);
    }
}

/// Samples all threads for `seconds` and returns the gzipped profile. For the control runtime; resolving names runs on
/// a thread of `pool` and takes up to a second.
///
/// # Errors
/// A number of seconds out of range, another profile under way, or a profiler that does not start.
pub async fn cpu_profile(seconds: u64, pool: &BlockingPool) -> Result<Vec<u8>, Error> {
    let duration = check(seconds)?;
    let turn = CpuTurn::take()?;
    // Unwinding from inside these two is not safe in a signal handler.
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(CPU_SAMPLES_PER_S)
        .blocklist(&["libgcc", "vdso"])
        .build()
        .map_err(|e| Error::Cpu(e.to_string()))?;
    tokio::time::sleep(duration).await;
    let encoded = pool.run(move || {
        let profile = guard.report().build().and_then(|report| report.pprof());
        drop(guard);
        profile.map(|profile| gzip(&profile.encode_to_vec()))
    });
    let profile = encoded.await?.map_err(|e| Error::Cpu(e.to_string()));
    drop(turn);
    profile
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to a Vec cannot fail.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

/// What is allocated and not freed, by stack, as the gzipped profile (`inuse_objects`, `inuse_space`).
///
/// Sampling is off until somebody asks: the first call switches it on for good, waits for `seconds` (or
/// [`HEAP_SECONDS_DEFAULT`]), and sees what was allocated since. Later calls see everything since the first, and wait only when
/// told to.
///
/// # Errors
/// jemalloc is not the allocator or was started without profiling, or the dump failed.
pub async fn heap_profile(seconds: Option<u64>, pool: &BlockingPool) -> Result<Vec<u8>, Error> {
    let asked = seconds.map(check).transpose()?;
    let was_on = heap_sampling()?;
    let wait = if was_on { asked } else { asked.or(Some(Duration::from_secs(HEAP_SECONDS_DEFAULT))) };
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
    pool.run(|| {
        let text = heap_dump()?;
        let profile = heap_to_profile(&text, &mut resolve)?;
        Ok(gzip(&profile.encode_to_vec()))
    })
    .await?
}

/// Switches sampling on. True when it was on before.
fn heap_sampling() -> Result<bool, Error> {
    // SAFETY: the name ends in NUL and jemalloc declares this setting as a bool.
    let possible = unsafe { tikv_jemalloc_ctl::raw::read::<bool>(b"opt.prof\0") };
    if !possible.unwrap_or(false) {
        return Err(Error::HeapOff);
    }
    // SAFETY: as above.
    unsafe { tikv_jemalloc_ctl::raw::update(b"prof.active\0", true) }.map_err(|e| Error::Heap(e.to_string()))
}

/// A directory that only we can read, gone when dropped.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> std::io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("celerity-heap-{}-{number}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn heap_dump() -> Result<String, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Heap(e.to_string());
    let dir = PrivateDir::new().map_err(|e| failed(&e))?;
    let file = dir.0.join("dump");
    let name = CString::new(file.as_os_str().as_bytes()).map_err(|e| failed(&e))?;
    // SAFETY: the name ends in NUL; jemalloc takes a `const char *` here, and `name` lives through the call.
    unsafe { tikv_jemalloc_ctl::raw::write(b"prof.dump\0", name.as_ptr()) }.map_err(|e| failed(&e))?;
    let length = std::fs::metadata(&file).map_err(|e| failed(&e))?.len();
    if length > DUMP_BYTES_MAX {
        return Err(Error::Heap(format!("the dump has {length} bytes, more than {DUMP_BYTES_MAX}")));
    }
    let bytes = std::fs::read(&file).map_err(|e| failed(&e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A function's name, file and line.
struct Symbol {
    name: String,
    file: String,
    line: i64,
}

fn resolve(address: u64) -> Vec<Symbol> {
    let mut found = Vec::new();
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        found.push(Symbol {
            name: symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}")),
            file: symbol.filename().map(|file| file.display().to_string()).unwrap_or_default(),
            line: symbol.lineno().map_or(0, i64::from),
        });
    });
    found
}

/// One stack of jemalloc's dump with what it holds.
#[derive(Debug, PartialEq)]
struct Stack {
    addresses: Vec<u64>,
    objects: u64,
    bytes: u64,
}

#[derive(Debug, PartialEq)]
struct Mapped {
    start: u64,
    end: u64,
    offset: u64,
    file: String,
}

#[derive(Debug, PartialEq)]
struct Dump {
    sample_bytes: u64,
    stacks: Vec<Stack>,
    mapped: Vec<Mapped>,
}

/// Reads jemalloc's `heap_v2` text (jemalloc, `doc/` and `bin/jeprof`):
///
/// ```text
/// heap_v2/524288
///   t*: 3: 4096 [0: 0]
/// @ 0x1234 0x5678
///   t*: 2: 2048 [0: 0]
///   t0: 2: 2048 [0: 0]
///
/// MAPPED_LIBRARIES:
/// 55d0-55d8 r-xp 00000000 08:01 42 /usr/bin/celerity
/// ```
fn parse_dump(text: &str) -> Option<Dump> {
    let mut lines = text.lines();
    let sample_bytes = lines.next()?.strip_prefix("heap_v2/")?.trim().parse().ok()?;
    let mut dump = Dump { sample_bytes, stacks: Vec::new(), mapped: Vec::new() };
    let mut addresses: Option<Vec<u64>> = None;
    for line in lines.by_ref() {
        let line = line.trim();
        if line == "MAPPED_LIBRARIES:" {
            break;
        }
        if let Some(stack) = line.strip_prefix('@') {
            addresses = Some(stack.split_whitespace().map(hex).collect::<Option<_>>()?);
        } else if let Some(counts) = line.strip_prefix("t*:") {
            // The first such line, before any stack, is the total.
            if let Some(addresses) = addresses.take() {
                let (objects, bytes) = counts.split_once('[')?.0.split_once(':')?;
                let (objects, bytes) = (objects.trim().parse().ok()?, bytes.trim().parse().ok()?);
                dump.stacks.push(Stack { addresses, objects, bytes });
            }
        }
    }
    dump.mapped.extend(lines.filter_map(mapped));
    Some(dump)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn mapped(line: &str) -> Option<Mapped> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = hex(fields.next()?)?;
    let file = fields.nth(2)?.to_owned();
    executable.then_some(Mapped { start: hex(start)?, end: hex(end)?, offset, file })
}

impl Stack {
    /// A block of the mean size was sampled with probability 1 - exp(-size / rate), so what was seen stands for more.
    fn unsampled(&self, rate: u64) -> (i64, i64) {
        if self.objects == 0 || rate == 0 {
            return (0, 0);
        }
        let mean = self.bytes as f64 / self.objects as f64;
        let seen = -(-mean / rate as f64).exp_m1();
        let scale = if seen > 0.0 { 1.0 / seen } else { 1.0 };
        ((self.objects as f64 * scale) as i64, (self.bytes as f64 * scale) as i64)
    }
}

/// Text by number, as the format wants it; number 0 is the empty text.
struct Strings {
    numbers: HashMap<String, i64>,
    all: Vec<String>,
}

impl Strings {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(&known) = self.numbers.get(text) {
            return known;
        }
        let number = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

fn heap_to_profile(text: &str, resolve: &mut dyn FnMut(u64) -> Vec<Symbol>) -> Result<protos::Profile, Error> {
    let dump = parse_dump(text).ok_or_else(|| Error::Heap("jemalloc's dump is not of the heap_v2 format".into()))?;
    let mut strings = Strings { numbers: HashMap::from([(String::new(), 0)]), all: vec![String::new()] };
    let mut profile = protos::Profile::default();
    let value_type = |ty: &str, unit: &str, strings: &mut Strings| protos::ValueType {
        ty: strings.number(ty),
        unit: strings.number(unit),
    };
    profile.sample_type =
        vec![value_type("inuse_objects", "count", &mut strings), value_type("inuse_space", "bytes", &mut strings)];
    profile.period_type = Some(value_type("space", "bytes", &mut strings));
    profile.period = i64::try_from(dump.sample_bytes).unwrap_or(i64::MAX);
    profile.default_sample_type = strings.number("inuse_space");
    profile.time_nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
    for (at, mapped) in dump.mapped.iter().enumerate() {
        profile.mapping.push(protos::Mapping {
            id: at as u64 + 1,
            memory_start: mapped.start,
            memory_limit: mapped.end,
            file_offset: mapped.offset,
            filename: strings.number(&mapped.file),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            ..protos::Mapping::default()
        });
    }
    let mut locations: HashMap<u64, u64> = HashMap::new();
    let mut functions: HashMap<(i64, i64), u64> = HashMap::new();
    for stack in &dump.stacks {
        let mut sample = protos::Sample::default();
        for &address in &stack.addresses {
            let id = locations.len() as u64 + 1;
            let id = *locations.entry(address).or_insert_with(|| {
                // Stacks hold return addresses; the call is the instruction before.
                let call = address.saturating_sub(1);
                let mut location = protos::Location { id, address: call, ..protos::Location::default() };
                let home = dump.mapped.iter().position(|one| (one.start..one.end).contains(&call));
                location.mapping_id = home.map_or(0, |at| at as u64 + 1);
                for symbol in resolve(call) {
                    let key = (strings.number(&symbol.name), strings.number(&symbol.file));
                    let number = functions.len() as u64 + 1;
                    let function_id = *functions.entry(key).or_insert_with(|| {
                        profile.function.push(protos::Function {
                            id: number,
                            name: key.0,
                            system_name: key.0,
                            filename: key.1,
                            ..protos::Function::default()
                        });
                        number
                    });
                    location.line.push(protos::Line { function_id, line: symbol.line });
                }
                profile.location.push(location);
                id
            });
            sample.location_id.push(id);
        }
        let (objects, bytes) = stack.unsampled(dump.sample_bytes);
        sample.value = vec![objects, bytes];
        profile.sample.push(sample);
    }
    profile.string_table = strings.all;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pool() -> BlockingPool {
        BlockingPool::new(crate::blocking::Settings::default())
    }

    fn decode(gzipped: &[u8]) -> protos::Profile {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(gzipped).read_to_end(&mut bytes).unwrap();
        protos::Profile::decode(&*bytes).unwrap()
    }

    #[tokio::test]
    async fn a_cpu_profile_shows_where_the_time_went() {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let busy = {
            let stop = std::sync::Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut sum = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for i in 0..10_000_u64 {
                        sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
                    }
                }
                sum
            })
        };
        let pool = pool();
        let (profile, second) = tokio::join!(cpu_profile(1, &pool), async {
            tokio::task::yield_now().await;
            cpu_profile(1, &pool).await
        });
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert!(matches!(second, Err(Error::Busy)));
        let profile = decode(&profile.unwrap());
        assert!(!profile.sample.is_empty());
        assert!(!profile.function.is_empty());
        let unit = |ty: &protos::ValueType| profile.string_table[ty.unit as usize].clone();
        assert_eq!(profile.sample_type.iter().map(unit).collect::<Vec<_>>(), ["count", "nanoseconds"]);
        assert!(cpu_profile(0, &pool).await.is_err() && cpu_profile(SECONDS_MAX + 1, &pool).await.is_err());
    }

    #[tokio::test]
    async fn a_heap_profile_is_refused_when_the_allocator_does_not_count() {
        assert!(matches!(heap_profile(None, &pool()).await, Err(Error::HeapOff)));
        assert!(matches!(heap_profile(Some(0), &pool()).await, Err(Error::Seconds(0))));
    }

    const DUMP: &str = "heap_v2/524288
  t*: 3: 2097152 [0: 0]
  t0: 3: 2097152 [0: 0]
@ 0x1001 0x2001
  t*: 1: 1048576 [0: 0]
  t0: 1: 1048576 [0: 0]
@ 0x1001 0x3001
  t*: 2: 1048576 [0: 0]

MAPPED_LIBRARIES:
00001000-00002800 r-xp 00000400 08:01 42                         /usr/bin/celerity
00005000-00006000 rw-p 00000000 00:00 0
00007000-00008000 r--p 00000000 08:01 43 /lib/libc.so.6
";

    #[test]
    fn a_dump_becomes_a_profile() {
        let mut resolve =
            |address: u64| vec![Symbol { name: format!("f{address:x}"), file: "src/lib.rs".into(), line: 7 }];
        let profile = heap_to_profile(DUMP, &mut resolve).unwrap();
        let profile = decode(&gzip(&profile.encode_to_vec()));
        assert_eq!(profile.sample.len(), 2);
        assert_eq!((profile.location.len(), profile.function.len(), profile.mapping.len()), (3, 3, 1));
        assert_eq!(profile.location[0].address, 0x1000);
        assert_eq!((profile.location[0].mapping_id, profile.location[2].mapping_id), (1, 0));
        let name = |id: u64| profile.string_table[profile.function[id as usize - 1].name as usize].clone();
        assert_eq!(name(profile.location[0].line[0].function_id), "f1000");
        assert_eq!(profile.string_table[0], "");
        // One block of 1 MiB at a rate of 512 KiB is seen with probability 1 - exp(-2).
        let value = &profile.sample[0].value;
        assert!((value[1] as f64 - 1_048_576.0 / (1.0 - (-2.0_f64).exp())).abs() < 2.0, "{value:?}");
    }

    #[test]
    fn broken_dumps_are_refused() {
        for bad in ["", "heap_v1/1", "heap_v2/x", "heap_v2/1\n@ 0xzz", "heap_v2/1\n@ 0x1\n  t*: 1"] {
            assert!(heap_to_profile(bad, &mut |_| Vec::new()).is_err(), "{bad:?}");
        }
        let empty = heap_to_profile("heap_v2/524288\n  t*: 0: 0 [0: 0]\n", &mut |_| Vec::new()).unwrap();
        assert!(empty.sample.is_empty());
    }
}
