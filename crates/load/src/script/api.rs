//! What a script finds in Lua: the `wrk` table, addresses and threads.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mlua::{Lua, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, UserDataRef, Value, WeakLua};

use super::{Shared, Target};

/// How long `wrk.connect` waits: what a local test needs, so that a dead address does not hold up the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How deep a table may be that goes from one thread to another.
const DEPTH_MAX: u32 = 16;

/// `wrk.format` and the default hooks, in Lua because `request` is called for every request and a call from Lua to Lua
/// costs a tenth of one to Rust and back.
///
/// `string.format` takes for `%s` what has a `tostring`, as LuaJIT's does and Lua 5.1's does not: wrk's scripts print addresses
/// so. Its errors are those of the line that calls it.
const PRELUDE: &str = r##"
local concat, tostring, pairs, lower, len = table.concat, tostring, pairs, string.lower, string.len
local plain, type, select, unpack, pcall, error = string.format, type, select, unpack, pcall, error

function string.format(text, ...)
  local values, count = { ... }, select("#", ...)
  for n = 1, count do
    local kind = type(values[n])
    if kind ~= "string" and kind ~= "number" then values[n] = tostring(values[n]) end
  end
  local ok, out = pcall(plain, text, unpack(values, 1, count))
  if not ok then error((out:gsub("'%?'", "'format'")), 2) end
  return out
end

function wrk.format(method, path, headers, body)
  headers, body = headers or wrk.headers, body or wrk.body
  local out = { (method or wrk.method) .. " " .. (path or wrk.path) .. " HTTP/1.1\r\n" }
  local n, has_host = 1, false
  for name, value in pairs(headers) do
    local key = lower(name)
    if key == "host" then has_host = true end
    if key ~= "content-length" then
      n = n + 1
      out[n] = name .. ": " .. tostring(value) .. "\r\n"
    end
  end
  if not has_host and wrk.headers["Host"] then
    n = n + 1
    out[n] = "Host: " .. wrk.headers["Host"] .. "\r\n"
  end
  if body then
    n = n + 1
    out[n] = "Content-Length: " .. len(body) .. "\r\n"
  end
  out[n + 1] = "\r\n"
  out[n + 2] = body or ""
  return concat(out)
end

function wrk.init(args)
  local has_host = false
  for name in pairs(wrk.headers) do
    if lower(name) == "host" then has_host = true end
  end
  if not has_host then
    local host = wrk.host
    if host:find(":", 1, true) then host = "[" .. host .. "]" end
    if wrk.port then host = host .. ":" .. wrk.port end
    wrk.headers["Host"] = host
  end
  if init then init(args) end
  local message = wrk.format()
  function wrk.request() return message end
end
"##;

/// Makes the `wrk` table. `shared` is the thread that this state belongs to; the state of `setup` and `done` has none.
pub(crate) fn install(lua: &Lua, target: &Target, shared: Option<&Arc<Shared>>) -> mlua::Result<()> {
    let wrk = lua.create_table()?;
    wrk.set("scheme", if target.tls { "https" } else { "http" })?;
    wrk.set("host", target.host.as_str())?;
    wrk.set("port", target.port.map(|port| port.to_string()))?;
    wrk.set("method", "GET")?;
    wrk.set("path", target.path.as_str())?;
    let headers = lua.create_table()?;
    for (name, value) in &target.headers {
        headers.set(name.as_str(), value.as_str())?;
    }
    wrk.set("headers", headers)?;
    if let Some(shared) = shared {
        wrk.set("thread", Handle { lua: lua.weak(), shared: Arc::clone(shared) })?;
    }
    wrk.set("lookup", lua.create_function(|lua, (host, service)| lookup(lua, host, service))?)?;
    wrk.set(
        "connect",
        lua.create_function(|_, addr: UserDataRef<Address>| {
            Ok(TcpStream::connect_timeout(&addr.0, CONNECT_TIMEOUT).is_ok())
        })?,
    )?;
    lua.globals().set("wrk", wrk)?;
    lua.load(PRELUDE).set_name("=wrk").exec()
}

