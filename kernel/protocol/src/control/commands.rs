//! The command table: everything the appliance can be told to do.
//!
//! One row makes a variant of [`Command`], a method on the control port, a line on the console and its help. An
//! `argument` may stand without its name on the console, an `option` may not. What `asks` changes nothing; what `acts` may.

use super::argument::{Argument, Bytes, Count, JobId};
use super::command::{Arguments, CommandSpec, ParameterSpec, find};
use super::error::{ErrorKind, ErrorObject};
use super::value::Value;
use crate::name::{Name, Since};
use alloc::string::String;
use alloc::vec::Vec;

macro_rules! is_positional {
    (argument) => {
        true
    };
    (option) => {
        false
    };
}

macro_rules! is_question {
    (asks) => {
        true
    };
    (acts) => {
        false
    };
}

macro_rules! commands {
    ($(
        $variant:ident $effect:ident $method:literal $words:literal
        { $( $form:ident $field:ident: $type:ty = $help:literal, )* }
        $summary:literal $example:literal
    )*) => {
        /// A command with its checked parameters.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Command {
            $(
                #[doc = $summary]
                $variant {
                    $(
                        #[doc = $help]
                        $field: $type,
                    )*
                },
            )*
        }

        /// Every command, in the order of the help.
        pub const COMMANDS: &[CommandSpec] = &[ $(
            CommandSpec {
                method: $method,
                words: $words,
                summary: $summary,
                example: $example,
                parameters: &[ $(
                    ParameterSpec {
                        name: stringify!($field),
                        kind: <$type as Argument>::KIND,
                        required: <$type as Argument>::REQUIRED,
                        positional: is_positional!($form),
                        help: $help,
                    },
                )* ],
            },
        )* ];

        impl Command {
            /// The method of this command.
            pub fn method(&self) -> &'static str {
                match self { $( Self::$variant { .. } => $method, )* }
            }

            /// Whether it only asks: it can then be refused even after it was carried out.
            pub fn only_asks(&self) -> bool {
                match self { $( Self::$variant { .. } => is_question!($effect), )* }
            }

            #[allow(unused_mut, reason = "commands without parameters take nothing")]
            fn build(method: &str, mut arguments: Arguments) -> Result<Self, ErrorObject> {
                match method {
                    $(
                        $method => Ok(Self::$variant { $( $field: arguments.take(stringify!($field))?, )* }),
                    )*
                    _ => Err(ErrorObject::new(ErrorKind::Internal, "a method of the table has no command")),
                }
            }
        }
    };
}

impl Command {
    /// Finds the method and checks the parameters, all of them.
    pub fn from_arguments(method: &str, arguments: Vec<(String, Value)>) -> Result<Self, ErrorObject> {
        let spec = find(method)?;
        Self::build(spec.method, Arguments::new(spec, arguments)?)
    }
}

