//! What a client can ask of the store, spelt out: the alphabet that the model and the store both speak.
//!
//! Plain data, of strings and numbers. Nothing here knows the store.

use crate::model::content::ContentId;

/// One request. Sizes and positions are in blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the store's methods, by the same names")]
pub enum Action {
    CreateVolume {
        name: String,
        size: u64,
        timeline: u128,
        time: u64,
    },
    DeleteVolume {
        name: String,
    },
    RenameVolume {
        name: String,
        new_name: String,
    },
    ResizeVolume {
        name: String,
        size: u64,
    },
    CloneVolume {
        volume: String,
        checkpoint: String,
        name: String,
        timeline: u128,
        time: u64,
    },
    RevertVolume {
        volume: String,
        checkpoint: String,
    },
    CreateCheckpoint {
        volumes: Vec<String>,
        name: String,
        time: u64,
    },
    DeleteCheckpoint {
        volume: String,
        name: String,
    },
    ConvertCheckpoint {
        volume: String,
        name: String,
        refpoint: String,
    },
    CreateRefpoint {
        volume: String,
        name: String,
        time: u64,
    },
    DeleteRefpoint {
        volume: String,
        name: String,
    },
    Write {
        volume: String,
        first: u64,
        contents: Vec<ContentId>,
    },
    /// `content` is what the block holds afterwards.
    WritePartial {
        volume: String,
        block: u64,
        offset: usize,
        bytes: Vec<u8>,
        content: ContentId,
    },
    Trim {
        volume: String,
        first: u64,
        count: u64,
    },
    Flush,
    Commit,
    Suspend {
        volume: String,
    },
    Resume {
        volume: String,
    },
}

impl Action {
    /// Whether everything before it is durable once it is acknowledged.
    pub fn is_durable(&self) -> bool {
        !matches!(
            self,
            Self::Write { .. }
                | Self::WritePartial { .. }
                | Self::Trim { .. }
                | Self::Suspend { .. }
                | Self::Resume { .. }
        )
    }

    /// Whether it gives space back: a pool does that however full it is.
    pub fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::DeleteVolume { .. }
                | Self::DeleteCheckpoint { .. }
                | Self::ConvertCheckpoint { .. }
                | Self::DeleteRefpoint { .. }
        )
    }
}