/// Services whose port a script may name; others are given as a number.
const SERVICES: [(&str, u16); 2] = [("http", 80), ("https", 443)];

fn lookup(lua: &Lua, host: String, service: Value) -> mlua::Result<Table> {
    let named = |text: &str| SERVICES.iter().find(|(name, _)| *name == text).map(|(_, port)| *port);
    let port = match &service {
        Value::Integer(port) => u16::try_from(*port).ok(),
        Value::Number(port) if (0.0..=65_535.0).contains(port) => Some(*port as u16),
        Value::String(text) => text.to_str().ok().and_then(|text| text.parse().ok().or_else(|| named(&text))),
        _ => None,
    };
    let Some(port) = port else {
        return Err(mlua::Error::runtime("wrk.lookup: the service is a port's number, `http` or `https`"));
    };
    let found = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|error| mlua::Error::runtime(format!("wrk.lookup: `{host}` has no address: {error}")))?;
    let out = lua.create_table()?;
    for addr in found {
        out.push(Address(addr))?;
    }
    Ok(out)
}

/// An address, as `wrk.lookup` gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Address(pub(crate) SocketAddr);

impl UserData for Address {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(this.0.to_string()));
        methods.add_meta_method(MetaMethod::Eq, |_, this, other: UserDataRef<Self>| Ok(this.0 == other.0));
    }
}

/// A thread of the run, as `setup` and `wrk.thread` see it.
pub(crate) struct Handle {
    pub(crate) lua: WeakLua,
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    fn lua(&self) -> mlua::Result<Lua> {
        self.lua.try_upgrade().ok_or_else(|| mlua::Error::runtime("the thread is gone"))
    }
}

impl UserData for Handle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("addr", |_, this| Ok(this.shared.addr().map(Address)));
        fields.add_field_method_set("addr", |_, this, addr: UserDataRef<Address>| {
            *this.shared.addr.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(addr.0);
            Ok(())
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get", |to, this, name: mlua::LuaString| {
            let from = this.lua()?;
            let value: Value = from.globals().get(from.create_string(name.as_bytes())?)?;
            copy(to, &value, DEPTH_MAX)
        });
        methods.add_method("set", |_, this, (name, value): (mlua::LuaString, Value)| {
            let to = this.lua()?;
            let value = copy(&to, &value, DEPTH_MAX)?;
            to.globals().set(to.create_string(name.as_bytes())?, value)
        });
        methods.add_method("stop", |_, this, ()| {
            if !this.shared.running.load(Relaxed) {
                return Err(mlua::Error::runtime("thread:stop() works while the thread runs"));
            }
            this.shared.stopped.store(true, Relaxed);
            Ok(())
        });
    }
}

/// A copy of a value for another state.
fn copy(to: &Lua, value: &Value, depth: u32) -> mlua::Result<Value> {
    Ok(match value {
        Value::Nil | Value::Boolean(_) | Value::Integer(_) | Value::Number(_) => value.clone(),
        Value::String(text) => Value::String(to.create_string(text.as_bytes())?),
        Value::Table(table) if depth > 0 => {
            let out = to.create_table()?;
            for pair in table.pairs::<Value, Value>() {
                let (name, value) = pair?;
                out.raw_set(copy(to, &name, depth - 1)?, copy(to, &value, depth - 1)?)?;
            }
            Value::Table(out)
        }
        Value::Table(_) => return Err(mlua::Error::runtime("a table is nested too deeply to go to another thread")),
        Value::UserData(data) => match data.borrow::<Address>() {
            Ok(addr) => Value::UserData(to.create_userdata(*addr)?),
            Err(_) => return Err(refuse("userdata")),
        },
        other => return Err(refuse(other.type_name())),
    })
}

fn refuse(kind: &str) -> mlua::Error {
    mlua::Error::runtime(format!(
        "a {kind} cannot go to another thread: only booleans, nil, numbers, strings and tables of them can"
    ))
}
