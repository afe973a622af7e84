//! A guard for a program that a test starts: its output in files, its readiness waited for, its end certain.
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{Client, TempDir};

/// Between two looks at something that has no event to wait for. Short beside a start of tens of milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long a program has to be ready. Ample for a debug build on a busy machine.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running program. Dropped, it is killed and reaped, by its own process id.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
    _folder: TempDir,
}

impl Process {
    /// Start `command` with its standard output and error going into one file.
    pub fn start(command: &mut Command) -> Self {
        let folder = TempDir::new();
        let name = command.get_program().to_string_lossy().into_owned();
        let output = folder.path().join("output");
        let file = File::create(&output).expect("an output file");
        let errors = file.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { child, name, output, _folder: folder }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, standard output and error as they came.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Wait until `ready` says so; a program that ends or takes longer than [`READY_LIMIT`] fails the test with its output.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + READY_LIMIT;
        while !ready() {
            if let Some(status) = self.child.try_wait().expect("its status") {
                panic!("{} ended ({status}) before {what}:\n{}", self.name, self.output());
            }
            assert!(Instant::now() < deadline, "{}: no {what} in {READY_LIMIT:?}:\n{}", self.name, self.output());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Wait until something listens at `address`.
    pub fn wait_for_port(&mut self, address: SocketAddr) {
        self.wait_until(&format!("listener at {address}"), || TcpStream::connect(address).is_ok());
    }

    /// Wait until a GET of `path` at `address` is answered 200.
    pub fn wait_for_ok(&mut self, address: SocketAddr, path: &str) {
        let answered =
            || Client::connect(address).and_then(|mut c| c.get("localhost", path)).is_ok_and(|r| r.status == 200);
        self.wait_until(&format!("200 from http://{address}{path}"), answered);
    }

    /// Send a signal by name (`TERM`, `HUP`), to this process only.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "signal {name} to {}", self.name);
    }

    /// Wait for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end within {limit:?}:\n{}", self.name, self.output());
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("--- output of {}\n{}\n", self.name, self.output()).as_bytes(),
            );
        }
    }
}

/// Run a program to its end and give its standard output; anything but success fails the test with what it wrote.
pub fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{name} failed ({}):\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let process = Process::start(Command::new("sleep").arg("60"));
        let id = process.id();
        assert!(PathBuf::from(format!("/proc/{id}")).exists());
        drop(process);
        assert!(!PathBuf::from(format!("/proc/{id}")).exists());
    }

    #[test]
    fn output_and_end_are_seen() {
        let mut process = Process::start(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        assert_eq!(process.wait(Duration::from_secs(10)).code(), Some(3));
        assert_eq!(process.output(), "out\nerr\n");
    }
}
