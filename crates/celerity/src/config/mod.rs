//! Configuration from files: collected, read, translated, indexed; and watched for changes.

pub(crate) mod files;
pub(crate) mod watch;
