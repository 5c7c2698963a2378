//! Negotiation: exports are listed and described, contexts resolved, and one export is opened.

use super::input::Input;
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::exports::{self, Export};
use crate::limits::{EXPORTS_LISTED_MAX, EXPORTS_PER_MESSAGE, LIST_DEFAULT};
use crate::port::{Chunk, Disconnected, Port};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use datum_protocol::name::ExportName;
use datum_protocol::nbd::{
    ContextQuery, Description, Event, MetaContext, Namespace, Negotiation, Refusal, Session,
};
use datum_store::device::BlockDevice;
use datum_store::{Error, ErrorKind, VolumeInfo};

/// Runs the negotiation. `None` where it ended without an export.
pub(super) async fn negotiate<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    appliance: &Appliance<D, E>,
    port: &Rc<P>,
    input: &mut Input<P>,
) -> Result<Option<(Export<D>, Session)>, Disconnected> {
    let mut negotiation = Negotiation::new();
    let mut follow_up = None;
    loop {
        let (output, event) = match follow_up.take() {
            Some(event) => (negotiation.take_output(), Some(event)),
            None => input.next(|bytes| step(&mut negotiation, bytes)).await?,
        };
        send(port, output).await?;
        match event {
            None => {}
            Some(Event::List) => list(appliance, port, &mut negotiation).await?,
            Some(Event::Describe(export)) => {
                follow_up = negotiation.describe(describe(appliance, &export).await);
            }
            Some(Event::MetaContexts { export, queries }) => {
                negotiation.contexts(contexts(appliance, &export, &queries).await);
            }
            // The export was there when it was described. Where it has gone since, the client must ask again.
            Some(Event::Ready(session)) => {
                return Ok(Export::open(appliance, &session).await.ok().map(|export| (export, session)));
            }
            Some(Event::Ended(_)) => return Ok(None),
        }
    }
}

/// What the negotiation says next: bytes for the client, an event, or both.
type Said = (Vec<u8>, Option<Event>);

/// Output counts as news: the client may be waiting for it before it says more.
fn step(negotiation: &mut Negotiation, input: &[u8]) -> (usize, Option<Said>) {
    let (taken, event) = negotiation.receive(input);
    let output = negotiation.take_output();
    let news = event.is_some() || !output.is_empty();
    (taken, news.then_some((output, event)))
}

async fn send<P: Port>(port: &Rc<P>, output: Vec<u8>) -> Result<(), Disconnected> {
    if output.is_empty() { Ok(()) } else { port.send(vec![Chunk::Bytes(output)], drop).await }
}

/// Names volumes and checkpoints, a page at a time.
async fn list<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    appliance: &Appliance<D, E>,
    port: &Rc<P>,
    negotiation: &mut Negotiation,
) -> Result<(), Disconnected> {
    let mut room = EXPORTS_LISTED_MAX;
    let mut after = None;
    loop {
        let volumes = match page(appliance, after.as_ref()).await {
            Ok(volumes) => volumes,
            Err(error) => {
                negotiation.list_end(Err(refusal(&error)));
                return Ok(());
            }
        };
        for volume in &volumes {
            if let Err(error) = list_volume(appliance, port, negotiation, volume, &mut room).await? {
                negotiation.list_end(Err(refusal(&error)));
                return Ok(());
            }
        }
        after = volumes.last().map(|volume| volume.name.clone());
        if after.is_none() || room == 0 {
            negotiation.list_end(Ok(()));
            return Ok(());
        }
    }
}

async fn page<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    after: Option<&datum_store::Name>,
) -> Result<Vec<VolumeInfo>, Error> {
    appliance.pool().await?.volumes(after, LIST_DEFAULT).await
}

