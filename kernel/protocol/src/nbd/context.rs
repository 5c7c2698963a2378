//! Metadata contexts: what BLOCK_STATUS can tell, and how clients ask for it.

use crate::name::Since;
use alloc::format;
use alloc::string::{String, ToString};

const ALLOCATION: &str = "base:allocation";
const CHANGE: &str = "x-datum:change";
const BITMAP: &str = "qemu:dirty-bitmap:";

/// A metadata context by meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaContext {
    /// `base:allocation`: flags bit 0 hole, bit 1 zero.
    Allocation,
    /// `qemu:dirty-bitmap:X`: flags exactly 1 where changed since X, else 0.
    DirtyBitmap(Since),
    /// `x-datum:change`: the extent's change id.
    Change,
}

impl MetaContext {
    /// The context of exactly this name, if the name has a meaning here.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            ALLOCATION => Some(Self::Allocation),
            CHANGE => Some(Self::Change),
            _ => Since::parse(text.strip_prefix(BITMAP)?).ok().map(Self::DirtyBitmap),
        }
    }

    /// The name on the wire.
    pub fn name(&self) -> String {
        match self {
            Self::Allocation => ALLOCATION.to_string(),
            Self::DirtyBitmap(since) => format!("{BITMAP}{since}"),
            Self::Change => CHANGE.to_string(),
        }
    }
}

/// A family of contexts, asked for in `LIST_META_CONTEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `base:`
    Base,
    /// `qemu:` or `qemu:dirty-bitmap:`
    Qemu,
    /// `x-datum:`
    Datum,
}

impl Namespace {
    /// Every family there is.
    pub const ALL: [Self; 3] = [Self::Base, Self::Qemu, Self::Datum];
}

/// One thing a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextQuery {
    /// One context by its whole name.
    Exact(MetaContext),
    /// All that the export lists of a family; only in `LIST_META_CONTEXT`.
    All(Namespace),
}

impl ContextQuery {
    /// Queries this server does not know select nothing, as the specification asks.
    pub(crate) fn parse(text: &str, listing: bool) -> Option<Self> {
        let family = match text {
            "base:" => Some(Namespace::Base),
            "qemu:" | BITMAP => Some(Namespace::Qemu),
            "x-datum:" => Some(Namespace::Datum),
            _ => None,
        };
        match family {
            Some(family) => listing.then_some(Self::All(family)),
            None => MetaContext::parse(text).map(Self::Exact),
        }
    }
}

/// A context that the session reports, under its number on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedContext {
    /// Counts from 1.
    pub id: u32,
    /// What it reports.
    pub context: MetaContext,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    #[test]
    fn names_go_both_ways() {
        for text in
            ["base:allocation", "x-datum:change", "qemu:dirty-bitmap:r", "qemu:dirty-bitmap:datum:1:ab"]
        {
            assert_eq!(MetaContext::parse(text).unwrap().name(), text);
        }
        for text in ["", "base:", "base:other", "qemu:dirty-bitmap:", "qemu:allocation-depth", "x-datum:"] {
            assert_eq!(MetaContext::parse(text), None);
        }
    }

    #[test]
    fn families_only_in_lists() {
        assert_eq!(ContextQuery::parse("qemu:", true), Some(ContextQuery::All(Namespace::Qemu)));
        assert_eq!(ContextQuery::parse("qemu:", false), None);
        let bitmap = MetaContext::DirtyBitmap(Since::Named(Name::parse("r").unwrap()));
        assert_eq!(ContextQuery::parse("qemu:dirty-bitmap:r", false), Some(ContextQuery::Exact(bitmap)));
    }
}
