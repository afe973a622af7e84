//! A summary in the forms in which people and programs read it.

pub mod text;
