//! How much of the machine is ours: CPU quota, memory limit and throttling of the cgroup, and the number of workers that
//! follows from it.
//!
//! The parsers are pure; [`Machine::read`] is the thin layer that reads `/proc` and `/sys/fs/cgroup` (cgroup v1 and v2).

use std::fs;
use std::path::{Path, PathBuf};

/// More workers than this help nobody: each has its own listeners, pools and buffers.
pub const WORKERS_MAX: usize = 256;

/// A v1 memory limit at or above this is the kernel's way to say that there is none.
const V1_NO_MEMORY_LIMIT: u64 = 1 << 60;

/// What this process may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// CPUs that this process may run on (affinity and cpuset). At least 1.
    pub cpus: usize,
    /// CPU time per time, by the tightest quota on the way up. `None`: no quota.
    pub cpu_quota: Option<f64>,
    /// Bytes, by the tightest limit on the way up. `None`: no limit.
    pub memory_limit_bytes: Option<u64>,
}

/// How many workers to start, and where the number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// At least 1.
    pub count: usize,
    /// For the log.
    pub reason: Reason,
}

/// Where a number of workers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `--workers`.
    Flag,
    /// `concurrency` in the configuration.
    Setting,
    /// The cgroup's CPU quota or `limits.cpu`, rounded up.
    Quota,
    /// The CPUs that this process may run on.
    Cpus,
}

impl Reason {
    /// For the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "--workers",
            Self::Setting => "the concurrency setting",
            Self::Quota => "the CPU limit",
            Self::Cpus => "the CPUs this process may run on",
        }
    }
}

impl std::fmt::Display for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.count, if self.count == 1 { "worker" } else { "workers" })
    }
}

impl Machine {
    /// What the kernel says now. What cannot be read counts as unlimited: a machine without cgroups is no error.
    #[must_use]
    pub fn read() -> Self {
        Self::read_under(Path::new("/"))
    }

    /// The same with `/proc` and `/sys` below another root, for tests.
    #[must_use]
    pub fn read_under(root: &Path) -> Self {
        let status = text(&root.join("proc/self/status"));
        let cpus = status.as_deref().and_then(affinity).unwrap_or_else(|| {
            // This one looks at the quota too, which only makes it smaller.
            std::thread::available_parallelism().map_or(1, Into::into)
        });
        let mut machine = Self { cpus: cpus.max(1), ..Self::default() };
        for dir in cgroup_dirs(root, "cpu") {
            let quota = if dir.v2 {
                text(&dir.path.join("cpu.max")).as_deref().and_then(cpu_max)
            } else {
                let quota = text(&dir.path.join("cpu.cfs_quota_us"));
                let period = text(&dir.path.join("cpu.cfs_period_us"));
                quota.zip(period).and_then(|(quota, period)| cfs_quota(&quota, &period))
            };
            machine.cpu_quota = least(machine.cpu_quota, quota, f64::min);
        }
        for dir in cgroup_dirs(root, "memory") {
            let file = if dir.v2 { "memory.max" } else { "memory.limit_in_bytes" };
            let limit = text(&dir.path.join(file)).as_deref().and_then(memory_limit);
            machine.memory_limit_bytes = least(machine.memory_limit_bytes, limit, u64::min);
        }
        machine
    }

    /// The same with the limits that a configuration sets (`resources.limits`): the tighter one holds. CPU in thousandths.
    #[must_use]
    pub fn limited_to(mut self, cpu_millis: Option<u64>, memory_bytes: Option<u64>) -> Self {
        let quota = cpu_millis.filter(|&millis| millis > 0).map(|millis| millis as f64 / 1000.0);
        self.cpu_quota = least(self.cpu_quota, quota, f64::min);
        self.memory_limit_bytes = least(self.memory_limit_bytes, memory_bytes.filter(|&bytes| bytes > 0), u64::min);
        self
    }

