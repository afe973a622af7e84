//! wrk's Lua scripts: the same hooks, the same `wrk` table, so that scripts written for it run as they are.
//!
//! Each thread of the run has a Lua state of its own; `setup` and `done` run in one more, as with wrk. Source: wrk's
//! SCRIPTING document. Differences: the `jit` compiler is off, because a compiled loop cannot be interrupted and a
//! script could hang the run; `debug` and `ffi` are not there; and what `request` returns is checked to be whole
//! requests, for an answer could not be matched to it otherwise.

mod api;
mod limits;
mod message;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlua::{Function, Lua, Table, Value};

use crate::source::{Script, ScriptFactory};
use crate::target::Origin;
use crate::{Error, Summary};
use limits::{Limits, explain, new_lua};

/// A script above this is not one.
pub const SCRIPT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The longest message that `request` may return, pipelined requests together.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest pause that `delay` may ask for: a day.
const DELAY_MS_MAX: f64 = 86_400_000.0;

/// `print` writes to standard output whatever the default of `io` is.
const ASIDE: &str = "
io.output(io.stderr)
function print(...)
  local out = { ... }
  for n = 1, select('#', ...) do out[n] = tostring(out[n]) end
  io.stderr:write(table.concat(out, '\\t'), '\\n')
end";

/// What a script is started with.
#[derive(Clone, Debug)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    /// As the URL had it; `None` where it had none.
    pub port: Option<u16>,
    /// Path and query.
    pub path: String,
    /// Headers of the command line, in order.
    pub headers: Vec<(String, String)>,
    /// The addresses that the host has, the first of which every thread uses unless `setup` says otherwise.
    pub addresses: Vec<SocketAddr>,
    /// What a forward proxy wants before a path: `http://host:port` (RFC 9112 section 3.2.2).
    pub before_path: Option<String>,
}

impl Target {
    /// What a script is told of a URL, with the addresses that its host has.
    ///
    /// # Errors
    /// The host has no address.
    pub fn resolve(url: &str, origin: &Origin, path: String, headers: Vec<(String, String)>) -> Result<Self, Error> {
        let mut target = Self::proxied(url, origin, path, headers);
        target.before_path = None;
        target.addresses = if origin.addresses.is_empty() {
            let found = (origin.host.as_str(), origin.port).to_socket_addrs();
            found.map_err(|e| Error::Resolve { host: origin.host.clone(), reason: e.to_string() })?.collect()
        } else {
            origin.addresses.clone()
        };
        Ok(target)
    }

    /// The same behind a forward proxy, which looks the name up itself.
    pub fn proxied(url: &str, origin: &Origin, path: String, headers: Vec<(String, String)>) -> Self {
        let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
        let has_port = authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        Self {
            tls: origin.tls,
            host: origin.host.clone(),
            port: has_port.then_some(origin.port),
            path,
            headers,
            addresses: Vec::new(),
            // Behind CONNECT the path stands alone.
            before_path: (!origin.tls).then(|| format!("http://{}", origin.authority())),
        }
    }
}

/// What `-s` names: the script, its name for messages, and `init`'s arguments: the URL, then what follows `--`.
#[derive(Clone, Debug)]
pub struct Text {
    pub name: String,
    pub source: Vec<u8>,
    pub args: Vec<String>,
    /// What it prints goes to standard error: standard output has something else to say.
    pub aside: bool,
}

impl Text {
    /// # Errors
    /// The file cannot be read, or is too large to be a script.
    pub fn read(path: &Path, args: Vec<String>) -> Result<Self, String> {
        let name = path.display().to_string();
        let fail = |why: String| format!("the script `{name}` cannot be read: {why}");
        let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if size > SCRIPT_BYTES_MAX {
            return Err(fail(format!("it has {size} bytes, and a script may have {SCRIPT_BYTES_MAX}")));
        }
        let source = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        Ok(Self { name, source, args, aside: false })
    }
}

/// What `setup`, the thread itself and `done` share of one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The host's first address.
    default: Option<SocketAddr>,
    /// What `setup` chose.
    addr: Mutex<Option<SocketAddr>>,
    stopped: AtomicBool,
    running: AtomicBool,
}

impl Shared {
    fn addr(&self) -> Option<SocketAddr> {
        self.chosen().or(self.default)
    }

