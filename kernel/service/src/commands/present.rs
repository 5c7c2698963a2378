//! How the appliance's objects look in JSON. Sizes are numbers of bytes, 64-bit ids are strings, times are
//! RFC 3339.

use crate::time::rfc3339;
use alloc::string::ToString;
use alloc::vec::Vec;
use datum_store::{
    CheckReport, CheckpointInfo, CheckpointState, HeldVersion, Name, PoolStatus, RefpointInfo, VolumeInfo,
};
use serde_json::{Value, json};

pub(super) fn volume(info: &VolumeInfo) -> Value {
    let mut value = json!({
        "name": info.name.as_str(),
        "id": info.id.to_string(),
        "size": info.size,
        "allocated_bytes": info.allocated_bytes,
        "suspended": info.suspended,
        "created": rfc3339(info.created),
    });
    if let Some((volume, checkpoint)) = &info.origin {
        value["origin"] = json!({ "volume": volume.as_str(), "checkpoint": checkpoint.as_str() });
    }
    value
}

pub(super) fn checkpoint(info: &CheckpointInfo) -> Value {
    let state = match info.state {
        CheckpointState::Ready => "ready",
    };
    json!({
        "volume": info.volume.as_str(),
        "name": info.name.as_str(),
        "size": info.size,
        "change": info.change.to_string(),
        "created": rfc3339(info.created),
        "state": state,
        "held_by": info.held_by,
    })
}

pub(super) fn refpoint(info: &RefpointInfo) -> Value {
    json!({
        "volume": info.volume.as_str(),
        "name": info.name.as_str(),
        "timeline": info.timeline.to_string(),
        "change": info.change.to_string(),
        "created": rfc3339(info.created),
    })
}

pub(super) fn pool(status: &PoolStatus) -> Value {
    let member = |member: &datum_store::MemberInfo| json!({ "name": member.name, "size": member.size, "allocated_bytes": member.allocated_bytes });
    let mut value = json!({
        "name": status.name.as_str(),
        "id": alloc::format!("{:032x}", status.id),
        "state": if status.read_only.is_some() { "read_only" } else { "open" },
        "total_bytes": status.total_bytes,
        "allocated_bytes": status.allocated_bytes,
        "available_bytes": status.available_bytes,
        "freeing_bytes": status.freeing_bytes,
        "commit": status.commit.to_string(),
        "epoch": status.epoch.to_string(),
        "incarnation": status.incarnation.to_string(),
        "releases_pending": status.releases_pending,
        "devices": status.members.iter().map(member).collect::<Vec<_>>(),
    });
    if let Some(reason) = &status.read_only {
        value["read_only"] = json!(reason);
    }
    value
}

pub(super) fn held(version: &HeldVersion) -> Value {
    let mut value = json!({ "version": version.version.to_string(), "held_by": version.held_by });
    for (key, name) in [("volume", &version.volume), ("name", &version.name)] {
        if let Some(name) = name {
            value[key] = json!(name.as_str());
        }
    }
    value
}

pub(super) fn report(report: &CheckReport) -> Value {
    json!({
        "errors": report.errors,
        "findings": report.findings,
        "blocks_checked": report.blocks_checked,
        "volumes": report.volumes.iter().map(Name::as_str).collect::<Vec<_>>(),
    })
}
