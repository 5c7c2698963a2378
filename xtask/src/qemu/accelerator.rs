//! How the machine executes instructions, and whether KVM is worth using here.
//!
//! A `/dev/kvm` proves nothing: it may be refused, or a virtual machine may offer one that emulates every
//! instruction. So a guest of 19 bytes is run: it counts down and leaves through the exit device. Real
//! hardware needs milliseconds for it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::command::PROGRAM;
use crate::shell;

/// How instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// Translated by QEMU; works everywhere.
    Tcg,
    /// By the processor, through Linux.
    Kvm,
    /// KVM where it really works, else TCG.
    Auto,
}

/// How long the probe's guest may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// What QEMU exits with when the guest writes [`PROBE_VALUE`] to the exit device.
const PROBE_STATUS: i32 = (PROBE_VALUE as i32) << 1 | 1;
const PROBE_VALUE: u8 = 0x10;

/// How often the probe's guest goes round: a blink for a processor, seconds for anything that emulates.
const PROBE_ROUNDS: u32 = 20_000_000;

impl Accelerator {
    /// What it comes down to on this machine.
    pub fn resolve(self) -> Accelerator {
        match self {
            Accelerator::Auto if kvm_is_offered() && probe(Accelerator::Kvm) == Some(true) => {
                Accelerator::Kvm
            }
            Accelerator::Auto => Accelerator::Tcg,
            chosen => chosen,
        }
    }

    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg | Accelerator::Auto => &["-accel", "tcg"],
        }
    }
}

/// Whether the device is there and the processor has the instructions for it.
fn kvm_is_offered() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Path::new("/dev/kvm").exists() && flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Runs the probe's guest: whether it ended as it should and in time; `None` where it could not be started.
fn probe(accelerator: Accelerator) -> Option<bool> {
    run_probe(accelerator).ok()
}

fn run_probe(accelerator: Accelerator) -> Result<bool> {
    let file = std::env::temp_dir().join(format!("datum-probe-{}.bin", std::process::id()));
    fs::write(&file, probe_firmware())?;
    let child = shell::program(PROGRAM)
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-M", "pc", "-m", "4"])
        .args(accelerator.arguments())
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let deadline = Instant::now() + PROBE_PATIENCE;
    let ended = child.map_err(anyhow::Error::from).and_then(|mut child| {
        while child.try_wait()?.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        Ok(child.wait()?.code() == Some(PROBE_STATUS))
    });
    fs::remove_file(&file)?;
    ended
}

/// A firmware of 64 KiB: the reset vector, 16 bytes below its end, jumps to the start of the segment.
fn probe_firmware() -> Vec<u8> {
    let mut firmware = vec![0xf4; 64 << 10];
    let [a, b, c, d] = PROBE_ROUNDS.to_le_bytes();
    let code = [
        0x66,
        0xb9,
        a,
        b,
        c,
        d, // mov ecx, PROBE_ROUNDS
        0x66,
        0x49, // again: dec ecx
        0x75,
        0xfc, // jnz again
        0xb0,
        PROBE_VALUE, // mov al, PROBE_VALUE
        0xe6,
        0xf4, // out 0xf4, al
        0xf4, // hlt
    ];
    firmware[..code.len()].copy_from_slice(&code);
    let reset = firmware.len() - 16;
    firmware[reset..reset + 5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]); // jmp f000:0000
    firmware
}

/// Says in words why KVM was asked for in vain.
pub(super) fn check(accelerator: Accelerator) -> Result<()> {
    ensure!(
        accelerator != Accelerator::Kvm || Path::new("/dev/kvm").exists(),
        "there is no /dev/kvm here: use --accel tcg, or auto"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_outright_stays() {
        assert_eq!(Accelerator::Tcg.resolve(), Accelerator::Tcg);
        assert_eq!(Accelerator::Kvm.resolve(), Accelerator::Kvm);
    }

    /// The probe itself must be right, or `auto` would never find KVM: TCG runs the same firmware.
    #[test]
    fn the_probes_guest_ends_as_it_should() {
        if shell::find_program(PROGRAM).is_some() {
            assert_eq!(probe(Accelerator::Tcg), Some(true));
        }
    }
}
