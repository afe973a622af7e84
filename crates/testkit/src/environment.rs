//! What the machine has: data beside the repository, real programs to compare with, ports.
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of this repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is where it was built")
}

/// True under continuous integration, where a test may not skip itself.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Say that the running test could not do its work, and why. Under continuous integration that is a failure; elsewhere the
/// line goes to standard error and, for `./test` to count, into the file that `CELERITY_SKIPS` names.
pub fn skip(why: &str) {
    assert!(!in_ci(), "nothing may be skipped under CI: {why}");
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("CELERITY_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// A file or folder of the data that is kept beside the repository: in `CELERITY_SHARED`, else in `../shared`, else in
/// `../../shared`. `None` after [`skip`].
pub fn shared(inside: &str) -> Option<PathBuf> {
    let root = root();
    let places = match std::env::var_os("CELERITY_SHARED") {
        Some(place) => vec![PathBuf::from(place)],
        None => vec![root.join("../shared"), root.join("../../shared")],
    };
    let found = places.iter().map(|place| place.join(inside)).find(|path| path.exists());
    if found.is_none() {
        skip(&format!("shared/{inside} is not there (CELERITY_SHARED names its place)"));
    }
    found
}

/// A real program by name: from `CELERITY_<NAME>`, from `target/peers`, from PATH or the folders of system programs. `None`
/// after [`skip`].
pub fn peer(name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(format!("CELERITY_{}", name.to_uppercase())) {
        return Some(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![root().join("target/peers")];
    folders.extend(std::env::split_paths(&path));
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed; ./test installs it"));
    }
    found
}

/// A Python that has these modules: from `CELERITY_PYTHON`, else from the virtual environment of `./test` in
/// `target/peers`, else from PATH. `None` after [`skip`].
pub fn python(modules: &[&str]) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("CELERITY_PYTHON").map(PathBuf::from).into_iter().collect();
    places.extend(["py/bin/python3", "venv/bin/python3"].map(|inside| root().join("target/peers").join(inside)));
    places.push("python3".into());
    let import = format!("import {}", modules.join(", "));
    let has_all = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", &import]).stdin(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let found = places.into_iter().find(has_all);
    if found.is_none() {
        skip(&format!("no Python with {} is installed; ./test installs one", modules.join(", ")));
    }
    found
}

/// A loopback port for programs that cannot take port 0, reserved for a minute: a connection to it was accepted and closed
/// here, and while the kernel keeps that in TIME_WAIT (RFC 9293, section 3.6.1) it gives the port to nobody who asks for
/// any port, and still to whoever names it with `SO_REUSEADDR`, as servers do.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).expect("a connection to ourselves");
    // Whoever closes first keeps the port in TIME_WAIT; it must be the accepting side, and the client must have seen it.
    drop(listener.accept().expect("our own connection"));
    let _ = client.read(&mut [0]);
    address.port()
}
