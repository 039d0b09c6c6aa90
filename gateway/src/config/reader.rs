//! A layer between the YAML parser and the settings' own `Deserialize`, so that every section, whoever wrote it, reads
//! the same way without knowing how:
//!
//! - `${NAME}` in a string is replaced by the environment variable; an unset one is an error; `$${NAME}` stays as it is.
//!   This happens after parsing, value by value: replacing in the raw text would let a value bring its own YAML.
//! - a number may be a size (`64MiB`, in bytes), or a duration (`30s`) where the name of the setting says which unit of
//!   time it counts (`_ms`, `_seconds`, ...); a `Duration` is a duration;
//! - a secret may be kept in a file: `secret_key_file: /path` stands for `secret_key: <its content>`;
//! - the path of the field being read is known when an error comes.

use super::units::{is_size, parse_duration, parse_quantity, time_unit};
use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::fmt;

/// The secrets that may be given as files, by the names of their fields.
const SECRETS_IN_FILES: [&str; 7] =
    ["seal_key", "secret_key", "access_key_secret", "secret_access_key", "security_token", "session_token", "token"];

/// Largest secret file: far above any key, far below a mistake such as naming a disk image.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Looks up an environment variable (the first argument) for the setting at a path (the second, such as `tiers.ia.endpoint`).
pub type Env<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// What one reading of a document shares among its parts.
pub struct Context<'a> {
    env: Env<'a>,
    path: RefCell<Vec<String>>,
    /// The first map that is read has a `type`, which is none of its settings.
    typed: Cell<bool>,
}

impl<'a> Context<'a> {
    /// A new reading.
    pub fn new(env: Env<'a>) -> Self {
        Self { env, path: RefCell::new(Vec::new()), typed: Cell::new(false) }
    }

    /// A reading of the settings of one tier, whose type is known.
    pub fn of_tier(env: Env<'a>, name: &str) -> Self {
        let path = vec!["tiers".to_owned(), name.to_owned()];
        Self { env, path: RefCell::new(path), typed: Cell::new(true) }
    }

    /// The field that was being read: `tiers.ia.endpoint`. Empty for the document itself.
    pub fn path(&self) -> String {
        let mut text = String::new();
        for part in self.path.borrow().iter() {
            if !text.is_empty() && !part.starts_with('[') {
                text.push('.');
            }
            text.push_str(part);
        }
        text
    }

    /// The name of the setting being read, without its place in a list.
    fn setting(&self) -> String {
        let path = self.path.borrow();
        path.iter().rev().find(|p| !p.starts_with('[')).cloned().unwrap_or_default()
    }

    /// Runs `read` below `part`. After an error the path stays as it is: it then names the place.
    fn below<T, E>(&self, part: String, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(part);
        let value = read()?;
        self.path.borrow_mut().pop();
        Ok(value)
    }

    /// `text` with its variables replaced; `None` when it has none.
    fn interpolate(&self, text: &str) -> Result<Option<String>, String> {
        if !text.contains("${") {
            return Ok(None);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(literal) = rest[..at].strip_suffix('$') {
                out.push_str(literal);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let name_on = &rest[at + 2..];
            let Some(end) = name_on.find('}') else {
                return Err("a ${ has no closing }; write $${ for a literal ${".to_owned());
            };
            let name = &name_on[..end];
            let fits = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
            if name.is_empty() || !name.chars().enumerate().all(fits) {
                return Err(format!("${{{name}}} does not name an environment variable; write $${{ for a literal ${{"));
            }
            let value = (self.env)(name, &self.path()).ok_or_else(|| {
                format!(
                    "the environment variable {name} is not set; set it, or write $${{{name}}} for the literal text"
                )
            })?;
            out.push_str(&value);
            rest = &name_on[end + 1..];
        }
        out.push_str(rest);
        Ok(Some(out))
    }
}

/// What the settings expect here, and so how text is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Text, or whatever the document has.
    Text,
    /// Unknown (the content of a tagged enum is buffered before its type is known): sizes are unmistakable.
    Any,
    /// A whole number.
    Number,
    /// A `std::time::Duration`.
    Duration,
    /// Text that is the path of a file with the value in it.
    SecretFile,
}

