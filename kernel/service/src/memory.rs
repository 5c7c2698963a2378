//! Memory for answers whose size a request decides. Room for them is looked for before they are built, so that where
//! there is none the request fails and not the appliance: from there to the next await nothing else takes it.

use alloc::vec::Vec;
use datum_store::{Error, Result};

/// Sees that there is room for so many bytes, by taking them for a moment.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn room_for(bytes: usize) -> Result<()> {
    keep_room_for(bytes).map(drop)
}

/// Takes room for so many bytes, for an answer that must not fail since it tells what was done meanwhile. Whoever builds it
/// gives the room back first.
///
/// # Errors
/// `NoMemory`.
pub(crate) fn keep_room_for(bytes: usize) -> Result<Vec<u8>> {
    let mut room = Vec::new();
    room.try_reserve_exact(bytes).map_err(|_| Error::no_memory())?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_there_is_refused() {
        assert!(room_for(1 << 20).is_ok());
        assert_eq!(room_for(usize::MAX).unwrap_err().kind(), datum_store::ErrorKind::NoMemory);
    }
}