    /// Workers for this machine. `concurrency` is Istio's: not set means one for each CPU of the quota, 0 means one for each
    /// CPU whatever the quota.
    #[must_use]
    pub fn workers(&self, concurrency: Option<u32>) -> Workers {
        let (count, reason) = match (concurrency, self.cpu_quota) {
            (Some(0), _) | (None, None) => (self.cpus, Reason::Cpus),
            (Some(set), _) => (set as usize, Reason::Setting),
            (None, Some(quota)) if quota.ceil() < self.cpus as f64 => (quota.ceil() as usize, Reason::Quota),
            (None, Some(_)) => (self.cpus, Reason::Cpus),
        };
        Workers { count: count.clamp(1, WORKERS_MAX), reason }
    }
}

fn least<T>(one: Option<T>, other: Option<T>, min: impl Fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(min(one, other)),
        (one, other) => one.or(other),
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// How often the quota stopped this process. Every throttled period adds up to 100 ms to the requests in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which the cgroup ran (`nr_periods`).
    pub periods_total: u64,
    /// Of them, those in which the quota was used up (`nr_throttled`).
    pub throttled_total: u64,
    /// Time spent stopped, summed over CPUs, in microseconds.
    pub throttled_us_total: u64,
}

/// Where to read throttling; found once, since finding it parses `/proc`.
#[derive(Clone, Debug)]
pub struct ThrottlingReader {
    file: PathBuf,
}

impl ThrottlingReader {
    /// The cgroup that this process is in. `None` without one, or without the CPU controller.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::find_under(Path::new("/"))
    }

    fn find_under(root: &Path) -> Option<Self> {
        let files = cgroup_dirs(root, "cpu").into_iter().map(|dir| dir.path.join("cpu.stat"));
        files.into_iter().find(|file| text(file).as_deref().and_then(cpu_stat).is_some()).map(|file| Self { file })
    }

    /// The counters now. One small file.
    #[must_use]
    pub fn read(&self) -> Option<Throttling> {
        text(&self.file).as_deref().and_then(cpu_stat)
    }
}

/// Memory that this process holds, in bytes (proc(5), `statm`). `None`: the kernel does not say.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let pages: u64 = text(Path::new("/proc/self/statm"))?.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page_bytes).ok()?)
}

/// New requests are refused from here on: what is under way may still grow, and past the limit the kernel kills.
const OVERLOAD_PERCENT: u64 = 95;

/// And taken again from here on, so that the state does not flap.
const RELIEF_PERCENT: u64 = 90;

/// Whether requests should be refused, as far as memory goes.
#[must_use]
pub fn is_overloaded(resident_bytes: u64, limit_bytes: u64, was: bool) -> bool {
    let percent = if was { RELIEF_PERCENT } else { OVERLOAD_PERCENT };
    // In u128, since the product of two large settings must not wrap.
    u128::from(resident_bytes) * 100 >= u128::from(limit_bytes) * u128::from(percent)
}

struct CgroupDir {
    path: PathBuf,
    v2: bool,
}

/// The directories of `controller` from our own cgroup up to the mount point: a limit on any of them binds us.
fn cgroup_dirs(root: &Path, controller: &str) -> Vec<CgroupDir> {
    let (Some(cgroups), Some(mounts)) = (text(&root.join("proc/self/cgroup")), text(&root.join("proc/self/mountinfo")))
    else {
        return Vec::new();
    };
    // A hybrid machine has a v2 tree too, but the controller is in v1 then.
    [Some(controller), None]
        .into_iter()
        .flat_map(|wanted| {
            let own = own_cgroup(&cgroups, wanted)?;
            let mount = mount_of(&mounts, wanted)?;
            Some(walk_up(root, own, mount, wanted.is_none()))
        })
        .flatten()
        .collect()
}