/// The layer itself, around any deserializer.
pub struct Layer<'a, 'c, D> {
    inner: D,
    context: &'a Context<'c>,
    secret_file: bool,
}

impl<'a, 'c, D> Layer<'a, 'c, D> {
    /// Wraps `inner`.
    pub fn new(inner: D, context: &'a Context<'c>) -> Self {
        Self { inner, context, secret_file: false }
    }

    fn visitor<V>(&self, visitor: V, want: Want) -> LayerVisitor<'a, 'c, V> {
        let want = if self.secret_file { Want::SecretFile } else { want };
        LayerVisitor { visitor, context: self.context, want }
    }
}

macro_rules! forward {
    ($want:expr; $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visitor(visitor, $want);
            self.inner.$method(visitor)
        }
    )*};
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        // Asked for as text, so that the unit is still there.
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visitor(visitor, Want::Number);
            self.inner.deserialize_str(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Layer<'_, '_, D> {
    type Error = D::Error;

    forward! { Want::Any; deserialize_any }
    forward! { Want::Text; deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    deserialize_i128 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
    deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq
    deserialize_map deserialize_identifier deserialize_ignored_any }
    numbers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, v: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(v, Want::Text);
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, v: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(v, Want::Text);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, v: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(v, Want::Text);
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        v: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(v, Want::Text);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, D::Error> {
        if name == "Duration" && fields == ["secs", "nanos"] {
            let visitor = self.visitor(v, Want::Duration);
            return self.inner.deserialize_str(visitor);
        }
        let visitor = self.visitor(v, Want::Text);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, v)
    }
}

/// The layer around a visitor.
struct LayerVisitor<'a, 'c, V> {
    visitor: V,
    context: &'a Context<'c>,
    want: Want,
}

impl<'de, V: Visitor<'de>> LayerVisitor<'_, '_, V> {
    /// Whether `text` is a duration for a setting that counts time.
    fn is_time(&self, text: &str) -> bool {
        time_unit(&self.context.setting()).is_some() && parse_duration(text).is_ok()
    }

    fn text<E: Error>(self, text: &str, whole: impl FnOnce(V) -> Result<V::Value, E>) -> Result<V::Value, E> {
        let replaced = self.context.interpolate(text).map_err(E::custom)?;
        let shown = replaced.as_deref().unwrap_or(text);
        match self.want {
            Want::Number => {
                let setting = self.context.setting();
                // A value that came from the environment may be a secret in the wrong place: never repeat it.
                let number = parse_quantity(&setting, shown).map_err(|e| match &replaced {
                    Some(_) => E::custom(format!("{text} does not hold a number, size or duration that fits")),
                    None => E::custom(e),
                })?;
                self.visitor.visit_u64(number)
            }
            Want::Any if is_size(shown) || self.is_time(shown) => {
                self.visitor.visit_u64(parse_quantity(&self.context.setting(), shown).map_err(E::custom)?)
            }
            Want::Duration => {
                let duration = parse_duration(shown).map_err(|e| match &replaced {
                    Some(_) => E::custom(format!("{text} does not hold a duration")),
                    None => E::custom(e),
                })?;
                let parts = [duration.as_secs(), u64::from(duration.subsec_nanos())];
                self.visitor.visit_seq(SeqDeserializer::<_, E>::new(parts.into_iter()))
            }
            Want::SecretFile => self.visitor.visit_string(read_secret(shown).map_err(E::custom)?),
            Want::Any | Want::Text => match replaced {
                None => whole(self.visitor),
                Some(value) => {
                    let expected = Expected(&self.visitor).to_string();
                    self.visitor
                        .visit_string::<E>(value)
                        .map_err(|_| E::custom(format!("the value of {text} does not fit: {expected} is expected")))
                }
            },
        }
    }
}

struct Expected<'v, V>(&'v V);

impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

