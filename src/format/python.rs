//! JSON as Python's `json.dumps(sort_keys=True, indent=2)` writes it.
//!
//! A stock Cinder reads any JSON, but operators compare and grep these files, and a
//! backup of ours should not differ from one of Cinder's in a single byte of style.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};

/// Text of `value`: two spaces of indent, sorted keys, ASCII only, no newline at the end.
pub fn to_python_json(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Ascii(PrettyFormatter::new()));
    // Writing a `Value` into a `Vec` has no way to fail.
    let _ = value.serialize(&mut serializer);
    text
}

/// [`PrettyFormatter`] with `ensure_ascii`: characters beyond ASCII become `\u` and four digits,
/// those beyond the basic plane a surrogate pair.
struct Ascii<'a>(PrettyFormatter<'a>);

impl Formatter for Ascii<'_> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            // DEL counts as not printable there, though JSON takes it as it is.
            if c.is_ascii() && c != '\u{7f}' {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }
    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }
    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }
    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_what_python_writes() {
        // json.dumps({"b": [], "a": {}, "c": ["täglich ☃ 😀", "q\"\\\n\t\x01\x7f/"], "d": None},
        //            sort_keys=True, indent=2)
        let value = json!({
            "b": [], "a": {}, "d": null,
            "c": ["täglich ☃ 😀", "q\"\\\n\t\u{1}\u{7f}/"],
        });
        let expected = "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    \
            \"t\\u00e4glich \\u2603 \\ud83d\\ude00\",\n    \
            \"q\\\"\\\\\\n\\t\\u0001\\u007f/\"\n  ],\n  \"d\": null\n}";
        assert_eq!(String::from_utf8(to_python_json(&value)).unwrap(), expected);
    }
}
