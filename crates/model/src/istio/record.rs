//! One declaration makes a type, its checked reader and its row in the table of supported fields,
//! so that the three cannot drift apart.

/// Declares a struct that is read from a YAML mapping.
///
/// Each field is `name: Type = "yamlKey" [check, ...] later "reason";`. `[check]` runs on the value once read;
/// `later` keeps the typed field but refuses the key by name; `idle` reads and checks it, though nothing here acts on it.
/// `refused` lists keys that are known and refused, `ignored` keys that belong to Kubernetes and have no bearing on a mesh, each with
/// its type (`shape`).
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(checked $check:ident)? {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $key:literal $([ $($fcheck:ident),+ ])? $(later $later:literal)? $(, $idle:ident)? ; )*
        }
        $(refused { $($rkey:literal : $rwhy:literal),* $(,)? })?
        $(ignored { $($ikey:literal : $ishape:ident),* $(,)? })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        impl $name {
            pub(crate) const KNOWN: &'static [&'static str] = &[$($key),*];
            pub(crate) const REFUSED: &'static [(&'static str, &'static str)] = &[$($(($rkey, $rwhy)),*)?];
            pub(crate) const IGNORED: &'static [&'static str] = &[$($($ikey),*)?];

            /// Every field is read before the first that failed ends it, so that all errors are found.
            pub(crate) fn read_fields(
                fields: &mut super::reader::Fields<'_>,
                cx: &mut super::reader::Cx,
            ) -> Option<Self> {
                $(
                    let $field = fields.field::<$ty>($key, super::record::later!($($later)?), cx, |_value, _cx| {
                        $( $( super::check::$fcheck(_value, _cx); )+ )?
                    });
                )*
                let _fits = true;
                $( $( let _fits = fields.shaped($ikey, super::shape::$ishape, cx) && _fits; )* )?
                let value = Self { $( $field: $field?, )* };
                if !_fits {
                    return None;
                }
                $( super::check::$check(&value, cx); )?
                Some(value)
            }
        }

        impl super::json::ToJson for $name {
            fn json(&self) -> Option<serde_json::Value> {
                let mut map = serde_json::Map::new();
                $(
                    if let Some(value) = super::json::ToJson::json(&self.$field) {
                        map.insert($key.to_owned(), value);
                    }
                )*
                Some(serde_json::Value::Object(map))
            }
        }

        impl super::reader::FromNode for $name {
            type Checked = Self;

            fn read(node: &super::node::Node<'_>, cx: &mut super::reader::Cx) -> Option<Self> {
                let mut fields = super::reader::Fields::open(node, cx)?;
                let value = Self::read_fields(&mut fields, cx);
                fields.finish(Self::KNOWN, Self::REFUSED, Self::IGNORED, cx);
                value
            }

            fn checked(&self) -> Option<&Self> {
                Some(self)
            }

            fn support(table: &mut super::support::Support) {
                table.record(stringify!($name), Self::REFUSED, Self::IGNORED, |_table| {
                    $( super::record::row!(_table, $key, $ty, super::record::later!($($later)?) $(, $idle)?); )*
                });
            }
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

            const WORDS: &'static [(&'static str, Self, Option<&'static str>)] =
                &[$( ($word, Self::$variant, super::record::later!($($later)?)) ),*];
        }

        impl super::json::ToJson for $name {
            fn json(&self) -> Option<serde_json::Value> {
                Some(serde_json::Value::from(self.as_str()))
            }
        }

        impl super::reader::FromNode for $name {
            type Checked = Self;

            fn read(node: &super::node::Node<'_>, cx: &mut super::reader::Cx) -> Option<Self> {
                let text = super::reader::text(node, cx, "one of the words that the field knows")?;
                super::check::word(text, Self::WORDS, cx)
            }

            fn checked(&self) -> Option<&Self> {
                Some(self)
            }

            fn support(table: &mut super::support::Support) {
                for (word, _, later) in Self::WORDS {
                    table.word(word, *later);
                }
            }
        }
    };
}

/// The reason why a field or a word is refused, when it is.
macro_rules! later {
    () => {
        None
    };
    ($reason:literal) => {
        Some($reason)
    };
}

/// The row of a field in the table of what acts.
macro_rules! row {
    ($table:ident, $key:literal, $ty:ty, $later:expr) => {
        $table.field($key, $later, <$ty as super::reader::FromNode>::support)
    };
    ($table:ident, $key:literal, $ty:ty, $later:expr, idle) => {
        $table.idle($key)
    };
}

pub(crate) use {choice, later, record, row};