async fn list_volume<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    appliance: &Appliance<D, E>,
    port: &Rc<P>,
    negotiation: &mut Negotiation,
    volume: &VolumeInfo,
    room: &mut usize,
) -> Result<Result<(), Error>, Disconnected> {
    let Some(name) = exports::wire_name(&volume.name) else { return Ok(Ok(())) };
    let mut export = ExportName { volume: name, checkpoint: None, since: None };
    let mut after = None;
    if *room > 0 {
        *room -= 1;
        negotiation.list_export(&export, &format!("volume, {} bytes", volume.size));
    }
    while *room > 0 {
        let checkpoints = match appliance.pool().await {
            Ok(pool) => pool.checkpoints(&volume.name, after.as_ref(), EXPORTS_PER_MESSAGE.min(*room)).await,
            Err(error) => Err(error),
        };
        let checkpoints = match checkpoints {
            Ok(checkpoints) => checkpoints,
            // Deleted while the list was made: then it has none.
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Ok(Err(error)),
        };
        for checkpoint in &checkpoints {
            export.checkpoint = exports::wire_name(&checkpoint.name);
            negotiation.list_export(&export, &format!("checkpoint, {} bytes", checkpoint.size));
        }
        *room -= checkpoints.len();
        send(port, negotiation.take_output()).await?;
        after = checkpoints.last().map(|checkpoint| checkpoint.name.clone());
        if after.is_none() {
            break;
        }
    }
    send(port, negotiation.take_output()).await?;
    Ok(Ok(()))
}

async fn describe<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    export: &ExportName,
) -> Result<Description, Refusal> {
    if appliance.is_stopping() {
        return Err(Refusal::Shutdown("the appliance is going down; connect again when it is back".into()));
    }
    let found = exports::find(appliance, export).await.map_err(|error| refusal(&error))?;
    if let Some(since) = &export.since {
        exports::resolve(appliance, export, since).await.map_err(|error| refusal(&error))?;
    }
    let what = match (&export.checkpoint, &export.since) {
        (None, None) => format!("volume {}", export.volume),
        (None, Some(since)) => format!("volume {} with its changes since {since}, read-only", export.volume),
        (Some(checkpoint), None) => format!("checkpoint {checkpoint} of volume {}", export.volume),
        (Some(checkpoint), Some(since)) => {
            format!("checkpoint {checkpoint} of volume {} with its changes since {since}", export.volume)
        }
    };
    Ok(Description { size: found.size, read_only: export.is_read_only(), description: what })
}

/// The contexts that the queries select. A bitmap is listed only where the export's name asks for it, because
/// some clients give up on a choice; by its exact name any is found.
async fn contexts<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    export: &ExportName,
    queries: &[ContextQuery],
) -> Result<Vec<MetaContext>, Refusal> {
    exports::find(appliance, export).await.map_err(|error| refusal(&error))?;
    let mut selected = Vec::new();
    for query in queries {
        let context = match query {
            ContextQuery::All(Namespace::Base) => Some(MetaContext::Allocation),
            ContextQuery::All(Namespace::Datum) => Some(MetaContext::Change),
            ContextQuery::All(Namespace::Qemu) => export.since.clone().map(MetaContext::DirtyBitmap),
            ContextQuery::Exact(context) => Some(context.clone()),
        };
        let Some(context) = context else { continue };
        if !selected.contains(&context) && exists(appliance, export, &context).await? {
            selected.push(context);
        }
    }
    Ok(selected)
}

/// A bitmap that does not exist is simply not selected; one that must not be compared is refused with the reason.
async fn exists<D: BlockDevice + 'static, E: Environment + 'static>(
    appliance: &Appliance<D, E>,
    export: &ExportName,
    context: &MetaContext,
) -> Result<bool, Refusal> {
    let MetaContext::DirtyBitmap(since) = context else { return Ok(true) };
    match exports::resolve(appliance, export, since).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal(error: &Error) -> Refusal {
    let text = error.message().to_string();
    if error.kind() == ErrorKind::NotFound { Refusal::Unknown(text) } else { Refusal::Policy(text) }
}