    fn chosen(&self) -> Option<SocketAddr> {
        *self.addr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Thread {
    lua: Lua,
    shared: Arc<Shared>,
}

/// A loaded script: what the engine makes its threads' scripts from, and what runs `done` at the end.
pub struct Program {
    text: Text,
    before_path: Option<String>,
    main: Lua,
    threads: Vec<Thread>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("name", &self.text.name).field("threads", &self.threads.len()).finish()
    }
}

impl Program {
    /// Loads the script once for each thread and once more, and runs `setup` for each.
    ///
    /// # Errors
    /// One sentence with the script's name and line.
    pub fn load(text: Text, target: &Target, threads: u32) -> Result<Self, String> {
        Self::load_within(text, target, threads, Limits::default())
    }

    pub(crate) fn load_within(text: Text, target: &Target, threads: u32, limits: Limits) -> Result<Self, String> {
        let start = |shared: Option<&Arc<Shared>>| -> Result<Lua, String> {
            let lua = new_lua(limits).map_err(|e| explain(&text.name, "while Lua starts", &e))?;
            api::install(&lua, target, shared).map_err(|e| explain(&text.name, "while Lua starts", &e))?;
            if text.aside {
                lua.load(ASIDE).exec().map_err(|e| explain(&text.name, "while Lua starts", &e))?;
            }
            limits::begin(&lua);
            let chunk = lua.load(text.source.as_slice()).set_name(format!("@{}", text.name));
            chunk.exec().map_err(|e| explain(&text.name, "while it is read", &e))?;
            for hook in ["setup", "init", "delay", "request", "response", "done"] {
                let value: Value = lua.globals().get(hook).map_err(|e| explain(&text.name, hook, &e))?;
                if !matches!(value, Value::Nil | Value::Function(_)) {
                    let kind = value.type_name();
                    return Err(format!("{}: the global `{hook}` is a {kind}: it must be a function", text.name));
                }
            }
            Ok(lua)
        };
        let main = start(None)?;
        let mut list = Vec::new();
        for _ in 0..threads {
            let shared = Arc::new(Shared {
                default: target.addresses.first().copied(),
                addr: Mutex::new(None),
                stopped: AtomicBool::new(false),
                running: AtomicBool::new(false),
            });
            list.push(Thread { lua: start(Some(&shared))?, shared });
        }
        let program = Self { text, before_path: target.before_path.clone(), main, threads: list };
        if let Some(setup) = program.hook(&program.main, "setup") {
            for thread in &program.threads {
                limits::begin(&program.main);
                let handle = api::Handle { lua: thread.lua.weak(), shared: Arc::clone(&thread.shared) };
                setup.call::<()>(handle).map_err(|e| explain(&program.text.name, "in setup()", &e))?;
            }
        }
        Ok(program)
    }

    fn hook(&self, lua: &Lua, name: &str) -> Option<Function> {
        lua.globals().get::<Option<Function>>(name).ok().flatten()
    }

    /// Runs `done`, where the script has one. The run must have ended.
    ///
    /// # Errors
    /// The hook failed: one sentence with the line.
    pub fn done(&self, summary: &Summary) -> Result<(), String> {
        let Some(done) = self.hook(&self.main, "done") else { return Ok(()) };
        limits::begin(&self.main);
        let fail = |e: mlua::Error| explain(&self.text.name, "in done()", &e);
        let table = stats::summary(&self.main, summary).map_err(fail)?;
        let latency = stats::latency(summary);
        let requests = stats::requests(summary, self.threads.len());
        done.call::<()>((table, latency, requests)).map_err(fail)
    }
}

impl ScriptFactory for Program {
    fn address(&self, index: u32) -> Option<SocketAddr> {
        self.threads.get(index as usize).and_then(|thread| thread.shared.chosen())
    }