fn walk_up(root: &Path, own: &str, mount: Mount<'_>, v2: bool) -> Vec<CgroupDir> {
    let point = root.join(mount.point.trim_start_matches('/'));
    // Inside a container the mount shows only a part of the tree, so our path begins below the mount's own root.
    let below = own.strip_prefix(mount.root).unwrap_or("").trim_start_matches('/');
    let escapes = below.split('/').any(|part| part == "..");
    let leaf = if escapes || below.is_empty() { point.clone() } else { point.join(below) };
    leaf.ancestors()
        .take_while(|dir| dir.starts_with(&point))
        .map(|dir| CgroupDir { path: dir.to_path_buf(), v2 })
        .collect()
}

/// Our path in the hierarchy of `controller`, or in the unified one (`None`), from `/proc/self/cgroup` (cgroups(7)).
fn own_cgroup<'a>(cgroups: &'a str, controller: Option<&str>) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match controller {
            Some(name) => controllers.split(',').any(|one| one == name),
            None => id == "0" && controllers.is_empty(),
        };
        ours.then_some(path)
    })
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

/// Where that hierarchy is mounted, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount_of<'a>(mounts: &'a str, controller: Option<&str>) -> Option<Mount<'a>> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let ours = match controller {
            Some(name) => kind == "cgroup" && options.split(',').any(|one| one == name),
            None => kind == "cgroup2",
        };
        let root = if root == "/" { "" } else { root };
        ours.then_some(Mount { root, point })
    })
}

/// CPUs of `Cpus_allowed_list` in `/proc/self/status`.
fn affinity(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    cpu_list(list.trim())
}

/// How many CPUs `0-3,8` names.
fn cpu_list(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// CPUs of v2's `cpu.max`: `50000 100000`, or `max 100000` for no quota.
fn cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next().unwrap_or("100000").parse().ok()?;
    positive(quota / period)
}

/// CPUs of v1's two files; a quota of -1 is none.
fn cfs_quota(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (i64, i64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    positive(quota as f64 / period as f64)
}

fn positive(cpus: f64) -> Option<f64> {
    (cpus.is_finite() && cpus > 0.0).then_some(cpus)
}

/// Bytes of `memory.max` or `memory.limit_in_bytes`.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < V1_NO_MEMORY_LIMIT)
}