commands! {
    SystemInfo asks "system.info" "system info" {}
        "Shows version, uptime, memory and what is open."
        "system info"
    SystemMetrics asks "system.metrics" "system metrics" {}
        "Shows every counter as OpenMetrics text."
        "system metrics"
    SystemShutdown acts "system.shutdown" "system shutdown" {}
        "Makes everything durable and switches off."
        "system shutdown"
    SystemReboot acts "system.reboot" "system reboot" {}
        "Makes everything durable and starts again."
        "system reboot"

    DeviceList asks "device.list" "device list" {
        option after: Option<String> = "begin after this entry (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists the disks and whether they are blank, members or foreign."
        "device list"

    PoolCreate acts "pool.create" "pool create" {
        argument devices: Vec<String> = "the blank disks to make it of, by name",
        option name: Option<Name> = "the pool's name (default: datum)",
    }
        "Makes a pool of blank disks."
        "pool create vd0 vd1 --name tank"
    PoolStatus asks "pool.status" "pool status" {}
        "Shows the pool's state, space and members."
        "pool status"
    PoolCheck acts "pool.check" "pool check" {}
        "Starts a job that proves the pool's structure, every checksum and the free map."
        "pool check"
    PoolScrub acts "pool.scrub" "pool scrub" {}
        "Starts a job that reads and verifies every block."
        "pool scrub"

    VolumeCreate acts "volume.create" "volume create" {
        argument name: Name = "the new volume's name",
        argument size: Bytes = "its size, a multiple of 4 KiB up to 64 TiB",
    }
        "Makes a thin volume that reads as zeroes."
        "volume create db 20G"
    VolumeList asks "volume.list" "volume list" {
        option after: Option<String> = "begin after this name (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists the volumes."
        "volume list"
    VolumeShow asks "volume.show" "volume show" {
        argument name: Name = "the volume",
    }
        "Shows one volume."
        "volume show db"
    VolumeResize acts "volume.resize" "volume resize" {
        argument name: Name = "the volume",
        argument size: Bytes = "its new size; what is cut off is gone",
        option force: bool = "shrink it although a client has it open; that client's requests fail",
    }
        "Grows or shrinks a volume; both count as a trim of what comes or goes."
        "volume resize db 30G"
    VolumeRename acts "volume.rename" "volume rename" {
        argument name: Name = "the volume",
        argument new_name: Name = "its name from now on",
    }
        "Renames a volume; its checkpoints and reference points stay with it."
        "volume rename db database"
    VolumeDelete acts "volume.delete" "volume delete" {
        argument name: Name = "the volume",
        option force: bool = "delete it although a client has it open; that client's requests fail",
    }
        "Deletes a volume; its space returns in the background."
        "volume delete db"
    VolumeClone acts "volume.clone" "volume clone" {
        argument volume: Name = "the volume",
        argument checkpoint: Name = "the checkpoint to start from",
        argument name: Name = "the new volume's name",
    }
        "Makes a writable volume from a checkpoint without copying."
        "volume clone db nightly db-test"
    VolumeRevert acts "volume.revert" "volume revert" {
        argument volume: Name = "the volume",
        argument checkpoint: Name = "the checkpoint whose contents it takes",
        option force: bool = "revert it although a client has it open; that client's requests fail",
    }
        "Takes a volume back to a checkpoint; what differs counts as changed."
        "volume revert db nightly"
    VolumeSuspend acts "volume.suspend" "volume suspend" {
        argument volume: Name = "the volume",
    }
        "Lets a volume's requests wait until it is resumed; none fails."
        "volume suspend db"
    VolumeResume acts "volume.resume" "volume resume" {
        argument volume: Name = "the volume",
    }
        "Lets a suspended volume's requests go on."
        "volume resume db"

    CheckpointCreate acts "checkpoint.create" "checkpoint create" {
        argument volumes: Vec<Name> = "the volumes, all at one instant; separated by commas",
        argument name: Name = "the checkpoint's name on each of them",
    }
        "Marks a restorable image of one or more volumes at one instant."
        "checkpoint create db,logs nightly"
    CheckpointList asks "checkpoint.list" "checkpoint list" {
        argument volume: Name = "the volume",
        option after: Option<String> = "begin after this name (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists a volume's checkpoints."
        "checkpoint list db"
    CheckpointShow asks "checkpoint.show" "checkpoint show" {
        argument volume: Name = "the volume",
        argument name: Name = "the checkpoint",
    }
        "Shows one checkpoint and how many bytes only it holds."
        "checkpoint show db nightly"
    CheckpointDelete acts "checkpoint.delete" "checkpoint delete" {
        argument volume: Name = "the volume",
        argument name: Name = "the checkpoint",
    }
        "Deletes a checkpoint; its space returns in the background."
        "checkpoint delete db nightly"
    CheckpointConvert acts "checkpoint.convert" "checkpoint convert" {
        argument volume: Name = "the volume",
        argument name: Name = "the checkpoint",
        argument refpoint: Option<Name> = "the reference point's name (default: the checkpoint's)",
    }
        "Turns a checkpoint into a reference point and gives its space back."
        "checkpoint convert db nightly"

    RefpointCreate acts "refpoint.create" "refpoint create" {
        argument volume: Name = "the volume",
        argument name: Name = "the reference point's name",
    }
        "Marks this instant, so that changes since can be asked for."
        "refpoint create db monday"
    RefpointList asks "refpoint.list" "refpoint list" {
        argument volume: Name = "the volume",
        option after: Option<String> = "begin after this name (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists a volume's reference points."
        "refpoint list db"
    RefpointShow asks "refpoint.show" "refpoint show" {
        argument volume: Name = "the volume",
        argument name: Name = "the reference point",
    }
        "Shows one reference point."
        "refpoint show db monday"
    RefpointDelete acts "refpoint.delete" "refpoint delete" {
        argument volume: Name = "the volume",
        argument name: Name = "the reference point",
    }
        "Deletes a reference point; its tokens stay good."
        "refpoint delete db monday"
    RefpointToken asks "refpoint.token" "refpoint token" {
        argument volume: Name = "the volume",
        argument name: Name = "the reference point",
    }
        "Prints a reference point as a text that a client can keep by itself."
        "refpoint token db monday"

    ChangesQuery asks "changes.query" "changes" {
        argument volume: Name = "the volume",
        option since: Since = "count from this reference point, checkpoint or token",
        option until: Option<Name> = "up to this checkpoint (default: now)",
        option offset: Option<Bytes> = "begin at this byte (`next_offset` of the page before)",
        option limit: Option<Count> = "at most this many extents",
    }
        "Lists exactly what changed in a volume since a point."
        "changes db --since nightly"
    AllocatedQuery asks "allocated.query" "allocated" {
        argument volume: Name = "the volume",
        option checkpoint: Option<Name> = "as of this checkpoint (default: now)",
        option offset: Option<Bytes> = "begin at this byte (`next_offset` of the page before)",
        option limit: Option<Count> = "at most this many extents",
    }
        "Lists what of a volume is allocated."
        "allocated db"

    JobList asks "job.list" "job list" {
        option after: Option<String> = "begin after this job (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists the jobs."
        "job list"
    JobShow asks "job.show" "job show" {
        argument job: JobId = "the job",
    }
        "Shows a job's state, progress and outcome."
        "job show 7"
    JobCancel acts "job.cancel" "job cancel" {
        argument job: JobId = "the job",
    }
        "Gives a job up where that is safe."
        "job cancel 7"

    EventSubscribe acts "event.subscribe" "event subscribe" {}
        "Sends this session an event for whatever happens from now on."
        "event subscribe"
    SessionList asks "session.list" "session list" {
        option after: Option<String> = "begin after this session (`next` of the page before)",
        option limit: Option<Count> = "at most this many entries",
    }
        "Lists the clients that are connected."
        "session list"
}
