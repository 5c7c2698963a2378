//! How large something is as text, before it is written.

use core::fmt::{self, Display, Write};

/// Bytes of something as text; none are kept.
pub fn text_bytes(what: &impl Display) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail; what cannot be written is short.
    let _ = write!(count, "{what}");
    count.0
}

#[cfg(test)]
mod tests {
    use super::text_bytes;

    #[test]
    fn bytes_are_those_of_the_text() {
        assert_eq!(text_bytes(&serde_json::json!({"a": [1, 22], "b": "ä"})), r#"{"a":[1,22],"b":"ä"}"#.len());
    }
}
