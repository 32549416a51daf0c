//! Single values of a file that are texts with a form of their own. The schema shows the form; what is read says what is
//! wrong with it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;

macro_rules! text {
    ($(#[$meta:meta])* $name:ident, $types:tt, $pattern:literal, [$($example:literal),+]) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "pattern": $pattern, "examples": [$($example),+] })
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(
    /// A time with its unit.
    Time, "string", r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$", ["60s", "500ms", "1m30s"]
);
text!(
    /// A time with its unit, counted from a beginning; 0s is the beginning itself.
    Offset, "string", r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$", ["0s", "60s"]
);
text!(
    /// A share with its unit.
    Share, "string", r"^[0-9]+(\.[0-9]+)?(e-?[0-9]+)?%$", ["5%", "0.1%"]
);
text!(
    /// A rate with its unit.
    BitRate, "string", r"^(?i)[0-9]+(\.[0-9]+)?(bit|kbit|mbit|gbit)$", ["10mbit"]
);
text!(
    /// A number of bytes, in units of 1024.
    ByteCount, "string", r"^(?i)[0-9]+(b|kb|mb)$", ["32kb"]
);
text!(
    /// A number with the unit of what it is compared with: a time, a share, a size or none.
    Quantity, ["string", "number"], r"^-?[0-9]+(\.[0-9]+)?([a-zA-Z]*|%)$", ["200ms", "5%", "64MiB", "100"]
);
text!(
    /// A value: with its unit if it is a number that has one.
    Wanted, ["string", "number", "boolean"], "", ["200", "up", "5%"]
);
text!(
    /// A port or a range of ports, with ! all others.
    PortText, ["string", "integer"], r"^!?[0-9]{1,5}(-[0-9]{1,5})?$", ["5432", "6000-6010", "!22"]
);
text!(
    /// An address, a prefix or a host name, with ! all others.
    RemoteText, "string", r"^!?[0-9A-Za-z._:/-]+$", ["10.0.0.0/8", "db.example.org", "!10.1.0.0/16"]
);
text!(
    /// A user by number or name, with ! all others.
    UserText, ["string", "integer"], r"^!?[^:]+$", ["1000", "www-data"]
);
text!(
    /// How many.
    HowMany, ["string", "integer"], r"^(all|one|[1-9][0-9]*|[0-9]+(\.[0-9]+)?%|random-max:[0-9]+(\.[0-9]+)?%)$",
    ["one", "3", "30%", "random-max:30%"]
);
text!(
    /// An errno by name or number.
    ErrnoText, ["string", "integer"], r"^(E[A-Z0-9]+|[0-9]{1,4})$", ["EIO", "ENOSPC"]
);
text!(
    /// A system call, or a class of them.
    CallText, "string", r"^%?[a-z0-9_]+$", ["openat", "%file"]
);
text!(
    /// Calls by number, counted from 1: strace's FIRST[..LAST][+[STEP]].
    TurnsText, ["string", "integer"], r"^[0-9]+(\.\.[0-9]+)?(\+[0-9]*)?$", ["3..9+2", "5+"]
);
