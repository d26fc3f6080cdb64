//! Options as JavaScript gives them: an object, as JSON, with names in camel case.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The entries of an object that nobody has taken yet.
pub(super) struct Settings {
    what: &'static str,
    entries: Map<String, Value>,
}

/// A type that an entry may have.
pub(super) trait Setting: Sized {
    const EXPECTED: &'static str;
    fn of(value: &Value) -> Option<Self>;
}

macro_rules! setting {
    ($($t:ty, $expected:literal, $of:expr;)*) => {
        $(impl Setting for $t {
            const EXPECTED: &'static str = $expected;
            fn of(value: &Value) -> Option<Self> {
                let of: fn(&Value) -> Option<$t> = $of;
                of(value)
            }
        })*
    };
}

/// A whole number; those of JSON may look like `3.0`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|x| *x >= 0.0 && *x <= 9e15 && *x == x.trunc()).map(|x| x as u64))
}

setting! {
    bool, "true or false", Value::as_bool;
    usize, "a whole number", |v| whole(v).and_then(|n| usize::try_from(n).ok());
    u64, "a whole number", whole;
    i64, "a whole number", Value::as_i64;
    f64, "a number", Value::as_f64;
    f32, "a number", |v| v.as_f64().map(|x| x as f32);
    String, "a text", |v| v.as_str().map(str::to_owned);
    Vec<f64>, "an array of numbers", |v| v.as_array()?.iter().map(f64::of).collect();
    Vec<String>, "an array of texts", |v| v.as_array()?.iter().map(String::of).collect();
    Vec<usize>, "an array of whole numbers", |v| v.as_array()?.iter().map(usize::of).collect();
}

impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn of(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::of(value).map(Some) }
    }
}

impl Settings {
    /// Parses an object.
    pub fn parse(what: &'static str, json: &str) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(Value::Object(entries)) => Ok(Settings { what, entries }),
            _ => Err(Error::argument(what, "expected an object")),
        }
    }

    /// Sets `to` from an entry, if it is there.
    pub fn set<T: Setting>(&mut self, name: &str, to: &mut T) -> Result<()> {
        match self.entries.remove(name) {
            None => Ok(()),
            Some(value) => match T::of(&value) {
                Some(read) => {
                    *to = read;
                    Ok(())
                }
                None => Err(self.refuse(name, &format!("expected {}, got {value}", T::EXPECTED))),
            },
        }
    }

    /// An entry, or a default.
    pub fn get<T: Setting>(&mut self, name: &str, default: T) -> Result<T> {
        let mut value = default;
        self.set(name, &mut value)?;
        Ok(value)
    }

    /// An entry that must be there.
    pub fn need<T: Setting>(&mut self, name: &str) -> Result<T> {
        let value: Option<T> = self.get(name, None)?;
        value.ok_or_else(|| self.refuse(name, &format!("is missing; expected {}", T::EXPECTED)))
    }

    /// Refuses entries that nobody took.
    pub fn finish(self) -> Result<()> {
        match self.entries.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.refuse(name, "is no option here; check the spelling")),
        }
    }

    fn refuse(&self, name: &str, message: &str) -> Error {
        Error::argument(format!("{}.{name}", self.what), message)
    }
}
