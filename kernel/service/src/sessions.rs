//! Who is connected, and what each client has open. Deleting, reverting and shrinking ask here first.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use datum_store::{Error, ErrorKind, Name, ObjectId};

/// What an NBD client has open.
#[derive(Clone, Debug)]
pub(crate) struct OpenExport {
    /// As the client named it.
    pub(crate) name: String,
    pub(crate) volume: ObjectId,
    pub(crate) writable: bool,
}

/// One client on one port.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) port: String,
    pub(crate) kind: &'static str,
    /// Nanoseconds since 1970.
    pub(crate) opened: u64,
    pub(crate) export: RefCell<Option<OpenExport>>,
    pub(crate) requests: Cell<u64>,
    pub(crate) bytes_received: Cell<u64>,
    pub(crate) bytes_sent: Cell<u64>,
    ended: Cell<bool>,
    revoked: Cell<bool>,
}

impl Session {
    /// The client has left: what is still under way for it is finished, but no longer answered.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.get()
    }

    /// An operator took the volume away by force: every later request fails.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        *self.export.borrow_mut() = None;
    }

    pub(crate) fn count(&self, counter: &Cell<u64>, more: u64) {
        counter.set(counter.get().saturating_add(more));
    }

    fn writes(&self, volume: ObjectId) -> bool {
        let export = self.export.borrow();
        !self.revoked.get()
            && export.as_ref().is_some_and(|export| export.writable && export.volume == volume)
    }
}

/// Every connected client.
#[derive(Default)]
pub(crate) struct Sessions {
    next: Cell<u64>,
    omitted_payload_len: Cell<u64>,
    open: RefCell<BTreeMap<u64, Rc<Session>>>,
}

impl Sessions {
    pub(crate) fn open(&self, port: &str, kind: &'static str, time: u64) -> Rc<Session> {
        let id = self.next.get() + 1;
        self.next.set(id);
        let session = Rc::new(Session {
            id,
            port: port.into(),
            kind,
            opened: time,
            export: RefCell::new(None),
            requests: Cell::new(0),
            bytes_received: Cell::new(0),
            bytes_sent: Cell::new(0),
            ended: Cell::new(false),
            revoked: Cell::new(false),
        });
        self.open.borrow_mut().insert(id, session.clone());
        session
    }

    pub(crate) fn close(&self, session: &Session) {
        session.end();
        self.open.borrow_mut().remove(&session.id);
    }

    /// Those after session `after`, oldest first.
    pub(crate) fn list(&self, after: u64, limit: usize) -> Vec<Rc<Session>> {
        self.open
            .borrow()
            .range(after.saturating_add(1)..)
            .take(limit)
            .map(|(_, session)| session.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// A client's extended WRITE came without `PAYLOAD_LEN`, for the first time in its session.
    pub(crate) fn count_omitted_payload_len(&self) {
        self.omitted_payload_len.set(self.omitted_payload_len.get() + 1);
    }

    /// NBD sessions so far whose client left `PAYLOAD_LEN` out of extended WRITEs.
    pub(crate) fn omitted_payload_len(&self) -> u64 {
        self.omitted_payload_len.get()
    }

    /// Makes sure no client can write to the volume any more: refuses while one has it open, or with `force`
    /// fails its later requests.
    pub(crate) fn claim(&self, volume: ObjectId, name: &Name, force: bool) -> Result<(), Error> {
        let open = self.open.borrow();
        let writers = || open.values().filter(|session| session.writes(volume));
        if force {
            writers().for_each(|session| session.revoked.set(true));
            return Ok(());
        }
        let Some(writer) = writers().next() else { return Ok(()) };
        Err(Error::new(
            ErrorKind::InUse,
            format!(
                "volume {name} is open for writing on port {}; disconnect that client, or repeat with force to fail \
                 its later requests",
                writer.port
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_hold_a_volume_until_forced() {
        let sessions = Sessions::default();
        let session = sessions.open("org.datum.nbd.3", "nbd", 0);
        let (volume, name) = (ObjectId(7), Name::new("db").unwrap());
        let export = |writable| OpenExport { name: "db".into(), volume, writable };
        *session.export.borrow_mut() = Some(export(false));
        assert!(sessions.claim(volume, &name, false).is_ok(), "readers hold nothing");
        *session.export.borrow_mut() = Some(export(true));
        let error = sessions.claim(volume, &name, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.message().contains("org.datum.nbd.3") && error.message().contains("db"));
        assert!(sessions.claim(ObjectId(8), &name, false).is_ok());
        assert!(!session.is_revoked());
        sessions.claim(volume, &name, true).unwrap();
        assert!(session.is_revoked());
        assert!(sessions.claim(volume, &name, false).is_ok(), "a forced session holds nothing any more");
        sessions.close(&session);
        assert_eq!(sessions.count(), 0);
    }
}
