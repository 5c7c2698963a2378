//! Memory for answers whose size a request decides. Room for them is looked for before they are built, so that where
//! there is none the request fails and not the appliance: from there to the next await nothing else takes it.

use alloc::vec::Vec;
use core::fmt::{self, Display, Write};
use datum_store::{Error, Result};

/// Sees that there is room for so many bytes, by taking them for a moment.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn room_for(bytes: usize) -> Result<()> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| Error::no_memory())
}

/// Bytes of something as text; none are kept.
pub(crate) fn text_bytes(what: &impl Display) -> usize {
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
    use super::*;

    #[test]
    fn text_is_counted_and_what_cannot_be_there_is_refused() {
        assert_eq!(text_bytes(&serde_json::json!({"a": [1, 22], "b": "ä"})), r#"{"a":[1,22],"b":"ä"}"#.len());
        assert!(room_for(1 << 20).is_ok());
        assert_eq!(room_for(usize::MAX).unwrap_err().kind(), datum_store::ErrorKind::NoMemory);
    }
}
