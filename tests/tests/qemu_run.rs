//! `cargo xtask run`, `console` and `ctl` as a user has them: the programs themselves, their signals and exit codes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use datum_tests::qemu::{Stage, boot, call, check, client, end, finish, kernel, volume};
use serde_json::{Value, json};
use xtask::nbd;
use xtask::qemu::Port;

const MIB: u64 = 1 << 20;

/// How long `run` may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// `cargo xtask`: the program that runs the tests, or that of this tree.
fn xtask(words: &[&str]) -> Command {
    let mut command = match std::env::var_os("DATUM_XTASK") {
        Some(program) => Command::new(program),
        None => {
            let mut cargo = xtask::shell::cargo();
            cargo.arg("xtask");
            cargo
        }
    };
    command.args(words).current_dir(xtask::workspace::root()).stdin(Stdio::null());
    command
}

/// A `cargo xtask run` in a process group of its own. It is killed, and its QEMU with it, when the test ends.
struct Run {
    process: Child,
    directory: PathBuf,
    said: PathBuf,
}

impl Run {
    fn start(stage: &Stage, words: &[&str], input: Stdio) -> Run {
        let (directory, said) = (stage.path("run"), stage.path("said"));
        let out = File::create(&said).unwrap();
        let disk = format!("{},1G", stage.path("a.img").display());
        let mut command =
            xtask(&["run", "--accel", "tcg", "--memory", "64", "--cmdline", "takeover=now", "--disk", &disk]);
        command.arg("--kernel").arg(kernel()).args(words).arg("--directory").arg(&directory).process_group(0);
        command.stdin(input).stdout(out.try_clone().unwrap()).stderr(out);
        Run { process: command.spawn().unwrap(), directory, said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains(text) {
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{ended:?}, no '{text}' in {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; it said {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A program that is to succeed on this appliance; what it printed.
    fn ctl(&self, words: &[&str]) -> Value {
        let output = xtask(&["ctl"]).args(words).arg("--directory").arg(&self.directory).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctl {words:?} ended with {}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn console(&self, script: &str, words: &[&str]) -> Output {
        console(&self.directory, script, words)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn console(directory: &Path, script: &str, words: &[&str]) -> Output {
    let mut command = xtask(&["console"]);
    command.args(words).arg("--directory").arg(directory);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A signal to the group killed QEMU first: what was not flushed was gone, and `run` blamed the appliance.
#[test]
fn a_signal_to_the_whole_group_ends_in_order() {
    let stage = Stage::wait();
    let pattern = [7; 8192];
    for (round, signal) in (0u64..).zip(["TERM", "INT", "HUP"]) {
        let mut run = Run::start(&stage, &["--no-console"], Stdio::null());
        run.wait_for("up after");
        if round == 0 {
            run.ctl(&["volume.create", "name=db", "size=8M"]);
        }
        // A client that stays connected, and one that holds the control port, keep nobody from going down.
        let mut writer = nbd::Client::connect(&run.directory.join(Port::Nbd(0).socket_name()), "db").unwrap();
        writer.write(round * MIB, &pattern).unwrap();
        let group = format!("-{}", run.process.id());
        client("kill", &["-s", signal, "--", &group]);
        let status = run.end();
        assert!(status.success(), "{signal}: {status}, {}", run.said());
        assert!(!run.said().contains("was killed"), "{signal}: {}", run.said());
    }
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    // The pool is open when a volume can be shown.
    call(&mut control, "volume.show", json!({ "name": "db" }));
    let metrics = call(&mut control, "system.metrics", json!({}));
    let metrics = metrics["text"].as_str().unwrap();
    let replayed = metrics.lines().find(|line| line.starts_with("datum_replayed_records_total "));
    assert_eq!(replayed, Some("datum_replayed_records_total 0"), "the pool was not closed in order");
    let mut reader = datum_tests::qemu::nbd(&appliance, "db");
    for round in 0..3 {
        assert_eq!(reader.read(round * MIB, 8192).unwrap(), pattern, "unflushed, but shut down in order");
    }
    reader.disconnect().unwrap();
    finish(appliance, control);
}

/// The last line has no line end. Then the input ends, and the appliance with it.
#[test]
fn a_script_on_standard_input_is_carried_out_to_its_end() {
    let stage = Stage::wait();
    let script = stage.path("script");
    fs::write(&script, "# a comment\nvolume create db 8M\nvolume create logs 4M").unwrap();
    let mut run = Run::start(&stage, &[], File::open(&script).unwrap().into());
    let status = run.end();
    assert!(status.success() && !run.said().contains("was killed"), "{status}, {}", run.said());
    assert!(run.said().contains("4 MiB"), "{}", run.said());
    fs::write(&script, "volume create db 8M\nvolume delete logs").unwrap();
    let mut run = Run::start(&stage, &[], File::open(&script).unwrap().into());
    assert_eq!(run.end().code(), Some(1), "{}", run.said());
    assert!(run.said().contains("line 1: error:"), "{}", run.said());
    let (appliance, mut control) = boot(&stage.with_disk(1 << 30));
    let volumes = call(&mut control, "volume.list", json!({}));
    assert_eq!(volumes["items"].as_array().unwrap().len(), 2, "{volumes}");
    end(appliance, control);
}

/// A script's last line was not carried out, and its errors were told by nothing.
#[test]
fn a_console_script_ends_as_its_lines_did() {
    let stage = Stage::wait();
    let mut run = Run::start(&stage, &["--no-console"], Stdio::null());
    run.wait_for("up after");
    let good = run.console("volume create db 8M\nvolume list", &[]);
    let text = String::from_utf8_lossy(&good.stdout);
    assert_eq!(good.status.code(), Some(0), "{text}");
    assert!(text.contains("db") && !text.contains(['\x1b', '\r']) && !text.contains("datum>"), "{text:?}");
    let bad = run.console("volume delete nothing\nvolume create late 8M", &[]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).starts_with("line 1: error:"), "{bad:?}");
    let kept = run.console("volume delete nothing\nvolume create late 8M", &["--keep-going"]);
    assert_eq!(kept.status.code(), Some(1));
    let names: Vec<_> = run.ctl(&["volume.list"])["items"].as_array().unwrap().clone();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// A first page looked like all: 100 of 130 volumes, 1,000 of 1,500 extents.
#[test]
fn ctl_follows_pages_by_itself() {
    let stage = Stage::wait();
    let mut run = Run::start(&stage, &["--no-console"], Stdio::null());
    run.wait_for("up after");
    let lines: String = (0..130).map(|number| format!("volume create v{number} 16M\n")).collect();
    assert!(run.console(&lines, &[]).status.success());
    let counted = |words: &[&str], key: &str| run.ctl(words)[key].as_array().unwrap().len();
    assert_eq!(counted(&["volume.list"], "items"), 130);
    assert_eq!(counted(&["volume.list", "--page"], "items"), 100);
    assert_eq!(counted(&["volume.list", "limit=7"], "items"), 7);
    run.ctl(&["refpoint.create", "volume=v0", "name=mark"]);
    let mut writer = nbd::Client::connect(&run.directory.join(Port::Nbd(0).socket_name()), "v0").unwrap();
    for block in 0..1500u64 {
        writer.write(block * 8192, &[1; 4096]).unwrap();
    }
    writer.disconnect().unwrap();
    let changes = run.ctl(&["changes.query", "volume=v0", "since=mark"]);
    assert_eq!(changes["extents"].as_array().unwrap().len(), 1500);
    assert_eq!((changes["changed_bytes"].as_u64(), changes.get("next_offset")), (Some(1500 * 4096), None));
}

/// It said "up" where there was no pool and nothing to serve.
#[test]
fn run_says_why_there_is_no_pool() {
    let stage = Stage::wait();
    fs::write(stage.path("a.img"), vec![0xee; 64 << 20]).unwrap();
    let mut run = Run::start(&stage, &["--no-console"], Stdio::null());
    run.wait_for("it has no pool");
    assert!(!run.said().contains("up after"), "{}", run.said());
    client("kill", &["-s", "TERM", &run.process.id().to_string()]);
    assert!(run.end().success(), "{}", run.said());
}

/// A scrub that found damage ended like one that found none, and nobody else heard of it.
#[test]
fn a_followed_scrub_that_finds_damage_exits_with_4() {
    let stage = Stage::wait();
    let block = [0x5a; 4096];
    let (appliance, mut control) = boot(&stage.with_disk(64 * MIB));
    volume(&mut control, "db", MIB);
    let mut writer = datum_tests::qemu::nbd(&appliance, "db");
    writer.write(8192, &block).unwrap();
    writer.disconnect().unwrap();
    end(appliance, control);
    overwrite(&stage.path("a.img"), &block);
    let mut run = Run::start(&stage, &["--no-console"], Stdio::null());
    run.wait_for("up after");
    let scrub =
        || xtask(&["ctl", "pool.scrub", "--follow", "--directory"]).arg(&run.directory).output().unwrap();
    let found = scrub();
    assert_eq!(found.status.code(), Some(4), "{found:?}");
    let result: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(result["result"]["volumes"], json!(["db"]), "{result}");
    let problems = run.ctl(&["system.info"])["problems"].to_string();
    assert!(problems.contains("volumes: db"), "{problems}");
    // Once the block is written anew the pool is sound, and a scrub says so.
    let mut writer = nbd::Client::connect(&run.directory.join(Port::Nbd(0).socket_name()), "db").unwrap();
    writer.write(8192, &block).unwrap();
    writer.disconnect().unwrap();
    assert_eq!(scrub().status.code(), Some(0));
    assert_eq!(run.ctl(&["system.info"])["problems"], json!([]));
}

/// Spoils every copy of a block in a file.
fn overwrite(path: &Path, block: &[u8]) {
    let mut content = fs::read(path).unwrap();
    let copies: Vec<_> =
        content.chunks(block.len()).enumerate().filter(|(_, chunk)| *chunk == block).collect();
    let places: Vec<_> = copies.iter().map(|(index, _)| index * block.len()).collect();
    assert!(!places.is_empty(), "the block is not on the disk");
    places.iter().for_each(|place| content[place + 7] ^= 1);
    fs::write(path, content).unwrap();
}

/// The power button needs neither a port nor a client.
#[test]
fn a_volume_made_before_the_power_button_is_there_afterwards() {
    let stage = Stage::wait();
    let machine = stage.with_disk(1 << 30);
    let (appliance, mut control) = boot(&machine);
    volume(&mut control, "db", MIB);
    // The control port is held all the while.
    assert!(appliance.shut_down(Duration::from_secs(30)).unwrap(), "it had to be killed");
    drop(control);
    let (appliance, mut control) = boot(&machine);
    call(&mut control, "volume.show", json!({ "name": "db" }));
    check(&mut control);
    end(appliance, control);
}
