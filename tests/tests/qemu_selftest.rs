//! The protections of the machine, each seen to work: `selftest=` commits the offence, and the report on COM1 must
//! name it, with a backtrace that leads back to this kernel's source, before QEMU ends with status 35.

use datum_tests::qemu::{HELLO_PATIENCE, Stage};
use xtask::symbols::BACKTRACE_MARK;

/// What QEMU ends with when the appliance panics under `panic=exit`.
const PANIC_STATUS: i32 = 35;

/// Every backtrace ends in the kernel's entry function.
const OUTERMOST: &str = "kernel/src/main.rs:";

/// Commits one offence; the report must hold all of `words`.
fn is_caught(offence: &str, words: &[&str]) {
    let stage = Stage::wait();
    let mut appliance = stage.machine().option(format!("selftest={offence}")).start().unwrap();
    let status = appliance.wait_for_end(HELLO_PATIENCE).unwrap();
    let log = appliance.serial_log();
    assert_eq!(status.code(), Some(PANIC_STATUS), "{offence} ended with {status}:\n{log}");
    for word in words {
        assert!(log.contains(word), "{offence}: the report does not say '{word}':\n{log}");
    }
    assert!(log.contains(BACKTRACE_MARK), "{offence}: no backtrace:\n{log}");
}

/// As [`is_caught`], and the functions and lines below the backtrace lead to the entry function.
fn is_caught_and_traced(offence: &str, words: &[&str]) {
    let traced: Vec<_> = words.iter().copied().chain([OUTERMOST]).collect();
    is_caught(offence, &traced);
}

#[test]
fn code_cannot_be_written() {
    is_caught_and_traced("write-text", &["datum: fault 14", "cannot write", ": code", "selftest.rs:"]);
}

#[test]
fn constants_cannot_be_written() {
    is_caught_and_traced(
        "write-constant",
        &["datum: fault 14", "cannot write", ": a constant", "selftest.rs:"],
    );
}

#[test]
fn a_stack_cannot_be_executed() {
    is_caught_and_traced("exec-stack", &["datum: fault 14", "cannot execute", ": a stack"]);
}

#[test]
fn the_heap_cannot_be_executed() {
    is_caught_and_traced("exec-heap", &["datum: fault 14", "cannot execute", "heap"]);
}

#[test]
fn null_cannot_be_read() {
    is_caught_and_traced("read-null", &["datum: fault 14", "cannot read 0x0: null pointer", "selftest.rs:"]);
}

/// The report has a stack of its own. Its backtrace is cut long before the entry function.
#[test]
fn a_stack_cannot_overflow_into_what_lies_below() {
    is_caught("overflow-stack", &["stack overflow\n", "selftest.rs:"]);
}

/// Each of the exceptions' stacks too, that of the page faults among them: its overflow is reported on itself, from the top.
#[test]
fn the_stacks_of_exceptions_cannot_overflow_into_what_lies_below() {
    for (stack, what) in [
        ("double-fault", "double faults"),
        ("non-maskable", "non-maskable interrupts"),
        ("machine-check", "machine checks"),
        ("page-fault", "page faults"),
        ("general", "other exceptions"),
    ] {
        let overflow = format!("stack overflow ({what})");
        is_caught(&format!("overflow-{stack}-stack"), &["datum: fault 14", "cannot write", &overflow]);
    }
}

#[test]
fn an_invalid_instruction_is_reported() {
    is_caught_and_traced("undefined", &["datum: fault 6 (invalid opcode)", "selftest.rs:"]);
}

#[test]
fn a_panic_is_reported_with_its_place_and_message() {
    is_caught_and_traced("panic", &["selftest.rs:", "a panic was asked for"]);
}

#[test]
fn exhausted_memory_is_reported() {
    is_caught_and_traced("out-of-memory", &["memory allocation of 1048576 bytes failed"]);
}
