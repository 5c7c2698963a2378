//! Names that clients use: of volumes, checkpoints and reference points, and the export names made of them.
//!
//! A [`Name`] has passed the contract's pattern `[A-Za-z0-9][A-Za-z0-9._-]{0,63}` once and needs no second
//! look. A token is only recognised by its prefix here; what it means, the store decides.

use crate::limits::{NAME_BYTES_MAX, TOKEN_BYTES_MAX};
use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// How every token of a reference point begins.
pub const TOKEN_PREFIX: &str = "datum:1:";
const SINCE: &str = "+since=";

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing was given.
    Empty,
    /// More than 64 bytes.
    TooLong,
    /// A character outside the pattern.
    Character(char),
    /// The first character is not a letter or a digit.
    Start(char),
    /// A token that is too long or holds spaces or control characters.
    Token,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the name is empty; give 1 to {NAME_BYTES_MAX} characters"),
            Self::TooLong => write!(f, "the name is too long; use at most {NAME_BYTES_MAX} characters"),
            Self::Character(c) => {
                write!(f, "{c:?} may not stand in a name; use letters, digits, '.', '_' and '-'")
            }
            Self::Start(c) => write!(f, "a name may not begin with {c:?}; begin with a letter or a digit"),
            Self::Token => write!(
                f,
                "the token is damaged; give it whole, as `refpoint token` printed it (at most {TOKEN_BYTES_MAX} characters)"
            ),
        }
    }
}

impl core::error::Error for NameError {}

/// The name of a volume, a checkpoint or a reference point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks `text` against the contract's pattern.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if let Some(c) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
            return Err(NameError::Character(c));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Start(first));
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The moment that "changed since" counts from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Since {
    /// A reference point or checkpoint of the volume.
    Named(Name),
    /// A token that the client kept, `datum:1:…`, unverified.
    Token(String),
}

impl Since {
    /// Takes a name or a token apart by the token's prefix.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if !text.starts_with(TOKEN_PREFIX) {
            return Name::parse(text).map(Self::Named);
        }
        if text.len() > TOKEN_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(NameError::Token);
        }
        Ok(Self::Token(text.to_owned()))
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name.as_str(),
            Self::Token(token) => token,
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An NBD export: `vol`, `vol@checkpoint`, `vol+since=X` or `vol@checkpoint+since=X`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportName {
    /// The volume.
    pub volume: Name,
    /// The checkpoint whose image is served instead of the live volume.
    pub checkpoint: Option<Name>,
    /// The export lists exactly the bitmap of changes since this.
    pub since: Option<Since>,
}

impl ExportName {
    /// Parses an export name as a client sends it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (image, since) = match text.split_once(SINCE) {
            Some((image, since)) => (image, Some(Since::parse(since)?)),
            None => (text, None),
        };
        let (volume, checkpoint) = match image.split_once('@') {
            Some((volume, checkpoint)) => (volume, Some(Name::parse(checkpoint)?)),
            None => (image, None),
        };
        Ok(Self { volume: Name::parse(volume)?, checkpoint, since })
    }

    /// Only the live volume by its plain name can be written.
    pub fn is_read_only(&self) -> bool {
        self.checkpoint.is_some() || self.since.is_some()
    }
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.volume.as_str())?;
        if let Some(checkpoint) = &self.checkpoint {
            write!(f, "@{checkpoint}")?;
        }
        if let Some(since) = &self.since {
            write!(f, "{SINCE}{since}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn names_follow_the_pattern() {
        for good in ["a", "0", "db-1.img_old", &"x".repeat(64)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse(&"x".repeat(65)), Err(NameError::TooLong));
        assert_eq!(Name::parse(".a"), Err(NameError::Start('.')));
        assert_eq!(Name::parse("-a"), Err(NameError::Start('-')));
        assert_eq!(Name::parse("a b"), Err(NameError::Character(' ')));
        assert_eq!(Name::parse("ä"), Err(NameError::Character('ä')));
        assert_eq!(Name::parse("a\0"), Err(NameError::Character('\0')));
    }

    #[test]
    fn export_names_come_in_four_forms() {
        let plain = ExportName::parse("vol").unwrap();
        assert_eq!(plain, ExportName { volume: name("vol"), checkpoint: None, since: None });
        assert!(!plain.is_read_only());
        let full = ExportName::parse("vol@cp+since=r").unwrap();
        assert_eq!(full.checkpoint, Some(name("cp")));
        assert_eq!(full.since, Some(Since::Named(name("r"))));
        assert!(full.is_read_only());
        let token = ExportName::parse("vol+since=datum:1:AB+since=/@=").unwrap();
        assert_eq!(token.since, Some(Since::Token("datum:1:AB+since=/@=".into())));
        for text in ["vol", "vol@cp", "vol+since=r", "vol@cp+since=datum:1:00ff"] {
            assert_eq!(ExportName::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_export_names_are_refused() {
        for bad in
            ["", "@", "vol@", "@cp", "vol+since=", "+since=r", "vol@a@b", "vol@cp+since=r+since=q", "a/b"]
        {
            assert!(ExportName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Since::parse("datum:1:a b"), Err(NameError::Token));
    }
}