fn read_secret(path: &str) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|e| format!("the file {path} cannot be read: {e}"))?.len();
    if length > MAX_SECRET_BYTES {
        return Err(format!("the file {path} has {length} bytes, which is no secret; the limit is {MAX_SECRET_BYTES}"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("the file {path} cannot be read: {e}"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("the file {path} is empty"));
    }
    Ok(text.to_owned())
}

impl<'de, V: Visitor<'de>> Visitor<'de> for LayerVisitor<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.want {
            Want::Number => f.write_str("a number or a quantity such as 64MiB"),
            Want::Duration => f.write_str("a duration such as 30s"),
            Want::SecretFile => f.write_str("the path of a file"),
            Want::Any | Want::Text => self.visitor.expecting(f),
        }
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<V::Value, E> {
        self.visitor.visit_bool(v)
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<V::Value, E> {
        self.visitor.visit_i64(v)
    }

    fn visit_i128<E: Error>(self, v: i128) -> Result<V::Value, E> {
        self.visitor.visit_i128(v)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<V::Value, E> {
        self.visitor.visit_u64(v)
    }

    fn visit_u128<E: Error>(self, v: u128) -> Result<V::Value, E> {
        self.visitor.visit_u128(v)
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<V::Value, E> {
        self.visitor.visit_f64(v)
    }

    fn visit_char<E: Error>(self, v: char) -> Result<V::Value, E> {
        self.visitor.visit_char(v)
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<V::Value, E> {
        self.text(v, |visitor| visitor.visit_str(v))
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<V::Value, E> {
        self.text(v, |visitor| visitor.visit_borrowed_str(v))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<V::Value, E> {
        self.text(&v, |visitor| visitor.visit_str(&v))
    }

    fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<V::Value, E> {
        self.visitor.visit_bytes(v)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let secret_file = self.want == Want::SecretFile;
        self.visitor.visit_some(Layer { inner, context: self.context, secret_file })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let secret_file = self.want == Want::SecretFile;
        self.visitor.visit_newtype_struct(Layer { inner, context: self.context, secret_file })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(LayerSeq { inner, context: self.context, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let typed = self.context.typed.take();
        self.visitor.visit_map(LayerMap { inner, context: self.context, key: String::new(), secret_file: false, typed })
    }
}

struct LayerSeq<'a, 'c, A> {
    inner: A,
    context: &'a Context<'c>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for LayerSeq<'_, '_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let part = format!("[{}]", self.index);
        self.index += 1;
        let seed = LayerSeed { seed, context: self.context, secret_file: false };
        self.context.below(part, || self.inner.next_element_seed(seed))
    }
}

struct LayerMap<'a, 'c, A> {
    inner: A,
    context: &'a Context<'c>,
    key: String,
    secret_file: bool,
    typed: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for LayerMap<'_, '_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = seed;
        loop {
            match self.inner.next_key_seed(KeySeed { seed, typed: self.typed })? {
                None => return Ok(None),
                Some(Key::Type(unused)) => {
                    self.inner.next_value::<IgnoredAny>()?;
                    seed = unused;
                }
                Some(Key::Setting(value, key, secret_file)) => {
                    self.key = key;
                    self.secret_file = secret_file;
                    return Ok(Some(value));
                }
            }
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let seed = LayerSeed { seed, context: self.context, secret_file: self.secret_file };
        self.context.below(std::mem::take(&mut self.key), || self.inner.next_value_seed(seed))
    }
}

struct LayerSeed<'a, 'c, T> {
    seed: T,
    context: &'a Context<'c>,
    secret_file: bool,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for LayerSeed<'_, '_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.seed.deserialize(Layer { inner, context: self.context, secret_file: self.secret_file })
    }
}

/// Reads a key as text, notes it, and gives it on (without `_file` for a secret in a file).
struct KeySeed<K> {
    seed: K,
    typed: bool,
}

/// A key of a map: that of a setting, as it was read, its text, and whether it names a file; or the `type`.
enum Key<V, K> {
    Setting(V, String, bool),
    Type(K),
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<K> {
    type Value = Key<K::Value, K>;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for KeySeed<K> {
    type Value = Key<K::Value, K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a setting")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        if self.typed && key == "type" {
            return Ok(Key::Type(self.seed));
        }
        let secret = key.strip_suffix("_file").filter(|name| SECRETS_IN_FILES.contains(name));
        let value = self.seed.deserialize(StrDeserializer::<E>::new(secret.unwrap_or(key)))?;
        Ok(Key::Setting(value, key.to_owned(), secret.is_some()))
    }
}
