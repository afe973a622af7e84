//! One declaration makes a type, its checked reader and its row in the table of supported fields,
//! so that the three cannot drift apart.

/// Declares a struct that is read from a YAML mapping.
///
/// Each field is `name: Type = "yamlKey" [check, ...] later "reason";`. `[check]` runs on the value once read;
/// `later` keeps the typed field but refuses the key by name. `refused` lists keys that are known and
/// refused, `ignored` keys that belong to Kubernetes and have no bearing on a mesh.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(checked $check:path)? {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $key:literal $([ $($fcheck:expr),+ ])? $(later $later:literal)? ; )*
        }
        $(refused { $($rkey:literal : $rwhy:literal),* $(,)? })?
        $(ignored { $($ikey:literal),* $(,)? })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }
    };
}

/// Declares an enum that is read from one of a list of words. The first variant is the default.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal $(later $later:literal)? ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub enum $name { #[default] $( $(#[$vmeta])* $variant, )* }

        impl $name {
            /// The word that stands for this value in YAML.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }
    };
}

pub(crate) use {choice, record};
