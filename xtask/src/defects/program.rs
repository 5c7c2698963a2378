//! A test program at work: watched until it ends, a test of it fails, or it can be said to hang.
//!
//! Time is the processor's, so that a verdict does not hang on what else the machine does.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A test program that has taken more of the processors' time than this goes round in a circle.
const PROCESSOR_MAX: Duration = Duration::from_secs(600);
/// How often a running program is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// One that takes none of it over so many glances, about two minutes, waits for ever.
const IDLE_GLANCES_MAX: u32 = 2400;

/// A program that has been started. It ends with this value, and so does what it has started itself.
pub(super) struct Run {
    child: Child,
    stdout: File,
    /// What it has printed so far.
    printed: String,
    /// Where its standard error goes.
    errors: PathBuf,
    /// What it has taken of the processors' time so far.
    pub(super) processor: Duration,
}

impl Run {
    /// Starts a test program with a defect switched on, and for these tests. `log` is where its output goes, but for
    /// the extension.
    pub(super) fn start(program: &Path, defect: Option<&str>, tests: &[&str], log: &Path) -> Result<Self> {
        let (log, errors) = (log.with_extension("out"), log.with_extension("err"));
        let mut command = Command::new(program);
        // What fails is to be seen at once. With one thread, names of tests would not stand beside their results.
        let threads = thread::available_parallelism().map_or(2, |threads| threads.get().max(2));
        command.args(["--exact", "--nocapture", "--test-threads", &threads.to_string()]).args(tests);
        // Shrinking a failure would take longer than finding it.
        command.env("DATUM_NO_SHRINK", "1").env("RUST_BACKTRACE", "0");
        match defect {
            Some(name) => command.env("DATUM_DEFECT", name),
            None => command.env_remove("DATUM_DEFECT"),
        };
        command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::create(&errors)?);
        let child = command.process_group(0).spawn().context("starting a test program")?;
        let (stdout, printed) = (File::open(&log)?, String::new());
        Ok(Self { child, stdout, printed, errors, processor: Duration::ZERO })
    }

    /// Waits until there is something to say of it: the first test that failed, with its seed or place where it tells
    /// one, or what else went wrong; `None` where all passed.
    pub(super) fn watch(&mut self) -> Result<Option<String>> {
        let mut idle = 0;
        loop {
            ensure!(!told_to_end(), "told to end");
            let before = self.processor;
            self.processor = processor_time(self.child.id())?.max(before);
            idle = if self.processor > before { 0 } else { idle + 1 };
            let ended = self.child.try_wait()?;
            let mut bytes = Vec::new();
            self.stdout.read_to_end(&mut bytes)?;
            self.printed.push_str(&String::from_utf8_lossy(&bytes));
            if let Some(test) = failed_test(&self.printed) {
                let errors = String::from_utf8_lossy(&fs::read(&self.errors)?).into_owned();
                return Ok(Some(match case(&errors, test).or_else(|| case(&self.printed, test)) {
                    Some(case) => format!("{test} ({case})"),
                    None => test.to_owned(),
                }));
            }
            if let Some(status) = ended {
                return Ok((!status.success()).then(|| format!("ended with {status}")));
            }
            if self.processor > PROCESSOR_MAX || idle > IDLE_GLANCES_MAX {
                return Ok(Some(format!("not done after {} s", self.processor.as_secs())));
            }
            thread::sleep(GLANCE);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // Where nothing of it is left, there is nothing to end.
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _gone = self.child.wait();
    }
}

/// Whether this program was told to end. What it has started has a group of its own, which a terminal does not tell.
fn told_to_end() -> bool {
    static TOLD: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let register = || {
        let told = Arc::<AtomicBool>::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // Where that is refused, the signal ends this program at once, as ever.
            let _refused_is_fine = signal_hook::flag::register(signal, told.clone());
        }
        told
    };
    TOLD.get_or_init(register).load(Ordering::Relaxed)
}

/// The time that the processes of a group, and those of their children that have ended, have had of the processors.
fn processor_time(group: u32) -> Result<Duration> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")? {
        // What is no process has none, and a process may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        ticks += ticks_of(&stat).filter(|(of, _)| *of == group).map_or(0, |(_, ticks)| ticks);
    }
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// A process's group, and the sum of its utime, stime, cutime and cstime, of proc(5).
fn ticks_of(stat: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let times = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok());
    Some((fields[2].parse().ok()?, times.sum::<Option<u64>>()?))
}

/// The first test that the output of a program calls failed.
fn failed_test(printed: &str) -> Option<&str> {
    let failed = printed.lines().find(|line| line.starts_with("test ") && line.ends_with(" ... FAILED"))?;
    failed.split_whitespace().nth(1)
}

/// Which case of a test failed, from what its thread said last, or a thread of its own before.
fn case(output: &str, test: &str) -> Option<String> {
    let said = output.find(&format!("thread '{test}'")).map(|at| &output[at..]).unwrap_or_default();
    let said = said.find("\nthread '").map_or(said, |end| &said[..end]);
    let digits = |mark: &str| {
        let number = said.split_once(mark)?.1;
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        (end > 0).then(|| format!("seed {}", &number[..end]))
    };
    let quoted = |text: &str, mark: &str| Some(text.split_once(mark)?.1.split('\'').next()?.to_owned());
    digits("service: seed ")
        .or_else(|| quoted(said, "--replay '"))
        .or_else(|| digits("DATUM_SEED="))
        .or_else(|| digits("seed "))
        .or_else(|| quoted(output, "DATUM_CELL='"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_test_is_told_with_its_case() {
        let printed = "running 3 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... FAILED\n";
        assert_eq!(failed_test(printed), Some("b"));
        let errors = "\nthread 'c' (1) panicked at x:\nseed 9 fails\n\nthread 'b' (2) panicked at y:\nwrong\n\
                      replay: DATUM_SEED=17 cargo test b\n\nthread 'd' (3) panicked at z:\nno number\n";
        assert_eq!(case(errors, "b"), Some("seed 17".into()));
        assert_eq!(case(errors, "c"), Some("seed 9".into()));
        assert_eq!(case(errors, "d"), None);
        let errors =
            "thread 'e' (5) panicked at x:\nreplay: cargo xtask sim --seed 1 --replay 'plain:a,b:0:-'\n";
        assert_eq!(case(errors, "e"), Some("plain:a,b:0:-".into()));
        let errors = "replay: DATUM_CELL='reads fail, Commit' cargo test\nthread 'f' (6) panicked at x:\n";
        assert_eq!(case(errors, "f"), Some("reads fail, Commit".into()));
    }

    #[test]
    fn a_program_is_judged_by_its_output_its_end_and_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let ending = |script: &str| {
            let program = directory.path().join("program");
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            Run::start(&program, Some("d"), &[], &directory.path().join("log")).unwrap().watch().unwrap()
        };
        assert_eq!(ending("test $DATUM_DEFECT = d"), None);
        assert_eq!(ending("echo test a::b ... FAILED; sleep 600"), Some("a::b".into()));
        assert!(ending("exit 3").is_some_and(|text| text.contains("exit status: 3")));
    }

    #[test]
    fn the_processors_time_is_that_of_a_process_and_of_its_children() {
        assert_eq!(ticks_of("7 (a b) c) R 1 2 3 4 5 6 7 8 9 10 100 20 3 4 99 98"), Some((2, 127)));
        assert_eq!(ticks_of("cpu 1 2 3"), None);
    }
}
