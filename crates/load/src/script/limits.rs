//! What a script may use, and how its errors are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mlua::{HookTriggers, Lua, LuaOptions, StdLib, VmState};

/// Bounds of one Lua state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A script that prepares its requests beforehand needs some tens of megabytes; a leak must not take the machine.
    pub(crate) memory_bytes: usize,
    /// Instructions of one call of a hook: seconds of work, which no run survives anyway. An endless loop ends here.
    pub(crate) instructions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 512 * 1024 * 1024, instructions: 1_000_000_000 }
    }
}

/// How often the count is looked at: rarely enough to cost nothing, often enough to end within milliseconds.
const STEP: u32 = 100_000;

struct Budget {
    used: Arc<AtomicU64>,
}

pub(crate) fn new_lua(limits: Limits) -> mlua::Result<Lua> {
    let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::new())?;
    // A loop that is compiled does not look at the count.
    lua.load("if jit then jit.off() end jit = nil").exec()?;
    // What a script prints comes before the report, as in wrk, in a pipe as on a terminal.
    lua.load("io.stdout:setvbuf('line')").exec()?;
    lua.set_memory_limit(limits.memory_bytes)?;
    let used = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&used);
    lua.set_app_data(Budget { used });
    lua.set_hook(HookTriggers::new().every_nth_instruction(STEP), move |_, _| {
        let total = counted.fetch_add(u64::from(STEP), Relaxed);
        if total >= limits.instructions {
            let most = limits.instructions;
            return Err(mlua::Error::runtime(format!(
                "it ran for more than {most} instructions: is there an endless loop?"
            )));
        }
        Ok(VmState::Continue)
    })?;
    Ok(lua)
}

/// A call of a hook begins: its instructions count from here.
pub(crate) fn begin(lua: &Lua) {
    if let Some(budget) = lua.app_data_ref::<Budget>() {
        budget.used.store(0, Relaxed);
    }
}

/// One sentence for a person: which script, where, and what Lua said, without its stack.
pub(crate) fn explain(name: &str, place: &str, error: &mlua::Error) -> String {
    let text = match error {
        mlua::Error::CallbackError { cause, .. } => cause.to_string(),
        mlua::Error::MemoryError(_) => "it needs more memory than a script may use".to_owned(),
        other => other.to_string(),
    };
    let text = text.split("\nstack traceback").next().unwrap_or_default().trim();
    let text = text.strip_prefix("runtime error: ").or_else(|| text.strip_prefix("syntax error: ")).unwrap_or(text);
    // Lua puts `name:line:` first where it knows it.
    let said = if text.starts_with(name) { text.to_owned() } else { format!("{name}: {text}") };
    format!("{said} ({place})").replace('\n', " ")
}
