//! The levels of the log, as they are written on the command line.

pub(crate) use celerity_proxy::log::Log;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<Level> for Log {
    fn from(level: Level) -> Self {
        use celerity_proxy::log::Level as Of;
        let level_max = match level {
            Level::Error => Of::Error,
            Level::Warn => Of::Warn,
            Level::Info => Of::Info,
            Level::Debug => Of::Debug,
        };
        Self { level_max }
    }
}