    fn thread(&self, index: u32) -> Result<Box<dyn Script>, String> {
        let thread = self.threads.get(index as usize).ok_or("the script was loaded for fewer threads")?;
        let (lua, name) = (&thread.lua, self.text.name.as_str());
        let fail = |hook: &'static str| move |e: mlua::Error| explain(name, hook, &e);
        thread.shared.running.store(true, Relaxed);
        limits::begin(lua);
        let wrk: Table = lua.globals().get("wrk").map_err(fail("in the table wrk"))?;
        let init: Function = wrk.get("init").map_err(fail("in wrk.init"))?;
        let args = lua.create_table().map_err(fail("in init()"))?;
        for (place, arg) in self.text.args.iter().enumerate() {
            // As with wrk: args[0] is the URL, args[1] the first after `--`.
            args.raw_set(place, arg.as_str()).map_err(fail("in init()"))?;
        }
        init.call::<()>(args).map_err(fail("in init()"))?;
        let global = |hook: &str| lua.globals().get::<Option<Function>>(hook).ok().flatten();
        let request = global("request");
        let mut script = LuaScript {
            name: name.to_owned(),
            lua: lua.clone(),
            shared: Arc::clone(&thread.shared),
            delay: global("delay"),
            response: global("response"),
            request,
            before_path: self.before_path.clone(),
            last: Vec::new(),
            wire: Vec::new(),
            last_answers: 0,
        };
        if script.request.is_none() {
            // Without a hook the message never changes: Lua is asked once.
            let request: Function = wrk.get("request").map_err(fail("in wrk.request"))?;
            let message: mlua::LuaString = request.call(()).map_err(fail("in wrk.request"))?;
            script.keep(&message.as_bytes())?;
        }
        Ok(Box::new(script))
    }
}

/// Any message that a script may return, for fuzzing.
pub fn fuzz(input: &[u8]) {
    message::fuzz(input);
}

struct LuaScript {
    name: String,
    lua: Lua,
    shared: Arc<Shared>,
    request: Option<Function>,
    response: Option<Function>,
    delay: Option<Function>,
    before_path: Option<String>,
    /// The last message, as a proxy wants it, and how many answers it gets: the same bytes need not be read again.
    last: Vec<u8>,
    wire: Vec<u8>,
    last_answers: u16,
}

impl LuaScript {
    fn keep(&mut self, message: &[u8]) -> Result<(), String> {
        if self.last_answers == 0 || self.last != message {
            self.wire.clear();
            let (before, wire) = (self.before_path.as_deref(), &mut self.wire);
            let count = message::requests(message, |request| message::put(wire, request, before))
                .map_err(|why| format!("{}: request(): {why}", self.name))?;
            self.last.clear();
            self.last.extend_from_slice(message);
            self.last_answers = count;
        }
        Ok(())
    }

    fn fail(&self, hook: &'static str) -> impl Fn(mlua::Error) -> String {
        move |error| explain(&self.name, hook, &error)
    }
}

impl Script for LuaScript {
    fn next(&mut self, out: &mut Vec<u8>) -> Result<u16, String> {
        if let Some(request) = &self.request {
            limits::begin(&self.lua);
            let value: Value = request.call(()).map_err(self.fail("in request()"))?;
            let Value::String(message) = value else {
                let kind = value.type_name();
                return Err(format!(
                    "{}: request() returned a {kind}: it must return a string, such as wrk.format() gives",
                    self.name
                ));
            };
            self.keep(&message.as_bytes())?;
        }
        out.extend_from_slice(&self.wire);
        Ok(self.last_answers)
    }

    fn wants_responses(&self) -> bool {
        self.response.is_some()
    }

    fn response(&mut self, status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Result<(), String> {
        if let Some(response) = &self.response {
            limits::begin(&self.lua);
            let fail = self.fail("in response()");
            let table = self.lua.create_table_with_capacity(0, headers.len()).map_err(&fail)?;
            for (name, value) in headers {
                let value = self.lua.create_string(value).map_err(&fail)?;
                table.raw_set(*name, value).map_err(&fail)?;
            }
            let body = self.lua.create_string(body).map_err(&fail)?;
            response.call::<()>((status, table, body)).map_err(&fail)?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Relaxed)
    }

    fn wants_delays(&self) -> bool {
        self.delay.is_some()
    }

    fn delay(&mut self) -> Result<Duration, String> {
        let Some(delay) = &self.delay else { return Ok(Duration::ZERO) };
        limits::begin(&self.lua);
        let value: Value = delay.call(()).map_err(self.fail("in delay()"))?;
        let ms = match value {
            Value::Integer(ms) => ms as f64,
            Value::Number(ms) => ms,
            other => {
                let kind = other.type_name();
                return Err(format!("{}: delay() returned a {kind}: it must return milliseconds", self.name));
            }
        };
        if !(0.0..=DELAY_MS_MAX).contains(&ms) {
            return Err(format!("{}: delay() returned {ms}: it must be 0 to {DELAY_MS_MAX} milliseconds", self.name));
        }
        Ok(Duration::from_secs_f64(ms / 1e3))
    }
}

impl Drop for LuaScript {
    fn drop(&mut self) {
        self.shared.running.store(false, Relaxed);
    }
}