/// `cpu.stat` of v1 (time in ns) or v2 (in us). `None` when the controller does not count periods here.
fn cpu_stat(text: &str) -> Option<Throttling> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    let throttled_us_total =
        field("throttled_usec").or_else(|| field("throttled_time").map(|ns| ns / 1000)).unwrap_or_default();
    Some(Throttling {
        periods_total: field("nr_periods")?,
        throttled_total: field("nr_throttled")?,
        throttled_us_total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_follow_setting_then_quota_then_cpus() {
        let machine = |cpus, cpu_quota| Machine { cpus, cpu_quota, memory_limit_bytes: None };
        let counts = |m: Machine, set| (m.workers(set).count, m.workers(set).reason);
        assert_eq!(counts(machine(8, Some(1.5)), None), (2, Reason::Quota));
        assert_eq!(counts(machine(8, Some(0.1)), None), (1, Reason::Quota));
        assert_eq!(counts(machine(2, Some(7.0)), None), (2, Reason::Cpus));
        assert_eq!(counts(machine(8, None), None), (8, Reason::Cpus));
        assert_eq!(counts(machine(8, Some(1.5)), Some(4)), (4, Reason::Setting));
        assert_eq!(counts(machine(8, Some(1.5)), Some(0)), (8, Reason::Cpus));
        assert_eq!(counts(machine(8, None), Some(u32::MAX)), (WORKERS_MAX, Reason::Setting));
    }

    #[test]
    fn files_of_the_kernel() {
        assert_eq!(cpu_max("50000 100000\n"), Some(0.5));
        assert_eq!(cpu_max("max 100000\n"), None);
        assert_eq!(cpu_max("garbage"), None);
        assert_eq!(cpu_max("100 0"), None);
        assert_eq!(cfs_quota("-1\n", "100000\n"), None);
        assert_eq!(cfs_quota("250000\n", "100000\n"), Some(2.5));
        assert_eq!(memory_limit("134217728\n"), Some(128 << 20));
        assert_eq!(memory_limit("max\n"), None);
        assert_eq!(memory_limit("9223372036854771712\n"), None);
        assert_eq!(cpu_list("0-3,8"), Some(5));
        assert_eq!(cpu_list("3-1"), None);
        assert_eq!(cpu_list(""), None);
        assert_eq!(affinity("Name:\tx\nCpus_allowed_list:\t0-1\n"), Some(2));
        let v2 = cpu_stat("usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 42\n").unwrap();
        assert_eq!(v2, Throttling { periods_total: 10, throttled_total: 3, throttled_us_total: 42 });
        assert_eq!(cpu_stat("nr_periods 1\nnr_throttled 1\nthrottled_time 7000\n").unwrap().throttled_us_total, 7);
        assert_eq!(cpu_stat("usage_usec 5\n"), None);
    }

    #[test]
    fn the_tighter_limit_holds() {
        let machine = Machine { cpus: 8, cpu_quota: Some(4.0), memory_limit_bytes: None };
        let limited = machine.clone().limited_to(Some(1500), Some(1 << 30));
        assert_eq!((limited.cpu_quota, limited.memory_limit_bytes), (Some(1.5), Some(1 << 30)));
        assert_eq!(limited.workers(None), Workers { count: 2, reason: Reason::Quota });
        assert_eq!(machine.limited_to(Some(6000), None).cpu_quota, Some(4.0));
    }

    #[test]
    fn overload_begins_near_the_limit_and_ends_well_below_it() {
        assert_eq!([90, 94, 95, 200].map(|used| is_overloaded(used, 100, false)), [false, false, true, true]);
        assert_eq!([89, 90, 94].map(|used| is_overloaded(used, 100, true)), [false, true, true]);
        assert!(!is_overloaded(1 << 40, u64::MAX, false));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
    }

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("celerity-sizing-{name}-{}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const STATUS: &str = "Cpus_allowed_list:\t0-7\n";

    #[test]
    fn the_tightest_limit_on_the_way_up_counts_in_v2() {
        let root = Root::new(
            "v2",
            &[
                ("proc/self/status", STATUS),
                ("proc/self/cgroup", "0::/pod/app\n"),
                ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"),
                ("sys/fs/cgroup/pod/app/cpu.max", "max 100000"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000"),
                ("sys/fs/cgroup/pod/app/memory.max", "1000"),
                ("sys/fs/cgroup/pod/memory.max", "2000"),
                ("sys/fs/cgroup/pod/app/cpu.stat", "nr_periods 2\nnr_throttled 1\nthrottled_usec 9\n"),
            ],
        );
        let machine = Machine::read_under(&root.0);
        assert_eq!(machine, Machine { cpus: 8, cpu_quota: Some(1.5), memory_limit_bytes: Some(1000) });
        assert_eq!(machine.workers(None), Workers { count: 2, reason: Reason::Quota });
        assert_eq!(ThrottlingReader::find_under(&root.0).unwrap().read().unwrap().throttled_us_total, 9);
    }

    #[test]
    fn a_container_on_v1_sees_its_own_part_of_the_tree() {
        let root = Root::new(
            "v1",
            &[
                ("proc/self/status", STATUS),
                ("proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n0::/\n"),
                (
                    "proc/self/mountinfo",
                    "31 30 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n\
                     32 30 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                ),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ],
        );
        let machine = Machine::read_under(&root.0);
        assert_eq!(machine, Machine { cpus: 8, cpu_quota: Some(0.5), memory_limit_bytes: Some(4096) });
    }

    #[test]
    fn a_machine_without_cgroups_has_no_limits() {
        let machine = Machine::read_under(Path::new("/nowhere"));
        assert!(machine.cpus >= 1);
        assert_eq!((machine.cpu_quota, machine.memory_limit_bytes), (None, None));
        assert!(Machine::read().cpus >= 1);
    }
}
