//! Values with a notation of their own: sizes, times, what to wait for.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: an integer, or text with a suffix K, M, G or T (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads `512M`; the error says what would be accepted.
    pub fn parse(text: &str) -> Result<Size, String> {
        let bad = || format!("size \"{text}\" is not a number with K, M, G or T, such as \"512M\"");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let number: u64 = trimmed[..digits].parse().map_err(|_| bad())?;
        let shift = match trimmed[digits..].trim_end_matches("iB").trim_end_matches('B') {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return Err(bad()),
        };
        number
            .checked_mul(1 << shift)
            .map(Size)
            .ok_or_else(|| format!("size \"{text}\" is too large"))
    }

    /// The shortest exact notation, as the kernel's command line takes it.
    pub fn notation(self) -> String {
        for (shift, suffix) in [(30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return format!("{}{suffix}", self.0 >> shift);
            }
        }
        self.0.to_string()
    }
}

/// A size for people: three digits and a unit.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["K", "M", "G", "T"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 && unit != "B" {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.notation())
    }
}

/// A span of time: a number of seconds, or text such as `500ms`, `90s`, `2min`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl Time {
    /// Reads `90s`; the error says what would be accepted.
    pub fn parse(text: &str) -> Result<Time, String> {
        let bad =
            || format!("time \"{text}\" is not a number with ms, s, min or h, such as \"90s\"");
        let trimmed = text.trim();
        let digits =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let number: f64 = trimmed[..digits].parse().map_err(|_| bad())?;
        let unit = match trimmed[digits..].trim() {
            "ms" => 0.001,
            "" | "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        Duration::try_from_secs_f64(number * unit).map(Time).map_err(|_| bad())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms % 1000 != 0 { write!(f, "{ms}ms") } else { write!(f, "{}s", ms / 1000) }
    }
}

/// When a start counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The process exists.
    None,
    /// The kernel answers on its management console.
    Boot,
    /// `login:` appeared on a console.
    Login,
    /// The guest wrote `ready` or `READY=1` to /proc/mconsole.
    Ready,
    /// A TCP port of the host accepts connections.
    Port(u16),
}

impl Wait {
    /// Reads `boot`, `login`, `ready`, `none` or `port:N`.
    pub fn parse(text: &str) -> Result<Wait, String> {
        Ok(match text {
            "none" => Wait::None,
            "boot" => Wait::Boot,
            "login" => Wait::Login,
            "ready" => Wait::Ready,
            _ => match text.strip_prefix("port:").map(str::parse) {
                Some(Ok(n)) if n != 0 => Wait::Port(n),
                _ => {
                    return Err(format!(
                        "\"{text}\" is none of none, boot, login, ready and port:N"
                    ));
                }
            },
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::None => f.write_str("none"),
            Wait::Boot => f.write_str("boot"),
            Wait::Login => f.write_str("login"),
            Wait::Ready => f.write_str("ready"),
            Wait::Port(n) => write!(f, "port:{n}"),
        }
    }
}

struct Text<T> {
    expecting: &'static str,
    parse: fn(&str) -> Result<T, String>,
    number: Option<fn(u64) -> T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        (self.parse)(v).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        match self.number {
            Some(f) => Ok(f(v)),
            None => Err(E::invalid_type(de::Unexpected::Unsigned(v), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        match u64::try_from(v) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(v), &self)),
        }
    }
}

macro_rules! notation {
    ($t:ty, $name:literal, $expecting:literal, $number:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(Text {
                    expecting: $expecting,
                    parse: <$t>::parse,
                    number: $number,
                })
            }
        }

        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl JsonSchema for $t {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

notation!(Size, "Size", "a size such as \"512M\"", Some(Size), {
    "type": ["string", "integer"], "pattern": "^[0-9]+ *([KkMmGgTt](iB|B)?)?$", "minimum": 0
});
notation!(Time, "Time", "a time such as \"90s\"", Some(|n| Time(Duration::from_secs(n))), {
    "type": ["string", "integer"], "pattern": "^[0-9.]+ *(ms|s|sec|m|min|h)?$", "minimum": 0
});
notation!(Wait, "Wait", "none, boot, login, ready or port:N", None, {
    "type": "string", "pattern": "^(none|boot|login|ready|port:[0-9]+)$"
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!(Size::parse("512M"), Ok(Size(512 << 20)));
        assert_eq!(Size::parse("1GiB"), Ok(Size(1 << 30)));
        assert_eq!(Size::parse("4096"), Ok(Size(4096)));
        for bad in ["", "M", "12X", "-1", "99999999999G", "1.5G"] {
            assert!(Size::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(human(1536), "1.5K");
        assert_eq!(human(10 << 20), "10M");
    }

    #[test]
    fn times_and_waits() {
        assert_eq!(Time::parse("2min"), Ok(Time(Duration::from_secs(120))));
        assert_eq!(Time::parse("500ms"), Ok(Time(Duration::from_millis(500))));
        assert!(Time::parse("soon").is_err());
        assert_eq!(Wait::parse("port:22"), Ok(Wait::Port(22)));
        for bad in ["port:0", "port:", "port:99999", "up"] {
            assert!(Wait::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn sizes_survive_their_notation(n in any::<u64>()) {
            prop_assert_eq!(Size::parse(&Size(n).notation()), Ok(Size(n)));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(s in "\\PC*") {
            let _ = (Size::parse(&s), Time::parse(&s), Wait::parse(&s));
        }
    }
}
