//! Exports: what an NBD name stands for, and its opening.

use crate::appliance::Appliance;
use crate::disks::Disk;
use crate::environment::Environment;
use crate::sessions::OpenExport;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use datum_protocol::name::{self, ExportName};
use datum_protocol::nbd::{MetaContext, Session};
use datum_store::device::BlockDevice;
use datum_store::{ChangeId, Error, ErrorKind, Image, Name, ObjectId, Result, Since, Token, View};

/// What an export's name was found to be.
pub(crate) struct Found {
    pub(crate) volume: ObjectId,
    /// Bytes.
    pub(crate) size: u64,
}

/// Looks an export up. Its `since` is not looked at.
pub(crate) async fn find<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    export: &ExportName,
) -> Result<Found> {
    let pool = appliance.pool().await?;
    let name = store_name(&export.volume)?;
    let volume = pool.volume(&name).await?;
    let size = match &export.checkpoint {
        None => volume.size,
        Some(checkpoint) => pool.checkpoint(&name, &store_name(checkpoint)?).await?.size,
    };
    Ok(Found { volume: volume.id, size })
}

/// The change id with which an export's blocks are compared for "since".
pub(crate) async fn resolve<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    export: &ExportName,
    since: &name::Since,
) -> Result<ChangeId> {
    let until = export.checkpoint.as_ref().map(store_name).transpose()?;
    let (volume, since) = (store_name(&export.volume)?, store_since(since)?);
    appliance.pool().await?.resolve_since(&volume, until.as_ref(), &since).await
}

/// An export that a client has open.
pub(crate) struct Export<D: BlockDevice> {
    pub(crate) image: Image<Disk<D>>,
    /// What each selected context shows, or why it no longer can.
    pub(crate) contexts: Vec<(u32, Result<View>)>,
    in_use: OpenExport,
}

impl<D: BlockDevice + 'static> Export<D> {
    pub(crate) async fn open<E: Environment + 'static>(
        appliance: &Appliance<D, E>,
        session: &Session,
    ) -> Result<Self> {
        let export = &session.export;
        let found = find(appliance, export).await?;
        let checkpoint = export.checkpoint.as_ref().map(store_name).transpose()?;
        let pool = appliance.pool().await?;
        let image = pool.open_image(&store_name(&export.volume)?, checkpoint.as_ref()).await?;
        let mut contexts = Vec::with_capacity(session.contexts.len());
        for selected in &session.contexts {
            let view = match &selected.context {
                MetaContext::Allocation => Ok(View::Allocation),
                MetaContext::Change => Ok(View::ChangeIds),
                MetaContext::DirtyBitmap(since) => resolve(appliance, export, since).await.map(View::Changes),
            };
            contexts.push((selected.id, view));
        }
        let in_use =
            OpenExport { name: export.to_string(), volume: found.volume, writable: !session.read_only };
        Ok(Self { image, contexts, in_use })
    }

    /// For the register of sessions.
    pub(crate) fn in_use(&self) -> OpenExport {
        self.in_use.clone()
    }
}

/// A name as the store has it. Both sides hold to the same pattern.
pub(crate) fn store_name(name: &name::Name) -> Result<Name> {
    Name::new(name.as_str()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{name} is not a name; use letters, digits, '.', '_' and '-'"))
    })
}

/// A name as the protocols have it.
pub(crate) fn wire_name(name: &Name) -> Option<name::Name> {
    name::Name::parse(name.as_str()).ok()
}

/// A point to compare with, its token verified.
pub(crate) fn store_since(since: &name::Since) -> Result<Since> {
    Ok(match since {
        name::Since::Named(name) => Since::Point(store_name(name)?),
        name::Since::Token(text) => Since::Token(Token::decode(text)?),
    })
}
