//! `job.*` and `session.list`.

use super::lists::Window;
use super::{Outcome, error_value};
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::jobs::{Job, State};
use crate::sessions::Session;
use crate::time::rfc3339;
use alloc::string::ToString;
use datum_store::device::BlockDevice;
use serde_json::{Value, json};

impl<D: BlockDevice + 'static, E: Environment + 'static> Appliance<D, E> {
    pub(super) fn job_list(&self, window: &Window) -> Outcome {
        let jobs = self.jobs.list(window.after_number()?, window.probe());
        window.page(jobs, |job| job.id.to_string(), |job| show_job(job))
    }

    pub(super) fn job_show(&self, id: u64) -> Outcome {
        self.jobs.find(id).map(|job| show_job(&job))
    }

    pub(super) fn job_cancel(&self, id: u64) -> Outcome {
        self.jobs.cancel(id).map(|job| show_job(&job))
    }

    pub(super) fn session_list(&self, window: &Window) -> Outcome {
        let sessions = self.sessions.list(window.after_number()?, window.probe());
        window.page(sessions, |session| session.id.to_string(), |session| show_session(session))
    }
}

fn show_job(job: &Job) -> Value {
    let state = job.state.borrow();
    let mut value = json!({
        "job": job.id.to_string(),
        "kind": job.kind,
        "subject": job.subject,
        "state": state.as_str(),
        "progress": job.progress(),
        "created": rfc3339(job.created),
    });
    match &*state {
        State::Done(result) => value["result"] = result.clone(),
        State::Failed(error) => value["error"] = error_value(error),
        State::Queued | State::Running | State::Cancelled => {}
    }
    if let Some(ended) = job.ended.get() {
        value["ended"] = json!(rfc3339(ended));
    }
    let held_by = job.held_by.borrow();
    if !held_by.is_empty() {
        value["held_by"] = json!(*held_by);
    }
    value
}

fn show_session(session: &Session) -> Value {
    let mut value = json!({
        "session": session.id.to_string(),
        "port": session.port,
        "kind": session.kind,
        "opened": rfc3339(session.opened),
        "requests": session.requests.get(),
        "bytes_received": session.bytes_received.get(),
        "bytes_sent": session.bytes_sent.get(),
    });
    if let Some(export) = &*session.export.borrow() {
        value["export"] = json!(export.name);
        value["writable"] = json!(export.writable && !session.is_revoked());
    }
    value
}
